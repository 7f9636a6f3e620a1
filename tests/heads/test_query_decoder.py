from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from thoraxlib import heads
from thoraxlib.heads.query_decoder import AttentionLayer, QueryDecoderHead, sine_positions

SMALL = {"channels": 32, "encoder_layers": 2, "decoder_layers": 2, "attention_heads": 4, "hidden": 64}


def small(num_labels: int = 5, **options: object) -> QueryDecoderHead:
    head = heads.build("query_decoder", in_channels=6, num_labels=num_labels, **{**SMALL, **options})
    assert isinstance(head, QueryDecoderHead)
    return head


def logits_of(head: QueryDecoderHead, vectors: Tensor) -> Tensor:
    """A row of weights for each label's own vector."""
    return torch.einsum("nkd,kd->nk", vectors, head.labelwise.weight) + head.labelwise.bias


@pytest.mark.parametrize("num_labels", [1, 5, 14])
@pytest.mark.parametrize("size", [(7, 7), (1, 1), (3, 11)])
def test_any_number_of_labels_and_any_map(num_labels: int, size: tuple[int, int]) -> None:
    head = small(num_labels).train()
    features = torch.randn(2, 6, *size, requires_grad=True)
    logits = head(features)
    assert logits.shape == (2, num_labels)
    logits.square().sum().backward()
    assert features.grad is not None
    assert all(p.grad is not None and p.grad.isfinite().all() for p in head.parameters())
    assert not torch.equal(head(features), head(features))  # dropout
    head.eval()
    assert torch.equal(head(features), head(features))


def test_the_branches_are_weighed_label_by_label() -> None:
    head = small(3).eval()
    features = torch.randn(2, 6, 4, 4)
    linear, decoded = head.linear(features), logits_of(head, head.decode(features))
    torch.testing.assert_close(head(features), (linear + decoded) / 2)
    head.linear_share.data = torch.tensor([1.0, 0.0, 2.0])
    head.decoder_share.data = torch.tensor([0.0, 1.0, 3.0])
    head.constant.data = torch.tensor([0.0, 0.0, 7.0])
    expected = torch.stack([linear[:, 0], decoded[:, 1], 2 * linear[:, 2] + 3 * decoded[:, 2] + 7], dim=1)
    torch.testing.assert_close(head(features), expected)


def test_labels_and_images_are_independent() -> None:
    head = small(4).eval()
    features = torch.randn(3, 6, 4, 4)
    vectors = head.decode(features)
    torch.testing.assert_close(head.decode(features[1:2]), vectors[1:2])
    order = torch.tensor([2, 0, 3, 1])
    head.queries.data = head.queries[order]
    torch.testing.assert_close(head.decode(features), vectors[:, order])


def test_positions_matter_only_through_their_embedding() -> None:
    """Without the embedding, attention and pooling do not depend on the order of locations."""
    head = small().eval()
    features = torch.randn(2, 6, 4, 4)
    shuffled = features.flatten(2)[..., torch.randperm(16)].view_as(features)
    assert (head(features) - head(shuffled)).abs().max() > 1e-4
    memory = head.input_proj(features).flatten(2).mT
    nowhere = torch.zeros(1, 16, 32)
    layer = head.encoder[0]
    order = torch.randperm(16)
    torch.testing.assert_close(
        layer(memory[:, order], nowhere, memory[:, order], nowhere), layer(memory, nowhere, memory, nowhere)[:, order]
    )


def test_position_embedding() -> None:
    embedding = sine_positions(3, 5, 8)
    assert embedding.shape == (1, 8, 3, 5)
    for channel, (row, column) in [(0, (1, 4)), (3, (2, 0)), (4, (0, 2)), (7, (1, 3))]:
        position, size = (row + 1, 3) if channel < 4 else (column + 1, 5)
        angle = position / (size + 1e-6) * 2 * math.pi / 10000 ** (2 * (channel % 4 // 2) / 4)
        expected = math.cos(angle) if channel % 2 else math.sin(angle)
        assert embedding[0, channel, row, column] == pytest.approx(expected, abs=1e-6)
    assert sine_positions(2, 2, 4, like=torch.zeros(1, dtype=torch.float64)).dtype == torch.float64
    with pytest.raises(ValueError, match="channels must be a multiple of 4, got 6"):
        sine_positions(2, 2, 6)


@torch.inference_mode()
def test_a_layer_without_positions_is_torchs() -> None:
    theirs = torch.nn.TransformerEncoderLayer(16, 4, 32, dropout=0.1, batch_first=True).eval()
    ours = AttentionLayer(16, 4, 32, 0.1, batch_first=True).eval()
    ours.load_state_dict(theirs.state_dict())
    x, nowhere = torch.randn(2, 7, 16), torch.zeros(1, 7, 16)
    torch.testing.assert_close(ours(x, nowhere, x, nowhere), theirs(x))


def test_errors() -> None:
    for channels in (30, 36):
        with pytest.raises(ValueError, match=f"multiple of 4 and of attention_heads=8, got {channels}"):
            small(channels=channels, attention_heads=8)
    with pytest.raises(NotImplementedError, match="QueryDecoderHead has no per-location logits.*gradient-based CAM"):
        small().logit_maps(torch.randn(1, 6, 4, 4))
