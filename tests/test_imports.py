"""`import thoraxlib` stays light."""

from __future__ import annotations

import subprocess
import sys

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
