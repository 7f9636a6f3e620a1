"""The formulas behind the parity records: weights and inputs that need no files, and how an output is compared."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import torch

RECORDS = Path(__file__).parent / "records"
# entries that keep their constructed values: tables which a network computes
COMPUTED = ("attn_mask", "relative_position_index", "pos_emb.pe")


def load_record(name: str) -> dict[str, Any]:
    return json.loads((RECORDS / name).read_text(encoding="utf-8"))


def weight(key: str, shape: tuple[int, ...], index: int) -> np.ndarray:
    """Value of the `index`-th state entry: a sine of the flat position, scaled by what the entry is."""
    leaf = key.rpartition(".")[2]
    if leaf == "num_batches_tracked":
        return np.zeros(shape, dtype=np.int64)
    wave = np.sin(np.arange(math.prod(shape), dtype=np.float64) * 0.6180339887498949 * (1 + index % 7) + index)
    if leaf == "running_var":
        value = 1 + 0.25 * wave**2
    elif leaf == "running_mean":
        value = 0.1 * wave
    elif len(shape) >= 2:
        value = wave * math.sqrt(2 / math.prod(shape[1:]))
    else:
        value = 1 + 0.1 * wave if leaf == "weight" else 0.05 * wave
    return value.reshape(shape).astype(np.float32)


def hashed_weight(shape: tuple[int, ...], index: int) -> np.ndarray:
    """The fill of records with a `fill_variant`: a hash of the flat position, uniform over +-sqrt(6 / fan_in)."""
    with np.errstate(over="ignore"):
        x = np.arange(math.prod(shape), dtype=np.uint32) + np.uint32(1) + np.uint32(1000003 * index % 2**32)
        x = x * np.uint32(2654435761)
        x ^= x >> np.uint32(16)
        x = x * np.uint32(73244475)
        x ^= x >> np.uint32(16)
    u = x.astype(np.float64) / 2**32
    return ((2 * u - 1) * math.sqrt(6 / math.prod(shape[1:]))).reshape(shape).astype(np.float32)


def state_dict(
    record: dict[str, Any], gain: float = 1.0, skip: str | None = None, unregistered: bool = False
) -> dict[str, torch.Tensor]:
    """The record's state dict, less what begins with `skip`; 4-dimensional entries times `gain`.

    Aliases share their twin's values. `unregistered`: with the tensors that the original holds in plain lists.
    """
    entries = [(key, shape, dtype, index) for index, (key, shape, dtype) in enumerate(record["state"])]
    if unregistered:
        entries += record["state_not_registered"]
    state = {}
    for key, shape, dtype, index in entries:
        if (skip is not None and key.startswith(skip)) or key.endswith(COMPUTED):
            continue
        if key in ("A", "gcn.A"):
            state[key] = label_graph(record["config"].get("t", 0.3))
            continue
        if "fill_variant" in record and len(shape) > 1 and dtype.startswith("float"):
            value = torch.from_numpy(hashed_weight(tuple(shape), index))
        else:
            value = torch.from_numpy(weight(key, tuple(shape), index))
        state[key] = value * gain if value.ndim == 4 else value
    for key, values in record.get("overrides", {}).items():
        state[key] = torch.tensor(values)
    for key in state:  # a record with aliases lists one module under two names; the later values count
        twin = f"base_model.{key}"
        if twin in state:
            state[key] = state[twin]
    return state


def label_graph(threshold: float) -> torch.Tensor:
    """The re-weighted graph of the 14 NIH labels that the original made, before its normalisation."""
    return torch.tensor(load_record("adjacency_nih14.json")["derived"][f"t={threshold}"]["A"])


def image(batch: int, channels: int, height: int, width: int, phase: float = 0.0) -> torch.Tensor:
    """A smooth input (batch, channels, height, width) within [-2, 2]."""
    b = np.arange(batch, dtype=np.float64)[:, None, None, None]
    c = np.arange(channels, dtype=np.float64)[None, :, None, None]
    y = np.linspace(0, 1, height)[None, None, :, None]
    x = np.linspace(0, 1, width)[None, None, None, :]
    return torch.from_numpy((np.sin(6 * x + 2 * b + phase) + np.cos(9 * y * (1 + 0.3 * c) - b)).astype(np.float32))


def assert_matches(actual: Any, expected: dict[str, Any], rtol: float = 1e-4) -> None:
    """Compare with a recorded output: shape, mean, spread and leading values, relative to its largest value."""
    values = np.asarray(actual.detach() if isinstance(actual, torch.Tensor) else actual, dtype=np.float64)
    assert list(values.shape) == expected["shape"]
    scale = max(expected["abs_max"], 1e-12)
    first = np.asarray(expected["first"])
    np.testing.assert_allclose(values.reshape(-1)[: len(first)] / scale, first / scale, rtol=0, atol=rtol)
    for statistic, value in (("mean", values.mean()), ("std", values.std()), ("abs_max", np.abs(values).max())):
        assert abs(value - expected[statistic]) <= rtol * scale, statistic
