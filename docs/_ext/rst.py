"""Base class and helpers of directives that write reStructuredText."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.util.docutils import SphinxDirective

_LINKS = (
    (re.compile(r"arXiv (\d{4}\.\d{5}(?:v\d+)?)"), r"`arXiv \1 <https://arxiv.org/abs/\1>`__"),
    (re.compile(r"doi (10\.\S+[\w])"), r"`doi \1 <https://doi.org/\1>`__"),
)


class Rendered(SphinxDirective):
    """Base of directives that are replaced by the reStructuredText of :meth:`lines`; used inside ``{eval-rst}``."""

    required_arguments = 0
    optional_arguments = 100
    has_content = True

    def lines(self) -> list[str]:
        raise NotImplementedError

    def run(self) -> list[nodes.Node]:
        container = nodes.container()
        self.state.nested_parse(StringList([*self.lines(), ""], source=self.name), self.content_offset, container)
        return container.children


def table(header: Sequence[str], rows: Iterable[Sequence[str]], widths: Sequence[int] | None = None) -> list[str]:
    """Return the lines of a list table; without `widths`, columns are as wide as their text needs."""
    options = f"   :widths: {' '.join(map(str, widths))}" if widths else "   :widths: auto"
    lines = [".. list-table::", "   :header-rows: 1", "   :class: facts", options, ""]
    for row in (header, *rows):
        for number, cell in enumerate(row):
            first, *rest = cell.splitlines() or [""]
            lines += [f"   {'*' if number == 0 else ' '} - {first}", *(f"       {line}" for line in rest)]
    return lines


def plain(text: str) -> str:
    """Convert the text of a card: text in backquotes becomes code, arXiv and doi numbers become links."""
    pieces = re.split(r"`+", text)
    return "".join(f"``{piece}``" if number % 2 else _escape(piece) for number, piece in enumerate(pieces))


def _escape(text: str) -> str:
    escaped = re.sub(r"([\\*|_])", r"\\\1", text)
    for pattern, link in _LINKS:
        escaped = pattern.sub(link, escaped)
    return escaped
