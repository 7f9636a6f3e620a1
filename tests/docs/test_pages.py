"""Run the code of the documentation, with smaller sizes."""

from __future__ import annotations

import doctest
import importlib
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import thoraxlib

DOCS = Path(__file__).parents[2] / "docs"
GENERATED = {"_build", "gallery", "components"}
REGISTRIES = (
    *("backbones", "cams", "checkpoints", "datasets", "detection", "graphs.adjacency", "heads", "heads.regions"),
    *("images.augmentations", "labels", "layers", "layers.fusion", "layers.pooling", "localization"),
    *("localization.crops", "losses", "models", "segmentation"),
)
FLAGS = doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS
_DOCTEST = re.compile(r"^```\{doctest\}\n(.*?)^```$", re.MULTILINE | re.DOTALL)
# a comment before a block says why it does not run: "% not run: the release is needed"
_PYTHON = re.compile(r"(^% not run: [^\n]+\n\n?)?^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)

PAGES = [path for path in sorted(DOCS.rglob("*.md")) if not GENERATED & set(path.relative_to(DOCS).parts)]
DOCTESTED = [path for path in PAGES if _DOCTEST.search(path.read_text(encoding="utf-8"))]


def _name(path: Path) -> str:
    return path.relative_to(DOCS).as_posix()


@pytest.fixture(autouse=True)
def _restored_registries(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove what a page registers after its test."""
    for name in REGISTRIES:
        registry = importlib.import_module(f"thoraxlib.{name}").registry
        registry.names()
        monkeypatch.setattr(registry, "_factories", dict(registry._factories))
        monkeypatch.setattr(registry, "_cards", dict(registry._cards))


@pytest.mark.parametrize("path", DOCTESTED, ids=_name)
def test_doctests(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    # blank lines instead of the prose, so that a failure has the line number of the page
    code = "".join(
        part if number % 2 else re.sub(r"[^\n]", "", part) for number, part in enumerate(_DOCTEST.split(text))
    )
    test = doctest.DocTestParser().get_doctest(code, {}, _name(path), str(path), 0)
    assert test.examples
    results = doctest.DocTestRunner(optionflags=FLAGS).run(test)
    assert results.failed == 0


# page -> text on the page -> replacement in the test
PYTHON: dict[str, dict[str, str]] = {
    "index.md": {'build("chexnet", labels="nih14")': 'build("chexnet", labels="nih14", input_spec={"size": 64})'},
    "tutorial.md": {
        "size=128, length=3000": "size=48, length=60",
        '"name": "densenet121", "output_stride": 16': '"name": "resnet10t"',
        '"size": [128, 128]': '"size": [48, 48]',
        "batch_size=32": "batch_size=8",
        "epochs=4": "epochs=1",
    },
    "guides/registry.md": {'build("chexnet", pool': 'build("chexnet", backbone="resnet10t", pool'},
    "guides/own-backbone.md": {},
    "guides/checkpoints.md": {},
    "guides/explain.md": {},
    "guides/probe.md": {},
    "guides/training-copies.md": {},
    "guides/coming-from.md": {"224, 224": "64, 64", "convnext_tiny": "convnext_atto"},
}


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Change to a folder with the files that the pages name: images, and a checkpoint in arnoweng's layout."""
    import pydicom.data
    from torchvision.models import densenet121

    monkeypatch.chdir(tmp_path)
    images = thoraxlib.datasets.build("synthetic", size=64, length=2)
    for name, image in zip(("cxr.png", "a.png"), images, strict=True):
        thoraxlib.plotting.fit(image["image"], 64).save(tmp_path / name)
    for name in ("b.dcm", "image.dcm"):
        (tmp_path / name).write_bytes(Path(pydicom.data.get_testdata_file("CT_small.dcm")).read_bytes())
    net = densenet121()
    torch.save(net.state_dict(), tmp_path / "densenet121.pth")
    net.classifier = nn.Sequential(nn.Linear(1024, 14), nn.Sigmoid())
    state = {f"module.densenet121.{key}": value for key, value in net.state_dict().items()}
    torch.save({"state_dict": state}, tmp_path / "model.pth.tar")
    return tmp_path


def _guide_names() -> dict[str, Any]:
    """Return the variables that the code of the guides uses without defining them."""
    from torchvision.models import resnet18

    model = thoraxlib.build("pcam", backbone="resnet10t", input_spec={"size": 64})
    return {
        "model": model,
        "torchvision_model": resnet18(),
        "vit": __import__("timm").create_model("vit_tiny_patch16_224", img_size=64, depth=11),
        "x": torch.rand(1, 3, 64, 64),
    }


@pytest.mark.parametrize("page", PYTHON)
def test_python(page: str, files: Path) -> None:
    path = DOCS / page
    text = path.read_text(encoding="utf-8")
    for large, small in PYTHON[page].items():
        assert large in text, f"{page} no longer has {large!r}"
        text = text.replace(large, small)
    blocks = [match for match in _PYTHON.finditer(text) if not match[1]]
    assert blocks
    names: dict[str, Any] = {"thoraxlib": thoraxlib, "torch": torch}
    if page == "guides/explain.md":
        names |= _guide_names()
    for block in blocks:
        line = text[: block.start(2)].count("\n")
        exec(compile("\n" * line + block[2], str(path), "exec"), names)
