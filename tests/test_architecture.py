"""The tree keeps what CONTRIBUTING says of it: one direction, no reaching into another room's insides."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import thoraxlib

ROOT = Path(thoraxlib.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))
ABOVE_ROOMS = {"models", "training", "persistence", "explanation", "bridges", "__init__"}


def room(path: Path) -> str:
    """The folder, or the file, directly under ``thoraxlib``."""
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imports(path: Path, *, lazy: bool) -> Iterator[tuple[str, str]]:
    """Module and name of what a file imports from thoraxlib; `lazy`: within functions, too, not for type checkers."""
    stack: list[ast.AST] = [ast.parse(path.read_text(encoding="utf-8"))]
    while stack:
        node = stack.pop()
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "thoraxlib":
            yield from ((str(node.module), alias.name) for alias in node.names)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            stack += node.orelse
        elif lazy or not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            stack += ast.iter_child_nodes(node)


def rooms_of(path: Path, *, lazy: bool) -> set[str]:
    found = {module.split(".")[1] if "." in module else name for module, name in imports(path, lazy=lazy)}
    return found - {room(path), "__version__"}


def test_rooms_need_each_other_in_one_direction() -> None:
    needs: dict[str, set[str]] = {}
    for path in FILES:
        needs.setdefault(room(path), set()).update(rooms_of(path, lazy=False))
    order = list(TopologicalSorter(needs).static_order())  # a CycleError names the rooms
    assert order.index("registry") < order.index("blocks") < order.index("models")
    assert order.index("maps") < order.index("cams") < order.index("explanation")


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_room_knows_whole_models(path: Path) -> None:
    if room(path) not in ABOVE_ROOMS:
        assert not rooms_of(path, lazy=True) & {"models", "training"}


def test_no_private_names_of_other_files() -> None:
    reached = [
        f"{path.relative_to(ROOT)}: {module}.{name}"
        for path in FILES
        for module, name in imports(path, lazy=True)
        if name.startswith("_") and not name.startswith("__")
    ]
    assert reached == []


def test_the_tree_in_the_readme_is_the_tree_on_disk() -> None:
    readme = ROOT.parents[1] / "README.md"
    if not readme.is_file():
        pytest.skip("installed without its repository")
    block = readme.read_text(encoding="utf-8").partition("<!-- tree -->")[2].split("```")[1]
    lines = block.strip().splitlines()
    inside = [line.strip() for line in lines if line.startswith("  ")]
    told = {name for line in inside for name in re.findall(r"\b\w+(?:/|\.py)(?= |$)", line)}
    there = {f"{path.name}/" for path in ROOT.iterdir() if (path / "__init__.py").is_file()}
    there |= {path.name for path in ROOT.glob("*.py") if path.name != "__init__.py"}
    assert told == there
