"""Regions without a detector: each at its mean place."""

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
    """Each region where it is on average, with features of a backbone; nothing is detected.

    :meth:`fit` learns the places from annotated images. Without it, the backbone still gives the features of given
    boxes (:meth:`region_features`).

    Parameters
    ----------
    regions : str or sequence of str
        A set of names, or the names.
    backbone : str, mapping or Backbone
        From :mod:`thoraxlib.backbones`.
    pretrained : bool
        ImageNet weights for the backbone.
    stage : int
        Which of the backbone's maps the features are of, the finest being 0 and the deepest -1. A region's features are
        the mean over 7 x 7 places in its box (RoIAlign), one for each channel.
    score_threshold : float
        Of no effect, as every region that has a place has the score 1; kept for one contract.
    in_chans : int
        Channels of the images.
    input_spec : mapping or InputSpec, optional
        Changes to the default input: 800 x 800 pixels, the image padded to a square, ImageNet's mean and deviation.

    Attributes
    ----------
    places : Tensor
        (R, 4): x1, y1, x2, y2 as shares of the input's sides; NaN before :meth:`fit` and for regions never seen.

    Raises
    ------
    ValueError
        A stage that the backbone does not have.
    """

    places: Tensor

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
        self.register_buffer("places", torch.full((len(self.region_names), 4), torch.nan))

    def fit(self, dataset: Any, *, batch_size: int = 16, num_workers: int = 0) -> Template:
        """Take each region's mean box over the images that show it.

        Parameters
        ----------
        dataset : dataset
            Samples have ``regions``; the data set has this detector's ``region_names``.
        batch_size, num_workers : int
            Images at a time, and processes that read them.

        Raises
        ------
        ValueError
            No images, images without regions, or other regions.
        """
        h, w = self.input_spec.size
        total, count = torch.zeros(len(self.region_names), 4, dtype=torch.float64), torch.zeros(len(self.region_names))
        for batch in batches(self, dataset, batch_size=batch_size, num_workers=num_workers, truth=True):
            seen = batch.seen_present
            total += torch.where(seen[..., None], batch.seen.double(), 0.0).sum(dim=0)
            count += seen.sum(dim=0)
        self.places.copy_(total / count[:, None] / torch.tensor([w, h, w, h]))
        return self

    def maps(self, x: Tensor) -> Tensor:
        """The map of the stage."""
        maps: list[Tensor] = self.backbone(x)
        return maps[self.stage]

    def locate(self, maps: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """The same places in all images.

        Raises
        ------
        RuntimeError
            The template was not fitted yet.
        """
        if bool(self.places.isnan().all()):
            raise RuntimeError("this template has no places yet: give it annotated images, fit(dataset)")
        h, w = x.shape[-2:]
        known = ~self.places.isnan().any(dim=1)
        boxes = torch.where(known[:, None], self.places, 0.0) * self.places.new_tensor([w, h, w, h])
        return boxes.expand(len(x), -1, -1), known.to(boxes.dtype).expand(len(x), -1)

    def pool(self, maps: Tensor, boxes: Tensor, x: Tensor) -> Tensor:
        """Mean of the map over each box."""
        from torchvision.ops import roi_align

        scale = maps.shape[-1] / x.shape[-1]
        cells: Tensor = roi_align(maps, list(boxes.to(maps.dtype)), _RESOLUTION, scale, sampling_ratio=2, aligned=True)
        return cells.mean(dim=(2, 3)).view(*boxes.shape[:2], -1)
