"""Losses of organ masks: formulas, unknown pixels, gradients, errors."""

from __future__ import annotations

import pytest
import torch

from thoraxlib import losses

NAMES = ("dice", "dice_bce")


def pair(channels: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    logits = torch.randn(2, channels, 5, 4, dtype=torch.double)
    return logits, (torch.rand(2, channels, 5, 4) > 0.5).double()


@pytest.mark.parametrize("smooth", [1.0, 0.1])
def test_dice_is_its_formula(smooth: float) -> None:
    logits, masks = pair()
    p = logits.sigmoid()

    def dice(p: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return (2 * (p * t).sum() + smooth) / (p.sum() + t.sum() + smooth)

    torch.testing.assert_close(losses.build("dice", smooth=smooth)(logits, masks), 1 - dice(p, masks))
    each = torch.stack([dice(p[:, c], masks[:, c]) for c in range(3)])
    torch.testing.assert_close(losses.build("dice", smooth=smooth, per_class=True)(logits, masks), 1 - each.mean())


def test_per_class_minds_small_organs() -> None:
    masks = torch.zeros(1, 2, 32, 32)
    masks[:, 0] = 1
    masks[:, 1, 3, 4:6] = 1
    logits = torch.full_like(masks, -20.0)
    logits[:, 0] = 20  # the small one is missed
    together, each = (losses.build("dice", per_class=per_class)(logits, masks).item() for per_class in (False, True))
    assert together < 0.01
    assert each == pytest.approx(1 / 3, abs=1e-4)  # 1 - (1 + 1 / 3) / 2


@pytest.mark.parametrize("per_class", [False, True])
def test_dice_bce_adds_the_cross_entropy(per_class: bool) -> None:
    logits, masks = pair()
    cross_entropy = torch.nn.functional.binary_cross_entropy_with_logits(logits, masks)
    dice = losses.build("dice", per_class=per_class)(logits, masks)
    torch.testing.assert_close(losses.build("dice_bce", per_class=per_class)(logits, masks), dice + cross_entropy)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("per_class", [False, True])
class TestEvery:
    def test_gradient_and_unknown_pixels(self, name: str, per_class: bool) -> None:
        logits, masks = pair()
        loss = losses.build(name, per_class=per_class)
        more = torch.cat([logits, torch.full_like(logits, 9.0)]).requires_grad_()
        value = loss(more, torch.cat([masks, torch.full_like(masks, torch.nan)]))
        torch.testing.assert_close(value, loss(logits, masks))
        value.backward()
        assert (more.grad[2:] == 0).all()
        masks[0, 0, 0, 0] = torch.nan
        assert torch.autograd.gradcheck(lambda x: loss(x, masks), logits.requires_grad_())

    def test_empty_and_unknown_masks(self, name: str, per_class: bool) -> None:
        loss = losses.build(name, per_class=per_class)
        logits = torch.full((1, 2, 4, 4), -100.0, requires_grad=True)
        nothing = loss(logits, torch.zeros(1, 2, 4, 4, dtype=torch.uint8))
        assert nothing.item() < 1e-40
        unknown = loss(logits, torch.full((1, 2, 4, 4), torch.nan))
        unknown.backward()
        assert unknown.item() == 0
        assert (logits.grad == 0).all()

    def test_types_of_masks(self, name: str, per_class: bool) -> None:
        logits, masks = pair()
        loss = losses.build(name, per_class=per_class)
        for other in (masks.bool(), masks.to(torch.uint8), masks.half()):
            torch.testing.assert_close(loss(logits, other), loss(logits, masks))
        assert loss(logits.bfloat16(), masks.bool()).dtype == torch.float32
        assert loss(logits, masks * 255).isnan()
        assert loss(logits, -masks).isnan()

    def test_compiles(self, name: str, per_class: bool) -> None:
        loss = losses.build(name, per_class=per_class)
        compiled = torch.compile(loss, backend="eager", fullgraph=True)
        logits, masks = pair()
        torch.testing.assert_close(compiled(logits, masks), loss(logits, masks))

    def test_shapes(self, name: str, per_class: bool) -> None:
        loss = losses.build(name, per_class=per_class)
        for shape in ((2, 5, 4), (2, 1, 5, 4), (2, 3, 5, 5)):
            with pytest.raises(ValueError, match=r"\(2, 3, 5, 4\) and masks.*\(N, C, H, W\)"):
                loss(pair()[0], torch.zeros(shape))
        with pytest.raises(ValueError, match=r"\(N, C, H, W\)"):
            loss(torch.zeros(8, 14), torch.zeros(8, 14))
        with pytest.raises(ValueError, match="smooth=0"):
            losses.build(name, smooth=0, per_class=per_class)
