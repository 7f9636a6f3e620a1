"""Write a page for each subpackage before Sphinx reads the sources, so that new components appear by themselves.

A subpackage of ``thoraxlib`` gets a page if it, or a module inside it, has a registry. The page has the docstring of
the subpackage, a table for each registry, the text of ``docs/_components/<subpackage>.md`` (requirements, an example;
a first heading there is the page's title), and the reference of all public names. If the text contains the directive
``.. registry:: <name>``, the table of that registry stands there.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

from sphinx.application import Sphinx

import thoraxlib
from thoraxlib.registry import Registry

FUNCTIONS = {"build", "describe", "names", "register", "registry"}


def subpackages() -> dict[str, list[str]]:
    """Map each subpackage to the modules that have a registry, without ``thoraxlib.``; the subpackage itself first."""
    found = {}
    for info in pkgutil.iter_modules(thoraxlib.__path__):
        inside = [name for name in _walk(info.name) if isinstance(_registry(name), Registry)]
        if inside:
            found[info.name] = inside
    return found


def _walk(name: str) -> Iterator[str]:
    yield name
    for info in pkgutil.iter_modules(getattr(_module(name), "__path__", [])):
        yield from _walk(f"{name}.{info.name}")


def _module(name: str) -> ModuleType:
    return importlib.import_module(f"thoraxlib.{name}")


def _registry(name: str) -> Registry[Any] | None:
    """Return the registry that a module defines; None if it has none or imports one."""
    module = _module(name)
    defined = re.search(r"^registry\b.*=", inspect.getsource(module), re.MULTILINE)
    return vars(module).get("registry") if defined else None


def page(subpackage: str, registries: list[str], prose: str) -> str:
    """Return the page of a subpackage as Markdown."""
    title, text = f"{subpackage.replace('_', ' ').capitalize()}", prose
    if prose.startswith("# "):
        first, _, text = prose.partition("\n")
        title = first.removeprefix("# ")
    tables = []
    for name in registries:
        if f".. registry:: {name}\n" not in text:
            heading = [f"### `thoraxlib.{name}`"] if len(registries) > 1 else []
            tables += [*heading, *_rst(f".. registry:: {name}")]
    sections = [
        f"# {title}",
        *_rst(f".. automodule:: thoraxlib.{subpackage}", "   :no-members:"),
        *(["## Components", *tables] if tables else []),
        text.strip(),
        "## Reference",
        *_rst(*_reference(subpackage, {id(thoraxlib)})),
    ]
    return "\n\n".join(filter(None, sections)) + "\n"


def _reference(package: str, documented: set[int]) -> list[str]:
    """Return directives for the public names of a package, and of its modules if it has a registry.

    Objects whose ids are in `documented` are left out; the ids of the others are added.
    """
    module = _module(package)
    inside = [info.name for info in pkgutil.iter_modules(getattr(module, "__path__", []))]
    lines = []
    for name in getattr(module, "__all__", []):
        value = getattr(module, name)  # build, register, ... are methods of the registry, and are left out
        if name not in inside and id(value) not in documented and (inspect.isclass(value) or inspect.isfunction(value)):
            lines += [f".. {'autoclass' if inspect.isclass(value) else 'autofunction'}:: thoraxlib.{package}.{name}"]
            documented.add(id(value))
    if _registry(package) is None:
        return lines
    for name in (f"{package}.{inner}" for inner in inside):
        inner = _module(name)
        heading = [f".. rubric:: ``thoraxlib.{name}``", f".. automodule:: thoraxlib.{name}"]
        if hasattr(inner, "__path__"):
            nested = _reference(name, documented)
            lines += [*heading, "   :no-members:", *nested] if nested else []
            continue
        own = {
            each: value
            for each, value in vars(inner).items()
            if not each.startswith("_") and getattr(value, "__module__", None) == inner.__name__
        }
        skipped = [each for each, value in own.items() if each in FUNCTIONS or id(value) in documented]
        if len(skipped) < len(own) or _registry(name) is not None:
            lines += [*heading, *([f"   :exclude-members: {', '.join(skipped)}"] if skipped else [])]
            documented |= {id(value) for value in own.values()}
    return lines


def _rst(*lines: str) -> list[str]:
    return ["\n".join(["```{eval-rst}", *lines, "```"])]


def index(found: dict[str, list[str]]) -> str:
    """Return the page that lists the subpackages."""
    rows = []
    for subpackage, registries in found.items():
        summary = (inspect.getdoc(_module(subpackage)) or "").partition("\n")[0]
        count = sum(len(_registry(name).registered()) for name in registries)  # type: ignore[union-attr]
        rows += [f"   * - :doc:`thoraxlib.{subpackage} <{subpackage}>`", f"     - {summary}", f"     - {count}"]
    table = [".. list-table::", "   :header-rows: 1", "   :widths: 24 64 12", ""]
    table += ["   * - Subpackage", "     - Contents", "     - Components"]
    return "\n\n".join(
        [
            "# Components",
            "Each subpackage holds components of one kind. All subpackages have the same four functions"
            " ({doc}`../guides/registry`). These pages are written from the registries.",
            *_rst(*table, *rows),
            "\n".join(["```{toctree}", ":hidden:", "", *found, "```"]) + "\n",
        ]
    )


def write(app: Sphinx) -> None:
    """Write the pages in ``docs/components`` that changed."""
    source = Path(app.srcdir)
    folder = source / "components"
    folder.mkdir(exist_ok=True)
    found = subpackages()
    pages = {"index": index(found)}
    for subpackage, registries in found.items():
        prose = source / "_components" / f"{subpackage}.md"
        pages[subpackage] = page(subpackage, registries, prose.read_text(encoding="utf-8") if prose.is_file() else "")
    for old in folder.glob("*.md"):
        if old.stem not in pages:
            old.unlink()
    for name, text in pages.items():
        path = folder / f"{name}.md"
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")


def skip(app: Sphinx, what: str, name: str, obj: Any, skip: bool, options: Any) -> bool | None:
    """Skip the fields of named tuples: their docstrings describe them, and autodoc would call each an alias."""
    return True if type(obj).__name__ == "_tuplegetter" else None


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("builder-inited", write)
    app.connect("autodoc-skip-member", skip)
    return {"parallel_read_safe": True, "version": "1"}
