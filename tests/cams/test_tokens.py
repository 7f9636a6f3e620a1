"""Tokens of transformers' layers lie on the image as timm itself puts them."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch

from thoraxlib import cams
from thoraxlib.cams import Split

NETWORKS: dict[str, tuple[str, dict[str, Any]]] = {
    "class token at the end (XCiT)": ("xcit_nano_12_p16_224", {"depth": 2}),
    "class token at the end (CaiT)": ("cait_xxs24_224", {"depth": 2, "img_size": (48, 80)}),
    "class token": ("vit_tiny_patch16_224", {"depth": 2, "img_size": (48, 80)}),
    "class token, any size": ("vit_tiny_patch16_224", {"depth": 2, "dynamic_img_size": True}),
    "two": ("deit_tiny_distilled_patch16_224", {"depth": 2, "img_size": (48, 80)}),
    "in the middle (ConViT)": ("convit_tiny", {"depth": 3, "local_up_to_layer": 2, "img_size": 48}),
    "none": ("vit_relpos_small_patch16_224", {"depth": 2, "img_size": (48, 80)}),
}


@pytest.mark.parametrize("kind", NETWORKS)
def test_each_layer_gives_the_map_that_timm_gives(kind: str) -> None:
    name, options = NETWORKS[kind]
    torch.manual_seed(0)
    net = timm.create_model(name, num_classes=3, **options).eval()
    x = torch.randn(2, 3, 48, 48 if options.get("img_size") == 48 else 80)  # ConViT's images are square
    with torch.no_grad():
        _, maps = net.forward_intermediates(x, norm=False)
    for number, expected in enumerate(maps):
        layer = Split(net, f"blocks.{number}")
        spatial = cams.build("gradcam", layer).spatial(layer.forward_features(x), x)
        torch.testing.assert_close(spatial, expected)
        assert spatial.shape[-2:] == (3, x.shape[-1] // 16)


@pytest.mark.parametrize("size", [(48, 48), (40, 72), (64, 32)])
def test_xcit_before_and_after_its_class_token(size: tuple[int, int]) -> None:
    net = timm.create_model("xcit_nano_12_p16_224", num_classes=3, depth=2).eval()
    torch.nn.init.normal_(net.head.weight)
    x = torch.randn(1, 3, *size)
    grid = tuple(-(-side // 16) for side in size)
    for target in ("blocks.0", "blocks.1", "norm"):
        assert cams.build("eigencam", net, target=target)(x).shape[-2:] == grid
    assert cams.build("gradcam", net, target="blocks.1")(x).shape == (1, 3, *grid)


def test_class_tokens_alone_are_no_map() -> None:
    """PiT's last tokens are a class token and a distillation token, which made a map of 1 x 2 locations."""
    net = timm.create_model("pit_ti_distilled_224", num_classes=3).eval()
    with pytest.raises(ValueError, match="2 tokens form no grid"):
        cams.build("gradcam", net)(torch.randn(1, 3, 224, 224))
