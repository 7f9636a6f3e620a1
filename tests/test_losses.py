"""Losses: the recorded values, unknown labels, gradients, errors."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from formulas import assert_matches, load_record
from torch import nn

from thoraxlib import losses

NAN = float("nan")
MASKS = ("dice", "dice_bce")  # tests/test_mask_losses.py


def made(name: str, targets: torch.Tensor) -> nn.Module:
    loss = losses.build(name)
    return loss.fit(targets) if hasattr(loss, "fit") else loss


@pytest.fixture
def recorded() -> tuple[torch.Tensor, torch.Tensor, dict]:
    """Logits (8, 5), labels (8, 5) and outputs of the record, by its formulas."""
    n, k = np.arange(8)[:, None], np.arange(5)[None, :]
    logits = torch.from_numpy(2 * np.sin(1.7 * n + 0.9 * k + 0.3)).requires_grad_()
    labels = torch.from_numpy((np.cos(2.3 * n + 1.1 * k * k) > 0.35).astype(np.float64))
    labels[:, 4] = 0
    outputs = load_record("chexnet_losses.json")["outputs"]
    assert_matches(logits, outputs["logits"])
    assert_matches(labels, outputs["labels"])
    return logits, labels, outputs


@pytest.mark.parametrize(
    ("name", "options", "output"),
    [
        ("bce", {"reduction": "sum"}, "cel_sum"),
        ("bce", {}, "cel_mean"),
        ("bce", {}, "bce_mean"),
        ("bce", {"reduction": "label_sum"}, "chexnet14_sum_over_labels_mean_over_images"),
        ("w_cel", {"reduction": "sum"}, "wcel_sum"),
        ("w_cel", {}, "wcel_mean"),
        ("w_cel", {"scope": "per_label", "reduction": "sum"}, "wcel_per_label_sum"),
    ],
)
def test_recorded_values(recorded: tuple, name: str, options: dict, output: str) -> None:
    logits, labels, outputs = recorded
    assert losses.build(name, **options)(logits, labels).item() == pytest.approx(outputs[output], rel=1e-6)


def test_recorded_weights_and_gradient(recorded: tuple) -> None:
    logits, labels, outputs = recorded
    positives, negatives = losses.label_counts(labels)
    assert positives.tolist() == outputs["per_label_P"]
    assert (positives.sum().item(), negatives.sum().item()) == (outputs["P"], outputs["N"])
    losses.build("w_cel", reduction="sum")(logits, labels).backward()
    assert_matches(logits.grad, outputs["wcel_sum_grad"], rtol=1e-6)

    weighted = losses.build("weighted_bce", reduction="sum").fit(labels)
    assert weighted.w_pos.tolist() == pytest.approx(outputs["chexnet_w_plus"])
    assert (1 - weighted.w_pos).tolist() == pytest.approx(outputs["chexnet_w_minus"])
    for k, expected in enumerate(outputs["chexnet_weighted_per_label_sum"]):
        column = losses.build("weighted_bce", reduction="sum").fit(labels[:, [k]])
        assert column(logits[:, [k]], labels[:, [k]]).item() == pytest.approx(expected, rel=1e-6, abs=1e-12)


def test_given_counts_equal_fitted_counts_and_are_kept(recorded: tuple) -> None:
    logits, labels, _ = recorded
    positives, negatives = losses.label_counts(labels)
    for name, options in (("w_cel", {"scope": "dataset"}), ("weighted_bce", {})):
        counted = losses.build(name, **options).fit(labels)(logits, labels)
        given = losses.build(name, positives=positives.tolist(), negatives=negatives.tolist(), **options)
        assert given(logits, labels).item() == pytest.approx(counted.item(), rel=1e-6)
        assert given.fit(1 - labels)(logits, labels).item() == pytest.approx(counted.item(), rel=1e-6)


def test_counts_of_any_type_of_targets() -> None:
    targets = torch.tensor([[1.0, 0.0], [1.0, NAN], [0.0, 0.0]]).repeat(30_000, 1)
    for dtype in (torch.float64, torch.float32, torch.float16, torch.bfloat16):
        positives, negatives = losses.label_counts(targets.to(dtype))
        assert (positives.tolist(), negatives.tolist()) == ([60_000, 0], [30_000, 60_000])
    for dtype in (torch.int64, torch.bool):
        positives, negatives = losses.label_counts(torch.eye(2, dtype=dtype))
        assert (positives.tolist(), negatives.tolist()) == ([1.0, 1.0], [1.0, 1.0])
    with pytest.raises(ValueError, match=r"\[0, 1\].*2 do not, the first is -1"):
        losses.label_counts(torch.tensor([[1, -1], [0, -1]]))
    with pytest.raises(ValueError, match=r"\(N, K\).*\(3,\)"):
        losses.label_counts(torch.zeros(3))


def test_dataset_scope(recorded: tuple) -> None:
    logits, labels, outputs = recorded
    loss = losses.build("w_cel", scope="dataset", reduction="sum").fit(labels)
    assert loss(logits, labels).item() == pytest.approx(outputs["wcel_sum"], rel=1e-6)
    assert loss(logits[:2], labels[:2]).item() != pytest.approx(
        losses.build("w_cel", reduction="sum")(logits[:2], labels[:2]).item()
    )
    given = losses.build("w_cel", scope="dataset", reduction="sum", positives=outputs["P"], negatives=outputs["N"])
    assert given(logits, labels).item() == pytest.approx(outputs["wcel_sum"], rel=1e-6)


@pytest.mark.parametrize("name", [name for name in losses.names() if name not in MASKS])
class TestEvery:
    def test_unknown_labels_are_ignored(self, name: str) -> None:
        torch.manual_seed(0)
        logits, labels = torch.randn(6, 3), (torch.rand(6, 3) > 0.5).float()
        loss = made(name, labels)
        more_logits = torch.cat([logits, torch.full((2, 3), 9.0)]).requires_grad_()
        more_labels = torch.cat([labels, torch.full((2, 3), NAN)])
        value = loss(more_logits, more_labels)
        torch.testing.assert_close(value, loss(logits, labels))
        value.backward()
        assert (more_logits.grad[6:] == 0).all()
        assert more_logits.grad[:6].abs().sum() > 0

    def test_loss_is_zero_without_known_labels(self, name: str) -> None:
        logits = torch.randn(4, 2, requires_grad=True)
        value = made(name, torch.eye(2))(logits, torch.full((4, 2), NAN))
        value.backward()
        assert value.item() == 0
        assert (logits.grad == 0).all()

    def test_gradient(self, name: str) -> None:
        torch.manual_seed(1)
        labels = (torch.rand(5, 3) > 0.4).double()
        labels[0, 0] = NAN
        loss = made(name, labels).double()
        assert torch.autograd.gradcheck(
            lambda x: loss(x, labels), torch.randn(5, 3, dtype=torch.double).requires_grad_()
        )

    @pytest.mark.parametrize("value", [100.0, -100.0])
    def test_extreme_logits(self, name: str, value: float) -> None:
        logits = torch.full((4, 2), value, requires_grad=True)
        loss = made(name, torch.eye(2).repeat(2, 1))(logits, torch.eye(2).repeat(2, 1))
        loss.backward()
        assert loss.isfinite()
        assert loss > 1
        assert logits.grad.isfinite().all()

    def test_half_precision_bool_labels_and_regions(self, name: str) -> None:
        loss = made(name, torch.eye(2))
        value = loss(torch.randn(2, 2, dtype=torch.bfloat16), torch.eye(2).bool())
        assert value.dtype == torch.float32
        assert loss(torch.randn(3, 18, 2), (torch.rand(3, 18, 2) > 0.5).float()).shape == ()

    def test_a_label_out_of_range_gives_nan(self, name: str) -> None:
        loss = made(name, torch.eye(2))
        for odd in (-1.0, 2.0):
            assert loss(torch.zeros(2, 2), torch.tensor([[1.0, odd], [0.0, 1.0]])).isnan()

    def test_weights_follow_the_logits_device(self, name: str) -> None:
        logits = torch.zeros(2, 2, device="meta")
        assert made(name, torch.eye(2))(logits, logits).device.type == "meta"

    def test_compiles(self, name: str) -> None:
        loss = made(name, torch.eye(3))
        compiled = torch.compile(loss, backend="eager", fullgraph=True)
        logits, labels = torch.randn(4, 3), torch.tensor([[1.0, 0.0, NAN]] * 4)
        torch.testing.assert_close(compiled(logits, labels), loss(logits, labels))

    def test_widths(self, name: str) -> None:
        with pytest.raises(ValueError, match=r"\(4, 14\).*\(4, 15\)"):
            made(name, torch.eye(14))(torch.zeros(4, 14), torch.zeros(4, 15))


def test_batches_of_one_class_are_finite() -> None:
    for labels in (torch.zeros(4, 2), torch.ones(4, 2)):
        value = losses.build("w_cel")(torch.zeros(4, 2), labels)
        assert value.item() == pytest.approx(np.log(2))


@pytest.mark.parametrize(("name", "options"), [("bce", {}), ("weighted_bce", {"positives": [3.0], "negatives": [5.0]})])
def test_a_soft_label_mixes_the_hard_ones(name: str, options: dict) -> None:
    loss = losses.build(name, **options)
    logit = torch.tensor([[0.7]])
    one, zero, soft = (loss(logit, torch.tensor([[y]])).item() for y in (1.0, 0.0, 0.3))
    assert soft == pytest.approx(0.3 * one + 0.7 * zero, rel=1e-6)


def test_pos_weight() -> None:
    weighted = losses.build("bce", pos_weight=[3.0, 1.0])
    logits, labels = torch.randn(5, 2), (torch.rand(5, 2) > 0.5).float()
    expected = nn.functional.binary_cross_entropy_with_logits(logits, labels, pos_weight=torch.tensor([3.0, 1.0]))
    torch.testing.assert_close(weighted(logits, labels), expected)


def test_errors() -> None:
    with pytest.raises(ValueError, match="reduction='none'.*'mean'"):
        losses.build("bce", reduction="none")
    with pytest.raises(ValueError, match="scope='epoch'.*'batch'"):
        losses.build("w_cel", scope="epoch")
    with pytest.raises(RuntimeError, match="fit"):
        losses.build("weighted_bce")(torch.zeros(1, 1), torch.zeros(1, 1))
    with pytest.raises(RuntimeError, match="fit"):
        losses.build("w_cel", scope="dataset")(torch.zeros(1, 1), torch.zeros(1, 1))
    with pytest.raises(ValueError, match="3 labels.*2"):
        losses.build("bce", pos_weight=[1.0, 1.0, 1.0])(torch.zeros(1, 2), torch.zeros(1, 2))
    with pytest.raises(ValueError, match="pos_weight"):
        losses.build("bce", pos_weight=[-1.0])
    with pytest.raises(ValueError, match="go together"):
        losses.build("weighted_bce", positives=[1.0])
    with pytest.raises(ValueError, match=r"0 or more.*\[-1.0\]"):
        losses.build("weighted_bce", positives=[-1.0], negatives=[1.0])
    with pytest.raises(ValueError, match="scope='batch'"):
        losses.build("w_cel", positives=1.0, negatives=1.0)


def test_focal_formula() -> None:
    logits, labels = torch.randn(6, 3), (torch.rand(6, 3) > 0.5).float()
    p = logits.sigmoid()
    p_t, alpha_t = torch.where(labels > 0, p, 1 - p), torch.where(labels > 0, 0.3, 0.7)
    expected = -alpha_t * (1 - p_t) ** 1.5 * p_t.log()
    torch.testing.assert_close(losses.build("focal", alpha=0.3, gamma=1.5)(logits, labels), expected.mean())
    torch.testing.assert_close(
        losses.build("focal", alpha=0.3, gamma=1.5, reduction="sum")(logits, labels), expected.sum()
    )
    plain = losses.build("focal", alpha=None, gamma=0)(logits, labels)
    torch.testing.assert_close(plain, losses.build("bce")(logits, labels))


def test_batch_focal_only_scales_the_gradient() -> None:
    logits, labels = torch.randn(6, 3, requires_grad=True), (torch.rand(6, 3) > 0.5).float()
    mean = losses.build("bce")(logits, labels)
    value = losses.build("batch_focal", alpha=0.5, gamma=3)(logits, labels)
    torch.testing.assert_close(value, 0.5 * (1 - (-mean).exp()) ** 3 * mean)
    plain, scaled = (torch.autograd.grad(loss, logits)[0] for loss in (mean, value))
    ratio = scaled / plain
    torch.testing.assert_close(ratio, torch.full_like(ratio, float(ratio[0, 0])))
    assert 0 < float(ratio[0, 0]) < 0.9


@pytest.mark.parametrize("name", ["focal", "batch_focal"])
@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_focal_gradients_are_finite_for_perfect_logits(name: str, gamma: float) -> None:
    logits = torch.tensor([[200.0, -200.0]], requires_grad=True)
    loss = losses.build(name, gamma=gamma)(logits, torch.tensor([[1.0, 0.0]]))
    loss.backward()
    assert loss.item() == 0
    assert (logits.grad == 0).all()


def test_focal_errors() -> None:
    with pytest.raises(ValueError, match="alpha=1.5"):
        losses.build("focal", alpha=1.5)
    with pytest.raises(ValueError, match="alpha=0"):
        losses.build("batch_focal", alpha=0)
    for name in ("focal", "batch_focal"):
        with pytest.raises(ValueError, match="gamma=-1"):
            losses.build(name, gamma=-1)


def test_pos_weight_of_the_batch() -> None:
    logits = torch.tensor([[0.5, -1.0], [1.5, 0.3], [-0.2, 0.8], [0.0, 2.0]])
    labels = torch.tensor([[1.0, 0.0], [0.0, 0.0], [float("nan"), 0.0], [0.0, 0.0]])
    p = logits.sigmoid()
    first = -(2 * p[0, 0].log() + (1 - p[1, 0]).log() + (1 - p[3, 0]).log()) / 3
    second = -(1 - p[:, 1]).log().mean()
    keep = losses.build("bce", pos_weight="batch", reduction="label_sum")
    skip = losses.build("bce", pos_weight="batch", reduction="label_sum", skip_absent=True)
    torch.testing.assert_close(keep(logits, labels), first + second)
    torch.testing.assert_close(skip(logits, labels), first)
    logits.requires_grad_()
    skip(logits, labels).backward()
    assert logits.grad is not None
    assert (logits.grad[:, 1] == 0).all()
    with pytest.raises(ValueError, match="pos_weight='auto': allowed are 'batch'"):
        losses.build("bce", pos_weight="auto")
