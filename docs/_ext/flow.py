"""Directive ``flow <model>``: diagram of a model's composition, as SVG in the colours of the page.

The content is a grid of cells: one line for each row, with ``|`` between cells. After an empty line follow the arrows::

    image: Image @input | backbone: DenseNet-121 [backbones] @backbone | map: Map @features

    image -> backbone -> map

A cell is ``key: Title [subpackage] @where``. A cell with a subpackage is a component and links to the subpackage's
page; any other cell is data. ``@where`` adds a detail, which is read from the model after it was built and run: the
number of weights of a component (the name of a submodule), or the shape of data (a field of ``forward_all``, or
``@input``).
"""

from __future__ import annotations

import json
import re
import textwrap
from dataclasses import dataclass
from functools import reduce
from html import escape
from itertools import pairwise
from typing import Any, ClassVar

import torch
from docutils import nodes
from docutils.parsers.rst import directives
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

import thoraxlib

WIDTH, HEIGHT, ACROSS, DOWN, MARGIN, LINE = 108, 58, 24, 34, 4, 14
_CELL = re.compile(r"(?P<key>\w+): (?P<title>[^@\[]+?)\s*(?:\[(?P<subpackage>[\w.]+)\]\s*)?(?:@(?P<where>[\w.]+))?")


@dataclass
class Cell:
    """A box of the diagram, at a row and a column of the grid."""

    row: int
    column: int
    title: str
    subpackage: str | None
    detail: str = ""

    @property
    def left(self) -> float:
        return MARGIN + self.column * (WIDTH + ACROSS)

    @property
    def top(self) -> float:
        return MARGIN + self.row * (HEIGHT + DOWN)

    @property
    def middle(self) -> tuple[float, float]:
        return self.left + WIDTH / 2, self.top + HEIGHT / 2


class Flow(SphinxDirective):
    """Diagram of one model."""

    required_arguments = 1
    has_content = True
    option_spec: ClassVar[dict[str, Any]] = {"options": json.loads, "alt": directives.unchanged_required}

    def run(self) -> list[nodes.Node]:
        split = list(self.content).index("")
        model = _Measured(self.arguments[0], self.options.get("options", {}))
        cells: dict[str, Cell] = {}
        for row, line in enumerate(self.content[:split]):
            for column, text in enumerate(line.split("|")):
                if text.strip():
                    key, cell = self._cell(text.strip(), row, column, model)
                    cells[key] = cell
        arrows = [pair for line in self.content[split:] for pair in pairwise(re.split(r"\s*->\s*", line.strip()))]
        for key in {key for pair in arrows for key in pair} - set(cells):
            raise self.error(f"no cell has the key {key!r} of an arrow; keys: {', '.join(cells)}")
        root = "../" * self.env.docname.count("/")
        svg = _draw(cells, arrows, self.options.get("alt", f"Composition of {self.arguments[0]}"), root)
        return [nodes.raw("", f'<figure class="flow">{svg}</figure>', format="html")]

    def _cell(self, text: str, row: int, column: int, model: _Measured) -> tuple[str, Cell]:
        match = _CELL.fullmatch(text)
        if match is None:
            raise self.error(f"a cell must be 'key: Title [subpackage] @where', got {text!r}")
        cell = Cell(row, column, match["title"], match["subpackage"])
        if match["where"]:
            cell.detail = model.parameters(match["where"]) if cell.subpackage else model.shape(match["where"])
        return match["key"], cell


class _Measured:
    """A model and its outputs for one random image."""

    def __init__(self, name: str, options: dict[str, Any]) -> None:
        torch.manual_seed(0)
        self.model = thoraxlib.build(name, **options).eval()
        spec = self.model.input_spec
        self.x = torch.rand(1, spec.channels, *spec.size)
        with torch.inference_mode():
            self.outputs = self.model.forward_all(self.x)

    def parameters(self, where: str) -> str:
        count = sum(parameter.numel() for parameter in self.model.get_submodule(where).parameters())
        return f"{count / 1e6:.1f} M weights" if count >= 1e6 else f"{count:,} weights"

    def shape(self, where: str) -> str:
        value = self.x if where == "input" else reduce(_step, where.split("."), self.outputs)
        return " x ".join(map(str, value.shape[1:]))


def _step(value: Any, name: str) -> Any:
    return value[int(name)] if name.lstrip("-").isdigit() else getattr(value, name)


def _draw(cells: dict[str, Cell], arrows: list[tuple[str, str]], alt: str, root: str) -> str:
    width = max(cell.left for cell in cells.values()) + WIDTH + MARGIN
    height = max(cell.top for cell in cells.values()) + HEIGHT + MARGIN
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" style="max-width: {width}px"'
        f' role="img" aria-label="{escape(alt)}">',
        '<defs><marker id="flow-tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7"'
        ' orient="auto"><path class="tip" d="M0,0.5 L8,4 L0,7.5 Z"/></marker></defs>',
        *(f'<path class="arrow" d="{_path(cells[a], cells[b])}" marker-end="url(#flow-tip)"/>' for a, b in arrows),
        *(_box(cell, root) for cell in cells.values()),
    ]
    return "".join([*lines, "</svg>"])


def _path(a: Cell, b: Cell) -> str:
    (ax, ay), (bx, by) = a.middle, b.middle
    if a.row == b.row and b.column < a.column:
        return f"M{a.left},{ay} L{b.left + WIDTH},{by}"
    if b.column > a.column:  # from the right side to the left side
        start, end, bend = (a.left + WIDTH, ay), (b.left, by), ACROSS
        return f"M{start[0]},{start[1]} C{start[0] + bend},{start[1]} {end[0] - bend},{end[1]} {end[0]},{end[1]}"
    down = 1 if b.row > a.row else -1  # from below to above, or from above to below
    start, end = (ax, ay + down * HEIGHT / 2), (bx, by - down * HEIGHT / 2)
    bend = down * DOWN
    return f"M{start[0]},{start[1]} C{start[0]},{start[1] + bend} {end[0]},{end[1] - bend} {end[0]},{end[1]}"


def _box(cell: Cell, root: str) -> str:
    x, y = cell.middle
    title = [("title", line) for line in textwrap.wrap(cell.title, 14)]
    texts = title + ([("detail", cell.detail)] if cell.detail else [])
    first = y - LINE * (len(texts) - 1) / 2
    words = "".join(
        f'<text class="{kind}" x="{x}" y="{first + LINE * number}">{escape(text)}</text>'
        for number, (kind, text) in enumerate(texts)
    )
    kind = "component" if cell.subpackage else "data"
    rectangle = (
        f'<rect x="{cell.left}" y="{cell.top}" width="{WIDTH}" height="{HEIGHT}" rx="{6 if cell.subpackage else 20}"/>'
    )
    group = f'<g class="{kind}">{rectangle}{words}</g>'
    return f'<a href="{root}components/{cell.subpackage}.html">{group}</a>' if cell.subpackage else group


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_directive("flow", Flow)
    return {"parallel_read_safe": True, "version": "1"}
