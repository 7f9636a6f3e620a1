"""PadChest's tree of terms, and the targets of its label lists."""

from __future__ import annotations

import ast
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from functools import cache
from importlib import resources
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from thoraxlib import labels as label_sets
from thoraxlib.datasets.tables import is_blank
from thoraxlib.utils.arguments import one_of
from thoraxlib.utils.files import read_regular

_NORMAL, _OTHER, _UNCHANGED = "normal", "other findings", "unchanged"
_DROPPED = frozenset({"exclude", "suboptimal study"})  # images with these are unusable

_SELECTED = frozenset(label_sets.build("padchest_openi22")) - {_OTHER}
_LONGEST = 10_000  # characters of a list, far above any in the release: parsing takes more than linear time
_QUOTED = re.compile(r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*\"""")
_LINE = re.compile(r"(?P<prefix>[│├└─\s]*)(?P<name>[^\[\\]*)")
_STEP = 4  # characters of the prefix per level


class TermTree:
    """Tree of terms; a term may have several parents.

    Parameters
    ----------
    lines : iterable of str
        One term per line, indented by four characters per level (blanks or box drawing). Text after a bracket or a
        backslash is ignored, and so is upper case.
    source : str
        Name of the tree in messages.

    Attributes
    ----------
    terms : tuple of str
        In lower case, in the order of their first lines.
    parents : Mapping of str to tuple of str
        Parents of each term; empty for a term that is only a root.
    last_root : Mapping of str to str
        The root above the last line of each term; the term itself if that line is a root.

    Raises
    ------
    ValueError
        There is no term, or a line is more than one level deeper than the line before it.

    Examples
    --------
    >>> tree = TermTree.shipped()
    >>> len(tree.terms), tree.parents["hydropneumothorax"]
    (189, ('pneumothorax', 'pleural effusion'))
    >>> sorted(tree.with_ancestors(["air bronchogram"]))
    ['air bronchogram', 'alveolar pattern', 'consolidation', 'infiltrates']
    """

    def __init__(self, lines: Iterable[str], source: str = "the tree") -> None:
        parents: dict[str, list[str]] = {}
        self.last_root: dict[str, str] = {}
        path: list[str] = []
        top: int | None = None
        for number, line in enumerate(lines, start=1):
            match = _LINE.match(line)
            name = _plain(match["name"]) if match else ""
            if match is None or not name:
                continue
            depth = len(match["prefix"]) // _STEP
            top = depth if top is None else top
            depth -= top
            if not 0 <= depth <= len(path):
                raise ValueError(f"{source}:{number}: {name!r} is at level {depth}, below a line at level {len(path)}")
            path = [*path[:depth], name]
            above = parents.setdefault(name, [])
            if depth and path[depth - 1] not in above:
                above.append(path[depth - 1])
            self.last_root[name] = path[0]
        if not parents:
            raise ValueError(f"{source} holds no term")
        self.terms = tuple(parents)
        self.parents: Mapping[str, tuple[str, ...]] = {name: tuple(above) for name, above in parents.items()}

    @classmethod
    @cache
    def shipped(cls) -> TermTree:
        """Return the tree of the release of January 2019: 189 terms on 206 lines, 99 of them roots.

        Names and parents as in the release's ``tree_term_CUI_counts_160K.csv``; Bustos et al. 2020, arXiv 1901.07441.
        """
        return cls(resources.files(__package__).joinpath("terms.txt").read_text(encoding="utf-8").splitlines())

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> TermTree:
        """Read a tree from a file with the layout of ``tree_term_CUI_counts_160K.csv``, which is no CSV table.

        Raises
        ------
        ValueError
            As above, with file and line; or the file is no UTF-8 text.
        """
        try:
            return cls(read_regular(path).decode("utf-8-sig").splitlines(), str(path))
        except UnicodeDecodeError as error:
            raise ValueError(f"{path} is no text file: {error}") from error

    def with_ancestors(self, terms: Iterable[str]) -> set[str]:
        """Return `terms` and all their ancestors; a term that is not in the tree has none."""
        result: set[str] = set()
        waiting = [_plain(term) for term in terms]
        while waiting:
            term = waiting.pop()
            if term not in result:
                result.add(term)
                waiting.extend(self.parents.get(term, ()))
        return result


def _plain(name: str) -> str:
    return " ".join(name.lower().split())


class ListedTargets(NamedTuple):
    """Targets of N label lists.

    Attributes
    ----------
    targets : ndarray
        float32 (N, K): 1, 0 or NaN.
    unlabelled : ndarray
        bool (N,): True if the list is missing or empty.
    unusable : ndarray
        bool (N,): True if the list has "exclude" or "suboptimal study".
    """

    targets: NDArray[np.float32]
    unlabelled: NDArray[np.bool_]
    unusable: NDArray[np.bool_]


def parse_labels(text: str) -> list[str] | None:
    """Return the labels of a field in lower case, without extra blanks, empty labels and repetitions; or None.

    A field is the text of a Python list; None stands for an empty field. Malformed lists (without commas or quotes, or
    cut off) are read as far as possible.

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
    """Turn the ``Labels`` fields of PadChest's table into targets.

    Parameters
    ----------
    texts : sequence of str
        The N fields; see :func:`parse_labels`.
    labels : sequence of str
        The K labels, in any data set's spelling: terms of the tree or of the fields, "normal" and "other findings".
        Targets of other labels are NaN.
    rule : {"ancestors", "last_root"}
        "ancestors": a term and all its ancestors are positive. "other findings" is positive if there are findings, but
        none of the other 20 of "padchest_openi22". If "unchanged" is the only entry, all targets are unknown.
        "last_root": as in jaydurant/ChestX-ray_classification_and_localization. Each term becomes the root above the
        last of its lines in the tree; "other findings" is positive if no other label is left, also for empty, unusable
        and unchanged lists; a missing list becomes "normal".
    normal : {"alone", "listed"}
        "alone": an image with a finding is not normal, even if its list has "normal"; "listed": it is. "last_root"
        always means "listed".
    tree : TermTree, optional
        By default :meth:`TermTree.shipped`.

    Raises
    ------
    ValueError
        `rule` or `normal` is unknown, or no label is known.
    """
    one_of("rule", rule, ("ancestors", "last_root"))
    one_of("normal", normal, ("alone", "listed"))
    tree = tree or TermTree.shipped()
    lists = {text: parse_labels(text) for text in dict.fromkeys(texts)}
    names = _names(labels, tree, lists.values())
    rows: dict[str, tuple[list[float], bool, bool]] = {}
    for text, terms in lists.items():
        if rule == "last_root":
            rows[text] = _row(_by_last_root(terms, tree), names), False, False
        else:
            unusable = terms is not None and not _DROPPED.isdisjoint(terms)
            known = None if unusable or not terms else _with_ancestors(terms, tree, normal)
            rows[text] = _row(known, names), not terms, unusable
    ordered = [rows[text] for text in texts]
    return ListedTargets(
        np.array([row for row, *_ in ordered], np.float32).reshape(len(ordered), len(labels)),
        np.array([unlabelled for _, unlabelled, _ in ordered], bool),
        np.array([unusable for *_, unusable in ordered], bool),
    )


def _names(labels: Sequence[str], tree: TermTree, lists: Iterable[list[str] | None]) -> list[str | None]:
    """Return the term of each label, or None."""
    listed = dict.fromkeys(term for terms in lists for term in terms or ())
    known = [
        term for term in dict.fromkeys([*tree.terms, *listed, _NORMAL, _OTHER]) if term not in (*_DROPPED, _UNCHANGED)
    ]
    positions = label_sets.align(known, labels)
    if all(position is None for position in positions):
        near = get_close_matches(label_sets.canonical(labels[0]), known)
        hint = f"; near {labels[0]!r}: {', '.join(near)}" if near else ""
        raise ValueError(f"labels: none of {list(labels)} is known to PadChest's tree or table{hint}")
    return [None if position is None else known[position] for position in positions]


def _with_ancestors(terms: list[str], tree: TermTree, normal: str) -> set[str] | None:
    """Return the positive labels, or None if nothing is known."""
    findings = [term for term in terms if term not in (_NORMAL, _UNCHANGED)]
    if not findings and _NORMAL not in terms:
        return None
    positive = tree.with_ancestors(findings)
    if findings and not positive & _SELECTED:
        positive.add(_OTHER)
    if _NORMAL in terms and (not findings or normal == "listed"):
        positive.add(_NORMAL)
    return positive


def _by_last_root(terms: list[str] | None, tree: TermTree) -> set[str]:
    if terms is None:
        return {_NORMAL}
    roots = {tree.last_root.get(term, term) for term in terms}
    return roots if roots & _SELECTED else roots | {_OTHER}


def _row(positive: set[str] | None, names: list[str | None]) -> list[float]:
    return [float("nan") if name is None or positive is None else float(name in positive) for name in names]
