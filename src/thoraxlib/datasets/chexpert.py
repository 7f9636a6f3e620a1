"""CheXpert in its official layout."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from thoraxlib import labels as label_sets
from thoraxlib.arguments import one_of
from thoraxlib.datasets.files import check_root, existing, index_tree
from thoraxlib.datasets.films import Films
from thoraxlib.datasets.splits import split_patients
from thoraxlib.datasets.tables import Table
from thoraxlib.datasets.uncertain import mined_targets
from thoraxlib.files import below

__all__ = ["CheXpert"]

_FINDINGS = label_sets.build("chexpert14")
_TABLES = {"train_val": "train.csv", "train": "train.csv", "val": "train.csv", "valid": "valid.csv", "test": "test.csv"}


class CheXpert(Films):
    """CheXpert: 224,316 films of 65,240 patients with 14 observations mined from reports, some of them uncertain.

    Parameters
    ----------
    root : path
        The folder with ``train.csv`` and ``valid.csv``: ``CheXpert-v1.0-small``, ``CheXpert-v1.0`` or one laid out like
        it. Its files' paths may begin with the release's own folder or not, with slashes of either kind.
    split : {"train", "val", "train_val", "valid", "test"}
        "train" and "val" are 0.95 and 0.05 of the patients of ``train.csv``, "train_val" all of them; "valid" is
        ``valid.csv``, the 200 studies that radiologists read; "test" is ``test.csv``.
    labels : str or sequence of str
        "chexpert14", "chexpert5", or names in any data set's spelling. A label that CheXpert does not know is NaN.
    uncertain : str or mapping of str to str
        What -1 means, for all labels or by label ("ignore" for the others): "ones" (U-Ones), "zeros" (U-Zeros),
        "ignore" (NaN; U-Ignore), "lsr_ones" and "lsr_zeros" (smoothed: uniform in 0.55 to 0.85, and in 0 to 0.3). "jf"
        is jfhealthcare/Chexpert's: ones for Edema and Atelectasis, zeros for the others.
    blank : {"zeros", "ignore"}
        What an observation that the report does not mention is: 0, as the paper's baselines take it, or NaN.
    views : str or sequence of str, optional
        Keep only "Frontal", "Lateral", "PA" or "AP" films.
    seed : int
        Of the split by patient, and of smoothed labels.
    missing : {"error", "skip"}
        What to do about absent images; "skip" also leaves out cut-off files and warns once.
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
        that leaves the folder, or nothing left.

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
        path = self.root / _TABLES[split]
        if not path.is_file():
            raise FileNotFoundError(f"{self.root} has no {path.name}, which split {split!r} is")
        table = Table(path)
        paths = [_below_release(name, table, row) for row, name in enumerate(table.column("Path"))]
        patients = [_part(name, "patient") for name in paths]
        targets = mined_targets(table, self.labels, uncertain, blank, seed, findings=_FINDINGS, source="CheXpert")

        rows = np.arange(len(paths))
        if split in ("train", "val"):
            rows = np.array(split_patients(patients, {"train": 0.95, "val": 0.05}, seed)[split])
        rows = rows[_of_views(table, paths, views)[rows]]
        files = index_tree(self.root, {PurePosixPath(paths[row]).parts[0] for row in rows}) if len(rows) else {}
        rows = rows[existing([paths[row] for row in rows], files, missing, self.root, split=split, views=views)]
        self.ids: list[str] = [paths[row] for row in rows]
        self.patient_ids: list[str] = [patients[row] for row in rows]
        self.study_ids: list[str] = [str(PurePosixPath(paths[row]).parent) for row in rows]
        self.targets = torch.from_numpy(targets[rows])
        self._paths = [files[name] for name in self.ids]


def _below_release(name: str, table: Table, row: int) -> str:
    """A path of the table below the folder that holds it: ``train/patient00001/study1/view1_frontal.jpg``."""
    parts = [part for part in name.replace("\\", "/").split("/") if part not in ("", ".")]
    if parts and parts[0].lower().startswith("chexpert"):
        parts = parts[1:]
    if not parts:
        raise ValueError(f"{table.where(row)}: {name!r} is no path of an image")
    return below("/".join(parts), table.where(row))


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
