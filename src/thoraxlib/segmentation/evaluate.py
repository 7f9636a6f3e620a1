"""Score a segmenter on a data set, and write its masks to files."""

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
from thoraxlib.segmentation.masks import ORGAN_PARTS, dice_score, iou_score, organ_masks
from thoraxlib.utils.arrays import array
from thoraxlib.utils.files import replacing
from thoraxlib.utils.modes import device_of, eval_view
from thoraxlib.utils.text_tables import Table

if TYPE_CHECKING:
    from thoraxlib.datasets.samples import Samples


@dataclass(frozen=True)
class MaskReport(Table):
    """Dice and IoU of each organ on each image; ``print`` shows a table of the means.

    Attributes
    ----------
    organs : tuple of str
        The classes without the background.
    dice, iou : Tensor
        float32 (N, organs); NaN for an organ in neither mask.
    ids : list of str
        Ids of the images.
    """

    organs: tuple[str, ...]
    dice: Tensor
    iou: Tensor
    ids: list[str]
    _name = "masks"

    def mean_dice(self) -> float:
        """Mean over organs of each organ's mean over images."""
        return float(self.dice.nanmean(dim=0).nanmean())

    def interval(self, *, n_bootstrap: int = 1000, level: float = 0.95, seed: int = 0) -> Interval:
        """Compute bootstrap intervals of each organ's mean Dice, and of their mean; images are resampled.

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
    num_workers: int = 0,
    progress: bool = True,
) -> MaskReport:
    """Compute Dice and IoU of a segmenter's hard masks at its input size, on images with known masks.

    Parameters
    ----------
    segmenter : Segmenter
        The network.
    dataset : dataset
        Its samples have ``image`` and ``masks``, and it has ``mask_names``.
    parts : mapping of str to sequence of str
        Masks that form a class; see :func:`thoraxlib.segmentation.organ_masks`.
    batch_size, num_workers : int
        Images in a batch; processes that read them.
    progress : bool
        Show a progress bar.

    Raises
    ------
    ValueError
        Images without masks, or a class without a mask.
    """
    from tqdm.auto import tqdm

    dice, iou, ids = [], [], []
    segmenter = eval_view(segmenter)
    batches = _samples(segmenter, dataset, masks=True).batches(batch_size, num_workers=num_workers)
    for batch in tqdm(batches, desc="evaluate", disable=not progress):
        if "masks" not in batch:
            raise ValueError(f"the samples of {type(dataset).__name__} have no masks")
        truth = organ_masks(batch["masks"], dataset.mask_names, segmenter.classes, parts)[:, 1:]
        numbers = _class_numbers(segmenter, batch["image"])
        predicted = F.one_hot(numbers, len(segmenter.classes)).movedim(-1, 1)[:, 1:]
        dice.append(dice_score(predicted, truth))
        iou.append(iou_score(predicted, truth))
        ids += batch["id"]
    return MaskReport(segmenter.classes[1:], torch.cat(dice), torch.cat(iou), ids)


def predict_masks(
    segmenter: Segmenter,
    dataset: Any,
    output: str | os.PathLike[str],
    *,
    batch_size: int = 16,
    num_workers: int = 0,
    overwrite: bool = False,
    progress: bool = True,
) -> list[Path]:
    """Write the segmenter's masks to ``<output>/<id>.png``, each in the size of its image.

    Grey values are class numbers. :class:`thoraxlib.datasets.WithOrganMasks` reads the files, so that a classifier can
    be trained without running the segmenter in every step.

    Parameters
    ----------
    segmenter : Segmenter
        The network.
    dataset : dataset
        Its samples have ``image`` and ``id``.
    output : path
        Folder of the files; created if needed.
    batch_size, num_workers : int
        Images in a batch; processes that read them.
    overwrite : bool
        Write all masks again, e.g. with a new segmenter. Otherwise, existing files are kept, so that an interrupted
        call can be continued.
    progress : bool
        Show a progress bar.

    Raises
    ------
    ValueError
        Two ids with the same file name, or an id that points out of the folder.
    """
    from PIL import Image
    from tqdm.auto import tqdm

    from thoraxlib.datasets.organs import mask_path

    paths = [Path(mask_path(output, name)) for name in dataset.ids]
    owner: dict[Path, str] = {}
    for path, name in zip(paths, dataset.ids, strict=True):
        if owner.setdefault(path, name) != name:
            raise ValueError(f"the masks of {owner[path]!r} and {name!r} would both be {path.name}")
    Path(output).mkdir(parents=True, exist_ok=True)
    missing = [index for index, path in enumerate(paths) if overwrite or not path.exists()]
    segmenter = eval_view(segmenter)
    samples = _samples(segmenter, dataset, masks=False)
    batches = samples.batches(batch_size, indices=missing, num_workers=num_workers)
    for batch in tqdm(batches, desc="masks", disable=not progress):
        numbers = _class_numbers(segmenter, batch["image"])
        for mask, index, size in zip(numbers, batch["index"], batch["size"], strict=True):
            with replacing(paths[index]) as scratch:
                Image.fromarray(_in_image_frame(mask, segmenter.input_spec, size).numpy().astype(np.uint8)).save(
                    scratch
                )
    return paths


def _samples(segmenter: Segmenter, dataset: Any, *, masks: bool) -> Samples:
    """Read images with the segmenter's preprocessing, and their original ``size``."""
    from thoraxlib.datasets.samples import Samples
    from thoraxlib.images import transform_for

    return Samples(dataset, transform_for(segmenter.input_spec), masks=masks, original=("size",))


def _class_numbers(segmenter: Segmenter, x: Tensor) -> Tensor:
    """Compute the class number of each pixel, (N, H, W), on the CPU."""
    with torch.inference_mode():
        return segmenter(x.to(device_of(segmenter))).argmax(dim=1).cpu()  # type: ignore[no-any-return]


def _in_image_frame(mask: Tensor, spec: Any, size: tuple[int, int]) -> Tensor:
    """Map class numbers (h, w) at the model's input size back to the image; background outside of the model's input."""
    from thoraxlib.images import placement

    place = placement(spec, *size)
    whole = torch.zeros(place.height, place.width)
    resized, of_input = place.shared(spec.size)
    whole[resized] = mask[of_input].float()
    return F.interpolate(whole[None, None], size=size, mode="nearest-exact")[0, 0]
