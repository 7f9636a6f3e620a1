from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch

from thoraxlib.input_spec import InputSpec


def test_defaults_and_expansion() -> None:
    spec = InputSpec(size=96, channels=2, mean=0.5, std=(0.25,))  # type: ignore[arg-type]
    assert (spec.size, spec.mean, spec.std) == ((96, 96), (0.5, 0.5), (0.25, 0.25))
    assert InputSpec.imagenet(1).mean == pytest.approx((0.449,), abs=1e-3)


def test_json_round_trip() -> None:
    spec = InputSpec(size=(100, 80), resize="crop", crop_ratio=0.875)
    assert InputSpec().updated(json.loads(json.dumps(spec.to_json()))) == spec


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"size": 0}, "size must be"),
        ({"size": (1, 2, 3)}, "size must be"),
        ({"channels": 0}, "channels must be"),
        ({"mean": (0.1, 0.2)}, "mean must be 1 or 3"),
        ({"std": (0.0,)}, "std must be positive"),
        ({"mean": float("nan")}, "mean must be"),
        ({"resize": "squash"}, "resize='squash': allowed are 'stretch'"),
        ({"crop_ratio": 1.5}, "crop_ratio must be"),
    ],
)
def test_bad_values(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        InputSpec().updated(changes)


def test_unknown_field() -> None:
    with pytest.raises(TypeError, match=r"no field \['sise'\]; accepted: \['size'"):
        InputSpec().updated({"sise": 3})


ODD: dict[str, tuple[Any, ...]] = {
    "size": (True, [True, 8], 8.0, "8", "88", None, -1, 10**9, 16385, [8, [8]], {"8": 8}, [8], float("nan")),
    "channels": (True, 3.0, "3", None, -1, 10**9, [3], float("inf")),
    "mean": (True, [True] * 3, "0.5", ["0.5"] * 3, None, [[0.5]], float("inf"), 10**400, {"a": 1}, []),
    "std": (True, -1, "1", [1, 1, float("nan")], None, [[1]] * 3, 0, []),
    "resize": (True, None, ["crop"], 1, {}),
    "crop_ratio": (True, "1", None, float("nan"), 10**400, [0.5], -1, 0),
    "fill": (True, "0", None, float("nan"), 1e300, [0.5], -0.1),
    "equalize": (0, 1, "true", None, [True]),
    "blur": (True, False, 3.0, "3", None, [3], 2, 10**9),
}


@pytest.mark.parametrize(("field", "value"), [(field, value) for field, values in ODD.items() for value in values])
def test_invalid_values(field: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"^{field}") as error:
        InputSpec().updated({field: value})
    assert len(str(error.value)) < 400


def test_numbers_of_numpy_and_torch() -> None:
    spec = InputSpec(size=np.int64(8), channels=np.int32(1), mean=torch.tensor([0.5]), std=np.array([0.25]))  # type: ignore[arg-type]
    assert spec == InputSpec(size=(8, 8), channels=1, mean=(0.5,), std=(0.25,))
    assert json.loads(json.dumps(spec.to_json()))["size"] == [8, 8]
