from __future__ import annotations

import operator
import sys
from importlib import metadata
from typing import Any

import pytest

import thoraxlib
from thoraxlib.registry import DuplicateNameError, OptionError, Registry, UnknownNameError

SUBPACKAGES = [
    "backbones",
    "checkpoints",
    "datasets",
    "heads",
    "labels",
    "layers",
    "layers.pooling",
    "localization",
    "losses",
    "models",
]


@pytest.fixture
def toys() -> Registry[str]:
    registry = Registry[str]("toys")

    @registry.register("ball")
    def ball(*, size: int = 1, colour: str = "red") -> str:
        """A ball.

        More words.
        """
        return f"{colour} ball {size}"

    @registry.register("needy")
    def needy(*, what: str, other: int = 0) -> str:
        return what

    @registry.register("anything")
    def anything(**options: Any) -> str:
        return str(options)

    return registry


def test_build_names_describe(toys: Registry[str]) -> None:
    assert toys.build("ball", size=2) == "red ball 2"
    assert toys.names() == ["anything", "ball", "needy"]
    assert toys.names("b*") == ["ball"]
    card = toys.describe("ball")
    assert (card.name, card.subpackage, card.summary) == ("ball", "toys", "A ball.")
    assert dict(card.options) == {"size": 1, "colour": "red"}
    assert card.origin == __name__
    assert "colour = 'red'" in str(card)


def test_names_are_in_natural_order() -> None:
    registry = Registry[int]("numbers")
    for name in ("b10", "b2", "a1", "1x"):
        registry.register(name)(int)
    assert registry.names() == ["1x", "a1", "b2", "b10"]


def test_unknown_name_suggests_close_ones(toys: Registry[str]) -> None:
    with pytest.raises(UnknownNameError, match="unknown name 'bal'; did you mean 'ball'") as caught:
        toys.build("bal")
    assert isinstance(caught.value, KeyError)
    with pytest.raises(UnknownNameError, match="known: 'anything', 'ball', 'needy'"):
        toys.describe("xyzzy")
    assert "bal" not in toys
    assert "ball" in toys


@pytest.mark.parametrize("name", [None, 3, ("ball",)])
def test_a_name_that_is_not_a_string(toys: Registry[str], name: Any) -> None:
    with pytest.raises(UnknownNameError, match="unknown name"):
        toys.build(name)


def test_options_are_checked(toys: Registry[str]) -> None:
    with pytest.raises(
        OptionError, match=r"'ball' has no option 'colr' \(did you mean 'colour'\?\); accepted: 'size', 'colour'"
    ):
        toys.build("ball", colr="blue")
    with pytest.raises(OptionError, match="'needy' needs 'what'"):
        toys.build("needy")
    assert toys.build("anything", a=1) == "{'a': 1}"


def test_duplicates(toys: Registry[str]) -> None:
    with pytest.raises(DuplicateNameError, match="'ball' is already registered by .*ball.*override=True"):
        toys.register("ball")(lambda: "other")
    toys.register("ball", override=True)(lambda: "other")
    assert toys.build("ball") == "other"


@pytest.mark.parametrize("name", ["", "Ball", "a b", "_x", 3])
def test_invalid_names(toys: Registry[str], name: Any) -> None:
    with pytest.raises(ValueError, match="not a valid name"):
        toys.register(name)


def test_resolve(toys: Registry[str]) -> None:
    class Toy:
        pass

    parts = Registry[Toy]("parts")

    @parts.register("sized")
    def sized(size: int = 1) -> Toy:
        toy = Toy()
        toy.size = size  # type: ignore[attr-defined]
        return toy

    ready = Toy()
    assert parts.resolve(ready) is ready
    assert parts.resolve("sized", size=3, unknown="dropped").size == 3  # type: ignore[attr-defined]
    built = parts.resolve({"name": "sized", "size": 4}, size=3)
    assert built.size == 4  # type: ignore[attr-defined]
    assert built.registry_spec == {"name": "sized", "size": 4}  # type: ignore[attr-defined]
    with pytest.raises(OptionError, match="no option 'sise'"):
        parts.resolve({"name": "sized", "sise": 4})
    with pytest.raises(OptionError, match="needs the key 'name'"):
        parts.resolve({"size": 4})


def _plugins(monkeypatch: pytest.MonkeyPatch, *points: metadata.EntryPoint) -> None:
    monkeypatch.setattr(metadata, "entry_points", lambda *, group: [p for p in points if p.group == group])


def test_entry_points_are_lazy_and_isolated(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    (tmp_path / "good_plugin_for_test.py").write_text("def make(*, size=1):\n    'Made.'\n    return size\n")
    (tmp_path / "bad_plugin_for_test.py").write_text("raise RuntimeError('boom')\n")
    monkeypatch.syspath_prepend(tmp_path)
    _plugins(
        monkeypatch,
        metadata.EntryPoint("good", "good_plugin_for_test:make", "thoraxlib.toys_to_plug"),
        metadata.EntryPoint("bad", "bad_plugin_for_test:make", "thoraxlib.toys_to_plug"),
        metadata.EntryPoint("elsewhere", "good_plugin_for_test:make", "thoraxlib.other"),
    )
    registry = Registry[int]("toys_to_plug")
    assert registry.names() == ["bad", "good"]
    assert "good_plugin_for_test" not in sys.modules
    assert registry.build("good", size=5) == 5
    assert registry.describe("good").origin == "good_plugin_for_test"
    with pytest.raises(ImportError, match=r"'bad' \(bad_plugin_for_test:make.*RuntimeError: boom"):
        registry.build("bad")
    assert registry.build("good") == 1


@pytest.mark.parametrize("subpackage", SUBPACKAGES)
def test_every_subpackage_has_the_four_functions(subpackage: str) -> None:
    module = operator.attrgetter(subpackage)(thoraxlib)
    names = module.names()
    assert names
    assert names == sorted(set(names), key=names.index)
    for function in ("build", "register", "names", "describe"):
        assert callable(getattr(module, function))
    for name in names[:30]:
        card = module.describe(name)
        assert card.name == name
        assert card.summary, f"{subpackage}: {name} has no docstring"
    with pytest.raises(UnknownNameError, match=f"{subpackage}: unknown name"):
        module.build("no-such-name")


def test_top_level_functions_are_those_of_models() -> None:
    assert {"chexnet", "unified_dcnn"} <= set(thoraxlib.names())
    assert thoraxlib.describe("chexnet").published
    with pytest.raises(UnknownNameError, match="did you mean 'chexnet'"):
        thoraxlib.build("chexnett")
    with pytest.raises(UnknownNameError, match="presets of 'chexnet'.*'arnoweng'"):
        thoraxlib.build("chexnet", preset="arnowen")
    with pytest.raises(AttributeError, match="has no attribute 'nonsense'"):
        thoraxlib.nonsense  # noqa: B018
