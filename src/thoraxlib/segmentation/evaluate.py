"""How well a segmenter does, and its masks as files."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from thoraxlib.metrics.intervals import Interval, bootstrap_mean
from thoraxlib.segmentation.base import Segmenter
from thoraxlib.segmentation.classes import ORGAN_PARTS, organ_masks
from thoraxlib.segmentation.metrics import dice_score, iou_score
from thoraxlib.utils.arrays import array
from thoraxlib.utils.files import replacing
from thoraxlib.utils.modes import device_of, eval_view
from thoraxlib.utils.text_tables import Table

if TYPE_CHECKING:
    from thoraxlib.datasets.samples import Samples


@dataclass(frozen=True)
class MaskReport(Table):
    """Dice and IoU of every organ on every image; ``print`` it.

    Attributes
    ----------
    organs : tuple of str
        The classes without the background.
    dice, iou : Tensor
        float32 (N, organs); NaN where an organ is in neither mask.
    ids : list of str
        The images.
    """

    organs: tuple[str, ...]
    dice: Tensor
    iou: Tensor
    ids: list[str]
    _name = "masks"

    def mean_dice(self) -> float:
        """Mean over organs of their mean over images."""
        return float(self.dice.nanmean(dim=0).nanmean())

    def interval(self, *, n_bootstrap: int = 1000, level: float = 0.95, seed: int = 0) -> Interval:
        """Percentile intervals of each organ's mean Dice, and of their mean, over resampled images.

        Parameters and errors: see :func:`thoraxlib.metrics.bootstrap`.
        """
        return bootstrap_mean(array(self.dice), n_bootstrap=n_bootstrap, level=level, seed=seed)

    def _cells(self) -> list[list[str]]:
        iou = self.iou.nanmean(dim=0)
        columns = [
            [f"{len(self.ids)} images", *self.organs, "mean"],
            ["Dice (95 %)", *self.interval().beside(self.dice.nanmean(dim=0))],
            ["IoU", *(f"{value:.3f}" for value in (*iou.tolist(), float(iou.nanmean())))],
        ]
        return [list(row) for row in zip(*columns, strict=True)]


def evaluate(
    segmenter: Segmenter,
    dataset: Any,
    *,
    parts: Mapping[str, Sequence[str]] = ORGAN_PARTS,
    batch_size: int = 16,
) -> MaskReport:
    """Dice and IoU of a segmenter's hard masks on images with true ones, at the segmenter's input size.

    Parameters
    ----------
    segmenter : Segmenter
        With ``input_spec``.
    dataset : dataset
        Samples have ``image`` and ``masks``; the data set has ``mask_names``.
    parts : mapping of str to sequence of str
        See :func:`thoraxlib.segmentation.organ_masks`.
    batch_size : int
        Images at a time.

    Raises
    ------
    ValueError
        Images without masks, or a class for which there is none.
    """
    dice, iou, ids = [], [], []
    segmenter = eval_view(segmenter)
    for batch in _samples(segmenter, dataset, masks=True).batches(batch_size):
        if "masks" not in batch:
            raise ValueError(f"{type(dataset).__name__} gives no masks; this one needs them")
        truth = organ_masks(batch["masks"], dataset.mask_names, segmenter.classes, parts)[:, 1:]
        found = _hard(segmenter, batch["image"]).cpu()
        predicted = F.one_hot(found, len(segmenter.classes)).movedim(-1, 1)[:, 1:]
        dice.append(dice_score(predicted, truth))
        iou.append(iou_score(predicted, truth))
        ids += batch["id"]
    return MaskReport(segmenter.classes[1:], torch.cat(dice), torch.cat(iou), ids)


def predict_masks(
    segmenter: Segmenter,
    dataset: Any,
    folder: str | os.PathLike[str],
    *,
    batch_size: int = 16,
    overwrite: bool = False,
) -> list[Path]:
    """Write the segmenter's masks as ``<folder>/<id>.png``, in each image's own size.

    Grey values are the class numbers. :class:`thoraxlib.datasets.WithOrganMasks` reads them, so that a classifier can
    be trained without running the segmenter in every step.

    Parameters
    ----------
    segmenter : Segmenter
        With ``input_spec``.
    dataset : dataset
        Samples have ``image`` and ``id``.
    folder : path
        Made if needed.
    batch_size : int
        Images at a time.
    overwrite : bool
        Write all, after the segmenter has changed; otherwise files that exist are kept, as after an interruption.

    Raises
    ------
    ValueError
        Two ids that would have one file, or an id that points out of the folder.
    """
    from PIL import Image

    from thoraxlib.datasets.organs import mask_path

    folder = Path(folder)
    paths = [Path(mask_path(folder, name)) for name in dataset.ids]
    owner: dict[Path, str] = {}
    for path, name in zip(paths, dataset.ids, strict=True):
        if owner.setdefault(path, name) != name:
            raise ValueError(f"the masks of {owner[path]!r} and {name!r} would both be {path.name}")
    folder.mkdir(parents=True, exist_ok=True)
    missing = [index for index, path in enumerate(paths) if overwrite or not path.exists()]
    segmenter = eval_view(segmenter)
    for batch in _samples(segmenter, dataset, masks=False).batches(batch_size, indices=missing):
        found = _hard(segmenter, batch["image"]).cpu()
        for mask, name, size in zip(found, batch["id"], batch["size"], strict=True):
            with replacing(mask_path(folder, name)) as scratch:
                Image.fromarray(_on_image(mask, segmenter.input_spec, size).numpy().astype(np.uint8)).save(scratch)
    return paths


def _samples(segmenter: Segmenter, dataset: Any, *, masks: bool) -> Samples:
    """Read images as the segmenter takes them, with the ``size`` that they had."""
    from thoraxlib.datasets.samples import Samples
    from thoraxlib.images import transform_for

    return Samples(dataset, transform_for(segmenter.input_spec), masks=masks, original=("size",))


def _hard(segmenter: Segmenter, x: Tensor) -> Tensor:
    """Class numbers (N, H, W)."""
    with torch.inference_mode():
        found: Tensor = segmenter(x.to(device_of(segmenter))).argmax(dim=1)
    return found


def _on_image(mask: Tensor, spec: Any, size: tuple[int, int]) -> Tensor:
    """Class numbers (h, w) at the model's size in the image's frame; background where the model saw nothing."""
    from thoraxlib.images import placement

    place = placement(spec, *size)
    whole = torch.zeros(place.height, place.width)
    resized, of_input = place.shared(spec.size)
    whole[resized] = mask[of_input].float()
    return F.interpolate(whole[None, None], size=size, mode="nearest-exact")[0, 0]
