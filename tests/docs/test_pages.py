"""The code of the documentation runs, as it stands on the page but for sizes."""

from __future__ import annotations

import doctest
import importlib
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import thoraxlib
from thoraxlib.registry import Registry

DOCS = Path(__file__).parents[2] / "docs"
GENERATED = {"_build", "gallery", "rooms"}
ROOMS = (
    *("backbones", "blocks", "cams", "checkpoints", "cropping", "datasets", "detection", "fusion", "graphs.adjacency"),
    *("heads", "heads.regions", "images.augmentations", "labels", "localization", "losses", "models", "pooling"),
    "segmentation",
)
FLAGS = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS | doctest.IGNORE_EXCEPTION_DETAIL
_DOCTEST = re.compile(r"^```\{doctest\}\n(.*?)^```$", re.MULTILINE | re.DOTALL)
# a comment before the fence says why a block does not run: "% not run: the release is needed"
_PYTHON = re.compile(r"(^% not run: [^\n]+\n\n?)?^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)

PAGES = [path for path in sorted(DOCS.rglob("*.md")) if not GENERATED & set(path.relative_to(DOCS).parts)]
DOCTESTED = [path for path in PAGES if _DOCTEST.search(path.read_text(encoding="utf-8"))]


def _name(path: Path) -> str:
    return path.relative_to(DOCS).as_posix()


@pytest.fixture(autouse=True)
def _registries_as_they_were(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a page registers is gone after it."""
    for room in ROOMS:
        registry = importlib.import_module(f"thoraxlib.{room}").registry
        registry.names()
        monkeypatch.setattr(registry, "_factories", dict(registry._factories))
        monkeypatch.setattr(registry, "_cards", dict(registry._cards))


@pytest.mark.parametrize("path", DOCTESTED, ids=_name)
def test_doctests(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    # blank lines in place of the prose, so that a failure names the page's own line
    code = "".join(
        part if number % 2 else re.sub(r"[^\n]", "", part) for number, part in enumerate(_DOCTEST.split(text))
    )
    test = doctest.DocTestParser().get_doctest(code, {}, _name(path), str(path), 0)
    assert test.examples
    results = doctest.DocTestRunner(optionflags=FLAGS).run(test)
    assert results.failed == 0
