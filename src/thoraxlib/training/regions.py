"""Training a model of findings in anatomical regions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from thoraxlib.detection.reading import check_regions
from thoraxlib.training.task import MultiLabelTask, check_labels, model_inputs
from thoraxlib.utils.arrays import Floats

if TYPE_CHECKING:
    from thoraxlib.datasets import ChestDataset
    from thoraxlib.training.data import DataModule


class RegionTask(MultiLabelTask):
    """Trains a model -> logits (N, R, K), on labels of regions: 1, 0 and NaN.

    Batches have ``region_labels`` (N, R, K), and either ``features`` (N, R, D) with ``present`` (N, R), as a
    :class:`thoraxlib.detection.FeatureStore` gives them, or an ``image``, for a model with a detector. Absent regions
    have no part in loss and scores, unless the head treats them like any (``missing="zeros"``).

    Logs ``train/loss``, ``val/loss``, ``val/auroc`` and ``val/average_precision``; the latter are means over findings
    of the means over the regions that have both classes, as AnaXNet selects.

    Parameters
    ----------
    model : nn.Module
        With ``forward_all``, such as :class:`thoraxlib.models.anaxnet.AnaXNet`.
    loss, optimizer, scheduler, monitor, mode, channels_last
        See :class:`~thoraxlib.training.task.Task`.

    Raises
    ------
    ValueError
        Data of other regions than the model's, or with none present; samples without ``region_labels``; and what
        :class:`~thoraxlib.training.task.MultiLabelTask` refuses.
    """

    def outputs(self, batch: dict[str, Any]) -> tuple[Tensor, Tensor]:
        """Logits and labels (N, R, K), NaN in absent regions.

        Raises
        ------
        ValueError
            Samples without ``region_labels``.
        """
        if "region_labels" not in batch:
            raise ValueError(
                "the samples have no region_labels: of images, DataModule(..., regions=True) reads them, where the "
                "data set has them"
            )
        output = self.model.forward_all(*model_inputs(batch))  # type: ignore[operator]
        logits, labels = output.logits, batch["region_labels"]
        check_labels(logits, labels)
        if self._masked:
            labels = torch.where(output.regions.present[..., None], labels, torch.nan)
        return logits, labels

    def check(self, data: DataModule) -> None:
        """See that the data have the model's regions, in its order, and labels that can be learnt and scored.

        Raises
        ------
        ValueError
            Other regions, or a part in which none is present; and as :class:`~thoraxlib.training.task.MultiLabelTask`.
        """
        for name, part in data.parts.items():
            check_regions(self.model, part)
            present = getattr(part, "region_present", None)
            if present is not None and not bool(present.any()):
                raise ValueError(f"{name}: no region of any image is present; has the detector found none?")
        super().check(data)

    def targets(self, part: ChestDataset) -> Tensor | None:
        """Labels of the regions (N, R, K), where they are known beforehand; NaN in absent regions."""
        targets, present = getattr(part, "region_targets", None), getattr(part, "region_present", None)
        if targets is None or present is None or not self._masked:
            return targets
        return torch.where(present[..., None], targets, torch.nan)

    @property
    def _masked(self) -> bool:
        """Whether absent regions have no part in loss and scores."""
        return getattr(self.model.head, "missing", "mask") == "mask"

    def training_targets(self) -> Tensor | None:
        """Labels of all regions of the training images, (N * R, K), where they are known beforehand."""
        targets: Tensor | None = getattr(self.trainer.datamodule.parts["train"], "region_targets", None)
        return None if targets is None else targets.flatten(0, 1)

    def mean(self, values: Floats) -> float:
        """Of (R, K): the mean over findings of the means over regions; NaN if none has a score."""
        scored = values[:, ~np.isnan(values).all(axis=0)]
        return float(np.nanmean(scored, axis=0).mean()) if scored.size else np.nan
