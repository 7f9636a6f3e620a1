"""Splits kept in a file: which image is in which part."""

from __future__ import annotations

import csv
import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from thoraxlib.datasets.base import ChestDataset
from thoraxlib.datasets.splits import Subset
from thoraxlib.datasets.tables import Table
from thoraxlib.utils.files import replacing


def save_split(parts: Mapping[str, ChestDataset], path: str | os.PathLike[str]) -> None:
    """Write which image is in which part: a CSV file with ``part``, ``patient_id`` and ``id``.

    Raises
    ------
    ValueError
        An image that is in two parts, or twice in one.
    """
    rows = [
        (name, patient, image)
        for name, part in parts.items()
        for patient, image in zip(part.patient_ids, part.ids, strict=True)
    ]
    twice = [image for image, count in Counter(image for *_, image in rows).items() if count > 1]
    if twice:
        raise ValueError(f"{len(twice)} images are in the split more than once, e.g. {twice[0]}")
    with replacing(path) as scratch, scratch.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows([("part", "patient_id", "id"), *rows])


def load_split(dataset: ChestDataset, path: str | os.PathLike[str]) -> dict[str, Subset]:
    """The parts that :func:`save_split` wrote, of the data set that was split.

    Raises
    ------
    FileNotFoundError
        No such file.
    ValueError
        The file is of another data set: of other images, or of other patients; or it is no split, or one that has a
        patient in two parts.
    """
    table = Table(Path(path))
    parts, patients, images = (table.column(name) for name in ("part", "patient_id", "id"))
    table.check_unique(images)
    index_of = {image: index for index, image in enumerate(dataset.ids)}
    unknown = [image for image in images if image not in index_of]
    lacking = len(index_of) - (len(images) - len(unknown))
    if unknown or lacking:
        first = f"; of its images this data set lacks {len(unknown)}, e.g. {unknown[0]}" if unknown else ""
        raise ValueError(
            f"{path} is the split of another data set: {lacking} of {len(dataset)} images are not in it{first}"
        )
    part_of: dict[str, str] = {}
    for row, (image, patient, part) in enumerate(zip(images, patients, parts, strict=True)):
        if dataset.patient_ids[index_of[image]] != patient:
            raise ValueError(
                f"{table.where(row)}: {image} is of patient {patient} there, of {dataset.patient_ids[index_of[image]]} "
                "in this data set"
            )
        if part_of.setdefault(patient, part) != part:
            raise ValueError(f"{table.where(row)}: patient {patient} is in {part!r} and in {part_of[patient]!r}")
    indices: dict[str, list[int]] = {name: [] for name in parts}
    for name, image in zip(parts, images, strict=True):
        indices[name].append(index_of[image])
    return {name: Subset(dataset, sorted(rows)) for name, rows in indices.items()}
