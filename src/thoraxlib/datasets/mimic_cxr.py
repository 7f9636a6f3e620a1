"""MIMIC-CXR-JPG in its official layout."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from thoraxlib import labels as label_sets
from thoraxlib.datasets.files import check_root, existing, find_file, index_tree
from thoraxlib.datasets.images import ImageDataset
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
        ``-split.csv`` and ``-chexpert.csv``, each as it is or packed (``.csv.gz``).
    split : {"train", "val", "test", "all"}
        The official one, by patient; "validate", its own name for "val", is understood too. "all" needs no split table.
    labels : str or sequence of str
        "mimic14", or names in any data set's spelling. A label that MIMIC-CXR does not know is NaN.
    uncertain : str or mapping of str to str
        What -1 means, for all labels or by label; see :class:`~thoraxlib.datasets.chexpert.CheXpert`.
        QUST-SmartData/CXRClassification has "ones".
    blank : {"zeros", "ignore"}
        What an observation that the report does not mention is: 0 or NaN.
    views : str or sequence of str, optional
        Keep only "Frontal" (AP, PA), "Lateral" (LATERAL, LL), or what else the metadata's ``ViewPosition`` says. By
        default all images are kept, those of unknown view too.
    seed : int
        Of smoothed labels.
    missing : {"error", "skip"}
        What to do about absent images; "skip" also leaves out unreadable files and warns once.
    transform : callable, optional
        From sample to sample, e.g. :func:`thoraxlib.images.transform_for`.

    Attributes
    ----------
    labels, targets, patient_ids, ids
        See :class:`~thoraxlib.datasets.ChestDataset`; an id is the release's ``dicom_id``. The images of a study share
        its labels; those of a study without a row in the label table are NaN.
    study_ids : list of str
        For each image, the study.
    views : list of str
        For each image, ``ViewPosition``, "" where it is unknown.

    Raises
    ------
    FileNotFoundError, NotADirectoryError
        No such folder, table or images.
    ValueError
        A column that is lacking, a value that is not 1, 0, -1 or blank, an unknown policy, label, view or split, a
        patient or study that is no number, an image without split or listed twice, a label table of other studies, or
        nothing left.

    Warns
    -----
    UserWarning
        Studies without a row in the label table; no label of any image is known; images that ``missing="skip"`` left
        out.

    References
    ----------
    A. E. W. Johnson et al., "MIMIC-CXR-JPG, a large publicly available database of labeled chest radiographs", 2019,
    arXiv 1901.07042.
    """

    def __init__(
        self,
        *,
        root: str | os.PathLike[str],
        split: str = "train",
        labels: str | Sequence[str] = "mimic14",
        uncertain: str | Mapping[str, str] = "ignore",
        blank: str = "zeros",
        views: str | Sequence[str] | None = None,
        seed: int = 0,
        missing: str = "error",
        transform: Callable[[dict[str, Any]], dict[str, Any]] | None = None,
    ) -> None:
        self.root = check_root(root)
        self.labels = label_sets.resolve(labels)
        self.transform = transform
        one_of("split", split, (*_SPLITS, "all"))
        metadata = Table(find_table(self.root, "metadata"))
        images = metadata.column("dicom_id")
        metadata.check_unique(images)
        patients, studies = patients_and_studies(metadata)
        positions = metadata.column("ViewPosition")
        mined = Table(find_table(self.root, "chexpert"))
        targets = mined_targets(mined, self.labels, uncertain, blank, seed, findings=_FINDINGS, source="MIMIC-CXR-JPG")

        in_view = metadata.having("ViewPosition", views, argument="views", groups=_VIEWS)
        rows = np.flatnonzero(in_split(self.root, split, images) & in_view)
        names = {
            row: image_file(patients[row], studies[row], images[row], metadata.where(row)) + ".jpg"
            for row in rows.tolist()
        }
        files = index_tree(self.root, {name.rpartition("/s")[0] for name in names.values()}) if names else {}
        rows = rows[existing(list(names.values()), files, missing, self.root, split=split, views=views)]
        self.ids = [images[row] for row in rows]
        self.patient_ids = [patients[row] for row in rows]
        self.study_ids: list[str] = [studies[row] for row in rows]
        self.views: list[str] = [positions[row] for row in rows]
        self.targets = torch.from_numpy(_of_studies(mined, targets, self.study_ids))
        self._paths = [files[names[row]] for row in rows.tolist()]
        self.warn_unknown(f"in {mined.path} they are blank or uncertain for {blank=}, {uncertain=}")


def patients_and_studies(table: Table) -> tuple[list[str], list[str]]:
    """Read the columns ``subject_id`` and ``study_id``; ``10000032.0`` and ``p10000032`` are 10000032.

    Raises
    ------
    ValueError
        A column that is lacking.
    """
    return table.ids("subject_id", prefix="p"), table.ids("study_id", prefix="s")


def find_table(root: Path, name: str) -> Path:
    """The release's table `name`: "metadata", "split" or "chexpert", packed or not."""
    return find_file(root, f"mimic-cxr-*-{name}.csv", f"mimic-cxr-*-{name}.csv.gz")


def image_file(patient: str, study: str, image: str, where: str) -> str:
    """Where the release keeps an image, without the extension; `where` tells in messages what named it.

    >>> image_file("10000032", "50414267", "02aa804e", "metadata.csv:2")
    'files/p10/p10000032/s50414267/02aa804e'

    Raises
    ------
    ValueError
        A patient or study that is no number, or an image that is no file's name.
    """
    if not (patient.isdecimal() and study.isdecimal()):
        raise ValueError(f"{where}: subject_id and study_id must be numbers, got {patient!r} and {study!r}")
    if "/" in below(image, where):
        raise ValueError(f"{where}: dicom_id must be a file's name, got {image!r}")
    return f"files/p{patient[:2]}/p{patient}/s{study}/{image}"


def in_split(root: Path, split: str, images: list[str]) -> NDArray[np.bool_]:
    """Which images are in a part of the official split: "train", "val" (or "validate"), "test" or "all".

    Raises
    ------
    FileNotFoundError
        No split table in `root`.
    ValueError
        Images that it lacks or lists again.
    """
    if split == "all":
        return np.ones(len(images), dtype=bool)
    table = Table(find_table(root, "split"))
    listed = table.column("dicom_id")
    table.check_unique(listed)
    parts = dict(zip(listed, table.column("split"), strict=True))
    lacking = [image for image in images if image not in parts]
    if lacking:
        raise ValueError(f"{table.path} lacks {len(lacking)} of {len(images)} images, the first is {lacking[0]}")
    return np.array([parts[image] == _SPLITS[split] for image in images])


def _of_studies(table: Table, targets: NDArray[np.float32], studies: list[str]) -> NDArray[np.float32]:
    """The row of each image's study, or NaN."""
    listed = table.ids("study_id", prefix="s")
    table.check_unique(listed)
    row_of = {study: row for row, study in enumerate(listed)}
    wanted = list(dict.fromkeys(studies))
    check_joined(wanted, [study in row_of for study in wanted], listed, table.path, "studies")
    unlabelled = np.full((1, targets.shape[1]), np.nan, dtype=np.float32)
    return np.concatenate([targets, unlabelled])[[row_of.get(study, -1) for study in studies]]
