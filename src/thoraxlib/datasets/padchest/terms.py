"""The tree of PadChest's terms: which finding is a kind of which."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from functools import cache
from importlib import resources

from thoraxlib.utils.files import read_regular

_LINE = re.compile(r"(?P<prefix>[│├└─\s]*)(?P<name>[^\[\\]*)")
_STEP = 4  # characters of the prefix for a level


class TermTree:
    """Terms and their parents; a term may have several.

    Parameters
    ----------
    lines : iterable of str
        A term a line, its depth told by four characters each, blanks or box drawing; what follows a bracket or a
        backslash is left out. Upper and lower case are one.
    source : str
        For messages.

    Attributes
    ----------
    terms : tuple of str
        In lower case, in the order of their first lines.
    parents : Mapping of str to tuple of str
        Of every term; empty for those at the root alone.
    last_root : Mapping of str to str
        For every term the root above the last of its lines, itself where that is a root.

    Raises
    ------
    ValueError
        No term, or a line that is more than a level deeper than the one before.

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
        """The tree of the release of January 2019: 189 terms on 206 lines, 99 of them roots.

        Names and parents as in the release's ``tree_term_CUI_counts_160K.csv``; Bustos et al. 2020, arXiv 1901.07441.
        """
        return cls(resources.files(__package__).joinpath("terms.txt").read_text(encoding="utf-8").splitlines())

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> TermTree:
        """The tree of a file laid out as ``tree_term_CUI_counts_160K.csv``, which is no CSV table.

        Raises
        ------
        ValueError
            As above, with file and line; or it is no UTF-8 text.
        """
        try:
            return cls(read_regular(path).decode("utf-8-sig").splitlines(), str(path))
        except UnicodeDecodeError as error:
            raise ValueError(f"{path} is no text file: {error}") from error

    def with_ancestors(self, terms: Iterable[str]) -> set[str]:
        """`terms` and all that they are kinds of; a term that the tree does not know stands for itself."""
        found: set[str] = set()
        waiting = [_plain(term) for term in terms]
        while waiting:
            term = waiting.pop()
            if term not in found:
                found.add(term)
                waiting.extend(self.parents.get(term, ()))
        return found


def _plain(name: str) -> str:
    return " ".join(name.lower().split())
