"""Rules of CONTRIBUTING: imports in one direction, no private names of other files, complete docstrings."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import thoraxlib

ROOT = Path(thoraxlib.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))
STARS = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
ANY = "any"  # a subpackage whose name is known only when the library runs
ABOVE_SUBPACKAGES = {"models", "training", "explanation", "archives", "__init__"}


def subpackage(path: Path) -> str:
    """Return the folder or file directly under ``thoraxlib``."""
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imports(path: Path, *, lazy: bool) -> Iterator[tuple[str, str]]:
    """Yield module and name of each import from thoraxlib; `lazy`: also inside functions, never for type checkers."""
    stack: list[ast.AST] = [ast.parse(path.read_text(encoding="utf-8"))]
    while stack:
        node = stack.pop()
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "thoraxlib":
            yield from ((str(node.module), alias.name) for alias in node.names)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            stack += node.orelse
        elif lazy or not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            stack += ast.iter_child_nodes(node)


def subpackages_of(path: Path, *, lazy: bool) -> set[str]:
    found = {module.split(".")[1] if "." in module else name for module, name in imports(path, lazy=lazy)}
    return found - {subpackage(path), "__version__"}


def imported_by_name(path: Path) -> set[str]:
    """Return the subpackages that a file imports by a string: an argument of `import_module`, or of `modules`.

    Without `reproduce`: registries list the modules there that register components, and know no more of them.
    """
    found = set()
    for call in (node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Call)):
        given: list[ast.expr] = [keyword.value for keyword in call.keywords if keyword.arg == "modules"]
        if ast.unparse(call.func).endswith("import_module"):
            given += call.args
        for text in (node.value for value in given for node in ast.walk(value) if isinstance(node, ast.Constant)):
            top, _, rest = str(text).partition(".")
            if top == "thoraxlib":
                found.add(rest.partition(".")[0] or ANY)
    return found - {subpackage(path), "reproduce"}


def test_subpackages_need_each_other_in_one_direction() -> None:
    needs: dict[str, set[str]] = {}
    for path in FILES:
        needs.setdefault(subpackage(path), set()).update(subpackages_of(path, lazy=True) | imported_by_name(path))
    needs["__init__"].discard(ANY)  # it hands out the names of all others, and none of them needs it
    assert ANY not in set().union(*needs.values())
    order = list(TopologicalSorter(needs).static_order())  # a CycleError names the subpackages
    assert order.index("utils") < order.index("registry") < order.index("layers") < order.index("models")
    assert order.index("localization") < order.index("cams") < order.index("explanation") < order.index("archives")
    assert order.index("checkpoints") < order.index("backbones")
    assert order.index("localization") < order.index("datasets")


def test_files_need_each_other_in_one_direction() -> None:
    def module_of(path: Path) -> str:
        return ".".join(path.relative_to(ROOT.parent).with_suffix("").parts).removesuffix(".__init__")

    modules = {module_of(path) for path in FILES}
    needs: dict[str, set[str]] = {}
    for path in FILES:
        own = module_of(path)  # its folder's __init__ has been begun before it, and has the registry
        found = {(f"{module}.{name}", module) for module, name in imports(path, lazy=True)}
        needs[own] = {inner if inner in modules else module for inner, module in found} - {own.rpartition(".")[0]}
    list(TopologicalSorter(needs).static_order())  # a CycleError names the files


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_subpackage_below_imports_whole_models(path: Path) -> None:
    if subpackage(path) not in ABOVE_SUBPACKAGES:
        assert not subpackages_of(path, lazy=True) & {"models", "training"}


def test_nothing_imports_reproduce() -> None:
    """Registries list its modules as text."""
    importers = {str(path.relative_to(ROOT)) for path in FILES if "reproduce" in subpackages_of(path, lazy=True)}
    assert importers == set()


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
    documented = {name for line in inside for name in re.findall(r"\b\w+(?:/|\.py)(?= |$)", line)}
    there = {f"{path.name}/" for path in ROOT.iterdir() if (path / "__init__.py").is_file()}
    there |= {path.name for path in ROOT.glob("*.py") if path.name != "__init__.py"}
    assert documented == there


def sections(doc: str) -> dict[str, str]:
    """The sections of a docstring in NumPy's style, by their headings."""
    _, *parts = re.split(r"^([A-Z][A-Za-z ]+)\n-{3,}\n", doc, flags=re.MULTILINE)
    return dict(zip(parts[::2], parts[1::2], strict=True))


def refers(doc: str) -> bool:
    """Return True if a docstring refers to another one for the rest."""
    return re.search(r"\b(see|as|write|for|errors:) [`:]", doc, re.IGNORECASE) is not None


def described(doc: str) -> set[str]:
    """Return the parameters that a docstring lists."""
    found = sections(doc)
    lines = (found.get("Parameters", "") + found.get("Other Parameters", "")).splitlines()
    listed = (re.match(r"(\*{0,2}\w+(?:, \*{0,2}\w+)*)(?: : .*)?$", line) for line in lines)
    return {name.strip(" *") for match in listed if match for name in match[1].split(",")}


def signature(function: ast.FunctionDef, *, bound: bool) -> set[str]:
    given = function.args
    plain = [*given.posonlyargs, *given.args, *given.kwonlyargs]
    names = [a.arg for a in plain if not (isinstance(a.annotation, ast.Name) and a.annotation.id.startswith("_"))]
    return {*names[bound:], *(star.arg for star in (given.vararg, given.kwarg) if star is not None)}


def raised(function: ast.FunctionDef) -> set[str]:
    """Return the errors that a function's own lines raise, but for those of ``one_of``, whose values the docs list."""
    kinds, stack = set(), list[ast.AST](function.body)
    while stack:
        node = stack.pop()
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) and isinstance(node.exc.func, ast.Name):
            kinds.add(node.exc.func.id)
        if not isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            stack += ast.iter_child_nodes(node)
    return kinds


def public(path: Path) -> Iterator[tuple[str, str, set[str] | None, set[str]]]:
    """Yield name, docstring, parameters (None: fields of a class) and errors of each public object of a file."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if not isinstance(node, (ast.FunctionDef, ast.ClassDef)) or node.name.startswith("_"):
            continue
        if isinstance(node, ast.FunctionDef):
            yield node.name, ast.get_docstring(node) or "", signature(node, bound=False), raised(node)
            continue
        methods = {part.name: part for part in node.body if isinstance(part, ast.FunctionDef)}
        made = methods.get("__init__")
        known = None if made is None else signature(made, bound=True)
        errors = {kind for name in ("__init__", "__post_init__") if name in methods for kind in raised(methods[name])}
        yield node.name, ast.get_docstring(node) or "", known, errors
        for name, method in methods.items():
            bound = not any(isinstance(mark, ast.Name) and mark.id == "staticmethod" for mark in method.decorator_list)
            if not name.startswith("_"):
                doc = ast.get_docstring(method) or ""
                yield f"{node.name}.{name}", doc, signature(method, bound=bound), raised(method)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_docstrings_are_complete(path: Path) -> None:
    for name, doc, parameters, errors in public(path):
        if parameters is not None and (listed := described(doc)):
            assert listed == parameters, f"{name}: parameters in the docstring, and in the signature"
        if not refers(doc):
            undocumented = {kind for kind in errors if kind not in doc}
            assert not undocumented, f"{name} raises errors that its docstring does not list"


@pytest.mark.parametrize(
    "path",
    [path for path in FILES if "= Registry(" in path.read_text(encoding="utf-8")],
    ids=lambda path: str(path.relative_to(ROOT)),
)
def test_every_option_of_every_component_is_documented(path: Path) -> None:
    module = ".".join(path.relative_to(ROOT.parent).with_suffix("").parts).removesuffix(".__init__")
    registry = importlib.import_module(module).registry
    for name in (*registry.names(), *(["resnet18"] if registry.subpackage == "backbones" else [])):
        factory = registry.factory(name)
        if not factory.__module__.startswith("thoraxlib."):  # of another test
            continue
        doc = inspect.getdoc(factory) or ""
        options = inspect.signature(factory).parameters.values()
        if not refers(doc):
            undocumented = [option.name for option in options if option.kind not in STARS and option.name not in doc]
            assert not undocumented, f"{registry.subpackage} {name}: options that the docstring does not list"
