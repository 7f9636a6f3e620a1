"""Regions without a detector: each at its mean box."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from thoraxlib import backbones
from thoraxlib.detection import register
from thoraxlib.detection.base import RegionDetector, default_spec
from thoraxlib.detection.reading import batches
from thoraxlib.input_spec import InputSpec
from thoraxlib.registry import Spec

_RESOLUTION = 7


@register("template")
class Template(RegionDetector):
    """Place each region at its mean box; features are those of a backbone. Nothing is detected.

    :meth:`fit` computes the mean boxes from annotated images. Without it, only features of given boxes are available
    (:meth:`region_features`).

    Parameters
    ----------
    regions : str or sequence of str
        A set of region names, or the names.
    backbone : str, mapping or Backbone
        From :mod:`thoraxlib.backbones`.
    pretrained : bool
        ImageNet weights for the backbone.
    stage : int
        Index of the backbone's map that gives the features: 0 is the finest, -1 the deepest. Features are pooled to
        7 x 7 locations (RoIAlign) and averaged, one for each channel.
    score_threshold : float
        No effect: every region with a mean box has the score 1. All detectors have this option.
    in_chans : int
        Channels of the images.
    input_spec : mapping or InputSpec, optional
        Changes to the default input: 800 x 800 pixels, the image padded to a square, ImageNet's mean and standard
        deviation.

    Attributes
    ----------
    mean_boxes : Tensor
        (R, 4): x1, y1, x2, y2 as fractions of the input's sides; NaN before :meth:`fit`, and for regions that no image
        shows.

    Raises
    ------
    ValueError
        The backbone has no such stage.
    """

    mean_boxes: Tensor

    def __init__(
        self,
        *,
        regions: str | Sequence[str] = "regions18",
        backbone: Spec | backbones.Backbone = "resnet50",
        pretrained: bool = False,
        stage: int = -1,
        score_threshold: float = 0.7,
        in_chans: int = 3,
        input_spec: Mapping[str, Any] | InputSpec | None = None,
    ) -> None:
        spec = default_spec(in_chans, input_spec)
        network = backbones.for_input(backbone, spec, pretrained=pretrained)
        if not -len(network.channels) <= stage < len(network.channels):
            raise ValueError(
                f"stage={stage}: the backbone has {len(network.channels)} maps, of {network.channels} channels"
            )
        super().__init__(regions, spec, network.channels[stage], score_threshold)
        self.backbone, self.stage = network, stage
        self.register_buffer("mean_boxes", torch.full((len(self.region_names), 4), torch.nan))

    def fit(self, dataset: Any, *, batch_size: int = 16, num_workers: int = 0) -> Template:
        """Compute each region's mean box over the images that show it.

        Parameters
        ----------
        dataset : dataset
            Samples have ``regions``; the data set has this detector's ``region_names``.
        batch_size, num_workers : int
            Images in a batch, and processes that read them.

        Raises
        ------
        ValueError
            No images, images without regions, or other regions than the detector's.
        """
        h, w = self.input_spec.size
        total, count = torch.zeros(len(self.region_names), 4, dtype=torch.float64), torch.zeros(len(self.region_names))
        for batch in batches(self, dataset, batch_size=batch_size, num_workers=num_workers, truth=True):
            boxes = batch["regions"]
            present = batch["present"] & (boxes[..., 2:] > boxes[..., :2]).all(dim=-1)  # a crop may lose some
            total += torch.where(present[..., None], boxes.double(), 0.0).sum(dim=0)
            count += present.sum(dim=0)
        self.mean_boxes.copy_(total / count[:, None] / torch.tensor([w, h, w, h]))
        return self

    def maps(self, x: Tensor) -> Tensor:
        """Return the map of the stage."""
        maps: list[Tensor] = self.backbone(x)
        return maps[self.stage]

    def locate(self, maps: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the same boxes for all images.

        Raises
        ------
        RuntimeError
            The template is not fitted.
        """
        if bool(self.mean_boxes.isnan().all()):
            raise RuntimeError("this template is not fitted: call fit(dataset) with annotated images")
        h, w = x.shape[-2:]
        known = ~self.mean_boxes.isnan().any(dim=1)
        boxes = torch.where(known[:, None], self.mean_boxes, 0.0) * self.mean_boxes.new_tensor([w, h, w, h])
        return boxes.expand(len(x), -1, -1), known.to(boxes.dtype).expand(len(x), -1)

    def pool(self, maps: Tensor, boxes: Tensor, x: Tensor) -> Tensor:
        """Average the map over each box."""
        from torchvision.ops import roi_align

        scale = maps.shape[-1] / x.shape[-1]
        pooled: Tensor = roi_align(maps, list(boxes.to(maps.dtype)), _RESOLUTION, scale, sampling_ratio=2, aligned=True)
        return pooled.mean(dim=(2, 3)).view(*boxes.shape[:2], -1)
