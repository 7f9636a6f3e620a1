"""Directive ``registry <subpackage>``: table of the components in a registry."""

from __future__ import annotations

import importlib
import inspect
from typing import Any

from rst import Rendered, table
from sphinx.application import Sphinx


class RegistryTable(Rendered):
    """Table of name, summary and options of each component that the library itself registers."""

    def lines(self) -> list[str]:
        subpackage = importlib.import_module(f"thoraxlib.{self.arguments[0]}")
        own = subpackage.registry.registered()
        rows = []
        for name in own:
            card = subpackage.describe(name)
            options = ", ".join(f"``{key}{_default(value)}``" for key, value in card.options.items())
            rows.append([f"``{name}``", card.summary, options or "(none)"])
        lines = table(["Name", "Description", "Options"], rows, [20, 45, 35])
        more = len(set(subpackage.names()) - set(own))
        if more:
            lines += ["", f"``thoraxlib.{self.arguments[0]}.names()`` lists {more:,} more, from other libraries."]
        return lines


def _default(value: Any) -> str:
    return "" if value is inspect.Parameter.empty else f"={value!r}"


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_directive("registry", RegistryTable)
    return {"parallel_read_safe": True, "version": "1"}
