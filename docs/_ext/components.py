"""Write a page for each subpackage before Sphinx reads the sources: new components appear by themselves.

A page belongs to a subpackage of ``thoraxlib`` that has a registry, or a module inside it that has one. It has the
module's docstring, a table of each registry, the text of ``docs/_components/<subpackage>.md`` (what a component must
do, an example; a heading there is the page's title), and the reference of everything public in it.
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

VERBS = {"build", "describe", "names", "register", "registry"}


def subpackages() -> dict[str, list[str]]:
    """Subpackage -> its registries' modules, without ``thoraxlib.``; the subpackage itself first."""
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
    """The registry that a module makes, not one that it imports."""
    module = _module(name)
    made = re.search(r"^registry\b.*=", inspect.getsource(module), re.MULTILINE)
    return vars(module).get("registry") if made else None


def page(subpackage: str, registries: list[str], prose: str) -> str:
    """The page, as Markdown."""
    title, text = f"{subpackage.replace('_', ' ').capitalize()}", prose
    if prose.startswith("# "):
        first, _, text = prose.partition("\n")
        title = first.removeprefix("# ")
    tables = []
    for name in registries:
        heading = [f"### `thoraxlib.{name}`"] if len(registries) > 1 else []
        tables += [*heading, *_rst(f".. registry:: {name}")]
    parts = [
        f"# {title}",
        *_rst(f".. automodule:: thoraxlib.{subpackage}", "   :no-members:"),
        "## Components",
        *tables,
        text.strip(),
        "## Reference",
        *_rst(*_reference(subpackage)),
    ]
    return "\n\n".join(filter(None, parts)) + "\n"


def _reference(subpackage: str) -> list[str]:
    module = _module(subpackage)
    inside = [info.name for info in pkgutil.iter_modules(getattr(module, "__path__", []))]
    # the verbs are the registry's own methods, but where a subpackage has a function of its own for one
    public = {
        name: value
        for name in getattr(module, "__all__", [])
        if name not in inside and (inspect.isclass(value := getattr(module, name)) or inspect.isfunction(value))
    }
    lines = []
    for name, value in public.items():
        lines += [f".. {'autoclass' if inspect.isclass(value) else 'autofunction'}:: thoraxlib.{subpackage}.{name}"]
    told = {id(value) for value in public.values()} | {id(thoraxlib)}
    for name in inside:
        part = _module(f"{subpackage}.{name}")
        names = [
            each
            for each, value in vars(part).items()
            if not each.startswith("_") and getattr(value, "__module__", None) == part.__name__
        ]
        skipped = [each for each in names if each in VERBS or id(getattr(part, each)) in told]
        if set(names) - set(skipped):
            lines += [
                f".. rubric:: ``thoraxlib.{subpackage}.{name}``",
                f".. automodule:: thoraxlib.{subpackage}.{name}",
            ]
            lines += [f"   :exclude-members: {', '.join(skipped)}"] if skipped else []
            told |= {id(getattr(part, each)) for each in names}
    return lines


def _rst(*lines: str) -> list[str]:
    return ["\n".join(["```{eval-rst}", *lines, "```"])]


def index(found: dict[str, list[str]]) -> str:
    """List of the subpackages."""
    rows = []
    for subpackage, registries in found.items():
        what = (inspect.getdoc(_module(subpackage)) or "").partition("\n")[0]
        count = sum(len(_registry(name).registered()) for name in registries)  # type: ignore[union-attr]
        rows += [f"   * - :doc:`thoraxlib.{subpackage} <{subpackage}>`", f"     - {what}", f"     - {count}"]
    table = [".. list-table::", "   :header-rows: 1", "   :widths: 24 64 12", ""]
    table += ["   * - Subpackage", "     - Contents", "     - Components"]
    return "\n\n".join(
        [
            "# Components",
            "A subpackage holds components of one kind and has the same four functions as every other"
            " ({doc}`../guides/registry`)."
            " These pages are written from the registries.",
            *_rst(*table, *rows),
            "\n".join(["```{toctree}", ":hidden:", "", *found, "```"]) + "\n",
        ]
    )


def write(app: Sphinx) -> None:
    """Write ``docs/components``, touching only what changed."""
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
    """A named tuple's fields are told in its docstring; autodoc would call each an alias for a number."""
    return True if type(obj).__name__ == "_tuplegetter" else None


def setup(app: Sphinx) -> dict[str, Any]:
    app.connect("builder-inited", write)
    app.connect("autodoc-skip-member", skip)
    return {"parallel_read_safe": True, "version": "1"}
