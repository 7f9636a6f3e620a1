from __future__ import annotations

import numpy as np
import pytest
import torch
from formulas import assert_matches, image, load_record
from hypothesis import given, settings
from hypothesis import strategies as st

from thoraxlib import pooling
from thoraxlib.pooling.lse import lse_pool

NAMES = pooling.names()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", [(2, 5, 7, 7), (1, 3, 1, 1), (3, 4, 2, 9)])
def test_shapes_gradients_and_bounds(name: str, shape: tuple[int, ...]) -> None:
    x = torch.randn(shape, requires_grad=True)
    pooled = pooling.build(name)(x)
    assert pooled.shape == shape[:2]
    assert (pooled <= x.amax((2, 3)) + 1e-5).all()
    assert (pooled >= x.amin((2, 3)) - 1e-5).all()
    pooled.sum().backward()
    assert x.grad is not None
    torch.testing.assert_close(x.grad.sum((2, 3)), torch.ones(shape[:2]))  # shifting a map shifts its pool


@pytest.mark.parametrize("name", NAMES)
def test_constant_maps_and_permutations(name: str) -> None:
    pool = pooling.build(name)
    torch.testing.assert_close(pool(torch.full((1, 2, 3, 3), -5.2)), torch.full((1, 2), -5.2))
    x = torch.randn(2, 3, 4, 5)
    shuffled = x.flatten(2)[..., torch.randperm(20)].unflatten(2, (4, 5))
    torch.testing.assert_close(pool(x), pool(shuffled))


@pytest.mark.parametrize("name", NAMES)
def test_gradcheck(name: str) -> None:
    assert torch.autograd.gradcheck(
        pooling.build(name), torch.randn(1, 2, 3, 3, dtype=torch.float64, requires_grad=True)
    )


def test_lse_record() -> None:
    record = load_record("lse_pooling.json")
    x = image(*record["input"]["args"]).double().requires_grad_()
    out = record["outputs"]
    assert_matches(x, out["input"], 1e-7)
    assert_matches(pooling.build("avg")(x), out["avg"], 1e-7)
    assert_matches(pooling.build("max")(x), out["max"], 1e-7)
    for r in record["config"]["r"]:
        assert_matches(lse_pool(x, r), out[f"lse_r{r:g}"], 1e-7)
        assert_matches(lse_pool(x.float(), r), out[f"lse_r{r:g}"], 1e-6 / min(r, 1) + 1e-6)
    (gradient,) = torch.autograd.grad(lse_pool(x, 10).sum(), x)
    assert_matches(gradient, out["grad_r10_of_sum"], 1e-7)
    for shift in (50, -50, 1000, -1000):
        assert_matches(lse_pool(x + shift, 10), out[f"shift{shift:+d}.lse_r10"], 1e-7)
        assert_matches(lse_pool((x + shift).float(), 10), out[f"shift{shift:+d}.lse_r10"], 1e-6)


@settings(deadline=None, max_examples=50)
@given(st.floats(0.1, 1000), st.floats(-1e4, 1e4), st.integers(0, 1000))
def test_lse_is_stable_and_between_mean_and_max(r: float, shift: float, seed: int) -> None:
    x = torch.from_numpy(np.random.default_rng(seed).normal(shift, 1, (1, 2, 5, 5))).float()
    pooled = lse_pool(x, r)
    tolerance = 1e-5 * (1 + abs(shift))
    assert pooled.isfinite().all()
    assert (pooled <= x.amax((2, 3)) + tolerance).all()
    assert (pooled >= x.mean((2, 3)) - tolerance).all()


def test_lse_keeps_half_precision_outside_and_float_inside() -> None:
    x = (torch.randn(2, 3, 8, 8) * 20).to(torch.bfloat16)
    pooled = lse_pool(x, 100)
    assert pooled.dtype == torch.bfloat16
    torch.testing.assert_close(pooled.float(), lse_pool(x.float(), 100), rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("r", [0, -1, float("inf"), float("nan")])
def test_bad_r(r: float) -> None:
    with pytest.raises(ValueError, match="r must be positive and finite"):
        pooling.build("lse", r=r)
