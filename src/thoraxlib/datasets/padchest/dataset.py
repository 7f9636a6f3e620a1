"""PadChest in its official layout."""

from __future__ import annotations

import math
import os
import re
import warnings
from collections.abc import Callable, Sequence
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torchvision import tv_tensors

from thoraxlib import labels as label_sets
from thoraxlib.datasets.files import check_root, existing, find_file, index_images
from thoraxlib.datasets.images import ImageDataset
from thoraxlib.datasets.padchest.scaling import SCALES, Greys, read_scaled
from thoraxlib.datasets.padchest.targets import listed_targets
from thoraxlib.datasets.padchest.terms import TermTree
from thoraxlib.datasets.tables import Table
from thoraxlib.images.copies import CopiedImage
from thoraxlib.utils.arguments import one_of

_TABLE = "PADCHEST_chest_x_ray_images_labels*.csv"
_VIEWS = {"Frontal": ("PA", "AP", "AP_horizontal"), "Lateral": ("L",)}
_NUMBER = re.compile(r"-?\d+(\.\d+)?(e[+-]?\d+)?", re.IGNORECASE)


class PadChest(ImageDataset):
    """PadChest: 160,868 images of some 67,000 patients, with terms of a tree of findings from their reports.

    Looks in `root` for ``PADCHEST_chest_x_ray_images_labels*.csv`` (or ``.csv.gz``), and for images at any depth: the
    release's folders 0 to 54, or all in one.

    Parameters
    ----------
    root : path
        The folder of the release.
    labels : str or sequence of str
        "padchest_openi22", or names: terms of the tree or of the table, "normal" and "other findings", in any data
        set's spelling. A label that PadChest does not know is NaN.
    rule : {"ancestors", "last_root"}
        How terms become labels. "ancestors": an image with a term has all that the term is a kind of. "last_root":
        exactly as jaydurant/ChestX-ray_classification_and_localization, which loses some of them; for comparisons. See
        :func:`~thoraxlib.datasets.padchest.listed_targets`.
    normal : {"alone", "listed"}
        Whether an image with findings can be "normal" as well, if its list says so; with "ancestors".
    unlabelled : {"drop", "ignore"}
        What to do with images that have no labels at all (which does not mean normal): leave them out, or make all
        their labels NaN; with "ancestors".
    views : str or sequence of str, optional
        Keep only "Frontal" (PA, AP, AP_horizontal), "Lateral" (L), or what else the column ``Projection`` says. By
        default all images are kept.
    methods : str or sequence of str, optional
        Keep only images whose labels come from these, by the column ``MethodLabel``: "Physician", "RNN_model".
    pediatric : bool, optional
        Keep only the images of children, or only the others (whose column ``Pediatric`` says "No").
    scale : {"window", "percentiles", "minmax", "bits_stored", "65535"}, optional
        How 16-bit pixels are brought to [0, 1]: by the table's window, where it has one and the pixels are within the
        stored bits, else between their 0.5 and 99.5 percentiles; always between these percentiles; between the smallest
        and the largest; by the table's ``BitsStored_DICOM``; by the full range. By default "window". The images of a
        training copy have the greys of its preparation, whatever is asked for here.
    tree : path, optional
        Another tree of terms than the one that the library has, laid out as ``tree_term_CUI_counts_160K.csv``.
    missing : {"error", "skip"}
        What to do about absent images; "skip" also leaves out unreadable files and warns once. The 21 images that the
        release itself lacks or has damaged are always left out.
    transform : callable, optional
        From sample to sample, e.g. :func:`thoraxlib.images.transform_for`.

    Attributes
    ----------
    labels, targets, patient_ids, ids
        See :class:`~thoraxlib.datasets.ChestDataset`; an id is the release's ``ImageID``.
    study_ids : list of str
        For each image, ``StudyID``.
    views : list of str
        For each image, ``Projection``.

    Raises
    ------
    FileNotFoundError, NotADirectoryError
        No such folder, table or images.
    ValueError
        A column that is lacking, an image listed twice, an unknown option, no known label, a table without
        ``BitsStored_DICOM`` for an image that is scaled by it, or nothing left.

    Warns
    -----
    UserWarning
        A `scale` is given, but images come from a training copy; no label of any image is known; images that
        ``missing="skip"`` left out.

    Notes
    -----
    Images of one study share their labels: the report is of the study. "exclude" and "suboptimal study" among an
    image's labels leave it out (with "ancestors"). Whether the PNGs of MONOCHROME1 images are inverted is not known to
    us; they are read as they are. The list of damaged images is torchxrayvision's.

    References
    ----------
    A. Bustos et al., "PadChest: a large chest x-ray image dataset with multi-label annotated reports", Medical Image
    Analysis 66, 2020, arXiv 1901.07441.
    """

    def __init__(
        self,
        *,
        root: str | os.PathLike[str],
        labels: str | Sequence[str] = "padchest_openi22",
        rule: str = "ancestors",
        normal: str = "alone",
        unlabelled: str = "drop",
        views: str | Sequence[str] | None = None,
        methods: str | Sequence[str] | None = None,
        pediatric: bool | None = None,
        scale: str | None = None,
        tree: str | os.PathLike[str] | None = None,
        missing: str = "error",
        transform: Callable[[dict[str, Any]], dict[str, Any]] | None = None,
    ) -> None:
        self.root = check_root(root)
        self.labels = label_sets.resolve(labels)
        self.transform = transform
        one_of("unlabelled", unlabelled, ("drop", "ignore"))
        self.scale = SCALES[0] if scale is None else scale
        one_of("scale", self.scale, SCALES)
        table = Table(find_file(self.root, _TABLE, f"{_TABLE}.gz"))
        names = table.column("ImageID")
        table.check_unique(names)
        listed = listed_targets(
            table.column("Labels"),
            self.labels,
            rule=rule,
            normal=normal,
            tree=None if tree is None else TermTree.read(tree),
        )
        kept = np.array([name not in _damaged() for name in names]) & ~listed.unusable
        if unlabelled == "drop":
            kept &= ~listed.unlabelled
        kept &= table.having("Projection", views, argument="views", groups=_VIEWS)
        kept &= table.having("MethodLabel", methods, argument="methods")
        if pediatric is not None:
            kept &= (np.array(table.column("Pediatric")) != "No") == pediatric
        rows = np.flatnonzero(kept)
        files = index_images(self.root, None)
        asked = {"views": views, "methods": methods, "pediatric": pediatric, "unlabelled": unlabelled}
        rows = rows[existing([names[row] for row in rows], files, missing, self.root, **asked)]
        patients, studies, positions = table.ids("PatientID"), table.ids("StudyID"), table.column("Projection")
        self.ids: list[str] = [names[row] for row in rows]
        self.patient_ids: list[str] = [patients[row] for row in rows]
        self.study_ids: list[str] = [studies[row] for row in rows]
        self.views: list[str] = [positions[row] for row in rows]
        self.targets = torch.from_numpy(listed.targets[rows])
        self._paths = [files[name] for name in self.ids]
        self._greys = _greys(table, rows, self.scale)
        self.warn_unknown(f"in {table.path} the column Labels says nothing of these images")
        if scale is not None and any(isinstance(image, CopiedImage) for image in self._paths):
            warnings.warn(
                f"scale={scale!r} has no effect on the images of a training copy, which have the greys of its making",
                stacklevel=2,
            )

    def _read(self, index: int, path: Path) -> tv_tensors.Image:
        return read_scaled(path, self.scale, self._greys[index])


@cache
def _damaged() -> frozenset[str]:
    """The images that the release lacks (11) or has cut off or corrupt (10)."""
    return frozenset(resources.files(__package__).joinpath("damaged.txt").read_text(encoding="utf-8").split())


def _greys(table: Table, rows: NDArray[np.intp], scale: str) -> list[Greys]:
    """What `scale` needs to know of each image."""
    if scale not in ("window", "bits_stored"):
        return [Greys()] * len(rows)
    columns = [_numbers(table, rows, f"{name}_DICOM") for name in ("BitsStored", "WindowCenter", "WindowWidth")]
    greys = [
        Greys(int(bits) if bits is not None and 1 <= bits <= 16 else None, centre, width)
        for bits, centre, width in zip(*columns, strict=True)
    ]
    unknown = [row for row, image in zip(rows.tolist(), greys, strict=True) if image.bits is None]
    if scale == "bits_stored" and unknown:
        raise ValueError(
            f"scale='bits_stored': BitsStored_DICOM of {len(unknown)} of {len(rows)} images is no number from 1 to 16, "
            f"first in {table.where(unknown[0])}"
        )
    return greys


def _numbers(table: Table, rows: NDArray[np.intp], name: str) -> list[float | None]:
    """A column's numbers, the first where a field lists several; None where there is none."""
    if name not in table.columns:
        return [None] * len(rows)
    texts = table.column(name)
    found = (_NUMBER.search(texts[row]) for row in rows)
    numbers = (None if match is None else float(match[0]) for match in found)
    return [None if number is None or not math.isfinite(number) else number for number in numbers]
