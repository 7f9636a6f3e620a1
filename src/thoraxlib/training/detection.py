"""The Lightning module of region detectors."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn
from torch.optim import SGD

from thoraxlib.detection import RegionDetector, average_precision
from thoraxlib.detection.reading import check_regions
from thoraxlib.localization.metrics import paired_iou
from thoraxlib.training.task import Task

if TYPE_CHECKING:
    from thoraxlib.training.data import DataModule

#: How AnaXNet's detector was trained, for :func:`thoraxlib.training.fit`: SGD and a warm-up, 50,000 batches of 16 from
#: COCO's weights, with ``trainable_layers=3`` and ``freeze_norm=True`` (its mirroring, which swaps left and right but
#: not their names, is left out). About five passes over Chest ImaGenome; far too slow a start without its weights.
ANAXNET_DETECTOR: Mapping[str, Any] = {
    "optimizer": partial(SGD, lr=1e-4, momentum=0.9, weight_decay=1e-4),
    "scheduler": "warmup",
    "max_steps": 50_000,
}

_NORMS = (nn.modules.batchnorm._BatchNorm, nn.LayerNorm, nn.GroupNorm)


class DetectionTask(Task):
    """Trains a detector on images with boxes of their regions.

    The data module is built with ``regions=True``, and without transforms that mirror images unless they swap the
    regions of both sides. Boxes around turned boxes are too large: ``{"name": "light", "degrees": 0.0}`` does not turn.

    Logs ``train/loss``, and over the validation part ``val/iou`` (mean over regions of the mean IoU of the best box and
    the true one), ``val/ap50`` (mean over regions of the average precision at an IoU of 0.5) and ``val/iou_<region>``.
    Norms have no weight decay.

    Parameters
    ----------
    model : RegionDetector
        With ``losses``.
    loss : mapping of str to float, optional
        Weights of the detector's losses where they are not 1, such as ``{"box": 2.0}``.
    **settings
        See :class:`Task`. Without COCO's weights, AdamW and ``scheduler="onecycle"`` do; :data:`ANAXNET_DETECTOR` has
        the original's.

    Raises
    ------
    ValueError
        In a step: weights of losses that the detector does not have; samples without regions, or with others.
    """

    model: RegionDetector

    default_loss: ClassVar[Any] = {}
    default_monitor = "val/iou"

    def make_loss(self, spec: Any) -> Mapping[str, float]:
        """The weights, as they are.

        Raises
        ------
        ValueError
            No weights by name.
        """
        if not isinstance(spec, Mapping) or not all(isinstance(weight, (int, float)) for weight in spec.values()):
            raise ValueError(f"loss={spec!r}: a detector has its own losses, of which this sets weights by name")
        return dict(spec)

    def trained_parameters(self) -> list[Any]:
        """Two groups: the second, of norms, without weight decay."""
        norms = {p for m in self.model.modules() if isinstance(m, _NORMS) for p in m.parameters(recurse=False)}
        trained = super().trained_parameters()
        groups = [[p for p in trained if p not in norms], [p for p in trained if p in norms]]
        return [
            {"params": group, **more} for group, more in zip(groups, ({}, {"weight_decay": 0.0}), strict=True) if group
        ]

    @property
    def scores(self) -> tuple[str, ...]:
        """Names of all that is logged."""
        regions = (f"val/iou_{name}" for name in self.model.region_names)
        return (*super().scores, "val/iou", "val/ap50", *regions)

    def check(self, data: DataModule) -> None:
        """See that the images come with the detector's regions.

        Raises
        ------
        ValueError
            No regions, or others.
        """
        super().check(data)
        for part in data.parts.values():
            check_regions(self.model, part)
        if not data.regions:
            raise ValueError("the samples have no regions: build the data module with regions=True")

    def on_fit_start(self) -> None:
        """Nothing is counted: the detector has its own losses."""

    def objective(self, batch: dict[str, Any]) -> Tensor:
        """The weighted sum of the detector's losses.

        Raises
        ------
        ValueError
            Weights of losses that the detector does not have.
        """
        images = batch["image"].to(memory_format=self.memory_format)
        losses = self.model.losses(images, *self._truth(batch))
        unknown = sorted({*self.loss} - {*losses})
        if unknown:
            raise ValueError(f"loss has weights of {unknown}: the detector's losses are {', '.join(losses)}")
        return torch.stack([self.loss.get(name, 1.0) * loss for name, loss in losses.items()]).sum()

    def _truth(self, batch: dict[str, Any]) -> tuple[Tensor, Tensor | None]:
        if "regions" not in batch:
            raise ValueError("the batch has no regions: build the data module with regions=True")
        return batch["regions"], batch.get("present")

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        """Keep each region's IoU and score until the epoch's end."""
        boxes, present = self._truth(batch)
        found = self.model(batch["image"].to(memory_format=self.memory_format))
        there = (boxes[..., 2:] > boxes[..., :2]).all(dim=-1)
        there = there if present is None else there & present
        iou = torch.where(there, paired_iou(found.boxes, boxes.float()), torch.nan)
        self.keep(batch, iou, found.scores)

    def on_validation_epoch_end(self) -> None:
        """Mean over the images, then over the regions."""
        kept = self.kept()
        if kept is None:
            return
        _, iou, scores = kept
        of_regions, precision = iou.nanmean(dim=0), average_precision(iou, scores)
        means = {"val/iou": of_regions.nanmean(), "val/ap50": precision.nanmean()}
        self.log_dict({name: float(value) for name, value in means.items()}, prog_bar=True, sync_dist=True)
        each = {f"val/iou_{name}": float(of_regions[r]) for r, name in enumerate(self.model.region_names)}
        self.log_dict(each, sync_dist=True)
