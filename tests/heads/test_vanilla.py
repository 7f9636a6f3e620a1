from __future__ import annotations

import pytest
import torch
from torch import nn

from thoraxlib import heads
from thoraxlib.heads.vanilla import VanillaHead


def randomised(**options: object) -> VanillaHead:
    """With statistics and weights of the norm that do something."""
    head = heads.build("vanilla", in_channels=6, num_labels=4, **options)
    assert isinstance(head, VanillaHead)
    nn.init.uniform_(head.norm.weight, 0.5, 2)
    nn.init.normal_(head.norm.bias)
    head.norm.running_mean.normal_()
    head.norm.running_var.uniform_(0.5, 2)
    return head


@pytest.mark.parametrize("pool", ["avg", "max", "avg_max"])
@torch.inference_mode()
def test_fused_is_the_same(pool: str) -> None:
    head = randomised(pool=pool).eval()
    features = torch.randn(3, 6, 5, 7)
    logits, count = head(features), sum(p.numel() for p in head.parameters())
    maps = None if pool == "avg_max" else head.logit_maps(features)
    assert head.fuse() is head
    torch.testing.assert_close(head(features), logits)
    torch.testing.assert_close(head.fuse()(features), logits)  # once more does nothing
    assert sum(p.numel() for p in head.parameters()) == count - (2 * 4 + 4 * 4 + 4)
    if maps is not None:
        torch.testing.assert_close(head.logit_maps(features), maps)


def test_the_slope_is_used_and_can_be_changed() -> None:
    head = randomised().eval()
    features = torch.randn(3, 6, 5, 7)
    hidden = head.norm(head.fc(features.mean((2, 3))))
    for slope in (1.0, 0.25, 0.0):
        head.activation_slope = slope
        bent = torch.where(hidden > 0, hidden, slope * hidden)
        torch.testing.assert_close(head(features), head.out(bent))
    with pytest.raises(NotImplementedError, match=r"activation_slope=0.0 is not linear.*gradient-based CAM"):
        head.logit_maps(features)
    with pytest.raises(ValueError, match="fuse needs a head in eval mode with activation_slope 1; got training=False"):
        head.fuse()
    with pytest.raises(ValueError, match=r"got training=True, activation_slope=1\.0"):
        heads.build("vanilla", in_channels=6, num_labels=4).fuse()


def test_the_norm_is_of_the_batch_in_training() -> None:
    head = randomised().train()
    features = torch.randn(8, 6, 2, 2)
    hidden = head.norm(head.fc(features.mean((2, 3))))
    torch.testing.assert_close(hidden.mean(0), head.norm.bias)
    torch.testing.assert_close(head(features), head.out(hidden))


def test_several_maps() -> None:
    head = heads.build("vanilla", in_channels=(3, 5), num_labels=4).eval()
    maps = [torch.randn(2, 3, 8, 8), torch.randn(2, 5, 4, 4)]
    torch.testing.assert_close(head(maps), head.logit_maps(maps).mean((2, 3)))
