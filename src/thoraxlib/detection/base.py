"""Base class of region detectors."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor

from thoraxlib import labels
from thoraxlib.checkpoints.saving import Persistent, fingerprint
from thoraxlib.input_spec import InputSpec

#: Default side of a detector's input in pixels: the short side of AnaXNet's detector.
SIDE = 800


class Regions(NamedTuple):
    """The regions of a batch of N images; row r is ``region_names[r]``.

    Attributes
    ----------
    boxes : Tensor
        float32 (N, R, 4): x1, y1, x2, y2 in pixels of the input. A region below the score threshold still has its most
        likely box; a region without any box has 0 0 0 0.
    scores : Tensor
        float32 (N, R): probability of the box, from 0 to 1.
    present : Tensor
        bool (N, R): the score is above the detector's threshold.
    features : Tensor
        (N, R, D): zeros where the region is not present.
    """

    boxes: Tensor
    scores: Tensor
    present: Tensor
    features: Tensor


class RegionDetector(Persistent):
    """Base class: ``forward(x: (N, C, h, w)) -> Regions``, for images that ``input_spec`` describes.

    A subclass has three steps: :meth:`maps` (backbone), :meth:`locate` (boxes of the regions), and :meth:`pool`
    (features of boxes).

    Parameters
    ----------
    regions : str or sequence of str
        A set of names (``"regions18"``), or the names.
    input_spec : InputSpec
        The input that the detector takes.
    feature_dim : int
        D.
    score_threshold : float
        A region is present if its score is strictly above; from 0 to below 1.

    Attributes
    ----------
    region_names : tuple of str
        R names.
    input_spec, feature_dim, score_threshold
        As given.

    Raises
    ------
    ValueError
        No name, or one twice; a threshold out of range.
    """

    subpackage: ClassVar[str] = "detection"

    def __init__(
        self, regions: str | Sequence[str], input_spec: InputSpec, feature_dim: int, score_threshold: float = 0.7
    ) -> None:
        super().__init__()
        if not 0 <= score_threshold < 1:
            raise ValueError(f"score_threshold={score_threshold}: from 0 to below 1")
        self.region_names = labels.resolve(regions)
        self.input_spec, self.feature_dim, self.score_threshold = input_spec, feature_dim, float(score_threshold)

    def maps(self, x: Tensor) -> Any:
        """Compute the feature maps of images (N, C, h, w) that :meth:`locate` and :meth:`pool` take."""
        raise NotImplementedError

    def locate(self, maps: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        """Compute boxes (N, R, 4) and scores (N, R), without gradient."""
        raise NotImplementedError

    def pool(self, maps: Any, boxes: Tensor, x: Tensor) -> Tensor:
        """Compute features (N, R, D) of boxes (N, R, 4)."""
        raise NotImplementedError

    def losses(self, x: Tensor, regions: Tensor, present: Tensor | None = None) -> dict[str, Tensor]:
        """Compute the training losses, by name.

        Parameters
        ----------
        x : Tensor
            (N, C, h, w).
        regions : Tensor
            (N, R, 4): true boxes in pixels of `x`.
        present : Tensor, optional
            bool (N, R): the boxes that count; by default all. Boxes without area never count.

        Raises
        ------
        TypeError
            The detector is not trained on boxes, so it has no losses.
        ValueError
            Boxes have another shape, or are not finite where present.
        """
        raise TypeError(f"{type(self).__name__} is not trained on boxes: it has no losses")

    def forward(self, x: Tensor) -> Regions:
        """Detect the regions of images (N, C, h, w)."""
        maps = self.maps(x)
        boxes, scores = self.locate(maps, x)
        return self._regions(maps, x, boxes, scores, scores > self.score_threshold)

    def region_features(self, x: Tensor, boxes: Tensor, present: Tensor | None = None) -> Regions:
        """Compute features of given boxes, such as an annotator's. Scores are 1, and 0 for absent regions.

        Parameters
        ----------
        x : Tensor
            (N, C, h, w).
        boxes : Tensor
            (N, R, 4): x1, y1, x2, y2 in pixels of `x`.
        present : Tensor, optional
            bool (N, R): by default True. A region whose box has no area is never present.

        Raises
        ------
        ValueError
            Boxes have another shape, or are not finite where present.
        """
        boxes, present = checked_boxes(self, x, boxes, present)
        boxes = torch.where(present[..., None], boxes, 0.0)
        return self._regions(self.maps(x), x, boxes, present.float(), present)

    def fingerprint(self) -> str:
        """Hash of weights, config, region names and threshold; detectors with equal hashes give equal regions."""
        written = json.dumps([fingerprint(self), self.region_names, self.score_threshold])
        return hashlib.sha256(written.encode()).hexdigest()[:16]

    def _regions(self, maps: Any, x: Tensor, boxes: Tensor, scores: Tensor, present: Tensor) -> Regions:
        features = self.pool(maps, boxes, x)
        return Regions(boxes, scores, present, torch.where(present[..., None], features, 0.0))


def default_spec(in_chans: int, changes: Mapping[str, Any] | InputSpec | None) -> InputSpec:
    """Return the default input spec with `changes`.

    The default is :data:`SIDE` pixels, the image padded to a square, ImageNet's mean and standard deviation.
    """
    return InputSpec.imagenet(in_chans, size=SIDE, resize="pad").updated(changes)


def checked_boxes(detector: RegionDetector, x: Tensor, boxes: Tensor, present: Tensor | None) -> tuple[Tensor, Tensor]:
    """Check boxes, clip them to the image, and return them with a mask of those that are present and have an area.

    Raises
    ------
    ValueError
        Boxes or `present` have another shape; a box of a present region is not finite.
    """
    shape = (len(x), len(detector.region_names))
    if boxes.shape != (*shape, 4):
        raise ValueError(f"boxes must be {(*shape, 4)} for these images and regions, got {tuple(boxes.shape)}")
    if present is not None and present.shape != shape:
        raise ValueError(f"present must be {shape} for these images and regions, got {tuple(present.shape)}")
    present = torch.ones(shape, dtype=torch.bool, device=x.device) if present is None else present.to(x.device).bool()
    boxes = boxes.as_subclass(Tensor).to(x.device).float()
    if not torch.compiler.is_compiling() and not bool((boxes.isfinite().all(dim=-1) | ~present).all()):
        raise ValueError("boxes of regions that are present must be finite")
    h, w = x.shape[-2:]
    boxes = torch.stack(
        [side.clamp(0, limit) for side, limit in zip(boxes.unbind(-1), (w, h, w, h), strict=True)], dim=-1
    )
    return boxes, present & ((boxes[..., 2:] - boxes[..., :2]) > 0).all(dim=-1)
