"""Settings for every test: offline, deterministic, one thread for each worker."""

from __future__ import annotations

import os
import sys
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parent))  # compatibility.py
sys.path.insert(0, str(Path(__file__).parent / "parity"))  # formulas.py, shared by the parity tests

import pytest
import torch

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
