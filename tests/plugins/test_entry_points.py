"""Entry points of every subpackage; a broken one affects only its own name."""

from __future__ import annotations

import importlib
import itertools
import pkgutil
import re
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import thoraxlib
from thoraxlib import backbones, checkpoints, graphs
from thoraxlib.layers import pooling
from thoraxlib.localization import crops
from thoraxlib.models import ModelCard
from thoraxlib.registry import Registry, UnknownNameError, _plugins  # read once in a process

Install = Callable[..., str]
NUMBERS = itertools.count()  # pytest may give the name of a folder that it removed to the next test
GUIDE = Path(__file__).parents[2] / "docs" / "guides" / "plugins.md"


def every_registry() -> list[Registry[Any]]:
    found: dict[int, Registry[Any]] = {}
    for info in pkgutil.walk_packages(thoraxlib.__path__, "thoraxlib."):
        for value in vars(importlib.import_module(info.name)).values():
            if isinstance(value, Registry):
                found[id(value)] = value
    return sorted(found.values(), key=lambda registry: registry.subpackage)


REGISTRIES = every_registry()


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Install a package with a module and entry points; the function returns the module's name."""
    monkeypatch.syspath_prepend(tmp_path)

    def put(package: str, code: str, **points: dict[str, str]) -> str:
        module = f"plugin_for_test_{next(NUMBERS)}"
        (tmp_path / f"{module}.py").write_text(code)
        lines = []
        for subpackage, names in points.items():
            lines += [f"[thoraxlib.{subpackage.replace('__', '.')}]"]
            lines += [f"{name} = {value.format(module=module)}" for name, value in names.items()]
        folder = tmp_path / f"{package.replace('-', '_')}-1.0.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
        (folder / "entry_points.txt").write_text("\n".join(lines) + "\n")
        importlib.invalidate_caches()
        _plugins.cache_clear()
        return module

    yield put
    _plugins.cache_clear()


MAKE = """
import thoraxlib

class make(thoraxlib.models.ChestModel):
    "Made by a plug-in."

    def __init__(self, **options):
        super().__init__()
        self.options = options
"""


@pytest.mark.parametrize("registry", REGISTRIES, ids=lambda registry: registry.subpackage)
def test_every_subpackage_has_its_group(registry: Registry[Any], install: Install) -> None:
    subpackage = importlib.import_module(f"thoraxlib.{registry.subpackage}")
    assert subpackage.registry is registry
    before = registry.names()
    module = install("some-parts", MAKE, **{registry.subpackage.replace(".", "__"): {"plugged": "{module}:make"}})
    assert set(registry.names()) == {*before, "plugged"}
    assert module not in sys.modules
    assert registry.describe("plugged").summary == "Made by a plug-in."
    assert registry.factory("plugged") is sys.modules[module].make
    assert registry.build("plugged", size=3).options == {"size": 3}


def test_the_guide_names_every_group() -> None:
    groups = re.findall(r"^\| `thoraxlib\.([a-z_.]+)` \|", GUIDE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert sorted(groups) == [registry.subpackage for registry in REGISTRIES]


@pytest.mark.parametrize(
    ("code", "value", "message"),
    [
        ("raise RuntimeError('boom')", "{module}:make", "RuntimeError: boom"),
        ("import a_package_that_is_not_there", "{module}:make", "ModuleNotFoundError.*a_package_that_is_not_there"),
        ("", "{module}:make", "AttributeError.*make"),
        ("", "no_such_module_for_test:make", "ModuleNotFoundError.*no_such_module_for_test"),
        ("", "{module}", "TypeError.*is not a callable object"),
        ("make = 3", "{module}:make", "TypeError.*is not a callable object"),
        (
            "import thoraxlib\n@thoraxlib.layers.pooling.register('avg')\ndef make(): pass",
            "{module}:make",
            "DuplicateNameError.*'avg' is already registered",
        ),
    ],
)
def test_a_broken_plugin(code: str, value: str, message: str, install: Install) -> None:
    install("broken-parts", code, layers__pooling={"broken": value})
    install("good-parts", MAKE, layers__pooling={"good": "{module}:make"})
    assert {"avg", "broken", "good"} <= set(pooling.names())
    for call in (pooling.build, pooling.describe):
        with pytest.raises(ImportError, match=rf"(?s)layers\.pooling.*'broken'.*from broken-parts.*{message}"):
            call("broken")
    with pytest.raises(ImportError, match="broken-parts"):
        thoraxlib.build("chexnet", backbone="resnet10t", pool="broken")
    with pytest.raises(UnknownNameError, match="did you mean 'broken'"):
        pooling.build("brokem")
    assert pooling.build("good", r=1).options == {"r": 1}
    assert type(pooling.build("avg")).__module__.startswith("thoraxlib.")


def test_other_layouts_are_recognised_beside_a_broken_one(install: Install) -> None:
    install("broken-layouts", "raise RuntimeError('boom')", checkpoints={"aaa_first": "{module}:make"})
    model = thoraxlib.build("chexnet", backbone="resnet10t")
    state = {key.removeprefix("backbone.net."): value for key, value in model.state_dict().items()}
    state = {key.replace("head.fc", "fc"): value for key, value in state.items()}
    with pytest.warns(UserWarning, match="'aaa_first'.*broken-layouts.*boom"):
        assert checkpoints.load_checkpoint(model, state, labels=model.labels) == "plain"


@pytest.mark.parametrize(
    ("subpackage", "name", "build"),
    [
        ("models", "chexnet", lambda: thoraxlib.build("chexnet", backbone="van_b0")),
        ("backbones", "resnet10t", lambda: backbones.build("resnet10t")),  # timm's
        ("localization__crops", "otsu", lambda: crops.build("otsu")),
        (
            "graphs__convolutions",
            "gcnconv",
            lambda: graphs.convolutions.build("gcnconv", in_channels=2, out_channels=2),
        ),
    ],
)
def test_a_plugin_cannot_take_a_name_of_the_library(
    subpackage: str, name: str, build: Callable[[], Any], install: Install
) -> None:
    module = install("bold-parts", MAKE, **{subpackage: {name: "{module}:make", "other": "{module}:make"}})
    with pytest.warns(UserWarning, match=rf"'{name}' is taken.*plug-in {module}:make is not used"):
        part = build()
    assert type(part).__module__.startswith("thoraxlib.")
    assert module not in sys.modules
    registry = importlib.import_module(f"thoraxlib.{subpackage.replace('__', '.')}").registry
    assert registry.names().count(name) == 1
    assert registry.describe(name).origin.startswith("thoraxlib.")
    assert registry.build("other", a=1).options == {"a": 1}


def test_a_name_that_two_packages_declare(install: Install) -> None:
    install("one-parts", MAKE, layers__pooling={"both": "{module}:make", "one": "{module}:make"})
    install("two-parts", MAKE, layers__pooling={"both": "{module}:make", "two": "{module}:make"})
    assert pooling.names().count("both") == 1
    for call in (pooling.build, pooling.describe):
        with pytest.raises(ImportError, match=r"'both' \(.*-parts and .*-parts\).*several packages; uninstall"):
            call("both")
    assert pooling.build("one", a=1).options == {"a": 1}
    assert pooling.build("two", a=2).options == {"a": 2}


@pytest.mark.parametrize("value", ["3", "torch.nn.Linear(2, 2)"])
def test_a_plugin_that_builds_no_model(value: str, install: Install) -> None:
    install("no-models", f"import torch\ndef odd():\n    return {value}\n", models={"odd": "{module}:odd"})
    with pytest.raises(TypeError, match=r"'odd' must build a thoraxlib\.models\.ChestModel, got (int|Linear)"):
        thoraxlib.build("odd")


def test_a_plugin_that_registers_itself(install: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    code = (
        "import thoraxlib\n"
        "from thoraxlib.models import ModelCard\n"
        "@thoraxlib.register('with_card', card=ModelCard(paper='A paper'))\n"
        "def make(*, labels='nih8', pretrained=False):\n"
        "    'With a card.'\n"
        "    return thoraxlib.build('chexnet', backbone='resnet10t', labels=labels, pretrained=pretrained)\n"
        "def plain(*, labels='nih8'):\n"
        "    'Without.'\n"
        "    return make(labels=labels)\n"
    )
    registry = thoraxlib.models.registry
    monkeypatch.setattr(registry, "_factories", dict(registry._factories))  # it is to be gone afterwards
    install("own-models", code, models={"with_card": "{module}:make", "plain": "{module}:plain"})
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        for _ in range(2):
            model: Any = thoraxlib.build("with_card", labels="chexpert5")
    assert model.config == {"name": "with_card", "options": {"labels": "chexpert5"}}
    assert model(torch.rand(1, 3, 64, 64)).shape == (1, 5)
    card = thoraxlib.describe("with_card")
    assert card.paper == "A paper"
    plain = thoraxlib.describe("plain")
    assert isinstance(plain, ModelCard)
    assert plain.published == {}
    assert "Without." in str(plain)
