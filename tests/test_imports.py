"""`import thoraxlib` imports no heavy package, and has the documented names."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import thoraxlib

HEAVY = [
    "timm",
    "torchvision",
    "torch_geometric",
    "sklearn",
    "scipy",
    "lightning",
    "torchmetrics",
    "pydicom",
    "matplotlib",
    "PIL",
    "huggingface_hub",
]


def test_import_pulls_in_nothing_heavy() -> None:
    code = (
        "import torch, sys; before = set(sys.modules); import thoraxlib; "
        f"print([m for m in {HEAVY} if m in sys.modules and m not in before])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_names_of_models_and_weights_pull_in_neither_timm_nor_torchvision() -> None:
    code = (
        "import sys, thoraxlib; thoraxlib.names(); thoraxlib.weights.names(); "
        f"print([m for m in {HEAVY[:-2]} if m in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_names_are_the_public_ones() -> None:
    assert {"layers", "build", "__version__"} <= set(dir(thoraxlib))
    assert not {"Any", "TYPE_CHECKING", "annotations", "import_module", "importlib", "pkgutil", "__main__"} & set(
        dir(thoraxlib)
    )


def test_public_names_and_documented_modules_are_attributes() -> None:
    """Each ``thoraxlib.<name>`` in the docs is public."""
    source = Path(thoraxlib.__file__).parent
    pages = [source.parents[1] / "README.md", *(source.parents[1] / "docs").rglob("*.md"), *source.rglob("*.py")]
    text = "\n".join(page.read_text(encoding="utf-8") for page in pages if page.is_file())
    named = set(re.findall(r"(?::\w+:`~?|\{[\w:]+\}`~?|:: |^`)thoraxlib\.(\w+)", text, flags=re.MULTILINE))
    named -= {"files"}  # for the library itself
    assert {"explanation", "plotting", "layers", "registry"} <= named
    assert named <= {*dir(thoraxlib)}
    for name in dir(thoraxlib):
        assert getattr(thoraxlib, name) is not None
