"""CheXpert in its official layout."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from thoraxlib import labels as label_sets
from thoraxlib.datasets.base import ImageDataset, Transform
from thoraxlib.datasets.files import StrPath, index_tree, opened, plain, top_folders
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
        The folder with ``train.csv`` and ``valid.csv``: ``CheXpert-v1.0-small``, ``CheXpert-v1.0`` or one with the same
        layout; the folder that holds it; or the folder that holds the parts of the full release, ``CheXpert-v1.0 batch
        1 (validate & csv)``, ``CheXpert-v1.0 batch 2 (train 1)``, .... Paths in the tables may begin with the release's
        own folder or not, and may have slashes of either kind.
    split : {"train", "val", "train_val", "valid", "test"}
        "train" and "val" are 0.95 and 0.05 of the patients of ``train.csv``, "train_val" all of them; "valid" is
        ``valid.csv``, the 200 studies that radiologists read; "test" is ``test.csv`` or ``test_labels.csv``.
    labels : str or sequence of str
        "chexpert14", "chexpert5", or names in any data set's spelling. Targets of a label that CheXpert does not know
        are NaN.
    uncertain : str or mapping of str to str
        The meaning of -1, for all labels or by label ("ignore" for the others): "ones" (U-Ones), "zeros" (U-Zeros),
        "ignore" (NaN; U-Ignore), "lsr_ones" or "lsr_zeros" (smoothed: drawn uniformly from 0.55 to 0.85, or from 0 to
        0.3). "jf" is the policy of jfhealthcare/Chexpert: ones for Edema and Atelectasis, zeros for the others.
    blank : {"zeros", "ignore"}
        The target of an observation that the report does not mention: 0, as in the paper's baselines, or NaN.
    views : str or sequence of str, optional
        Keep only "Frontal", "Lateral", "PA" or "AP" images.
    seed : int
        Random seed of the split by patient, and of smoothed labels.
    missing : {"error", "skip"}
        For absent images: raise an error, or leave them out, together with unreadable files, with one warning.
    transform : callable, optional
        From sample to sample, e.g. :func:`thoraxlib.images.transform_for`.

    Attributes
    ----------
    labels, targets, patient_ids, ids
        See :class:`~thoraxlib.datasets.ChestDataset`; an id is the file's path below the release's folder.
    study_ids : list of str
        Patient and study of each image.

    Raises
    ------
    FileNotFoundError, NotADirectoryError
        The folder, a table or the images are missing.
    ValueError
        A table is wrong (the message names file and line); an image is in two tables; an option or label is unknown;
        `root` holds two releases; or no image is left.

    Warns
    -----
    UserWarning
        No label of any image is known; images are left out by ``missing="skip"``.

    References
    ----------
    J. Irvin et al., "CheXpert: a large chest radiograph dataset with uncertainty labels and expert comparison", AAAI
    2019, arXiv 1901.07031.
    """

    def __init__(
        self,
        *,
        root: StrPath,
        split: str = "train",
        labels: str | Sequence[str] = "chexpert14",
        uncertain: str | Mapping[str, str] = "ignore",
        blank: str = "zeros",
        views: str | Sequence[str] | None = None,
        seed: int = 0,
        missing: str = "error",
        transform: Transform | None = None,
    ) -> None:
        super().__init__(root, labels, transform)
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
        patients = [_patient(name) for name in paths]
        targets = mined_targets(table, self.labels, uncertain, blank, seed, findings=_FINDINGS, source="CheXpert")
        rows = np.arange(len(paths))
        if split in ("train", "val"):
            rows = np.array(split_patients(patients, {"train": 0.95, "val": 0.05}, seed)[split])
        rows = rows[_of_views(table, paths, views)[rows]]
        files = _files(self.root, {PurePosixPath(paths[row]).parts[0] for row in rows}) if len(rows) else {}
        studies = [str(PurePosixPath(name).parent) for name in paths]
        columns = {"ids": paths, "patient_ids": patients, "study_ids": studies}
        rows = self._keep(rows, columns, files, missing, {"split": split, "views": views})
        self._set_targets(targets[rows], f"in {path} they are blank or uncertain for {blank=}, {uncertain=}")


def _table(root: Path, names: tuple[str, ...]) -> Path | None:
    """Find the table with one of `names` in `root`, or else in the release's folder in it."""
    releases = [folder for folder in sorted(root.iterdir()) if folder.name.lower().startswith("chexpert")]
    for folders in ([root], releases):
        tables = [folder / name for folder in folders for name in names if (folder / name).is_file()]
        if len({path.parent for path in tables}) > 1:
            raise ValueError(f"root holds several releases, give the folder of one: {', '.join(map(str, tables))}")
        if tables:
            return tables[0]
    return None


def _paths(table: Table) -> list[str]:
    """Return the path of each row's image below the release: ``train/patient00001/study1/view1_frontal.jpg``."""
    return [_below_release(name, table, row) for row, name in enumerate(table.column("Path"))]


def _check_held_out(root: Path, paths: list[str], names: tuple[str, ...], path: Path) -> None:
    """Raise ValueError if the table of another part, which must have other images, lists one of `paths`."""
    own = set(paths)
    for others in _HELD_OUT[names]:
        other = _table(root, others)
        table = None if other is None else Table(other)
        if table is not None and "Path" in table.columns:
            both = [name for name in _paths(table) if name in own]
            if both:
                raise ValueError(f"{len(both)} images of {path} are in {other} as well, the first is {both[0]}")


def _files(root: Path, tops: set[str]) -> dict[str, ImageFile]:
    """Map paths below the release to the image files in its folders `tops`, or in the batches of the full release."""
    where = opened(root)
    folders = top_folders(where)
    part_of = {name: match[1].lower() for name in folders if (match := _BATCH.match(name))}
    batches = [name for name, part in part_of.items() if part in tops]
    releases = [name for name in folders if name.lower().startswith("chexpert") and name not in part_of]
    nested = [f"{name}/{top}" for name in releases for top in tops - {*folders}]
    images: dict[str, ImageFile] = {}
    for name, path in index_tree(where, [*tops, *nested, *batches]).items():
        top, _, rest = name.partition("/")
        if top in part_of and not rest.startswith(f"{part_of[top]}/"):
            rest = f"{part_of[top]}/{rest}"
        image = rest if top in part_of or top in releases else name
        if images.setdefault(image, path) != path:
            raise ValueError(f"{images[image]} and {path} are one image: give the folder of one release as root")
    return images


def _below_release(name: str, table: Table, row: int) -> str:
    path = plain(name.lstrip("/\\"), table.where(row))
    top, _, rest = path.partition("/")
    if top.lower().startswith("chexpert"):
        batch = _BATCH.match(top)
        path = f"{batch[1].lower()}/{rest}" if batch and rest.startswith("patient") else rest
    if not path:
        raise ValueError(f"{table.where(row)}: {name!r} is no path of an image")
    return path


def _patient(path: str) -> str:
    """Return the folder of a path that names a patient, or else its whole folder."""
    folders = PurePosixPath(path).parts[:-1]
    return next((folder for folder in folders if folder.startswith("patient")), "/".join(folders))


def _of_views(table: Table, paths: list[str], views: str | Sequence[str] | None) -> NDArray[np.bool_]:
    if views is None:
        return np.ones(len(paths), dtype=bool)
    wanted = [views] if isinstance(views, str) else list(views)
    for view in wanted or [""]:
        one_of("views", view, ("Frontal", "Lateral", "PA", "AP"))
    if "Frontal/Lateral" in table.columns:
        sides = table.column("Frontal/Lateral")
    else:  # file names have it as well
        sides = ["Lateral" if "lateral" in PurePosixPath(path).name else "Frontal" for path in paths]
    positions = table.column("AP/PA") if "AP/PA" in table.columns else [""] * len(paths)
    return np.array([side in wanted or position in wanted for side, position in zip(sides, positions, strict=True)])
