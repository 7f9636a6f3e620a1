"""All components of the registries together: as the models' cards and docs/guides/compatibility.md say."""

from __future__ import annotations

import importlib.util
from typing import Any

import compatibility as compat
import pytest
import torch

import thoraxlib
from thoraxlib import heads
from thoraxlib.layers import fusion, pooling
from thoraxlib.models.registry import ABILITIES
from thoraxlib.registry import OptionError

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),  # of untrained UNets' masks, of tracing
]

WRITE = "not what docs/guides/compatibility.md says: if it is meant, python -m tests.compatibility --write"
COMMITTED = compat.Page.read()
HAS_ONNX = all(importlib.util.find_spec(name) for name in ("onnx", "onnxscript", "onnxruntime"))

OLD_ONNX = torch.__version__.startswith("2.6.")  # its exporter knows no antialiased resize, which masks need


def test_the_page_is_of_what_is_registered() -> None:
    assert str(COMMITTED) == compat.PAGE.read_text(encoding="utf-8"), WRITE
    assert tuple(compat.CHECKS) == ABILITIES
    assert list(COMMITTED.pools) == list(COMMITTED.cams) == heads.names(), WRITE
    assert all(list(row) == pooling.names() for row in COMMITTED.pools.values()), WRITE
    assert all(list(row) == compat.METHODS for row in COMMITTED.cams.values()), WRITE
    assert list(COMMITTED.families) == compat.families(), WRITE


@pytest.mark.parametrize("name", thoraxlib.models.registry.registered())
def test_documented_models(name: str) -> None:
    card = thoraxlib.describe(name)
    onnx = HAS_ONNX and not (OLD_ONNX and card.options.get("segmenter"))
    tried = [ability for ability in ABILITIES if onnx or "ONNX" not in ability]
    found = {ability: compat.finding(name, ability) for ability in tried}
    assert found == {ability: card.abilities[ability] for ability in tried}, "declare it in the card's limits"
    if not onnx:
        pytest.skip("all agrees but ONNX, which needs the extra onnx, and for masks torch 2.7")


@pytest.mark.parametrize("head", heads.names())
def test_heads_and_heat_maps(head: str) -> None:
    assert {method: compat.head_and_cam(head, method) for method in compat.METHODS} == COMMITTED.cams[head], WRITE


@pytest.mark.parametrize("family", compat.families())
class TestFamilies:
    def test_every_fusion_head_and_pooling(self, family: str) -> None:
        for fused in compat.FUSIONS:
            several = fused is not None and len(compat.backbone(family).build(fusion=fused).fusion.channels) > 1
            taken = (compat.YES, "several maps" if several else "one map")
            for head in heads.names():
                for pool in pooling.names():
                    expected = COMMITTED.pools[head][pool] in taken
                    assert compat.fits(family, fused, head, pool) == expected, (fused, head, pool, WRITE)

    def test_heat_maps(self, family: str) -> None:
        assert compat.described(family) == COMMITTED.families[family], WRITE

    @pytest.mark.parametrize("fused", compat.FUSIONS)
    def test_training(self, family: str, fused: str | None) -> None:
        """A gradient for every weight but those of a frozen segmenter, which makes the masks."""
        uses_masks = fused is not None and fusion.registry.factory(fused).uses_masks  # type: ignore[attr-defined]
        segmenter = compat.reduced("unet") if uses_masks else None
        model: Any = compat.backbone(family).build(fusion=fused, segmenter=segmenter)
        model.train().requires_grad_(True)
        if uses_masks:
            model.segmenter.requires_grad_(False)
        model(compat.backbone(family).inputs(None, 4)[0]).square().sum().backward()
        left = {key for key, p in model.named_parameters() if p.grad is None}
        assert left == {key for key, _ in model.named_parameters() if key.startswith("segmenter.")}
        model.zero_grad(set_to_none=True)
        model.eval()


def test_a_pooling_for_a_head_that_pools_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    class Corner(heads.Head):
        def __init__(self, in_channels: int, num_labels: int) -> None:
            super().__init__()
            self.fc = torch.nn.Linear(in_channels, num_labels)

        def forward(self, features: torch.Tensor) -> torch.Tensor:
            return self.fc(features[..., 0, 0])

    monkeypatch.setitem(heads.registry._factories, "corner", Corner)
    monkeypatch.setitem(heads.registry._cards, "corner", heads.describe("linear"))
    build = compat.backbone(compat.TYPICAL).build
    with torch.no_grad():
        assert build(head="corner")(*compat.backbone(compat.TYPICAL).inputs(None)).shape == (2, 3)
    with pytest.raises(OptionError, match="head is 'corner', which pools nothing: pool='max' cannot be set, leave it"):
        build(head="corner", pool="max")
    with pytest.raises(OptionError, match="head is a Corner that is made already: pool='lse' cannot be set"):
        build(head=Corner(32, 3), pool="lse")
    with pytest.raises(OptionError, match="models: 'anaxnet' has no option 'pool'"):
        thoraxlib.build("anaxnet", pool="max")
