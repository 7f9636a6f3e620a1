from __future__ import annotations

import json
from typing import Any

import pytest

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
