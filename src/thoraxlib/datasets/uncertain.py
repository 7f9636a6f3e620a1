"""Labels of the CheXpert labeller: 1, 0, -1 for uncertain, blank for not mentioned."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from thoraxlib import labels as label_sets
from thoraxlib.datasets.tables import Table, is_blank, match_labels
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
    """Return the targets of a table (rows, K); NaN for labels that are no finding of it.

    Parameters
    ----------
    table : Table
        A table with a column for each finding, in any spelling.
    labels : sequence of str
        The K labels.
    uncertain : str or mapping of str to str
        The meaning of -1: a policy for all labels, or by label ("ignore" for the others); see
        :class:`~thoraxlib.datasets.chexpert.CheXpert`.
    blank : {"zeros", "ignore"}
        Target of an observation that is not mentioned: 0 or NaN.
    seed : int
        Random seed of smoothed labels. They are drawn for the whole table, so that an image's labels do not depend on
        the selection of images.
    findings : sequence of str
        The findings of the table.
    source : str
        Name of the data set, for messages.

    Raises
    ------
    ValueError
        A column is missing or comes twice; a value is not 1, 0, -1 or blank (empty, or a word for it such as "nan"); a
        policy is unknown; or no label is known.
    """
    one_of("blank", blank, ("zeros", "ignore"))
    sources = match_labels(labels, findings, source)
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
    """Read the column of a finding, in any spelling, as 1, 0, -1 and NaN."""
    spelled = [name for name in table.columns if label_sets.canonical(name) == label_sets.canonical(finding)]
    if len(spelled) > 1 and finding not in spelled:
        raise ValueError(f"{table.path} has {len(spelled)} columns of {finding!r}: {', '.join(map(repr, spelled))}")
    texts = table.column(finding, *spelled)
    values = np.array([_VALUES.get(text, np.nan if is_blank(text) else np.inf) for text in texts])
    wrong = np.flatnonzero(np.isinf(values))
    if len(wrong):
        row = int(wrong[0])
        raise ValueError(f"{table.where(row)}: {finding} must be 1, 0, -1 or blank, got {texts[row]!r}")
    return values


def _policies(uncertain: str | Mapping[str, str], labels: Sequence[str]) -> list[str]:
    if uncertain == "jf":
        return [_JF.get(label_sets.canonical(label), "zeros") for label in labels]
    if isinstance(uncertain, str):
        chosen = [uncertain] * len(labels)
    else:
        names = [label_sets.canonical(label) for label in labels]
        by_name = {label_sets.canonical(label): policy for label, policy in uncertain.items()}
        unknown = [label for label in uncertain if label_sets.canonical(label) not in names]
        if unknown:
            raise ValueError(f"uncertain names {unknown}, which are not among the labels {list(labels)}")
        chosen = [by_name.get(name, "ignore") for name in names]
    for policy in chosen:
        one_of("uncertain", policy, _POLICIES, ", or 'jf' for all labels")
    return chosen
