"""``{registry} <room>``: a table of a room's own entries, read from its registry."""

from __future__ import annotations

import importlib
import inspect
from typing import Any, ClassVar

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective


class RegistryTable(SphinxDirective):
    """Name, summary and options of every entry that the library itself registers in a room."""

    required_arguments = 1
    option_spec: ClassVar[dict[str, Any]] = {}

    def run(self) -> list[nodes.Node]:
        room = importlib.import_module(f"thoraxlib.{self.arguments[0]}")
        room.names()
        lines = [".. list-table::", "   :header-rows: 1", "   :widths: 20 45 35", ""]
        lines += ["   * - Name", "     - What it is", "     - Options"]
        for name in room.registry.registered():
            card = room.describe(name)
            options = ", ".join(f"``{key}{_default(value)}``" for key, value in card.options.items())
            lines += [f"   * - ``{name}``", f"     - {card.summary}", f"     - {options or '(none)'}"]
        container = nodes.container()
        self.state.nested_parse(StringList([*lines, ""], source="registry"), self.content_offset, container)
        return container.children


def _default(value: Any) -> str:
    return "" if value is inspect.Parameter.empty else f"={value!r}"


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_directive("registry", RegistryTable)
    return {"parallel_read_safe": True, "version": "1"}
