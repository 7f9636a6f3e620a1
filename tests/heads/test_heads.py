from __future__ import annotations

from typing import Any

import pytest
import torch

from thoraxlib import heads
from thoraxlib.layers import pooling
from thoraxlib.layers.pooling import expansion

OTHERS = ("vit_per_stage", "query_decoder")  # heads of several maps only, or without per-location logits
LABELS = ("Edema", "Effusion", "Mass", "Nodule")


def built(name: str, **options: Any) -> heads.Head:
    """A head by name; those that ask for the labels get them."""
    return heads.registry.resolve({"name": name, **options}, num_labels=4, labels=LABELS)


POOLING = [name for name in heads.names() if "pool" in heads.describe(name).options]


@pytest.mark.parametrize("name", [name for name in POOLING if name not in OTHERS])
@pytest.mark.parametrize("pool", pooling.names())
def test_logits_and_maps(name: str, pool: str) -> None:
    wide = expansion(pooling.build(pool)) > 1
    if wide and name == "map":
        with pytest.raises(ValueError, match="the head 'map' needs one logit; use the head 'linear'"):
            built(name, in_channels=6, pool=pool)
        return
    if name == "vanilla" and pool == "pcam":
        with pytest.raises(ValueError, match="'vanilla' has hidden units before the labels; use 'avg', 'max' or 'lse'"):
            built(name, in_channels=6, pool=pool)
        return
    head = built(name, in_channels=6, pool=pool).eval()
    features = torch.randn(3, 6, 5, 7, requires_grad=True)
    logits = head(features)
    assert logits.shape == (3, 4)
    logits.sum().backward()
    assert features.grad is not None
    if wide:
        with pytest.raises(NotImplementedError, match="has no per-location logits.*gradient-based"):
            head.logit_maps(features)
        return
    maps = head.logit_maps(features)
    assert maps.shape == (3, 4, 5, 7)
    without = head.logit_maps(features, bias=False)
    torch.testing.assert_close(without, maps - head.logit_maps(torch.zeros_like(features)))
    if name == "map":
        torch.testing.assert_close(head.pool(maps), logits)
    if pool == "avg":
        torch.testing.assert_close(maps.mean((2, 3)), logits)


@pytest.mark.parametrize("pool", ["avg", "pcam", "avg_max"])
@pytest.mark.parametrize("name", ["linear", "map", "classwise"])
def test_dropout_acts_in_training_only(name: str, pool: str) -> None:
    if name == "map" and pool == "avg_max":
        pytest.skip("the head has no such pooling")
    head = heads.build(name, in_channels=50, num_labels=2, dropout=0.5, pool=pool)
    features = torch.randn(2, 50, 3, 3)
    assert not torch.equal(head(features), head(features))
    head.eval()
    assert torch.equal(head(features), head(features))


def test_pcam_heads_are_one_formula() -> None:
    """Linear layer on the label's vector = weighted mean of the logit map = the map head, in training and eval."""
    linear = heads.build("linear", in_channels=6, num_labels=4, pool="pcam", dropout=1e-12)
    other = heads.build("map", in_channels=6, num_labels=4, pool="pcam")
    other.conv.weight.data, other.conv.bias.data = linear.fc.weight.data[:, :, None, None], linear.fc.bias.data
    features = torch.randn(3, 6, 5, 7)
    by_vector = linear.train()(features)
    torch.testing.assert_close(linear.eval()(features), by_vector)
    torch.testing.assert_close(other(features), by_vector)
    p = (maps := linear.logit_maps(features)).sigmoid()
    torch.testing.assert_close((p * maps).sum((2, 3)) / p.sum((2, 3)), by_vector)


@pytest.mark.parametrize("pool", ["avg", "pcam", "avg_max"])
@pytest.mark.parametrize("norm", [False, True])
def test_cumulative_attention(pool: str, norm: bool) -> None:
    """Label k is that of a head without attention on the map attended k + 1 times."""
    torch.manual_seed(0)
    options = {"in_channels": 8, "num_labels": 3, "pool": pool, "norm": norm}
    head = heads.build("classwise", attention="channel_attention", **options)
    plain = heads.build("classwise", **options)
    if norm:
        head.norm.running_mean.normal_()
        head.norm.running_var.uniform_(0.5, 2)
    plain.load_state_dict({key: value for key, value in head.state_dict().items() if not key.startswith("attention")})
    head.eval()
    plain.eval()
    features = torch.randn(2, 8, 5, 5)
    attended = features
    for k in range(3):
        attended = head.attention(attended)
        torch.testing.assert_close(head(features)[:, k], plain(attended)[:, k])
        if pool != "avg_max":
            torch.testing.assert_close(head.logit_maps(features)[:, k], plain.logit_maps(attended)[:, k])


def test_norms_of_labels_are_separate() -> None:
    head = heads.build("classwise", in_channels=3, num_labels=2, pool="avg", norm=True).train()
    features = torch.randn(8, 3, 4, 4)
    head(features)
    pooled = features.mean((2, 3))
    apart = [torch.nn.BatchNorm1d(3) for _ in range(2)]
    expected = torch.cat([norm(pooled) for norm in apart], dim=1)
    torch.testing.assert_close(head.norm(pooled.repeat(1, 2)), expected)
