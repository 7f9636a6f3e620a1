"""The full-resolution network of DenseVan: dense blocks, then VAN blocks."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from thoraxlib.backbones import register
from thoraxlib.backbones.van import InTurn
from thoraxlib.layers.van import VANBlock, initialise

_DEPTHS = (3, 3, 5, 2)


@register("dense_van")
class DenseVAN(InTurn):
    """Dilated convolutions and dense blocks, then four stages of VAN blocks, all at the image's resolution.

    QUST-SmartData/CXRClassification, DenseVan. Three times a 5x5 convolution with dilation 2, the first two with a
    dense block of three layers behind them (32, 160, 288 channels), then stages of 288, 320, 352 and 384 channels, a
    1x1 convolution between them. Each map is behind its stage's layer norm.

    Nothing ever has a stride: an image of 224 x 224 pixels takes about 870 GMAC, VAN-B0 0.86. Meant for small images.

    Parameters
    ----------
    growth_rate : int
        Channels that a layer of the dense blocks adds: all widths above are multiples of the repository's 32.
    depths : sequence of int
        VAN blocks of each stage.
    in_chans : int
        Channels of the image.
    pretrained : bool
        No weights are published: True is an error.
    drop_path : float
        Share of samples for which a VAN block's branch is left out, in training.

    Raises
    ------
    ValueError
        `pretrained` is True; a growth rate below 1, or depths that are not four.
    """

    strides = (1, 1, 1, 1)

    def __init__(
        self,
        *,
        growth_rate: int = 32,
        depths: Sequence[int] = _DEPTHS,
        in_chans: int = 3,
        pretrained: bool = False,
        drop_path: float = 0.0,
    ) -> None:
        from timm.layers import LayerNorm2d
        from timm.models.densenet import DenseBlock

        super().__init__()
        if pretrained:
            raise ValueError("dense_van: no weights are published; build with pretrained=False")
        if growth_rate < 1 or len(depths) != len(_DEPTHS):
            raise ValueError(f"growth_rate={growth_rate}, depths={tuple(depths)}: at least 1, and four depths")
        self.in_chans, g = in_chans, growth_rate
        self.channels = (9 * g, 10 * g, 11 * g, 12 * g)
        for index, (before, after, groups) in enumerate(
            [(in_chans, g, 1), (4 * g, 5 * g, g), (8 * g, 9 * g, g)], start=1
        ):
            conv = nn.Conv2d(before, after, 5, padding=4, dilation=2, groups=groups)
            self.add_module(f"dilation_conv{index}", conv)
            if index < 3:  # 3 g channels more
                self.add_module(f"dense_block{index}", DenseBlock(3, after, bn_size=4, growth_rate=g))
        for index, (width, depth) in enumerate(zip(self.channels, depths, strict=True), start=1):
            if index > 1:
                self.add_module(f"conv{index - 1}", nn.Conv2d(self.channels[index - 2], width, 1))
            blocks = (VANBlock(width, mlp_ratio=4, drop_path=drop_path) for _ in range(depth))
            self.add_module(f"block{index}", nn.Sequential(*blocks))
            self.add_module(f"norm{index}", LayerNorm2d(width, eps=1e-5))
        self.apply(initialise)
