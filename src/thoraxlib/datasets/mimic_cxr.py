"""MIMIC-CXR-JPG in its official layout."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from thoraxlib import labels as label_sets
from thoraxlib.datasets.base import ImageDataset, Transform
from thoraxlib.datasets.files import StrPath, find_file, index_tree
from thoraxlib.datasets.tables import Table, check_joined
from thoraxlib.datasets.uncertain import mined_targets
from thoraxlib.utils.arguments import one_of
from thoraxlib.utils.files import below

_FINDINGS = label_sets.build("mimic14")
_SPLITS = {"train": "train", "val": "validate", "validate": "validate", "test": "test"}
_VIEWS = {"Frontal": ("AP", "PA"), "Lateral": ("LATERAL", "LL")}


class MIMICCXR(ImageDataset):
    """MIMIC-CXR-JPG: 377,110 images of 227,827 studies with 14 observations mined from reports, some of them uncertain.

    Parameters
    ----------
    root : path
        The folder with ``files/p10`` ... ``files/p19`` and the tables ``mimic-cxr-2.0.0-metadata.csv``,
        ``-split.csv`` and ``-chexpert.csv``, each plain or packed (``.csv.gz``).
    split : {"train", "val", "test", "all"}
        Part of the official split by patient; "validate" is its own name for "val". "all" needs no split table.
    labels : str or sequence of str
        "mimic14", or names in any data set's spelling. Targets of a label that MIMIC-CXR does not know are NaN.
    uncertain : str or mapping of str to str
        The meaning of -1, for all labels or by label; see :class:`~thoraxlib.datasets.chexpert.CheXpert`.
        QUST-SmartData/CXRClassification uses "ones".
    blank : {"zeros", "ignore"}
        The target of an observation that the report does not mention: 0 or NaN.
    views : str or sequence of str, optional
        Keep only "Frontal" (AP, PA), "Lateral" (LATERAL, LL), or other values of the metadata's ``ViewPosition``. By
        default all images are kept, also those of unknown view.
    seed : int
        Random seed of smoothed labels.
    missing : {"error", "skip"}
        For absent images: raise an error, or leave them out, together with unreadable files, with one warning.
    transform : callable, optional
        From sample to sample, e.g. :func:`thoraxlib.images.transform_for`.

    Attributes
    ----------
    labels, targets, patient_ids, ids
        See :class:`~thoraxlib.datasets.ChestDataset`; an id is the release's ``dicom_id``. The images of a study share
        its labels; they are NaN if the label table has no row for the study.
    study_ids : list of str
        Study of each image.
    views : list of str
        ``ViewPosition`` of each image, "" if it is unknown.

    Raises
    ------
    FileNotFoundError, NotADirectoryError
        The folder, a table or the images are missing.
    ValueError
        A table is wrong (the message names file and line) or is about other images or studies; an option, label or view
        is unknown; or no image is left.

    Warns
    -----
    UserWarning
        Studies have no row in the label table; no label of any image is known; images are left out by
        ``missing="skip"``.

    References
    ----------
    A. E. W. Johnson et al., "MIMIC-CXR-JPG, a large publicly available database of labeled chest radiographs", 2019,
    arXiv 1901.07042.
    """

    def __init__(
        self,
        *,
        root: StrPath,
        split: str = "train",
        labels: str | Sequence[str] = "mimic14",
        uncertain: str | Mapping[str, str] = "ignore",
        blank: str = "zeros",
        views: str | Sequence[str] | None = None,
        seed: int = 0,
        missing: str = "error",
        transform: Transform | None = None,
    ) -> None:
        super().__init__(root, labels, transform)
        one_of("split", split, (*_SPLITS, "all"))
        metadata = Table(find_table(self.root, "metadata"))
        images, positions = metadata.column("dicom_id"), metadata.column("ViewPosition")
        metadata.check_unique(images)
        patients, studies = patients_and_studies(metadata)
        mined = Table(find_table(self.root, "chexpert"))
        targets = mined_targets(mined, self.labels, uncertain, blank, seed, findings=_FINDINGS, source="MIMIC-CXR-JPG")
        in_view = metadata.having("ViewPosition", views, argument="views", groups=_VIEWS)
        rows = np.flatnonzero(in_split(self.root, split, images) & in_view)
        names = [
            image_file(patients[row], studies[row], images[row], metadata.where(row)) + ".jpg" for row in rows.tolist()
        ]
        files = index_tree(self.root, {name.rpartition("/s")[0] for name in names}) if names else {}
        columns = {"ids": images, "patient_ids": patients, "study_ids": studies, "views": positions}
        self._keep(rows, columns, files, missing, {"split": split, "views": views}, names=names)
        targets = _of_studies(mined, targets, self.study_ids)
        self._set_targets(targets, f"in {mined.path} they are blank or uncertain for {blank=}, {uncertain=}")


def patients_and_studies(table: Table) -> tuple[list[str], list[str]]:
    """Read the columns ``subject_id`` and ``study_id``; ``10000032.0`` and ``p10000032`` become ``10000032``."""
    return table.ids("subject_id", prefix="p"), table.ids("study_id", prefix="s")


def find_table(root: Path, name: str) -> Path:
    """Find the table `name` of the release: "metadata", "split" or "chexpert", packed or not."""
    return find_file(root, f"mimic-cxr-*-{name}.csv", f"mimic-cxr-*-{name}.csv.gz")


def image_file(patient: str, study: str, image: str, where: str) -> str:
    """Return the path of an image in the release, without its extension; `where` is the source of the ids.

    >>> image_file("10000032", "50414267", "02aa804e", "metadata.csv:2")
    'files/p10/p10000032/s50414267/02aa804e'

    Raises
    ------
    ValueError
        Patient or study is no number, or the image is no file name.
    """
    if not (patient.isdecimal() and study.isdecimal()):
        raise ValueError(f"{where}: subject_id and study_id must be numbers, got {patient!r} and {study!r}")
    if "/" in below(image, where):
        raise ValueError(f"{where}: dicom_id must be a file's name, got {image!r}")
    return f"files/p{patient[:2]}/p{patient}/s{study}/{image}"


def in_split(root: Path, split: str, images: list[str]) -> NDArray[np.bool_]:
    """Return a mask of the images in a part of the official split: "train", "val" (or "validate"), "test" or "all".

    Raises
    ------
    FileNotFoundError
        `root` has no split table.
    ValueError
        The table lacks an image, or has it twice.
    """
    if split == "all":
        return np.ones(len(images), dtype=bool)
    table = Table(find_table(root, "split"))
    parts = table.column("split")
    return np.array([parts[row] == _SPLITS[split] for row in table.rows_of(table.column("dicom_id"), images)])


def _of_studies(table: Table, targets: NDArray[np.float32], studies: list[str]) -> NDArray[np.float32]:
    """Return the targets of each image's study, or NaN."""
    listed = table.ids("study_id", prefix="s")
    table.check_unique(listed)
    row_of = {study: row for row, study in enumerate(listed)}
    wanted = list(dict.fromkeys(studies))
    check_joined(wanted, [study in row_of for study in wanted], listed, table.path, "studies")
    unlabelled = np.full((1, targets.shape[1]), np.nan, dtype=np.float32)
    return np.concatenate([targets, unlabelled])[[row_of.get(study, -1) for study in studies]]
