"""CheXpert in its official layout."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from thoraxlib import labels as label_sets
from thoraxlib.datasets.files import check_root, existing, index_tree, opened, plain, top_folders
from thoraxlib.datasets.images import ImageDataset
from thoraxlib.datasets.splits import split_patients
from thoraxlib.datasets.tables import Table
from thoraxlib.datasets.uncertain import mined_targets
from thoraxlib.images.copies import ImageFile
from thoraxlib.utils.arguments import one_of

_FINDINGS = label_sets.build("chexpert14")
_TRAIN, _VALID, _TEST = ("train.csv",), ("valid.csv",), ("test.csv", "test_labels.csv")
_TABLES = {"train_val": _TRAIN, "train": _TRAIN, "val": _TRAIN, "valid": _VALID, "test": _TEST}
_HELD_OUT = {_TRAIN: (_VALID, _TEST), _VALID: (_TEST,), _TEST: (_VALID,)}
_BATCH = re.compile(r"chexpert.*batch.*\((train|valid|test)", re.IGNORECASE)  # "CheXpert-v1.0 batch 2 (train 1)"


class CheXpert(ImageDataset):
    """CheXpert: 224,316 images of 65,240 patients with 14 observations mined from reports, some of them uncertain.

    Parameters
    ----------
    root : path
        The folder with ``train.csv`` and ``valid.csv``: ``CheXpert-v1.0-small``, ``CheXpert-v1.0`` or one laid out like
        it; the folder that holds it; or the one that holds the parts in which the full release is handed out,
        ``CheXpert-v1.0 batch 1 (validate & csv)``, ``CheXpert-v1.0 batch 2 (train 1)``, .... The tables' paths may
        begin with the release's own folder or not, with slashes of either kind.
    split : {"train", "val", "train_val", "valid", "test"}
        "train" and "val" are 0.95 and 0.05 of the patients of ``train.csv``, "train_val" all of them; "valid" is
        ``valid.csv``, the 200 studies that radiologists read; "test" is ``test.csv`` or ``test_labels.csv``.
    labels : str or sequence of str
        "chexpert14", "chexpert5", or names in any data set's spelling. A label that CheXpert does not know is NaN.
    uncertain : str or mapping of str to str
        What -1 means, for all labels or by label ("ignore" for the others): "ones" (U-Ones), "zeros" (U-Zeros),
        "ignore" (NaN; U-Ignore), "lsr_ones" and "lsr_zeros" (smoothed: uniform in 0.55 to 0.85, and in 0 to 0.3). "jf"
        is jfhealthcare/Chexpert's: ones for Edema and Atelectasis, zeros for the others.
    blank : {"zeros", "ignore"}
        What an observation that the report does not mention is: 0, as the paper's baselines take it, or NaN.
    views : str or sequence of str, optional
        Keep only "Frontal", "Lateral", "PA" or "AP" images.
    seed : int
        Of the split by patient, and of smoothed labels.
    missing : {"error", "skip"}
        What to do about absent images; "skip" also leaves out unreadable files and warns once.
    transform : callable, optional
        From sample to sample, e.g. :func:`thoraxlib.images.transform_for`.

    Attributes
    ----------
    labels, targets, patient_ids, ids
        See :class:`~thoraxlib.datasets.ChestDataset`; an id is the file's path below the release's folder.
    study_ids : list of str
        For each image, patient and study.

    Raises
    ------
    FileNotFoundError, NotADirectoryError
        No such folder, table or images.
    ValueError
        A column that is lacking, a value that is not 1, 0, -1 or blank, an unknown policy, label, view or split, a path
        that leaves the folder, an image that is listed twice or in another part's table as well, two releases in one
        folder, or nothing left.

    Warns
    -----
    UserWarning
        No label of any image is known; images that ``missing="skip"`` left out.

    References
    ----------
    J. Irvin et al., "CheXpert: a large chest radiograph dataset with uncertainty labels and expert comparison", AAAI
    2019, arXiv 1901.07031.
    """

    def __init__(
        self,
        *,
        root: str | os.PathLike[str],
        split: str = "train",
        labels: str | Sequence[str] = "chexpert14",
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
        one_of("split", split, _TABLES)
        path = _table(self.root, _TABLES[split])
        if path is None:
            raise FileNotFoundError(f"{self.root} has no {' or '.join(_TABLES[split])}, which split {split!r} is")
        if path.parent != self.root and not _BATCH.match(path.parent.name):
            self.root = path.parent
        table = Table(path)
        paths = _paths(table)
        table.check_unique(paths)
        _check_held_out(self.root, paths, _TABLES[split], path)
        patients = [_part(name, "patient") for name in paths]
        targets = mined_targets(table, self.labels, uncertain, blank, seed, findings=_FINDINGS, source="CheXpert")

        rows = np.arange(len(paths))
        if split in ("train", "val"):
            rows = np.array(split_patients(patients, {"train": 0.95, "val": 0.05}, seed)[split])
        rows = rows[_of_views(table, paths, views)[rows]]
        files = _files(self.root, {PurePosixPath(paths[row]).parts[0] for row in rows}) if len(rows) else {}
        rows = rows[existing([paths[row] for row in rows], files, missing, self.root, split=split, views=views)]
        self.ids: list[str] = [paths[row] for row in rows]
        self.patient_ids: list[str] = [patients[row] for row in rows]
        self.study_ids: list[str] = [str(PurePosixPath(paths[row]).parent) for row in rows]
        self.targets = torch.from_numpy(targets[rows])
        self._paths = [files[name] for name in self.ids]
        self.warn_unknown(f"in {path} they are blank or uncertain for {blank=}, {uncertain=}")


def _table(root: Path, names: tuple[str, ...]) -> Path | None:
    """The table that goes by one of `names`: in `root`, or else in the one of its folders that is a release's."""
    releases = [folder for folder in sorted(root.iterdir()) if folder.name.lower().startswith("chexpert")]
    for folders in ([root], releases):
        found = [folder / name for folder in folders for name in names if (folder / name).is_file()]
        if len({path.parent for path in found}) > 1:
            raise ValueError(f"root holds several releases, give the folder of one: {', '.join(map(str, found))}")
        if found:
            return found[0]
    return None


def _paths(table: Table) -> list[str]:
    """The path of each row's image: ``train/patient00001/study1/view1_frontal.jpg``, whatever folders hold it."""
    return [_below_release(name, table, row) for row, name in enumerate(table.column("Path"))]


def _check_held_out(root: Path, paths: list[str], names: tuple[str, ...], path: Path) -> None:
    """Raise a ValueError where the tables of parts that must be apart list one image."""
    here = set(paths)
    for others in _HELD_OUT[names]:
        other = _table(root, others)
        table = None if other is None else Table(other)
        if table is None or "Path" not in table.columns:
            continue
        both = [name for name in _paths(table) if name in here]
        if both:
            raise ValueError(f"{len(both)} images of {path} are in {other} as well, the first is {both[0]}")


def _files(root: Path, tops: set[str]) -> dict[str, ImageFile]:
    """The image files in the folders `tops` of a release, or in those in which it was handed out, by their paths."""
    where = opened(root)
    folders = top_folders(where)
    part_of = {name: match[1].lower() for name in folders if (match := _BATCH.match(name))}
    batches = [name for name, part in part_of.items() if part in tops]
    releases = [name for name in folders if name.lower().startswith("chexpert") and name not in part_of]
    nested = [f"{name}/{top}" for name in releases for top in tops - {*folders}]
    found: dict[str, ImageFile] = {}
    for name, path in index_tree(where, [*tops, *nested, *batches]).items():
        top, _, rest = name.partition("/")
        if top in part_of and not rest.startswith(f"{part_of[top]}/"):
            rest = f"{part_of[top]}/{rest}"
        image = rest if top in part_of or top in releases else name
        if found.setdefault(image, path) != path:
            raise ValueError(f"{found[image]} and {path} are one image: give the folder of one release as root")
    return found


def _below_release(name: str, table: Table, row: int) -> str:
    """A path of the table below the folder that holds it: ``train/patient00001/study1/view1_frontal.jpg``."""
    path = plain(name.lstrip("/\\"), table.where(row))
    top, _, rest = path.partition("/")
    if top.lower().startswith("chexpert"):
        batch = _BATCH.match(top)
        path = f"{batch[1].lower()}/{rest}" if batch and rest.startswith("patient") else rest
    if not path:
        raise ValueError(f"{table.where(row)}: {name!r} is no path of an image")
    return path


def _part(path: str, start: str) -> str:
    """The folder of a path that begins with `start`; the whole folder where there is none."""
    folders = PurePosixPath(path).parts[:-1]
    return next((folder for folder in folders if folder.startswith(start)), "/".join(folders))


def _of_views(table: Table, paths: list[str], views: str | Sequence[str] | None) -> NDArray[np.bool_]:
    if views is None:
        return np.ones(len(paths), dtype=bool)
    wanted = [views] if isinstance(views, str) else list(views)
    for view in wanted or [""]:
        one_of("views", view, ("Frontal", "Lateral", "PA", "AP"))
    if "Frontal/Lateral" in table.columns:
        sides = table.column("Frontal/Lateral")
    else:  # the name says it as well
        sides = ["Lateral" if "lateral" in PurePosixPath(path).name else "Frontal" for path in paths]
    positions = table.column("AP/PA") if "AP/PA" in table.columns else [""] * len(paths)
    return np.array([side in wanted or position in wanted for side, position in zip(sides, positions, strict=True)])
