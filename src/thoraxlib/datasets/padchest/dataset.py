"""PadChest in its official layout."""

from __future__ import annotations

import math
import re
import warnings
from collections.abc import Sequence
from functools import cache
from importlib import resources
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision import tv_tensors

from thoraxlib.datasets.base import ImageDataset, Transform
from thoraxlib.datasets.files import StrPath, find_file, index_images
from thoraxlib.datasets.padchest.terms import TermTree, listed_targets
from thoraxlib.datasets.tables import Table
from thoraxlib.images import read
from thoraxlib.images.copies import CopiedImage
from thoraxlib.images.windows import Window
from thoraxlib.utils.arguments import one_of

_TABLE = "PADCHEST_chest_x_ray_images_labels*.csv"
_SCALES = ("window", "percentiles", "minmax", "bits_stored", "65535")
_VIEWS = {"Frontal": ("PA", "AP", "AP_horizontal"), "Lateral": ("L",)}
_NUMBER = re.compile(r"-?\d+(\.\d+)?(e[+-]?\d+)?", re.IGNORECASE)


class PadChest(ImageDataset):
    """PadChest: 160,868 images of some 67,000 patients, with findings from their reports that are terms of a tree.

    Reads from `root` the table ``PADCHEST_chest_x_ray_images_labels*.csv`` (or ``.csv.gz``), and the images at any
    depth: the release's folders 0 to 54, or all in one.

    Parameters
    ----------
    root : path
        The folder of the release.
    labels : str or sequence of str
        "padchest_openi22", or names in any data set's spelling: terms of the tree or of the table, "normal" and "other
        findings". Targets of a label that PadChest does not know are NaN.
    rule : {"ancestors", "last_root"}
        The rule from terms to labels. "ancestors": an image with a term also has all ancestors of the term.
        "last_root": exactly as in jaydurant/ChestX-ray_classification_and_localization, which loses some terms; for
        comparisons. See :func:`~thoraxlib.datasets.padchest.listed_targets`.
    normal : {"alone", "listed"}
        "alone": an image with findings is not "normal". "listed": it is, if its list has "normal". For "ancestors".
    unlabelled : {"drop", "ignore"}
        For images without any label (which does not mean normal): leave them out, or make all their targets NaN. For
        "ancestors".
    views : str or sequence of str, optional
        Keep only "Frontal" (PA, AP, AP_horizontal), "Lateral" (L), or other values of the column ``Projection``. By
        default all images are kept.
    methods : str or sequence of str, optional
        Keep only images labelled by these methods, from the column ``MethodLabel``: "Physician", "RNN_model".
    pediatric : bool, optional
        True: keep only the images of children. False: keep only the others (those with "No" in the column
        ``Pediatric``).
    scale : {"window", "percentiles", "minmax", "bits_stored", "65535"}, optional
        Mapping of 16-bit pixels to [0, 1]. "window" (default): the table's window if it has one and the pixels are
        within the stored bits, else "percentiles". "percentiles": from the 0.5 to the 99.5 percentile. "minmax": from
        the smallest to the largest value. "bits_stored": by the table's ``BitsStored_DICOM``. "65535": the full range.
        This does not apply to the images of a training copy, which keep the grey values of its preparation.
    tree : path, optional
        A tree of terms with the layout of ``tree_term_CUI_counts_160K.csv``; by default the library's own.
    missing : {"error", "skip"}
        For absent images: raise an error, or leave them out, together with unreadable files, with one warning. The 21
        images that are missing or damaged in the release itself are always left out.
    transform : callable, optional
        From sample to sample, e.g. :func:`thoraxlib.images.transform_for`.

    Attributes
    ----------
    labels, targets, patient_ids, ids
        See :class:`~thoraxlib.datasets.ChestDataset`; an id is the release's ``ImageID``.
    study_ids : list of str
        ``StudyID`` of each image.
    views : list of str
        ``Projection`` of each image.

    Raises
    ------
    FileNotFoundError, NotADirectoryError
        The folder, the table or the images are missing.
    ValueError
        The table is wrong (the message names file and line); an option is unknown, or no label is known; the table has
        no ``BitsStored_DICOM`` for an image that is scaled by it; or no image is left.

    Warns
    -----
    UserWarning
        A `scale` is given, but images come from a training copy; no label of any image is known; images are left out by
        ``missing="skip"``.

    Notes
    -----
    Images of one study share their labels: the report is about the study. With "ancestors", an image with the label
    "exclude" or "suboptimal study" is left out. We do not know if the PNGs of MONOCHROME1 images are inverted; they are
    read as they are. The list of damaged images is torchxrayvision's.

    References
    ----------
    A. Bustos et al., "PadChest: a large chest x-ray image dataset with multi-label annotated reports", Medical Image
    Analysis 66, 2020, arXiv 1901.07441.
    """

    def __init__(
        self,
        *,
        root: StrPath,
        labels: str | Sequence[str] = "padchest_openi22",
        rule: str = "ancestors",
        normal: str = "alone",
        unlabelled: str = "drop",
        views: str | Sequence[str] | None = None,
        methods: str | Sequence[str] | None = None,
        pediatric: bool | None = None,
        scale: str | None = None,
        tree: StrPath | None = None,
        missing: str = "error",
        transform: Transform | None = None,
    ) -> None:
        super().__init__(root, labels, transform)
        one_of("unlabelled", unlabelled, ("drop", "ignore"))
        self.scale = _SCALES[0] if scale is None else scale
        one_of("scale", self.scale, _SCALES)
        table = Table(find_file(self.root, _TABLE, f"{_TABLE}.gz"))
        names = table.column("ImageID")
        table.check_unique(names)
        terms = None if tree is None else TermTree.read(tree)
        listed = listed_targets(table.column("Labels"), self.labels, rule=rule, normal=normal, tree=terms)
        kept = np.array([name not in _damaged() for name in names]) & ~listed.unusable
        if unlabelled == "drop":
            kept &= ~listed.unlabelled
        kept &= table.having("Projection", views, argument="views", groups=_VIEWS)
        kept &= table.having("MethodLabel", methods, argument="methods")
        if pediatric is not None:
            kept &= (np.array(table.column("Pediatric")) != "No") == pediatric
        chosen = {"views": views, "methods": methods, "pediatric": pediatric, "unlabelled": unlabelled}
        columns = {"ids": names, "patient_ids": table.ids("PatientID"), "study_ids": table.ids("StudyID")}
        columns["views"] = table.column("Projection")
        rows = self._keep(np.flatnonzero(kept), columns, index_images(self.root, None), missing, chosen)
        self._greys = _greys(table, rows, self.scale)
        self._set_targets(listed.targets[rows], f"in {table.path} the column Labels says nothing of these images")
        if scale is not None and any(isinstance(image, CopiedImage) for image in self._paths):
            warnings.warn(
                f"scale={scale!r} has no effect on the images of a training copy, which have the greys of its making",
                stacklevel=2,
            )

    def _read(self, index: int, path: Path) -> tv_tensors.Image:
        bits, centre, width = self._greys[index]
        if self.scale == "bits_stored":
            return read(path, bits=bits)
        image = read(path)
        if self.scale == "65535" or not image.is_floating_point():
            return image
        stored = (image.as_subclass(Tensor) * 65535).round().to(torch.uint16)
        window: Window = "minmax" if self.scale == "minmax" else "percentiles"
        # a window does not apply to an image with pixels beyond the stored bits
        within_bits = bits is None or float(image.max()) * 65535 < 2**bits
        if self.scale == "window" and within_bits and centre is not None and width is not None and width >= 1:
            window = (centre, width)
        return read(stored, window=window)


class _Greys(NamedTuple):
    """Grey scale of an image in the table."""

    bits: int | None = None
    centre: float | None = None
    width: float | None = None


@cache
def _damaged() -> frozenset[str]:
    """Return the names of the images that are missing (11) or damaged (10) in the release."""
    return frozenset(resources.files(__package__).joinpath("damaged.txt").read_text(encoding="utf-8").split())


def _greys(table: Table, rows: NDArray[np.intp], scale: str) -> list[_Greys]:
    """Read what `scale` needs of each image."""
    if scale not in ("window", "bits_stored"):
        return [_Greys()] * len(rows)
    columns = [_numbers(table, rows, f"{name}_DICOM") for name in ("BitsStored", "WindowCenter", "WindowWidth")]
    greys = [
        _Greys(int(bits) if bits is not None and 1 <= bits <= 16 else None, centre, width)
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
    """Return the first number in each field of a column, or None."""
    if name not in table.columns:
        return [None] * len(rows)
    texts = table.column(name)
    matches = (_NUMBER.search(texts[row]) for row in rows)
    numbers = (None if match is None else float(match[0]) for match in matches)
    return [None if number is None or not math.isfinite(number) else number for number in numbers]
