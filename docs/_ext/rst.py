"""What the directives share: they write reStructuredText, which Sphinx then reads as if it stood in the page."""

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
    """A directive that stands for the reStructuredText which :meth:`lines` gives; used inside ``{eval-rst}``."""

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
    """A list table, with columns as wide as `widths` say or as they need."""
    options = f"   :widths: {' '.join(map(str, widths))}" if widths else "   :widths: auto"
    lines = [".. list-table::", "   :header-rows: 1", "   :class: facts", options, ""]
    for row in (header, *rows):
        for number, cell in enumerate(row):
            first, *rest = cell.splitlines() or [""]
            lines += [f"   {'*' if number == 0 else ' '} - {first}", *(f"       {line}" for line in rest)]
    return lines


def plain(text: str) -> str:
    """Text of a card: what is between backquotes as code, the rest as it stands, papers as links."""
    parts = re.split(r"`+", text)
    return "".join(f"``{part}``" if number % 2 else _escape(part) for number, part in enumerate(parts))


def _escape(text: str) -> str:
    escaped = re.sub(r"([\\*|_])", r"\\\1", text)
    for pattern, link in _LINKS:
        escaped = pattern.sub(link, escaped)
    return escaped
