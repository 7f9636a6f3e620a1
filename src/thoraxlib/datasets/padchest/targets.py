"""PadChest's label lists as targets."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from thoraxlib import labels as label_sets
from thoraxlib.datasets.padchest.terms import TermTree
from thoraxlib.datasets.tables import is_blank
from thoraxlib.utils.arguments import one_of

RULES = ("ancestors", "last_root")
NORMAL, OTHER, UNCHANGED = "normal", "other findings", "unchanged"
DROPPED = frozenset({"exclude", "suboptimal study"})  # images that are of no use

_SELECTED = frozenset(label_sets.build("padchest_openi22")) - {OTHER}
_LONGEST = 10_000  # characters of a list, far above any: what parses it takes more than linear time
_QUOTED = re.compile(r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*\"""")


class ListedTargets(NamedTuple):
    """What :func:`listed_targets` makes of N label lists.

    Attributes
    ----------
    targets : ndarray
        float32 (N, K): 1, 0 or NaN.
    unlabelled : ndarray
        bool (N,): the list is lacking or empty.
    unusable : ndarray
        bool (N,): the list says that the image is to be left out.
    """

    targets: NDArray[np.float32]
    unlabelled: NDArray[np.bool_]
    unusable: NDArray[np.bool_]


def parse_labels(text: str) -> list[str] | None:
    """The labels of a field: lower case, without stray blanks, empty ones and repetitions; None for an empty field.

    The field is the text of a Python list. One that is not quite that (without commas or quotes, or cut off) is read as
    well as it can be.

    Examples
    --------
    >>> parse_labels("['COPD signs', ' cardiomegaly', '', 'copd signs']")
    ['copd signs', 'cardiomegaly']
    >>> parse_labels("[]"), parse_labels("nan")
    ([], None)
    >>> parse_labels("['pleural effusion' 'nodule']"), parse_labels("[normal, nan")
    (['pleural effusion', 'nodule'], ['normal'])
    """
    text = text.strip()
    if is_blank(text):
        return None
    plain = (" ".join(label.lower().split()) for label in _items(text))
    return list(dict.fromkeys(label for label in plain if not is_blank(label)))


def _items(text: str) -> list[str]:
    try:
        value = ast.literal_eval(text) if len(text) <= _LONGEST else None
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        value = None
    if isinstance(value, (list, tuple)) and all(isinstance(item, str) for item in value):
        quoted = _QUOTED.findall(text)
        if len(value) == len(quoted):  # fewer: Python has joined strings that no comma separates
            return list(value)
        return [item[1:-1] for item in quoted]
    return [item.strip(" \t\r\n[]()'\"") for item in text.split(",")]


def listed_targets(
    texts: Sequence[str],
    labels: Sequence[str],
    *,
    rule: str = "ancestors",
    normal: str = "alone",
    tree: TermTree | None = None,
) -> ListedTargets:
    """Targets of the ``Labels`` fields of PadChest's table.

    Parameters
    ----------
    texts : sequence of str
        The N fields; see :func:`parse_labels`.
    labels : sequence of str
        The K labels that are asked for: terms of the tree or of the fields, "normal" and "other findings", in any data
        set's spelling. Others are NaN.
    rule : {"ancestors", "last_root"}
        "ancestors": a term is positive, and so is everything it is a kind of. "other findings" is positive where there
        are findings, but none of the other 20 of "padchest_openi22". "unchanged" on its own leaves all labels unknown.
        "last_root": what jaydurant/ChestX-ray_classification_and_localization makes of the fields. Each term becomes
        the root above the last of its lines in the tree, and "other findings" takes all fields from which nothing is
        left, the empty, unusable and unchanged ones among them; a lacking field becomes "normal".
    normal : {"alone", "listed"}
        "alone": an image with a finding is not normal, whatever its list says; "listed": what the list says counts.
        With "last_root" it always does.
    tree : TermTree, optional
        By default :meth:`TermTree.shipped`.

    Raises
    ------
    ValueError
        Another `rule` or `normal`; or no label that is known.
    """
    one_of("rule", rule, RULES)
    one_of("normal", normal, ("alone", "listed"))
    tree = tree or TermTree.shipped()
    lists = {text: parse_labels(text) for text in dict.fromkeys(texts)}
    names = _names(labels, tree, lists.values())
    rows: dict[str, tuple[list[float], bool, bool]] = {}
    for text, terms in lists.items():
        if rule == "last_root":
            rows[text] = _row(_by_last_root(terms, tree), names), False, False
        else:
            unusable = terms is not None and not DROPPED.isdisjoint(terms)
            known = None if unusable or not terms else _with_ancestors(terms, tree, normal)
            rows[text] = _row(known, names), not terms, unusable
    found = [rows[text] for text in texts]
    return ListedTargets(
        np.array([row for row, *_ in found], np.float32).reshape(len(found), len(labels)),
        np.array([unlabelled for _, unlabelled, _ in found], bool),
        np.array([unusable for *_, unusable in found], bool),
    )


def _names(labels: Sequence[str], tree: TermTree, lists: Iterable[list[str] | None]) -> list[str | None]:
    """For each label, what it is called here."""
    listed = dict.fromkeys(term for terms in lists for term in terms or ())
    known = [term for term in dict.fromkeys([*tree.terms, *listed, NORMAL, OTHER]) if term not in (*DROPPED, UNCHANGED)]
    found = label_sets.align(known, labels)
    if all(place is None for place in found):
        near = get_close_matches(label_sets.canonical(labels[0]), known)
        hint = f"; near {labels[0]!r}: {', '.join(near)}" if near else ""
        raise ValueError(f"labels: none of {list(labels)} is known to PadChest's tree or table{hint}")
    return [None if place is None else known[place] for place in found]


def _with_ancestors(terms: list[str], tree: TermTree, normal: str) -> set[str] | None:
    """What is positive; None where nothing is known."""
    findings = [term for term in terms if term not in (NORMAL, UNCHANGED)]
    if not findings and NORMAL not in terms:
        return None
    positive = tree.with_ancestors(findings)
    if findings and not positive & _SELECTED:
        positive.add(OTHER)
    if NORMAL in terms and (not findings or normal == "listed"):
        positive.add(NORMAL)
    return positive


def _by_last_root(terms: list[str] | None, tree: TermTree) -> set[str]:
    if terms is None:
        return {NORMAL}
    roots = {tree.last_root.get(term, term) for term in terms}
    return roots if roots & _SELECTED else roots | {OTHER}


def _row(positive: set[str] | None, names: list[str | None]) -> list[float]:
    return [float("nan") if name is None or positive is None else float(name in positive) for name in names]
