"""CheXpert in its official layout."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from thoraxlib import labels as label_sets
from thoraxlib.datasets.files import check_root, existing, index_tree
from thoraxlib.datasets.splits import split_patients
from thoraxlib.datasets.tables import Table
from thoraxlib.images import read

__all__ = ["CheXpert"]

_FINDINGS = label_sets.build("chexpert14")
_VALUES = {"1.0": 1.0, "1": 1.0, "0.0": 0.0, "0": 0.0, "-1.0": -1.0, "-1": -1.0, "": np.nan}
_TABLES = {"train_val": "train.csv", "train": "train.csv", "val": "train.csv", "valid": "valid.csv", "test": "test.csv"}
_POLICIES = ("ones", "zeros", "ignore", "lsr_ones", "lsr_zeros")
_JF = {"edema": "ones", "atelectasis": "ones"}  # by canonical name; zeros for the others
_RANGES = {"lsr_ones": (0.55, 0.85), "lsr_zeros": (0.0, 0.3)}  # Pham et al. 2019, arXiv 1911.06475, section 3.2


class CheXpert(Dataset[dict[str, Any]]):
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
        if split not in _TABLES:
            raise ValueError(f"split={split!r}: allowed are {', '.join(map(repr, _TABLES))}")
        if blank not in ("zeros", "ignore"):
            raise ValueError(f"blank={blank!r}: allowed are 'zeros' and 'ignore'")
        path = self.root / _TABLES[split]
        if not path.is_file():
            raise FileNotFoundError(f"{self.root} has no {path.name}, which split {split!r} is")
        table = Table(path)
        paths = [_below_release(name, table, row) for row, name in enumerate(table.column("Path"))]
        patients = [_part(name, "patient") for name in paths]
        targets = _targets(table, self.labels, uncertain, blank, seed)

        rows = np.arange(len(paths))
        if split in ("train", "val"):
            rows = np.array(split_patients(patients, {"train": 0.95, "val": 0.05}, seed)[split])
        rows = rows[_of_views(table, paths, views)[rows]]
        files = index_tree(self.root, {PurePosixPath(paths[row]).parts[0] for row in rows})
        rows = rows[existing([paths[row] for row in rows], files, missing, self.root)]
        if not len(rows):
            raise ValueError(
                f"no image is left: split={split!r}, views={views!r}, missing={missing!r}, root={self.root}"
            )
        self.ids: list[str] = [paths[row] for row in rows]
        self.patient_ids: list[str] = [patients[row] for row in rows]
        self.study_ids: list[str] = [str(PurePosixPath(paths[row]).parent) for row in rows]
        self.targets = torch.from_numpy(targets[rows])
        self._paths = [files[name] for name in self.ids]

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> dict[str, Any]:
        sample = {"image": read(self._paths[index]), "labels": self.targets[index].clone(), "id": self.ids[index]}
        return sample if self.transform is None else self.transform(sample)


def _below_release(name: str, table: Table, row: int) -> str:
    """A path of the table below the folder that holds it: ``train/patient00001/study1/view1_frontal.jpg``."""
    parts = [part for part in name.replace("\\", "/").split("/") if part not in ("", ".")]
    if parts and parts[0].lower().startswith("chexpert"):
        parts = parts[1:]
    if not parts or ".." in parts:
        raise ValueError(f"{table.where(row)}: {name!r} is no path below the release's folder")
    return "/".join(parts)


def _part(path: str, start: str) -> str:
    """The folder of a path that begins with `start`; the whole folder where there is none."""
    folders = PurePosixPath(path).parts[:-1]
    return next((folder for folder in folders if folder.startswith(start)), "/".join(folders))


def _of_views(table: Table, paths: list[str], views: str | Sequence[str] | None) -> NDArray[np.bool_]:
    if views is None:
        return np.ones(len(paths), dtype=bool)
    wanted = [views] if isinstance(views, str) else list(views)
    unknown = [view for view in wanted if view not in ("Frontal", "Lateral", "PA", "AP")]
    if unknown or not wanted:
        raise ValueError(f"views={views!r}: allowed are 'Frontal', 'Lateral', 'PA' and 'AP'")
    if "Frontal/Lateral" in table.columns:
        sides = table.column("Frontal/Lateral")
    else:  # the name says it as well
        sides = ["Lateral" if "lateral" in PurePosixPath(path).name else "Frontal" for path in paths]
    positions = table.column("AP/PA") if "AP/PA" in table.columns else [""] * len(paths)
    return np.isin(np.array(sides), wanted) | np.isin(np.array(positions), wanted)


def _policies(uncertain: str | Mapping[str, str], labels: tuple[str, ...]) -> list[str]:
    """The policy of each label."""
    if uncertain == "jf":
        return [_JF.get(label_sets.canonical(label), "zeros") for label in labels]
    if isinstance(uncertain, str):
        chosen = [uncertain] * len(labels)
    else:
        names = {label_sets.canonical(label): label for label in labels}
        unknown = [label for label in uncertain if label_sets.canonical(label) not in names]
        if unknown:
            raise ValueError(f"uncertain names {unknown}, which are not among the labels {list(labels)}")
        by_name = {label_sets.canonical(label): policy for label, policy in uncertain.items()}
        chosen = [by_name.get(label_sets.canonical(label), "ignore") for label in labels]
    wrong = sorted(set(chosen) - set(_POLICIES))
    if wrong:
        raise ValueError(f"uncertain={wrong[0]!r}: allowed are {', '.join(map(repr, (*_POLICIES, 'jf')))}")
    return chosen


def _targets(
    table: Table, labels: tuple[str, ...], uncertain: str | Mapping[str, str], blank: str, seed: int
) -> NDArray[np.float32]:
    """(rows, K) of the table, with what is uncertain or blank replaced."""
    sources = label_sets.align(_FINDINGS, labels)
    if all(source is None for source in sources):
        raise ValueError(f"labels: none of {list(labels)} is known to CheXpert; known: {', '.join(_FINDINGS)}")
    columns = {label_sets.canonical(name): name for name in table.columns}
    # drawn for the whole table, so that a film's label does not depend on split or views
    draws = np.random.default_rng(seed).random((len(table.rows), len(_FINDINGS)))
    targets = np.full((len(table.rows), len(labels)), np.nan, dtype=np.float32)
    for k, (source, policy) in enumerate(zip(sources, _policies(uncertain, labels), strict=True)):
        if source is None:
            continue
        finding = _FINDINGS[source]
        texts = table.column(columns.get(label_sets.canonical(finding), finding))
        values = np.array([_VALUES.get(text, np.inf) for text in texts])
        wrong = np.flatnonzero(np.isinf(values))
        if len(wrong):
            row = int(wrong[0])
            raise ValueError(f"{table.where(row)}: {finding} must be 1, 0, -1 or blank, got {texts[row]!r}")
        if blank == "zeros":
            values[np.isnan(values)] = 0
        unsure = values == -1
        if policy in _RANGES:
            low, high = _RANGES[policy]
            values[unsure] = low + (high - low) * draws[unsure, source]
        else:
            values[unsure] = {"ones": 1.0, "zeros": 0.0, "ignore": np.nan}[policy]
        targets[:, k] = values
    return targets
