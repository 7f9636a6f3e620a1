"""The training tasks: labels of images, labels of regions, organ masks, and boxes of regions."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from thoraxlib.detection import RegionDetector, average_precision
from thoraxlib.detection.reading import check_regions
from thoraxlib.localization.metrics import paired_iou
from thoraxlib.metrics.scores import checked, per_label
from thoraxlib.segmentation.base import Segmenter
from thoraxlib.segmentation.masks import dice_score, organ_masks
from thoraxlib.training.task import Task, model_inputs
from thoraxlib.utils.modes import device_of

if TYPE_CHECKING:
    from thoraxlib.datasets import ChestDataset
    from thoraxlib.training.data import DataModule

_RANKED = ("val/auroc", "val/average_precision")
_NORMS = (nn.modules.batchnorm._BatchNorm, nn.LayerNorm, nn.GroupNorm)


class MultiLabelTask(Task):
    """Train a model of images (N, C, H, W) -> logits (N, K) on labels 1, 0 and NaN.

    Logs ``train/loss`` and, over the whole validation part at once, ``val/loss``, ``val/auroc`` and
    ``val/average_precision`` (means over the labels that have both classes; NaN if none has).

    Parameters
    ----------
    model : nn.Module
        Takes images, and organ masks where the data set has them; returns logits.
    loss, optimizer, scheduler, monitor, mode, channels_last
        See :class:`Task`.

    Raises
    ------
    ValueError
        In a step: the labels and the logits have different widths; the loss is not finite, or validation logits are
        NaN.
    """

    default_loss = "bce"
    default_monitor = "val/auroc"
    _target_name: ClassVar[str] = "targets"

    @property
    def scores(self) -> tuple[str, ...]:
        """Names of all logged scores."""
        return ("train/loss", "val/loss", *_RANKED)

    def check(self, data: DataModule) -> None:
        """Check that the labels of both parts can be learned and scored.

        Raises
        ------
        ValueError
            All labels are unknown; unknown labels make the loss NaN.
        RuntimeError
            No label of the validation part has both classes, but `monitor` is a ranking score.

        Warns
        -----
        UserWarning
            Labels that are unknown in every image of a part; smoothed labels in the validation part.
        """
        for name, part in data.parts.items():
            targets = self.targets(part)
            if targets is None:
                continue
            _check_known(name, targets, data.labels)
            if name == "train":
                self.count(targets.flatten(0, -2))
            else:
                _check_scored(targets, self.monitor)
            rows = targets[targets.isnan().flatten(1).any(dim=1)][:8].to(device_of(self.loss))
            mode = self.loss.training
            with torch.no_grad():
                value = self.loss.eval()(torch.zeros_like(rows), rows) if len(rows) else rows
            self.loss.train(mode)
            if bool(value.isnan().any()):
                raise ValueError(
                    f"loss={self.loss_spec!r} is NaN where a label is unknown, and {name} has such labels (NaN): the "
                    "losses of thoraxlib.losses leave them out"
                )

    def targets(self, part: ChestDataset) -> Tensor | None:
        """Return the labels of a part (N, ..., K), if they are known before its images are read."""
        targets: Tensor | None = getattr(part, self._target_name, None)
        return targets

    def count(self, targets: Tensor) -> None:
        """Call the loss's ``fit`` method, if it has one, with the training labels (N, K)."""
        fit = getattr(self.loss, "fit", None)
        if callable(fit):
            fit(targets)
            self.loss.to(self.device)

    def on_fit_start(self) -> None:
        """Fit the loss to the training labels, if they are known."""
        train = getattr(self.trainer.datamodule, "parts", {}).get("train")
        targets = getattr(train, self._target_name, None)
        if targets is not None:
            self.count(targets.flatten(0, -2))

    def outputs(self, batch: dict[str, Any]) -> tuple[Tensor, Tensor]:
        """Compute logits, and return them with the labels, both (N, K)."""
        logits: Tensor = self(*model_inputs(batch))
        _check_shapes(logits, batch["labels"])
        return logits, batch["labels"]

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        """Keep logits and labels until the end of the epoch."""
        logits, labels = self.outputs(batch)
        self.keep(batch, logits.float(), labels)

    def score(self, index: Tensor, *values: Tensor) -> dict[str, float]:
        """Compute the loss and the ranking scores: means over labels, and before that over regions, if there are any.

        Raises
        ------
        ValueError
            Logits are NaN.
        """
        logits, labels = values
        lost = logits.flatten(1).isnan().any(dim=1)
        if bool(lost.any()):
            raise ValueError(
                f"epoch {self.current_epoch}: the logits of {int(lost.sum())} of {len(lost)} validation images are "
                f"NaN, first of number {int(index[lost][0])}: the weights have diverged, or the "
                f"precision is too low ({self.trainer.precision})"
            )
        scores = {"val/loss": float(self.loss(logits, labels))}
        columns, ranks = checked(_scored(labels).flatten(1).cpu(), logits.flatten(1).nan_to_num().cpu())
        for name in ("auroc", "average_precision"):  # small parts lack rare findings in every epoch: no warning
            table = per_label(columns, ranks, name).reshape(-1, labels.shape[-1])
            known = table[:, ~np.isnan(table).all(axis=0)]
            scores[f"val/{name}"] = float(np.nanmean(known, axis=0).mean()) if known.size else np.nan
        return scores


class RegionTask(MultiLabelTask):
    """Train a model -> logits (N, R, K) on labels of regions: 1, 0 and NaN.

    Batches have ``region_labels`` (N, R, K), and either ``features`` (N, R, D) with ``present`` (N, R), as a
    :class:`thoraxlib.detection.FeatureStore` gives them, or an ``image``, for a model with a detector. Absent regions
    are left out of loss and scores, unless the head treats them like others (``missing="zeros"``).

    Logs ``train/loss``, ``val/loss``, ``val/auroc`` and ``val/average_precision``. The latter two are means over
    findings of the means over the regions that have both classes, as AnaXNet selects its best epoch.

    Parameters
    ----------
    model : nn.Module
        With ``forward_all``, such as :class:`thoraxlib.models.anaxnet.AnaXNet`.
    loss, optimizer, scheduler, monitor, mode, channels_last
        See :class:`~thoraxlib.training.task.Task`.

    Raises
    ------
    ValueError
        The data have other regions than the model, or none present; samples have no ``region_labels``; and as
        :class:`MultiLabelTask`.
    """

    _target_name = "region_targets"

    def outputs(self, batch: dict[str, Any]) -> tuple[Tensor, Tensor]:
        """Compute logits, and return them with the labels, both (N, R, K); labels of absent regions are NaN.

        Raises
        ------
        ValueError
            Samples have no ``region_labels``.
        """
        if "region_labels" not in batch:
            raise ValueError(
                "the samples have no region_labels: of images, DataModule(..., regions=True) reads them, where the "
                "data set has them"
            )
        output = self.model.forward_all(*model_inputs(batch))  # type: ignore[operator]
        _check_shapes(output.logits, batch["region_labels"])
        return output.logits, self._masked(batch["region_labels"], output.regions.present)

    def check(self, data: DataModule) -> None:
        """Check that the data have the model's regions, and labels that can be learned and scored.

        Raises
        ------
        ValueError
            Other regions, or a part in which none is present; and as :class:`MultiLabelTask`.
        """
        for name, part in data.parts.items():
            check_regions(self.model, part)
            present = getattr(part, "region_present", None)
            if present is not None and not bool(present.any()):
                raise ValueError(f"{name}: no region of any image is present; has the detector found none?")
        super().check(data)

    def targets(self, part: ChestDataset) -> Tensor | None:
        """Return the labels of the regions (N, R, K), if they are known; NaN in absent regions."""
        targets, present = super().targets(part), getattr(part, "region_present", None)
        return targets if targets is None or present is None else self._masked(targets, present)

    def _masked(self, labels: Tensor, present: Tensor) -> Tensor:
        masked = getattr(self.model.head, "missing", "mask") == "mask"
        return torch.where(present[..., None], labels, torch.nan) if masked else labels


class SegmentationTask(Task):
    """Train a segmenter of images (N, C, H, W) -> logits (N, M, H, W) on organ masks.

    The data module is built with ``masks=True``. Logs ``train/loss``, ``val/loss``, ``val/dice`` (mean over organs of
    the mean Dice over images) and ``val/dice_<organ>``.

    Parameters
    ----------
    model : Segmenter
        With ``classes``; see :func:`thoraxlib.segmentation.organ_masks`.
    loss, optimizer, scheduler, monitor, mode, channels_last
        See :class:`Task`; losses for masks are "dice_bce" and "dice".
    """

    model: Segmenter

    default_loss = "dice_bce"
    default_monitor = "val/dice"

    @property
    def scores(self) -> tuple[str, ...]:
        """Names of all logged scores."""
        return ("train/loss", "val/loss", "val/dice", *(f"val/dice_{organ}" for organ in self.model.classes[1:]))

    def check(self, data: DataModule) -> None:
        """Check that the images have masks of the same names in all parts.

        Raises
        ------
        ValueError
            No masks, or validation masks with other names than those for training.
        """
        if not data.masks:
            raise ValueError("the samples have no masks: build the data module with masks=True")
        names = [tuple(getattr(part, "mask_names", ())) for part in data.parts.values()]
        if not names[0] or names[0] != names[1]:
            raise ValueError(f"mask_names of train are {names[0]}, of val {names[1]}: the same are needed")

    def outputs(self, batch: dict[str, Any]) -> tuple[Tensor, Tensor]:
        """Compute logits, and return them with the masks of the classes."""
        names = self.trainer.datamodule.parts["train"].mask_names
        return self(batch["image"]), organ_masks(batch["masks"], names, self.model.classes).float()

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        """Keep every image's Dice and loss until the end of the epoch."""
        logits, masks = self.outputs(batch)
        predicted = nn.functional.one_hot(logits.argmax(dim=1), logits.shape[1]).movedim(-1, 1)
        loss = self.loss(logits.float(), masks).expand(len(logits))
        self.keep(batch, dice_score(predicted[:, 1:], masks[:, 1:]), loss)

    def score(self, index: Tensor, *values: Tensor) -> dict[str, float]:
        """Average over the images."""
        dice = values[0].nanmean(dim=0)
        scores = {"val/loss": float(values[1].mean()), "val/dice": float(dice.nanmean())}
        return scores | {f"val/dice_{organ}": float(d) for organ, d in zip(self.model.classes[1:], dice, strict=True)}


class DetectionTask(Task):
    """Train a detector on images with boxes of their regions.

    The data module is built with ``regions=True``. Its transform must not mirror images, unless it also swaps the
    regions of both sides. Boxes around rotated boxes are too large: ``{"name": "light", "degrees": 0.0}`` does not
    rotate.

    Logs ``train/loss``, and over the validation part ``val/iou`` (mean over regions of the mean IoU of the best box and
    the true one), ``val/ap50`` (mean over regions of the average precision at an IoU of 0.5) and ``val/iou_<region>``.
    Norms have no weight decay.

    Parameters
    ----------
    model : RegionDetector
        With ``losses``.
    loss : mapping of str to float, optional
        Weights of the detector's losses other than 1, such as ``{"box": 2.0}``.
    optimizer, scheduler, monitor, mode, channels_last
        See :class:`Task`. Without COCO's weights, use AdamW and ``scheduler="onecycle"``;
        :data:`~thoraxlib.training.ANAXNET_DETECTOR` has the original's settings.

    Raises
    ------
    ValueError
        The data have other regions or none; weights of losses that the detector does not have.
    """

    model: RegionDetector

    default_loss: ClassVar[Any] = {}
    default_monitor = "val/iou"

    def make_loss(self, spec: Any) -> Mapping[str, float]:
        """Check and return the weights.

        Raises
        ------
        ValueError
            `spec` is no mapping from names to weights.
        """
        if not isinstance(spec, Mapping) or not all(isinstance(weight, (int, float)) for weight in spec.values()):
            raise ValueError(f"loss={spec!r}: a detector has its own losses; give their weights by name")
        return dict(spec)

    def trained_parameters(self) -> list[Any]:
        """List two groups of parameters; the second, of norms, has no weight decay."""
        norms = {p for m in self.model.modules() if isinstance(m, _NORMS) for p in m.parameters(recurse=False)}
        trained = super().trained_parameters()
        groups: list[dict[str, Any]] = [
            {"params": [p for p in trained if p not in norms]},
            {"params": [p for p in trained if p in norms], "weight_decay": 0.0},
        ]
        return [group for group in groups if group["params"]]

    @property
    def scores(self) -> tuple[str, ...]:
        """Names of all logged scores."""
        return ("train/loss", "val/iou", "val/ap50", *(f"val/iou_{name}" for name in self.model.region_names))

    def check(self, data: DataModule) -> None:
        """Check that the images have the detector's regions.

        Raises
        ------
        ValueError
            No regions, or others.
        """
        for part in data.parts.values():
            check_regions(self.model, part)
        if not data.regions:
            raise ValueError("the samples have no regions: build the data module with regions=True")

    def objective(self, batch: dict[str, Any]) -> Tensor:
        """Compute the weighted sum of the detector's losses.

        Raises
        ------
        ValueError
            `loss` has weights of losses that the detector does not have.
        """
        images = batch["image"].to(memory_format=self.memory_format)
        losses = self.model.losses(images, batch["regions"], batch.get("present"))
        unknown = sorted({*self.loss} - {*losses})
        if unknown:
            raise ValueError(f"loss has weights of {unknown}: the detector's losses are {', '.join(losses)}")
        return torch.stack([self.loss.get(name, 1.0) * loss for name, loss in losses.items()]).sum()

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        """Keep each region's IoU and score until the end of the epoch."""
        regions, boxes = self(batch["image"]), batch["regions"]
        present = (boxes[..., 2:] > boxes[..., :2]).all(dim=-1)
        if "present" in batch:
            present &= batch["present"]
        iou = torch.where(present, paired_iou(regions.boxes, boxes.float()), torch.nan)
        self.keep(batch, iou, regions.scores)

    def score(self, index: Tensor, *values: Tensor) -> dict[str, float]:
        """Average over the images, then over the regions."""
        iou = values[0].nanmean(dim=0)
        scores = {"val/iou": float(iou.nanmean()), "val/ap50": float(average_precision(*values).nanmean())}
        return scores | {f"val/iou_{name}": float(v) for name, v in zip(self.model.region_names, iou, strict=True)}


def _check_shapes(logits: Tensor, labels: Tensor) -> None:
    if logits.shape != labels.shape:
        raise ValueError(
            f"the labels are {tuple(labels.shape)}, the model's logits {tuple(logits.shape)}: a data set "
            "for this model has its labels (datasets take labels=model.labels)"
        )


def _check_known(part: str, targets: Tensor, labels: Sequence[str]) -> None:
    """Raise if no label of a part is known; warn of labels that are unknown in every image."""
    known = ~targets.isnan().flatten(0, -2).all(dim=0)
    if not bool(known.any()):
        raise ValueError(f"{part}: every label of every image is unknown (NaN)")
    if not bool(known.all()):
        lost = [label for label, is_known in zip(labels, known.tolist(), strict=True) if not is_known]
        effect = "nothing is learned about them" if part == "train" else "they are left out of the scores"
        warnings.warn(
            f"{part}: labels that are unknown (NaN) in every image: {', '.join(lost)}; {effect}",
            UserWarning,
            stacklevel=4,
        )


def _scored(targets: Tensor) -> Tensor:
    """Replace smoothed targets, which belong to uncertain labels, by NaN: scores leave them out."""
    return torch.where((targets == 0) | (targets == 1), targets, torch.nan)


def _check_scored(targets: Tensor, monitor: str) -> None:
    """Raise if the validation labels cannot be scored; warn of smoothed ones."""
    scored = _scored(targets)
    soft = scored.isnan() & ~targets.isnan()
    if bool(soft.any()):
        warnings.warn(
            f"val: {int(soft.sum())} targets between 0 and 1, such as {float(targets[soft][0]):g}, take no part in the "
            "scores (smoothed labels are for training: build the validation part with another uncertain=)",
            UserWarning,
            stacklevel=4,
        )
    columns = scored.flatten(1)
    if monitor in _RANKED and not bool(((columns == 0).any(dim=0) & (columns == 1).any(dim=0)).any()):
        raise RuntimeError(
            f"monitor={monitor!r} cannot be finite, so that no epoch would be the best: no label of the validation "
            "part has both classes"
        )
