from __future__ import annotations

import numpy as np
import pytest
import torch
from formulas import assert_matches, image, load_record
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from thoraxlib.layers import pooling
from thoraxlib.layers.pooling import LSEPool, expansion

NAMES = pooling.names()
SHIFTED = set(NAMES) - {"linear", "pcam"}  # shifting a map shifts its pool


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", [(2, 5, 7, 7), (1, 3, 1, 1), (3, 4, 2, 9)])
def test_shapes_gradients_and_bounds(name: str, shape: tuple[int, ...]) -> None:
    x = torch.rand(shape, requires_grad=True)  # "linear" is a mean only where nothing is negative
    pool = pooling.build(name)
    pooled = pool(x)
    times = expansion(pool)
    assert pooled.shape == (shape[0], shape[1] * times)
    assert (pooled <= x.amax((2, 3)).repeat(1, times) + 1e-5).all()
    assert (pooled >= x.amin((2, 3)).repeat(1, times) - 1e-5).all()
    pooled.sum().backward()
    assert x.grad is not None
    if name in SHIFTED:
        torch.testing.assert_close(x.grad.sum((2, 3)), torch.full(shape[:2], float(times)))


@pytest.mark.parametrize("name", NAMES)
def test_constant_maps_and_permutations(name: str) -> None:
    pool = pooling.build(name)
    torch.testing.assert_close(pool(torch.full((1, 2, 3, 3), -5.2)), torch.full((1, 2 * expansion(pool)), -5.2))
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
        assert_matches(LSEPool(r)(x), out[f"lse_r{r:g}"], 1e-7)
        assert_matches(LSEPool(r)(x.float()), out[f"lse_r{r:g}"], 1e-6 / min(r, 1) + 1e-6)
    (gradient,) = torch.autograd.grad(LSEPool(10)(x).sum(), x)
    assert_matches(gradient, out["grad_r10_of_sum"], 1e-7)
    for shift in (50, -50, 1000, -1000):
        assert_matches(LSEPool(10)(x + shift), out[f"shift{shift:+d}.lse_r10"], 1e-7)
        assert_matches(LSEPool(10)((x + shift).float()), out[f"shift{shift:+d}.lse_r10"], 1e-6)


@settings(deadline=None, max_examples=50)
@given(st.floats(0.1, 1000), st.floats(-1e4, 1e4), st.integers(0, 1000))
def test_lse_is_stable_and_between_mean_and_max(r: float, shift: float, seed: int) -> None:
    x = torch.from_numpy(np.random.default_rng(seed).normal(shift, 1, (1, 2, 5, 5))).float()
    pooled = LSEPool(r)(x)
    tolerance = 1e-5 * (1 + abs(shift))
    assert pooled.isfinite().all()
    assert (pooled <= x.amax((2, 3)) + tolerance).all()
    assert (pooled >= x.mean((2, 3)) - tolerance).all()


def test_lse_keeps_half_precision_outside_and_float_inside() -> None:
    x = (torch.randn(2, 3, 8, 8) * 20).to(torch.bfloat16)
    pooled = LSEPool(100)(x)
    assert pooled.dtype == torch.bfloat16
    torch.testing.assert_close(pooled.float(), LSEPool(100)(x.float()), rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize("r", [0, -1, float("inf"), float("nan")])
def test_bad_r(r: float) -> None:
    with pytest.raises(ValueError, match="r must be positive and finite"):
        pooling.build("lse", r=r)


@pytest.mark.parametrize("name", NAMES)
def test_records(name: str) -> None:
    record = load_record(f"wsp_pool_{name}.json")
    gamma = record["config"]["lse_gamma"]
    x, out = image(*record["input"]["args"]), record["outputs"]

    def pool(x: Tensor, r: float = gamma) -> Tensor:
        options = {"r": r} if name in ("lse", "avg_max_lse") else {}
        extra = [image(*record["extra_inputs"]["logit_map"]["args"])] if name == "pcam" else []
        return pooling.build(name, **options)(x, *extra).reshape(2, -1, 1, 1)

    assert_matches(pool(x), out["pooled"], 1e-5)
    if "pooled_relu_feat" in out:
        assert_matches(pool(x.relu()), out["pooled_relu_feat"], 1e-5)
    for r in (0.5, 100):
        if f"pooled_gamma_{r}" in out:
            assert_matches(pool(x, r), out[f"pooled_gamma_{r}"], 1e-5)


def test_pcam_record() -> None:
    record = load_record("wsp_pool_pcam.json")
    x, out = image(*record["input"]["args"]), record["outputs"]
    logits = image(*record["extra_inputs"]["logit_map"]["args"]).requires_grad_()
    pool = pooling.build("pcam")
    assert_matches(logits.sigmoid(), out["prob_map"], 1e-5)
    assert_matches(pool.weights(logits), out["weight_map"], 1e-5)
    pool(x, logits).sum().backward()
    assert_matches(logits.grad, out["grad_sum_wrt_logit_map"], 1e-5)


def test_pcam_of_many_labels_is_that_of_each() -> None:
    pool, x, logits = pooling.build("pcam"), torch.randn(2, 5, 4, 6), torch.randn(2, 3, 4, 6)
    vectors = pool(x, logits)
    assert vectors.shape == (2, 3, 5)
    for k in range(3):
        a = logits[:, k : k + 1].sigmoid()
        torch.testing.assert_close(vectors[:, k], (x * a).sum((2, 3)) / a.sum((2, 3)))
    # of a map with itself: every channel is its own logit map
    torch.testing.assert_close(pool(logits), torch.diagonal(pool(logits, logits), dim1=1, dim2=2))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("name", NAMES)
def test_extreme_maps_stay_finite(name: str, dtype: torch.dtype) -> None:
    for level in (-1000.0, -1.0, 0.0, 1000.0):
        x = torch.full((1, 2, 4, 4), level)
        x[..., 0, 0] += 1
        pooled = pooling.build(name)(x.to(dtype))
        assert pooled.dtype == dtype
        assert pooled.isfinite().all()
        torch.testing.assert_close(pooled.float(), torch.full_like(pooled.float(), level), atol=1.1, rtol=0.02)


def test_linear_wants_a_positive_eps() -> None:
    with pytest.raises(ValueError, match="eps must be positive"):
        pooling.build("linear", eps=0)
    assert float(pooling.build("linear")(torch.zeros(1, 1, 2, 2))) == 0
