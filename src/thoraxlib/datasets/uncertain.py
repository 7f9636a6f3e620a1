"""Labels mined from reports by the CheXpert labeller: 1, 0, -1 for uncertain, blank for not mentioned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from thoraxlib import labels as label_sets
from thoraxlib.datasets.tables import Table, is_blank
from thoraxlib.utils.arguments import one_of

_VALUES = {"1.0": 1.0, "1": 1.0, "0.0": 0.0, "0": 0.0, "-1.0": -1.0, "-1": -1.0}
_POLICIES = ("ones", "zeros", "ignore", "lsr_ones", "lsr_zeros")
_JF = {"edema": "ones", "atelectasis": "ones"}  # by canonical name; zeros for the others
_RANGES = {"lsr_ones": (0.55, 0.85), "lsr_zeros": (0.0, 0.3)}  # Pham et al. 2019, arXiv 1911.06475, section 3.2


def mined_targets(
    table: Table,
    labels: Sequence[str],
    uncertain: str | Mapping[str, str],
    blank: str,
    seed: int,
    *,
    findings: Sequence[str],
    source: str,
) -> NDArray[np.float32]:
    """(rows, K) of a table, with what is uncertain or blank replaced; NaN for labels that are no finding.

    Parameters
    ----------
    table : Table
        With a column for each finding, in any spelling.
    labels : sequence of str
        The K labels that are asked for.
    uncertain : str or mapping of str to str
        What -1 means: a policy for all labels, or by label ("ignore" for the others); see
        :class:`~thoraxlib.datasets.chexpert.CheXpert`.
    blank : {"zeros", "ignore"}
        0 or NaN for what is not mentioned.
    seed : int
        Of smoothed labels, which are drawn for the whole table, so that an image's does not depend on the others asked
        for.
    findings : sequence of str
        What the table can tell.
    source : str
        The data set's name, for messages.

    Raises
    ------
    ValueError
        A column that is lacking or there twice, a value that is not 1, 0, -1 or blank (empty, or a word for it such as
        "nan"), an unknown policy, or no known label.
    """
    one_of("blank", blank, ("zeros", "ignore"))
    sources = label_sets.align(findings, labels)
    if all(position is None for position in sources):
        raise ValueError(f"labels: none of {list(labels)} is known to {source}; known: {', '.join(findings)}")
    draws = np.random.default_rng(seed).random((len(table.rows), len(findings)))
    targets = np.full((len(table.rows), len(labels)), np.nan, dtype=np.float32)
    for k, (position, policy) in enumerate(zip(sources, _policies(uncertain, labels), strict=True)):
        if position is None:
            continue
        finding = findings[position]
        values = _values(table, finding)
        if blank == "zeros":
            values[np.isnan(values)] = 0
        unsure = values == -1
        if policy in _RANGES:
            low, high = _RANGES[policy]
            values[unsure] = low + (high - low) * draws[unsure, position]
        else:
            values[unsure] = {"ones": 1.0, "zeros": 0.0, "ignore": np.nan}[policy]
        targets[:, k] = values
    return targets


def _values(table: Table, finding: str) -> NDArray[np.float64]:
    """1, 0, -1 and NaN of the column of a finding."""
    texts = table.column(_column(table, finding))
    values = np.array([_VALUES.get(text, np.nan if is_blank(text) else np.inf) for text in texts])
    wrong = np.flatnonzero(np.isinf(values))
    if len(wrong):
        row = int(wrong[0])
        raise ValueError(f"{table.where(row)}: {finding} must be 1, 0, -1 or blank, got {texts[row]!r}")
    return values


def _column(table: Table, finding: str) -> str:
    """The column that has the name of a finding, or else another spelling of it."""
    spelt = [name for name in table.columns if label_sets.canonical(name) == label_sets.canonical(finding)]
    if finding in spelt or not spelt:
        return finding
    if len(spelt) > 1:
        raise ValueError(f"{table.path} has {len(spelt)} columns of {finding!r}: {', '.join(map(repr, spelt))}")
    return spelt[0]


def _policies(uncertain: str | Mapping[str, str], labels: Sequence[str]) -> list[str]:
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
    for policy in chosen:
        one_of("uncertain", policy, _POLICIES, ", or 'jf' for all labels")
    return chosen
