"""Base class of data sets of a user's own images: a table, or folders by class."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from thoraxlib import labels as label_sets
from thoraxlib.datasets.base import ImageDataset, Transform, bounding_boxes
from thoraxlib.datasets.faults import Faults
from thoraxlib.datasets.files import StrPath, check_root, index_all, look_up
from thoraxlib.datasets.organs import read_mask
from thoraxlib.datasets.records import BoxRows, Records
from thoraxlib.datasets.splits import stratify_folds, stratify_patients
from thoraxlib.datasets.tables import expand, match_labels
from thoraxlib.images.copies import ImageFile
from thoraxlib.images.reading import SUFFIXES
from thoraxlib.localization.boxes import check_inside, within
from thoraxlib.utils.arguments import few, height_and_width, one_of

_PARTS = ("train", "val", "test")


class RecordDataset(ImageDataset):
    """Base class of data sets of records: selects their part, finds their files, and reads boxes and masks.

    Parameters
    ----------
    root : path
        The folder of the images.
    transform : callable, optional
        From sample to sample.
    """

    def __init__(self, root: StrPath, transform: Transform | None) -> None:
        super().__init__(root, None, transform)
        self._boxes: tuple[torch.Tensor, torch.Tensor, list[int]] | None = None
        self._box_size: tuple[int, int] | None = None
        self._masks: list[ImageFile] | None = None

    def _take(
        self,
        records: Records,
        files: Mapping[str, ImageFile],
        *,
        labels: str | Sequence[str] | None,
        split: str,
        fold: tuple[int, int] | None,
        seed: int,
        missing: str,
        masks: StrPath | None,
        views: str | Sequence[str] | None = None,
        box_size: int | tuple[int, int] | None = None,
    ) -> None:
        """Keep the images of a part that have a file, with their labels, attributes, boxes and masks."""
        one_of("missing", missing, ("error", "skip"))
        self.labels = records.labels if labels is None else label_sets.resolve(labels)
        columns = match_labels(self.labels, records.labels, records.source)
        absent = [label for label, column in zip(self.labels, columns, strict=True) if column is None]
        if absent:
            warnings.warn(f"{records.source}: unknown for all images: {few(absent)}; no such labels", stacklevel=3)
        if records.patients is None:
            option = "patient= names their column" if records.rows else "patient= takes a regular expression"
            warnings.warn(f"{records.source}: every image counts as a patient of its own ({option})", stacklevel=3)
        check_apart(records, Faults())
        rows = choose(records, split, fold, seed)
        if views is not None:
            view_of = records.columns["views"]
            wanted = expand(views, view_of, "views", {}, f" (those of {records.source})")
            rows = rows[[view_of[row] in wanted for row in rows.tolist()]]
        names = records.names if len(rows) == len(records.names) else [records.names[row] for row in rows.tolist()]
        found, several = look_up(names, files, self.root)
        check_single(several, Faults())
        if masks is not None:
            mask_of = find_masks(names, check_root(masks, "masks"))
            if missing == "error" and len(mask_of) < len(names):
                absent = [name for name in names if name not in mask_of]
                raise FileNotFoundError(
                    f"{len(absent)} of {len(names)} images have no mask in {masks}: {few(absent, 5)}"
                )
            found = {name: file for name, file in found.items() if name in mask_of}
        patients = records.names if records.patients is None else records.patients
        attributes: dict[str, Any] = {"ids": records.names, "patient_ids": patients, **records.columns}
        chosen = {"split": split, "fold": fold, "views": views}
        rows = self._keep(rows, attributes, found, missing, chosen, names=names)
        if masks is not None:
            self._masks = [mask_of[name] for name in self.ids]
        picked = np.full((len(rows), len(columns)), np.nan, dtype=np.float32)
        for k, column in enumerate(columns):
            if column is not None:
                picked[:, k] = records.targets[rows, column]
        self._set_targets(picked, f"they are blank in {records.source}")
        if records.boxes is not None:
            self._box_size = None if box_size is None else height_and_width(box_size)
            self._set_boxes(records.boxes, rows, len(records.names), records.source)

    def _set_boxes(self, boxes: BoxRows, rows: NDArray[np.intp], count: int, source: str) -> None:
        """Keep the boxes of the images `rows` with one of the labels, in order of the images."""
        position = np.full(count, -1)
        position[rows] = np.arange(len(rows))
        labels = np.array([-1 if k is None else k for k in label_sets.align(self.labels, boxes.labels)], dtype=np.int64)
        if len(labels) and (labels < 0).all():
            others = few(sorted(set(boxes.labels)), 5)
            raise ValueError(f"{source}: no box has one of the labels {few(self.labels)}; labels of boxes: {others}")
        image = position[boxes.image]
        kept = np.flatnonzero((image >= 0) & (labels >= 0))
        kept = kept[np.argsort(image[kept], kind="stable")]
        xyxy = torch.from_numpy(boxes.xyxy[kept]).float()
        if self._box_size is not None:
            xyxy, left = within(xyxy, torch.tensor(self._box_size).expand(len(kept), 2), source)
            kept = kept[left.numpy()]
        ends = np.searchsorted(image[kept], np.arange(len(rows) + 1)).tolist()
        self._boxes = xyxy, torch.from_numpy(labels[kept]), ends
        self.boxed = torch.from_numpy(np.diff(ends) > 0)

    def _sample(self, index: int) -> dict[str, Any]:
        index = range(len(self))[index]
        sample = super()._sample(index)
        height, width = sample["image"].shape[-2:]
        if self._boxes is not None:
            xyxy, labels, ends = self._boxes
            own = slice(ends[index], ends[index + 1])
            placed, frame = xyxy[own], self._box_size
            if frame is None:
                try:
                    check_inside(placed, (height, width))
                except ValueError as error:
                    raise ValueError(
                        f"{self.ids[index]}: {error}; box_size= is the size of the images that boxes were drawn on"
                    ) from error
                placed = torch.minimum(placed.clamp(min=0), torch.tensor([width, height] * 2))
            else:
                placed = placed * (torch.tensor([width, height] * 2) / torch.tensor([frame[1], frame[0]] * 2))
            sample |= {"boxes": bounding_boxes(placed, (height, width)), "box_labels": labels[own].clone()}
        if self._masks is not None:
            sample["organ_mask"] = read_mask(Path(self._masks[index]), (height, width))
        return sample


def choose(records: Records, split: str, fold: tuple[int, int] | None, seed: int) -> NDArray[np.intp]:
    """Return the positions of the records of a part.

    Raises
    ------
    ValueError
        There is no such part, or fold; or the part would be empty.
    """
    if fold is not None:
        one_of("split", split, ("train", "val"), " with fold=(i, k)")
        if records.parts is not None:
            raise ValueError("fold= divides all images, but the parts are given: use datasets.folds(part, k)")
        whole = isinstance(fold, Sequence) and len(fold) == 2 and all(isinstance(number, int) for number in fold)
        if not whole or not 0 <= fold[0] < fold[1]:
            raise ValueError(f"fold={fold!r}: (i, k), the number of a fold from 0 to k - 1 and the number of folds")
    if split == "all":
        return np.arange(len(records.names))
    if records.parts is not None:
        one_of("split", split, ("all", *sorted(set(records.parts) - {""})))
        return np.flatnonzero(np.array(records.parts, dtype=object) == split)
    one_of("split", split, ("all", *_PARTS), "; split_column= names a column with other parts" if records.rows else "")
    patients = records.names if records.patients is None else records.patients
    targets = torch.from_numpy(records.targets)
    if fold is not None:
        train, val = stratify_folds(patients, targets, fold[1], seed=seed)[fold[0]]
        return np.array(train if split == "train" else val)
    return np.array(stratify_patients(patients, targets, seed=seed)[split])


def check_apart(records: Records, faults: Faults) -> None:
    """Warn of patients in several of the given parts."""
    if records.parts is None or records.patients is None:
        return
    parts_of: dict[str, set[str]] = {}
    for patient, part in zip(records.patients, records.parts, strict=True):
        if part:
            parts_of.setdefault(patient, set()).add(part)
    cases = [f"{patient} ({', '.join(sorted(parts))})" for patient, parts in parts_of.items() if len(parts) > 1]
    faults.warn("patients in several parts", cases, f"{len(cases)} patients are in several parts: scores are too good")


def check_single(several: Mapping[str, Sequence[str]], faults: Faults) -> None:
    """Report names that fit several files."""
    cases = [f"{name} ({few(paths, 3)})" for name, paths in several.items()]
    faults.error("names that fit several files", cases, f"{len(cases)} names fit several files, paths are needed")


def find_masks(names: Sequence[str], folder: Path) -> dict[str, ImageFile]:
    """Find the mask of each image: a file with its path or bare name, with any extension, or with ``_`` for slashes."""
    files = index_all(folder)
    stems = {name: _without_suffix(name) for name in names}
    found, _ = look_up(list(stems.values()), files, folder)
    flat, _ = look_up([stem.replace("/", "_") for stem in stems.values() if stem not in found], files, folder)
    masks = {name: found.get(stem, flat.get(stem.replace("/", "_"))) for name, stem in stems.items()}
    return {name: file for name, file in masks.items() if file is not None}


@contextmanager
def hinting(call: str) -> Iterator[None]:
    """Add the call that lists all faults to the message of an error."""
    try:
        yield
    except (FileNotFoundError, ValueError) as error:
        if getattr(error, "errno", None) is None:
            error.args = (f"{error}; thoraxlib.datasets.{call} lists all faults", *error.args[1:])
        raise


def _without_suffix(name: str) -> str:
    stem, ending = os.path.splitext(name.replace("\\", "/"))
    return stem if ending.lower() in SUFFIXES else name.replace("\\", "/")
