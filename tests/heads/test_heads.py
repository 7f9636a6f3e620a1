from __future__ import annotations

import pytest
import torch

from thoraxlib import heads, pooling


@pytest.mark.parametrize("name", heads.names())
@pytest.mark.parametrize("pool", pooling.names())
def test_logits_and_maps(name: str, pool: str) -> None:
    head = heads.build(name, in_channels=6, num_labels=4, pool=pool).eval()
    features = torch.randn(3, 6, 5, 7, requires_grad=True)
    logits, maps = head(features), head.logit_maps(features)
    assert logits.shape == (3, 4)
    assert maps.shape == (3, 4, 5, 7)
    logits.sum().backward()
    assert features.grad is not None
    if name == "map":
        torch.testing.assert_close(head.pool(maps), logits)
    if pool == "avg":
        torch.testing.assert_close(maps.mean((2, 3)), logits)


def test_dropout_acts_in_training_only() -> None:
    for name in ("linear", "map"):
        head = heads.build(name, in_channels=50, num_labels=2, dropout=0.5)
        features = torch.randn(2, 50, 3, 3)
        assert not torch.equal(head(features), head(features))
        head.eval()
        assert torch.equal(head(features), head(features))
