"""The table that the CheXpert labeller writes, and what its 14 observations say of other labels."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from thoraxlib import labels as label_sets
from thoraxlib.datasets.tables import Table
from thoraxlib.datasets.uncertain import mined_targets
from thoraxlib.utils.arguments import one_of

_CHEXPERT = label_sets.build("chexpert14")
#: In the labeller's own order, in which Lung Lesion stands before Lung Opacity.
OBSERVATIONS = (*_CHEXPERT[:3], "Lung Lesion", "Lung Opacity", *_CHEXPERT[5:])

_SAME = {
    "normal": ("No Finding",),
    "cardiomegaly": ("Cardiomegaly",),
    "mass": ("Lung Lesion",),
    "pulmonary edema": ("Edema",),
    "pneumonia": ("Pneumonia",),
    "atelectasis": ("Atelectasis",),
    "pneumothorax": ("Pneumothorax",),
    "pleural effusion": ("Pleural Effusion",),
}
_OTHER = ("Enlarged Cardiomediastinum", "Lung Opacity", "Pleural Other")
#: Labels of "padchest_openi22" -> the observations that say something of them.
MAPPINGS: dict[str, dict[str, tuple[str, ...]]] = {
    "default": {**_SAME, "infiltrates": ("Consolidation",), "other findings": (*_OTHER, "Fracture")},
    "jaydurant": {
        **_SAME,
        "other findings": (*_OTHER, "Consolidation"),
        "thoracic cage deformation": ("Fracture",),
        "electrical device": ("Support Devices",),
    },
}
_DEVICES = ("catheter", "electrical device", "nsg tube")
_ID_COLUMNS = ("id", "ImageId", "ImageID", "uid")


class LabelerTable:
    """Labels that the CheXpert labeller found, a row for each report or image.

    Parameters
    ----------
    path : path
        What the labeller wrote: ``Reports``, then its 14 observations in its own order, each 1, 0 (negated), -1
        (uncertain) or blank (not mentioned). A column ``id`` (or ``ImageId``, ``uid``) may have been added.
    ids : path, optional
        Without that column: the file that :func:`~thoraxlib.datasets.openi.export_reports` wrote beside the reports.
        Row is then joined to row, and the texts must agree.

    Attributes
    ----------
    ids : list of str
        For each row; ``12.0`` is 12.

    Raises
    ------
    ValueError
        Columns that are lacking or in another order, no ids, an id that comes twice, or rows that are not those of
        `ids`.
    """

    def __init__(self, path: str | os.PathLike[str], ids: str | os.PathLike[str] | None = None) -> None:
        self._table = Table(Path(path))
        _check_order(self._table)
        column = next((name for name in _ID_COLUMNS if name in self._table.columns), None)
        if column is not None:
            self.ids = self._table.ids(column)
        elif ids is not None:
            self.ids = _joined(self._table, Table(Path(ids)))
        else:
            raise ValueError(
                f"{path} does not say which report a row is: give the file of ids that export_reports wrote beside the "
                f"reports, or add a column {_ID_COLUMNS[0]!r}"
            )
        self._table.check_unique(self.ids)

    def targets(
        self,
        labels: Sequence[str],
        *,
        mapping: str = "default",
        uncertain: str | Mapping[str, str] = "ignore",
        blank: str = "zeros",
        seed: int = 0,
    ) -> NDArray[np.float32]:
        """float32 (rows, K): 1, 0, or NaN where the labeller cannot tell.

        Parameters
        ----------
        labels : sequence of str
            The K labels: of "padchest_openi22", or the labeller's observations, in any data set's spelling. Where
            several observations tell of a label, it is positive if any of them is, and unknown if none is and any is
            unknown.
        mapping : {"default", "jaydurant"}
            What the observations say of "padchest_openi22". "default": as PadChest's tree has it, consolidation is a
            kind of infiltrates, and a fracture is an other finding; devices, which may be any, only tell where there is
            none. "seed": as jaydurant/ChestX-ray_classification_and_localization meant it.
        uncertain, blank, seed
            See :class:`~thoraxlib.datasets.chexpert.CheXpert`; `uncertain` may name observations.

        Raises
        ------
        ValueError
            Another `mapping` or policy, a value that is not 1, 0, -1 or blank, or no label that can be told.
        """
        one_of("mapping", mapping, MAPPINGS)
        values = mined_targets(
            self._table, OBSERVATIONS, uncertain, blank, seed, findings=OBSERVATIONS, source="the labeller"
        )
        sources = {name: (name,) for name in OBSERVATIONS} | MAPPINGS[mapping]
        known = {label_sets.canonical(label): names for label, names in sources.items()}
        devices = {label_sets.canonical(label) for label in _DEVICES} if mapping == "default" else set()
        targets = np.full((len(values), len(labels)), np.nan, np.float32)
        told = False
        for k, label in enumerate(map(label_sets.canonical, labels)):
            if label in known:
                targets[:, k] = _any(values[:, [OBSERVATIONS.index(name) for name in known[label]]])
            elif label in devices:
                targets[:, k] = np.where(self._without_devices(blank), 0, np.nan)
            told = told or label in known or label in devices
        if not told:
            raise ValueError(f"labels: the labeller tells of none of {list(labels)}; it knows {', '.join(sources)}")
        return targets

    def _without_devices(self, blank: str) -> NDArray[np.bool_]:
        """Where devices are negated; or, if what is blank is 0, not mentioned beside No Finding."""
        names = ("No Finding", "Support Devices")
        told, filled = (
            mined_targets(self._table, names, "ignore", policy, 0, findings=names, source="the labeller")
            for policy in ("ignore", blank)
        )
        nowhere: NDArray[np.bool_] = (told[:, 1] == 0) | ((filled[:, 0] == 1) & (filled[:, 1] == 0))
        return nowhere


def _any(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """1 where any of the columns is 1; else NaN where any is; else the highest."""
    unknown = np.isnan(values)
    highest = np.where(unknown, 0, values).max(axis=1)
    return np.where((highest < 1) & unknown.any(axis=1), np.nan, highest)


def _check_order(table: Table) -> None:
    found = [name for name in table.columns if name in OBSERVATIONS]
    lacking = [name for name in ("Reports", *OBSERVATIONS) if name not in table.columns]
    if lacking:
        raise ValueError(
            f"{table.path} has no column {', '.join(map(repr, lacking))}: the CheXpert labeller writes Reports, "
            f"{', '.join(OBSERVATIONS)}; columns found: {', '.join(table.columns)}"
        )
    if found != list(OBSERVATIONS):
        which = "that of the CheXpert data set" if found == list(_CHEXPERT) else "not its own"
        raise ValueError(
            f"{table.path}: the order of the labeller's columns is {which} ({', '.join(found)}); it writes "
            f"{', '.join(OBSERVATIONS)}. Has the header been replaced? The values would then be those of other columns."
        )


def _joined(table: Table, ids: Table) -> list[str]:
    """The id of each row, which must have the text of its line."""
    if len(ids.rows) != len(table.rows):
        raise ValueError(f"{ids.path} has {len(ids.rows)} reports, {table.path} has {len(table.rows)}: not of one run")
    for row, (text, other) in enumerate(zip(ids.column("report"), table.column("Reports"), strict=True)):
        if _words(text) != _words(other):
            raise ValueError(f"{table.where(row)}: the report is not that of {ids.where(row)}: {other!r} and {text!r}")
    return ids.column("id")


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())
