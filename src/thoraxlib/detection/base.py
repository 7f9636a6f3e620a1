"""The contract of a region detector."""

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

#: Side of a detector's input unless another is asked for: the short side at which AnaXNet's detector looks.
SIDE = 800


class Regions(NamedTuple):
    """The regions of a batch of N images, row r of each being ``region_names[r]``.

    Attributes
    ----------
    boxes : Tensor
        float32 (N, R, 4): x1, y1, x2, y2 in pixels of the input. A region below the score threshold has its most likely
        box all the same; one without any has 0 0 0 0.
    scores : Tensor
        float32 (N, R): probability of the box, from 0 to 1.
    present : Tensor
        bool (N, R): whether the region was found.
    features : Tensor
        (N, R, D): zeros where the region is not present.
    """

    boxes: Tensor
    scores: Tensor
    present: Tensor
    features: Tensor


class RegionDetector(Persistent):
    """``forward(x: (N, C, h, w)) -> Regions`` of images as ``input_spec`` describes them.

    A subclass has three steps: :meth:`maps` (backbone), :meth:`locate` (where the regions are), and :meth:`pool`
    (features of boxes).

    Parameters
    ----------
    regions : str or sequence of str
        A set of names (``"regions18"``), or the names.
    input_spec : InputSpec
        For which input it is made.
    feature_dim : int
        D.
    score_threshold : float
        A region is present if its score is above, strictly; from 0 to 1.

    Attributes
    ----------
    region_names : tuple of str
        R names.
    input_spec, feature_dim, score_threshold
        As given.

    Raises
    ------
    ValueError
        No name or one twice; a threshold out of range.
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
        """What :meth:`locate` and :meth:`pool` look at, of images (N, C, h, w)."""
        raise NotImplementedError

    def locate(self, maps: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        """Boxes (N, R, 4) and scores (N, R), without gradient."""
        raise NotImplementedError

    def pool(self, maps: Any, boxes: Tensor, x: Tensor) -> Tensor:
        """Features (N, R, D) of boxes (N, R, 4)."""
        raise NotImplementedError

    def losses(self, x: Tensor, regions: Tensor, present: Tensor | None = None) -> dict[str, Tensor]:
        """The losses of images (N, C, h, w) with true boxes (N, R, 4), by name.

        Parameters
        ----------
        x : Tensor
            (N, C, h, w).
        regions : Tensor
            (N, R, 4): boxes in pixels of `x`.
        present : Tensor, optional
            bool (N, R): which boxes count; those without area never do. By default all that have one.

        Raises
        ------
        TypeError
            A detector that has none, as it is not trained on boxes.
        ValueError
            Boxes of another shape, or not finite where present.
        """
        raise TypeError(f"{type(self).__name__} is not trained on boxes: it has no losses")

    def forward(self, x: Tensor) -> Regions:
        """The regions of images (N, C, h, w)."""
        maps = self.maps(x)
        boxes, scores = self.locate(maps, x)
        return self._of(maps, x, boxes, scores, scores > self.score_threshold)

    def region_features(self, x: Tensor, boxes: Tensor, present: Tensor | None = None) -> Regions:
        """Features of boxes that are given, such as an annotator's; their scores are 1, those of absent regions 0.

        Parameters
        ----------
        x : Tensor
            (N, C, h, w).
        boxes : Tensor
            (N, R, 4): x1, y1, x2, y2 in pixels of `x`.
        present : Tensor, optional
            bool (N, R): by default where the box has an area. A region whose box has none is never present.

        Raises
        ------
        ValueError
            Boxes of another shape, or not finite where present.
        """
        boxes, present = is_there(self, x, boxes, present)
        boxes = torch.where(present[..., None], boxes, 0.0)
        return self._of(self.maps(x), x, boxes, present.float(), present)

    def fingerprint(self) -> str:
        """Of weights, construction, region names and threshold: detectors with equal ones give equal regions."""
        written = json.dumps([fingerprint(self), self.region_names, self.score_threshold])
        return hashlib.sha256(written.encode()).hexdigest()[:16]

    def _of(self, maps: Any, x: Tensor, boxes: Tensor, scores: Tensor, present: Tensor) -> Regions:
        features = self.pool(maps, boxes, x)
        return Regions(boxes, scores, present, torch.where(present[..., None], features, 0.0))


def default_spec(in_chans: int, changes: Mapping[str, Any] | InputSpec | None) -> InputSpec:
    """ImageNet's mean and deviation, :data:`SIDE` pixels, the image whole (padded to a square), with `changes`."""
    return InputSpec.imagenet(in_chans, size=SIDE, resize="pad").updated(changes)


def is_there(detector: RegionDetector, x: Tensor, boxes: Tensor, present: Tensor | None) -> tuple[Tensor, Tensor]:
    """Checked boxes, cut off at the image's border, and which of them are present and have an area.

    Raises
    ------
    ValueError
        Boxes or `present` of another shape; a box of a present region that is not finite.
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
