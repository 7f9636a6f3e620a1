"""NIH ChestX-ray14 in its official layout, and folders with the same layout."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from thoraxlib import labels as label_sets
from thoraxlib.datasets.base import ImageDataset, Transform, bounding_boxes
from thoraxlib.datasets.files import StrPath, check_root, find_file, index_images
from thoraxlib.datasets.splits import split_patients
from thoraxlib.datasets.tables import Table, check_joined, find_list, is_blank, match_labels, read_list
from thoraxlib.localization.boxes import from_xywh, within
from thoraxlib.utils.arguments import few

_FINDINGS = label_sets.build("nih15")
_ATTRIBUTES = {"AP": (("View Position",), "AP", "PA"), "Male": (("Patient Gender", "Patient Sex"), "M", "F")}
_KNOWN = (*_FINDINGS, "Abnormal", *_ATTRIBUTES)
_CXR_LKA = {"cxr_lka_train": slice(None, 80_000), "cxr_lka_val": slice(80_000, None)}  # lines of the train_val list
_APART = {
    "train_val": ("test",),
    "train": ("val", "test"),
    "val": ("train", "test"),
    "test": ("train_val", "train", "val"),
}
_BOX_FILES = ("BBox_List_2017*.csv", "bbox.csv")
_BOX_FRAME = 1024.0  # the boxes of the release are in the pixels of its 1024 x 1024 images


class NIH14(ImageDataset):
    """NIH ChestX-ray14: 112,120 frontal images with 14 findings mined from reports, and 984 boxes.

    Reads from `root` the table ``Data_Entry_2017*.csv`` (the last in alphabetical order) or ``labels.csv``, the images
    in the folders ``images*`` at any depth, the boxes ``BBox_List_2017*.csv`` or ``bbox.csv``, and split lists.

    Parameters
    ----------
    root : path
        The folder of the release.
    split : str
        ``"all"``, or the name of a list file: ``"train_val"`` and ``"test"`` are the official ones. The file is
        ``<split>.txt``, ``<split>_list.txt`` or ``<split>_1.txt`` in `lists`; a name with ``.txt`` is used as it is. A
        list with 14 labels in each line (as in CheXNet re-implementations) replaces the table's labels; a list with one
        (the binary ones of alinstein/X_RAY) replaces ``"Abnormal"``. ``train_label.csv``, ``val_label.csv`` and
        ``test_label.csv`` of alinstein/X_RAY are lists too; beware, they share patients.
        Without lists of their own, ``"train"`` and ``"val"`` are 7/8 and 1/8 of the patients of ``train_val``; without
        any list, ``"train"``, ``"val"`` and ``"test"`` are 0.7, 0.1 and 0.2 of all patients. ``"cxr_lka_train"`` and
        ``"cxr_lka_val"`` are the first 80,000 lines of ``train_val`` and the 6,524 others, with no patient in both, as
        in QUST-SmartData/CXRClassification.
    lists : path, optional
        The folder of the list files; by default ``splits`` in `root`, then `root` itself.
    seed : int
        Random seed of the splits by patient.
    labels : str or sequence of str
        A label set, or names in any data set's spelling: findings, and the attributes ``"AP"`` (against PA), ``"Male"``
        and ``"Abnormal"`` (any finding). The targets of a label that NIH does not know are NaN.
    views : str or sequence of str, optional
        Keep only these view positions: ``"PA"``, ``"AP"``. By default all are kept.
    missing : {"error", "skip"}
        For absent images: raise an error, or leave them out, together with unreadable files, with one warning.
    boxes : bool
        Give ``boxes`` and ``box_labels`` if `root` has a box file.
    transform : callable, optional
        From sample to sample, e.g. :func:`thoraxlib.images.transform_for`.

    Attributes
    ----------
    labels, targets, patient_ids, ids
        See :class:`~thoraxlib.datasets.ChestDataset`; blank labels in the table are NaN.
    boxed : Tensor
        bool (N,): True for images with boxes.

    Raises
    ------
    FileNotFoundError, NotADirectoryError
        The folder, a table, a list or the images are missing.
    ValueError
        A table or list is wrong (the message names file and line); an image is in the lists of two parts (train, val
        and test, or train_val and test, in names that are otherwise equal); a label or view is unknown; or no image is
        left.

    Warns
    -----
    UserWarning
        No label of any image is known; boxes without area, outside of the image, or of images that the table does not
        have are left out; images are left out by ``missing="skip"``.

    References
    ----------
    X. Wang et al., "ChestX-ray8: hospital-scale chest X-ray database and benchmarks on weakly-supervised
    classification and localization of common thorax diseases", CVPR 2017.
    """

    def __init__(
        self,
        *,
        root: StrPath,
        split: str = "train",
        lists: StrPath | None = None,
        seed: int = 0,
        labels: str | Sequence[str] = "nih14",
        views: str | Sequence[str] | None = None,
        missing: str = "error",
        boxes: bool = True,
        transform: Transform | None = None,
    ) -> None:
        super().__init__(root, labels, transform)
        table = Table(find_file(self.root, "Data_Entry_2017*.csv", "labels.csv"))
        names, patients = table.column("Image Index"), table.ids("Patient ID")
        table.check_unique(names)
        targets = _targets(table, self.labels)
        folders = [self.root / "splits", self.root] if lists is None else [check_root(lists, "lists")]
        rows, listed = _select(split, folders, names, patients, seed, needs_list=lists is not None)
        if listed is not None:
            targets[rows] = _from_list(listed, targets[rows], self.labels)
        rows = rows[table.having("View Position", views, argument="views")[rows]]
        columns = {"ids": names, "patient_ids": patients}
        rows = self._keep(rows, columns, index_images(self.root), missing, {"split": split, "views": views})
        self._boxes = _read_boxes(self.root, self.labels, table, names) if boxes else None
        self.boxed = torch.tensor([name in (self._boxes or {}) for name in self.ids])
        source = table.path if listed is None else f"{table.path} and the list {split!r}"
        self._set_targets(targets[rows], f"they are blank in {source}")

    def _sample(self, index: int) -> dict[str, Any]:
        sample = super()._sample(index)
        if self._boxes is not None:
            height, width = sample["image"].shape[-2:]
            entries = self._boxes.get(self.ids[index], [])
            xyxy = torch.tensor([box for box, _ in entries], dtype=torch.float32).reshape(-1, 4)
            xyxy = xyxy * (torch.tensor([width, height, width, height]) / _BOX_FRAME)
            sample["boxes"] = bounding_boxes(xyxy, (height, width))
            sample["box_labels"] = torch.tensor([label for _, label in entries], dtype=torch.long)
        return sample


def _targets(table: Table, labels: tuple[str, ...]) -> NDArray[np.float32]:
    """Return the labels of the table (rows, K); NaN where a field is blank or NIH does not know the label."""
    findings = _findings(table)
    targets = np.full((len(table.rows), len(labels)), np.nan, dtype=np.float32)
    for column, source in enumerate(match_labels(labels, _KNOWN, "NIH ChestX-ray14")):
        if source is None:
            continue
        if source < findings.shape[1]:
            targets[:, column] = findings[:, source]
        else:
            names, one, zero = _ATTRIBUTES[_KNOWN[source]]
            targets[:, column] = [{one: 1.0, zero: 0.0}.get(value, np.nan) for value in table.column(*names)]
    return targets


def _findings(table: Table) -> NDArray[np.float32]:
    """Return (rows, 16): the findings of the label set nih15, and Abnormal; a blank field makes a row of NaN."""
    position = {label_sets.canonical(label): index for index, label in enumerate(_FINDINGS)}
    texts = table.column("Finding Labels")
    rows: dict[str, NDArray[np.float32]] = {}
    for number, text in enumerate(texts):
        if text in rows:
            continue
        vector = np.full(len(_FINDINGS), np.nan if is_blank(text) else 0, dtype=np.float32)
        for name in () if is_blank(text) else text.split("|"):
            index = position.get(label_sets.canonical(name))
            if index is None:
                raise ValueError(
                    f"{table.where(number)}: unknown label {name.strip()!r} in {text!r}; known: {', '.join(_FINDINGS)}"
                )
            vector[index] = 1
        rows[text] = np.append(vector, 1 - vector[-1])
    return np.stack([rows[text] for text in texts])


def _select(
    split: str, folders: list[Path], names: list[str], patients: list[str], seed: int, needs_list: bool
) -> tuple[NDArray[np.intp], NDArray[np.float32] | None]:
    """Return the rows of the split, and the labels (rows, 14) or (rows, 1) of its list if it has them."""
    if split == "all":
        return np.arange(len(names)), None
    path = find_list(split, folders)
    if path is not None:
        return _read_part(split, path, folders, names)
    official = find_list("train_val", folders)
    if official is not None and split in ("train", "val", *_CXR_LKA):
        rows, listed = _read_part("train_val", official, folders, names)
        if split in _CXR_LKA:
            part = np.arange(len(rows))[_CXR_LKA[split]]
        else:
            shares = {"train": 7 / 8, "val": 1 / 8}
            part = np.array(split_patients([patients[row] for row in rows], shares, seed)[split])
        return rows[part], None if listed is None else listed[part]
    available = sorted({file.name for folder in folders if folder.is_dir() for file in folder.glob("*.txt")})
    if not needs_list and not available and split in ("train", "val", "test"):
        return np.array(split_patients(patients, seed=seed)[split]), None
    raise FileNotFoundError(
        f"split: no list {split!r} in {' or '.join(map(str, folders))}; "
        f"found: {', '.join(available) or 'none'}; 'all' takes every image of the table"
    )


def _read_part(
    split: str, path: Path, folders: list[Path], names: list[str]
) -> tuple[NDArray[np.intp], NDArray[np.float32] | None]:
    """Return the rows and labels of a list, if the lists of the other parts have none of its images."""
    listed = read_list(path, _FINDINGS[:14])
    row_of = {name: row for row, name in enumerate(names)}
    unknown = [name for name in listed.names if name not in row_of]
    if unknown:
        raise ValueError(
            f"{path} lists {len(unknown)} of {len(listed.names)} images that the table does not have: {few(unknown, 5)}"
        )
    part, own = next((part for part in _APART if part in split), ""), set(listed.names)
    for other in _APART.get(part, ()):
        other_list = find_list(split.replace(part, other), folders)
        names_there = [] if other_list is None else read_list(other_list, _FINDINGS[:14]).names
        both = [name for name in names_there if name in own]
        if both:
            raise ValueError(f"{len(both)} images of {path} are in {other_list} as well, the first is {both[0]}")
    return np.array([row_of[name] for name in listed.names]), listed.targets


def _from_list(
    listed: NDArray[np.float32], targets: NDArray[np.float32], labels: tuple[str, ...]
) -> NDArray[np.float32]:
    """Return `targets` with the labels of a list; No Finding and Abnormal follow from its 14 findings."""
    some = (listed == 1).any(axis=1)
    nothing = np.where(some, 0.0, np.where(np.isnan(listed).any(axis=1), np.nan, 1.0))
    given = dict(enumerate(np.column_stack([listed, nothing, 1 - nothing]).T))
    if listed.shape[1] == 1:
        given = {_KNOWN.index("Abnormal"): listed[:, 0]}
    result: NDArray[np.float32] = targets.copy()
    for column, source in enumerate(label_sets.align(_KNOWN, labels)):
        if source in given:
            result[:, column] = given[source]
    return result


def _read_boxes(
    root: Path, labels: tuple[str, ...], images: Table, known_images: list[str]
) -> dict[str, list[tuple[list[float], int]]] | None:
    """Return each image's boxes (x1 y1 x2 y2 in the 1024-px frame) and label positions; None without a box file."""
    if not any(match for pattern in _BOX_FILES for match in root.glob(pattern)):
        return None
    table = Table(find_file(root, *_BOX_FILES))
    names, findings = table.column("Image Index"), table.column("Finding Label")
    xywh: list[list[float]] = []
    for row, known in enumerate(label_sets.align(_FINDINGS, findings)):
        if known is None:
            raise ValueError(f"{table.where(row)}: unknown label {findings[row]!r}; known: {', '.join(_FINDINGS)}")
        try:
            box = [float(value) for value in table.rows[row][2:6]]
        except ValueError:
            box = []
        if len(box) < 4 or not all(abs(value) < 2**31 for value in box) or min(box[2:]) < 0:
            raise ValueError(f"{table.where(row)}: x, y, width, height wanted, got {table.rows[row][2:6]}")
        xywh.append(box)
    boxed, here = list(dict.fromkeys(names)), set(known_images)
    what, lost = f"images of {table.path.name}", "their boxes are left out"
    check_joined(boxed, [name in here for name in boxed], known_images, images.path, what, lost=lost)
    corners = from_xywh(torch.tensor(xywh, dtype=torch.float32), table.path)
    xyxy, left = within(corners, torch.full((len(corners), 2), _BOX_FRAME), table.path)
    labels_of = label_sets.align(labels, findings)
    boxes: dict[str, list[tuple[list[float], int]]] = {}
    for box, row in zip(xyxy.tolist(), left.nonzero().flatten().tolist(), strict=True):
        label = labels_of[row]
        if label is not None:
            boxes.setdefault(names[row], []).append((box, label))
    return boxes
