"""Settings for every test: offline, deterministic, one thread for each worker."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parent / "parity"))  # formulas.py, shared by the parity tests

import pytest
import torch

import thoraxlib

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture
def real_data() -> Path:
    """The folder of real images; the test is skipped where the environment names none."""
    folder = os.environ.get("THORAXLIB_DATA")
    if not folder:
        pytest.skip("needs real NIH images: set THORAXLIB_DATA to the folder that holds nih_mini and nih_tiny64")
    if not Path(folder).is_dir():
        pytest.fail(f"THORAXLIB_DATA={folder} is no folder")
    return Path(folder)


@pytest.fixture(scope="session")
def small_parts() -> Callable[[str], dict[str, Any]]:
    """Options that make the large parts of a documented model small, whatever else it is built with."""

    def options(name: str) -> dict[str, Any]:
        defaults = thoraxlib.describe(name).options
        found: dict[str, Any] = {}
        if defaults.get("segmenter") is not None:
            found["segmenter"] = {"name": "unet", "width": 4}
        if defaults.get("head") == "vit_per_stage":
            found["head"] = {"name": "vit_per_stage", "width": 96, "depth": 1, "num_heads": 4}
        if defaults.get("head") == "query_decoder":
            found["head"] = {"name": "query_decoder", "channels": 64, "hidden": 64, "attention_heads": 4}
        return found

    return options
