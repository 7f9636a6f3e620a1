"""The CheXpert labeller's table, and its mapping to other labels."""

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
#: The observations in the labeller's own order: Lung Lesion comes before Lung Opacity.
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
#: Observations that decide each label of "padchest_openi22", for each mapping.
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


class LabelerTable:
    """The CheXpert labeller's table, with a row for each report or image.

    Parameters
    ----------
    path : path
        The labeller's output: ``Reports``, then its 14 observations in its own order, each 1, 0 (negated), -1
        (uncertain) or blank (not mentioned). A column ``id`` (or ``ImageId``, ``uid``) may have been added.
    ids : path, optional
        For a table without that column: the file of ids that :func:`~thoraxlib.datasets.openi.export_reports` wrote.
        Rows are joined by number, and their texts must agree.

    Attributes
    ----------
    ids : list of str
        Id of each row; ``12.0`` becomes ``12``.

    Raises
    ------
    ValueError
        A column is missing or in another order; there are no ids, or one comes twice; or the rows are not those of the
        file of ids.
    """

    def __init__(self, path: str | os.PathLike[str], ids: str | os.PathLike[str] | None = None) -> None:
        self._table = Table(Path(path))
        _check_order(self._table)
        column = next((name for name in ("id", "ImageId", "ImageID", "uid") if name in self._table.columns), None)
        if column is not None:
            self.ids = self._table.ids(column)
        elif ids is not None:
            self.ids = _joined(self._table, Table(Path(ids)))
        else:
            raise ValueError(
                f"{path} does not say which report a row is: give the file of ids that export_reports wrote beside the "
                "reports, or add a column 'id'"
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
        """Return the targets, float32 (rows, K): 1, 0, or NaN if the labeller does not know.

        Parameters
        ----------
        labels : sequence of str
            The K labels, in any data set's spelling: of "padchest_openi22", or the labeller's observations. A label of
            several observations is positive if one of them is, else unknown if one of them is.
        mapping : {"default", "jaydurant"}
            Mapping of the observations to "padchest_openi22". "default": as in PadChest's tree, consolidation is a kind
            of infiltrates; a fracture is an other finding; "Support Devices" may be any device, so it only decides that
            there is none. "jaydurant": as intended in jaydurant/ChestX-ray_classification_and_localization.
        uncertain, blank, seed
            See :class:`~thoraxlib.datasets.chexpert.CheXpert`; `uncertain` may name observations.

        Raises
        ------
        ValueError
            An unknown `mapping` or policy; a value that is not 1, 0, -1 or blank; or no known label.
        """
        one_of("mapping", mapping, MAPPINGS)
        values = mined_targets(
            self._table, OBSERVATIONS, uncertain, blank, seed, findings=OBSERVATIONS, source="the labeller"
        )
        sources = {name: (name,) for name in OBSERVATIONS} | MAPPINGS[mapping]
        known = {label_sets.canonical(label): names for label, names in sources.items()}
        devices = {label_sets.canonical(label) for label in _DEVICES} if mapping == "default" else set()
        targets = np.full((len(values), len(labels)), np.nan, np.float32)
        wanted = [label_sets.canonical(label) for label in labels]
        if not {*known, *devices} & set(wanted):
            raise ValueError(f"labels: the labeller knows none of {list(labels)}; it knows {', '.join(sources)}")
        for k, label in enumerate(wanted):
            if label in known:
                targets[:, k] = _any(values[:, [OBSERVATIONS.index(name) for name in known[label]]])
            elif label in devices:
                targets[:, k] = np.where(self._without_devices(blank), 0, np.nan)
        return targets

    def _without_devices(self, blank: str) -> NDArray[np.bool_]:
        """Return a mask of rows that negate devices or, if blanks are 0, have No Finding and do not mention them."""
        names = ("No Finding", "Support Devices")
        read, filled = (
            mined_targets(self._table, names, "ignore", policy, 0, findings=names, source="the labeller")
            for policy in ("ignore", blank)
        )
        without: NDArray[np.bool_] = (read[:, 1] == 0) | ((filled[:, 0] == 1) & (filled[:, 1] == 0))
        return without


def _any(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return, for each row, 1 if a column is 1; else NaN if a column is; else the highest value."""
    unknown = np.isnan(values)
    highest = np.where(unknown, 0, values).max(axis=1)
    return np.where((highest < 1) & unknown.any(axis=1), np.nan, highest)


def _check_order(table: Table) -> None:
    order = [name for name in table.columns if name in OBSERVATIONS]
    lacking = [name for name in ("Reports", *OBSERVATIONS) if name not in table.columns]
    if lacking:
        raise ValueError(
            f"{table.path} has no column {', '.join(map(repr, lacking))}: the CheXpert labeller writes Reports, "
            f"{', '.join(OBSERVATIONS)}; columns found: {', '.join(table.columns)}"
        )
    if order != list(OBSERVATIONS):
        which = "that of the CheXpert data set" if order == list(_CHEXPERT) else "not its own"
        raise ValueError(
            f"{table.path}: the order of the labeller's columns is {which} ({', '.join(order)}); it writes "
            f"{', '.join(OBSERVATIONS)}. Has the header been replaced? The values would then be those of other columns."
        )


def _joined(table: Table, ids: Table) -> list[str]:
    """Return the id of each row; the texts of both tables must agree."""
    if len(ids.rows) != len(table.rows):
        raise ValueError(f"{ids.path} has {len(ids.rows)} reports, {table.path} has {len(table.rows)}: not of one run")
    for row, (text, other) in enumerate(zip(ids.column("report"), table.column("Reports"), strict=True)):
        if _words(text) != _words(other):
            raise ValueError(f"{table.where(row)}: the report is not that of {ids.where(row)}: {other!r} and {text!r}")
    return ids.column("id")


def _words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())
