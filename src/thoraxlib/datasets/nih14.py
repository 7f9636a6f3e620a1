"""NIH ChestX-ray14 in its official layout, and folders laid out like it."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torchvision import tv_tensors

from thoraxlib import labels as label_sets
from thoraxlib.datasets.files import check_root, existing, find_file, index_images
from thoraxlib.datasets.images import ImageDataset
from thoraxlib.datasets.lists import find_list, read_list
from thoraxlib.datasets.splits import split_patients
from thoraxlib.datasets.tables import Table, check_joined, is_blank
from thoraxlib.localization.boxes import from_xywh, within

_FINDINGS = label_sets.build("nih15")
_ATTRIBUTES = ("AP", "Male", "Abnormal")
_CXR_LKA = {"cxr_lka_train": slice(None, 80_000), "cxr_lka_val": slice(80_000, None)}  # lines of the train_val list
_APART = {
    "train_val": ("test",),
    "train": ("val", "test"),
    "val": ("train", "test"),
    "test": ("train_val", "train", "val"),
}
_BOX_FRAME = 1024.0  # the boxes of the release are in the pixels of its 1024 x 1024 images


class NIH14(ImageDataset):
    """NIH ChestX-ray14: 112,120 frontal images with 14 findings mined from reports, 984 boxes.

    Looks in `root` for ``Data_Entry_2017*.csv`` (the last in alphabetical order) or ``labels.csv``; for images in the
    folders ``images*`` at any depth; for ``BBox_List_2017*.csv`` or ``bbox.csv``; and for split lists.

    Parameters
    ----------
    root : path
        The folder of the release.
    split : str
        ``"all"``, or the name of a list file: ``"train_val"`` and ``"test"`` are the official ones; a list is
        ``<split>.txt``, ``<split>_list.txt`` or ``<split>_1.txt`` in `lists`; a name with ``.txt`` is taken as it is.
        Lists that carry 14 labels a line (those of CheXNet re-implementations) replace the table's labels; lists that
        carry one (the binary ones that alinstein/X_RAY has) replace ``"Abnormal"``; its ``train_label.csv``,
        ``val_label.csv`` and ``test_label.csv`` are lists too. Beware: those three share patients.
        Without lists of their own, ``"train"`` and ``"val"`` are 7/8 and 1/8 of the patients of ``train_val``; without
        any list, ``"train"``, ``"val"`` and ``"test"`` are 0.7, 0.1 and 0.2 of all patients. ``"cxr_lka_train"`` and
        ``"cxr_lka_val"`` are the first 80,000 lines of ``train_val`` and the 6,524 others, no patient in both, as in
        QUST-SmartData/CXRClassification.
    lists : path, optional
        The folder of the list files; by default ``splits`` in `root`, then `root` itself.
    seed : int
        Of the splits by patient.
    labels : str or sequence of str
        A label set, or names: findings in any data set's spelling, and the attributes ``"AP"`` (against PA), ``"Male"``
        and ``"Abnormal"`` (any finding). A label that NIH does not know is NaN throughout.
    views : str or sequence of str, optional
        Keep only these view positions: ``"PA"``, ``"AP"``. None keeps all.
    missing : {"error", "skip"}
        What to do about absent images; ``"skip"`` also leaves out unreadable files and warns once.
    boxes : bool
        Give ``boxes`` and ``box_labels`` where `root` has a box file.
    transform : callable, optional
        From sample to sample, e.g. :func:`thoraxlib.images.transform_for`.

    Attributes
    ----------
    labels, targets, patient_ids, ids
        See :class:`~thoraxlib.datasets.ChestDataset`; blank labels in the table are NaN.
    boxed : Tensor
        bool (N,): whether an image has boxes.

    Raises
    ------
    FileNotFoundError, NotADirectoryError
        No such folder, table, list or images.
    ValueError
        A column that is lacking, an image listed twice, or in the lists of two parts (train, val and test, or train_val
        and test, in names that are otherwise equal), boxes of other images, a label or view that is not known, a list
        with a wrong line or of images that the table does not have, or nothing left after the filters.

    Warns
    -----
    UserWarning
        No label of any image is known; boxes without area or outside of the image, which are left out, and of images
        that the table does not have; images that ``missing="skip"`` left out.

    References
    ----------
    X. Wang et al., "ChestX-ray8: hospital-scale chest X-ray database and benchmarks on weakly-supervised
    classification and localization of common thorax diseases", CVPR 2017.
    """

    def __init__(
        self,
        *,
        root: str | os.PathLike[str],
        split: str = "train",
        lists: str | os.PathLike[str] | None = None,
        seed: int = 0,
        labels: str | Sequence[str] = "nih14",
        views: str | Sequence[str] | None = None,
        missing: str = "error",
        boxes: bool = True,
        transform: Callable[[dict[str, Any]], dict[str, Any]] | None = None,
    ) -> None:
        self.root = check_root(root)
        self.labels = label_sets.resolve(labels)
        self.transform = transform
        table = Table(find_file(self.root, "Data_Entry_2017*.csv", "labels.csv"))
        names = table.column("Image Index")
        patients = table.ids("Patient ID")
        table.check_unique(names)
        targets = _targets(table, self.labels)

        folders = [self.root / "splits", self.root] if lists is None else [check_root(lists, "lists")]
        rows, listed = _select(split, folders, names, patients, seed, needs_list=lists is not None)
        if listed is not None:
            targets[rows] = _from_list(listed, targets[rows], self.labels)
        rows = rows[table.having("View Position", views, argument="views")[rows]]

        files = index_images(self.root)
        rows = rows[existing([names[row] for row in rows], files, missing, self.root, split=split, views=views)]
        self.ids: list[str] = [names[row] for row in rows]
        self.patient_ids: list[str] = [patients[row] for row in rows]
        self.targets = torch.from_numpy(targets[rows])
        self._paths = [files[name] for name in self.ids]
        self._boxes = _read_boxes(self.root, self.labels, table, names) if boxes else None
        self.boxed = torch.tensor([name in (self._boxes or {}) for name in self.ids])
        self.warn_unknown(
            f"they are blank in {table.path if listed is None else f'{table.path} and the list {split!r}'}"
        )

    def _sample(self, index: int) -> dict[str, Any]:
        sample = super()._sample(index)
        if self._boxes is not None:
            sample["boxes"], sample["box_labels"] = self._boxes_of(self.ids[index], *sample["image"].shape[-2:])
        return sample

    def _boxes_of(self, name: str, height: int, width: int) -> tuple[tv_tensors.BoundingBoxes, torch.Tensor]:
        assert self._boxes is not None
        entries = self._boxes.get(name, [])
        xyxy = torch.tensor([box for box, _ in entries], dtype=torch.float32).reshape(-1, 4)
        xyxy = xyxy * (torch.tensor([width, height, width, height]) / _BOX_FRAME)
        boxes = tv_tensors.BoundingBoxes(xyxy, format="XYXY", canvas_size=(height, width))  # type: ignore[call-overload]
        return boxes, torch.tensor([label for _, label in entries], dtype=torch.long)


def _targets(table: Table, labels: tuple[str, ...]) -> NDArray[np.float32]:
    """(rows, K) of the table: findings by name, attributes by their column, NaN for what is not known."""
    sources = label_sets.align(_FINDINGS, labels)
    if all(source is None and label not in _ATTRIBUTES for source, label in zip(sources, labels, strict=True)):
        known = ", ".join((*_FINDINGS, *_ATTRIBUTES))
        raise ValueError(f"labels: none of {list(labels)} is known to NIH ChestX-ray14; known: {known}")
    findings = _findings(table)
    targets = np.full((len(table.rows), len(labels)), np.nan, dtype=np.float32)
    for column, (label, source) in enumerate(zip(labels, sources, strict=True)):
        if source is not None:
            targets[:, column] = findings[:, source]
        elif label == "AP":
            targets[:, column] = _binary(table.column("View Position"), one="AP", zero="PA")
        elif label == "Abnormal":
            targets[:, column] = 1 - findings[:, -1]
        elif label == "Male":
            targets[:, column] = _binary(table.column("Patient Gender", "Patient Sex"), one="M", zero="F")
    return targets


def _binary(values: list[str], one: str, zero: str) -> NDArray[np.float32]:
    return np.array([{one: 1.0, zero: 0.0}.get(value, np.nan) for value in values], dtype=np.float32)


def _findings(table: Table) -> NDArray[np.float32]:
    """(rows, 15) in the order of the label set nih15; a blank field makes a row of NaN."""
    position = {label_sets.canonical(label): index for index, label in enumerate(_FINDINGS)}
    texts = table.column("Finding Labels")
    rows: dict[str, NDArray[np.float32]] = {}
    for number, text in enumerate(texts):
        if text in rows:
            continue
        blank = is_blank(text)
        vector = np.full(len(_FINDINGS), np.nan if blank else 0, dtype=np.float32)
        for name in () if blank else text.split("|"):
            index = position.get(label_sets.canonical(name))
            if index is None:
                raise ValueError(
                    f"{table.where(number)}: unknown label {name.strip()!r} in {text!r}; known: {', '.join(_FINDINGS)}"
                )
            vector[index] = 1
        rows[text] = vector
    return np.stack([rows[text] for text in texts])


def _select(
    split: str, folders: list[Path], names: list[str], patients: list[str], seed: int, needs_list: bool
) -> tuple[NDArray[np.intp], NDArray[np.float32] | None]:
    """Rows of the split, and the labels (rows, 14) of its list if it has them."""
    if split == "all":
        return np.arange(len(names)), None
    path = find_list(split, folders)
    if path is not None:
        rows, listed = _rows_of(path, names)
        _check_apart(split, path, folders, [names[row] for row in rows])
        return rows, listed
    official = find_list("train_val", folders)
    if official is not None and split in ("train", "val", *_CXR_LKA):
        rows, listed = _rows_of(official, names)
        _check_apart("train_val", official, folders, [names[row] for row in rows])
        chosen = _part_of_official(split, [patients[row] for row in rows], seed)
        return rows[chosen], None if listed is None else listed[chosen]
    available = sorted({file.name for folder in folders if folder.is_dir() for file in folder.glob("*.txt")})
    if not needs_list and not available and split in ("train", "val", "test"):
        return np.array(split_patients(patients, seed=seed)[split]), None
    raise FileNotFoundError(
        f"split: no list {split!r} in {' or '.join(map(str, folders))}; "
        f"found: {', '.join(available) or 'none'}; 'all' takes every image of the table"
    )


def _check_apart(split: str, path: Path, folders: list[Path], names: Sequence[str]) -> None:
    """Raise a ValueError where the list of another part, called likewise, has an image of this one."""
    part = next((part for part in _APART if part in split), "")
    here = set(names)
    for other in _APART.get(part, ()):
        beside = find_list(split.replace(part, other), folders)
        both = [] if beside is None else [name for name in read_list(beside, _FINDINGS[:14]).names if name in here]
        if both:
            raise ValueError(f"{len(both)} images of {path} are in {beside} as well, the first is {both[0]}")


def _part_of_official(split: str, patients: list[str], seed: int) -> list[int]:
    if split in _CXR_LKA:
        return list(range(len(patients)))[_CXR_LKA[split]]
    return split_patients(patients, {"train": 7 / 8, "val": 1 / 8}, seed)[split]


def _rows_of(path: Path, names: list[str]) -> tuple[NDArray[np.intp], NDArray[np.float32] | None]:
    listed = read_list(path, _FINDINGS[:14])
    row_of = {name: row for row, name in enumerate(names)}
    unknown = [name for name in listed.names if name not in row_of]
    if unknown:
        raise ValueError(
            f"{path} lists {len(unknown)} of {len(listed.names)} images that the table does not have: "
            f"{', '.join(unknown[:5])}{', ...' if len(unknown) > 5 else ''}"
        )
    return np.array([row_of[name] for name in listed.names]), listed.targets


def _from_list(
    listed: NDArray[np.float32], targets: NDArray[np.float32], labels: tuple[str, ...]
) -> NDArray[np.float32]:
    """`targets` with the findings that the list gives; No Finding follows from the 14."""
    if listed.shape[1] == 1:
        return np.where(np.array(labels) == "Abnormal", listed, targets)
    some = (listed == 1).any(axis=1)
    nothing = np.where(some, 0.0, np.where(np.isnan(listed).any(axis=1), np.nan, 1.0))
    all15 = np.column_stack([listed, nothing])
    result: NDArray[np.float32] = targets.copy()
    for column, source in enumerate(label_sets.align(_FINDINGS, labels)):
        if source is not None:
            result[:, column] = all15[:, source]
        elif labels[column] == "Abnormal":
            result[:, column] = 1 - nothing
    return result


def _read_boxes(
    root: Path, labels: tuple[str, ...], images: Table, known_images: list[str]
) -> dict[str, list[tuple[list[float], int]]] | None:
    """For each image its boxes (x1 y1 x2 y2 in the 1024-px frame) of the wanted labels; None without a file."""
    if not any(root.glob("BBox_List_2017*.csv")) and not (root / "bbox.csv").is_file():
        return None
    table = Table(find_file(root, "BBox_List_2017*.csv", "bbox.csv"))
    names, findings = table.column("Image Index"), table.column("Finding Label")
    index = {label_sets.canonical(label): number for number, label in enumerate(labels)}
    known = {label_sets.canonical(label) for label in _FINDINGS}
    xywh: list[list[float]] = []
    for row, finding in enumerate(findings):
        canonical = label_sets.canonical(finding)
        if canonical not in known:
            raise ValueError(f"{table.where(row)}: unknown label {finding!r}; known: {', '.join(_FINDINGS)}")
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
    boxes: dict[str, list[tuple[list[float], int]]] = {}
    for box, row in zip(xyxy.tolist(), left.nonzero().flatten().tolist(), strict=True):
        number = index.get(label_sets.canonical(findings[row]))
        if number is not None:
            boxes.setdefault(names[row], []).append((box, number))
    return boxes
