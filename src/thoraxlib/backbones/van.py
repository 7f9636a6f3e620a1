"""The Visual Attention Network, and the full-resolution network of DenseVan, which has its blocks."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from thoraxlib import weights
from thoraxlib.backbones import register
from thoraxlib.backbones.base import Backbone, variant
from thoraxlib.checkpoints import read
from thoraxlib.input_spec import InputSpec
from thoraxlib.layers.pointwise import channels_last
from thoraxlib.layers.van import VANBlock, VANStage, initialise
from thoraxlib.registry import Spec

_SIZES: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {  # widths, depths
    "van_b0": ((32, 64, 160, 256), (3, 3, 5, 2)),
    "van_b1": ((64, 128, 320, 512), (2, 2, 4, 2)),
    "van_b2": ((64, 128, 320, 512), (3, 3, 12, 3)),
    "van_b3": ((64, 128, 320, 512), (3, 5, 27, 3)),
    "van_b4": ((64, 128, 320, 512), (3, 6, 40, 3)),
    "van_b5": ((96, 192, 480, 768), (3, 3, 24, 3)),
    "van_b6": ((96, 192, 384, 768), (6, 6, 90, 6)),
}


class _Chain(Backbone):
    """Submodules run in the order in which they were added; the outputs of ``norm1``, ``norm2``, ... are the maps."""

    def forward(self, x: Tensor) -> list[Tensor]:
        """Compute the feature maps of `x`, finest first, (N, C_i, H_i, W_i)."""
        maps = []
        x = channels_last(x)
        for name, part in self.named_children():
            x = part(x)
            if name.startswith("norm"):
                maps.append(x)
        return maps


class VAN(_Chain):
    """Four stages of VAN blocks, strides 4, 8, 16, 32 (Guo et al. 2022, arXiv 2202.09741).

    Each map is the output of its stage's layer norm. The published ImageNet weights (b0 to b3) were trained on pixels
    with mean 0.5 and standard deviation 0.5.

    Parameters
    ----------
    name : str
        "van_b0" to "van_b6".
    widths, depths : sequence of int, optional
        Channels and blocks of each stage; by default those of `name`.
    in_chans : int
        Channels of the image; timm's rule adapts a pretrained first layer.
    pretrained : bool
        Load ImageNet weights, from the Hugging Face Hub.
    gate : str, mapping or module
        Gate of the blocks' attention: "lka", "lka_multiscale", "lka_dilated", ...
    dropout : float
        Rate in the MLPs, in training.
    drop_path_rate : float
        Fraction of the samples that skip the last block, in training; it rises linearly from 0 over the blocks. The
        paper has 0.1 (b0 to b2) and 0.2 (b3).

    Raises
    ------
    ValueError
        `widths` or `depths` that are not four; `pretrained`, and no published weights of these sizes.
    RuntimeError
        The weights could not be downloaded.
    """

    strides = (4, 8, 16, 32)
    input_spec = InputSpec(mean=(0.5,) * 3, std=(0.5,) * 3)

    def __init__(
        self,
        name: str,
        *,
        widths: Sequence[int] | None = None,
        depths: Sequence[int] | None = None,
        in_chans: int = 3,
        pretrained: bool = False,
        gate: Spec | nn.Module = "lka",
        dropout: float = 0.0,
        drop_path_rate: float = 0.0,
    ) -> None:
        super().__init__()
        widths, depths = tuple(widths or _SIZES[name][0]), tuple(depths or _SIZES[name][1])
        if not len(widths) == len(depths) == 4:
            raise ValueError(f"widths={widths}, depths={depths}: must have four numbers each, one for each stage")
        self.channels, self.in_chans = widths, in_chans
        total, done = sum(depths), 0
        for index, (width, depth, ratio) in enumerate(zip(widths, depths, (8, 8, 4, 4), strict=True)):
            stage = VANStage(
                widths[index - 1] if index else in_chans,
                out_channels=width,
                depth=depth,
                kernel_size=3 if index else 7,
                stride=2 if index else 4,
                mlp_ratio=ratio,
                gate=gate,
                dropout=dropout,
                drop_path=[drop_path_rate * (done + k) / max(total - 1, 1) for k in range(depth)],
                eps=1e-6,
            )
            done += depth
            for part, module in stage.named_children():  # patch_embed1, block1, norm1, ...: the published names
                self.add_module(f"{part}{index + 1}", module)
        if pretrained:
            self._load_published(name, widths, depths)

    def _load_published(self, name: str, *sizes: tuple[int, ...]) -> None:
        from timm.models import adapt_input_conv

        published = f"{name.replace('_', '-')}-imagenet"
        if published not in weights.names():
            raise ValueError(f"{name}: no published weights; weights of the catalogue: {weights.names('van-*')}")
        if sizes != _SIZES[name]:
            raise ValueError(
                "{}: the published weights have widths {} and depths {}, got {} and {}".format(
                    name, *_SIZES[name], *sizes
                )
            )
        try:
            path = weights.fetch(published)
        except Exception as error:
            raise RuntimeError(
                f"backbones: pretrained weights of {name} could not be downloaded ({type(error).__name__}: {error}); "
                "build with pretrained=False to do without"
            ) from error
        state = {key: value for key, value in read(path).items() if not key.startswith("head.")}
        state["patch_embed1.proj.weight"] = adapt_input_conv(self.in_chans, state["patch_embed1.proj.weight"])
        self.load_state_dict(state)


for _name, (_widths, _depths) in _SIZES.items():
    register(_name)(variant(f"VAN-{_name[4:].upper()}: widths {_widths}, depths {_depths}.", VAN, _name))


@register("dense_van")
class DenseVAN(_Chain):
    """Dilated convolutions and dense blocks, then four stages of VAN blocks, all at the image's resolution.

    DenseVan of QUST-SmartData/CXRClassification. First come three 5x5 convolutions with dilation 2 (32, 160 and 288
    channels); after each of the first two, there is a dense block of three layers. Then come stages of 288, 320, 352
    and 384 channels, with a 1x1 convolution between them. Each map is the output of its stage's layer norm.

    No layer has a stride: an image of 224 x 224 pixels takes about 870 GMAC (VAN-B0: 0.86). Use small images.

    Parameters
    ----------
    growth_rate : int
        Channels added by each layer of the dense blocks. All widths above are multiples of it; the repository has 32.
    depths : sequence of int
        VAN blocks of each stage.
    in_chans : int
        Channels of the image.
    pretrained : bool
        Must be False: no weights are published.
    drop_path : float
        Fraction of the samples that skip a branch of a VAN block, in training.

    Raises
    ------
    ValueError
        `pretrained` is True, a growth rate below 1, or `depths` that are not four.
    """

    strides = (1, 1, 1, 1)

    def __init__(
        self,
        *,
        growth_rate: int = 32,
        depths: Sequence[int] = (3, 3, 5, 2),
        in_chans: int = 3,
        pretrained: bool = False,
        drop_path: float = 0.0,
    ) -> None:
        from timm.layers import LayerNorm2d
        from timm.models.densenet import DenseBlock

        super().__init__()
        if pretrained:
            raise ValueError("dense_van: no weights are published; build with pretrained=False")
        if growth_rate < 1 or len(depths) != 4:
            raise ValueError(f"growth_rate={growth_rate}, depths={tuple(depths)}: at least 1, and four depths")
        self.in_chans, g = in_chans, growth_rate
        self.channels = (9 * g, 10 * g, 11 * g, 12 * g)
        sizes = [(in_chans, g, 1), (4 * g, 5 * g, g), (8 * g, 9 * g, g)]
        for index, (before, after, groups) in enumerate(sizes, start=1):
            conv = nn.Conv2d(before, after, 5, padding=4, dilation=2, groups=groups)
            self.add_module(f"dilation_conv{index}", conv)
            if index < 3:  # adds 3 g channels
                self.add_module(f"dense_block{index}", DenseBlock(3, after, bn_size=4, growth_rate=g))
        for index, (width, depth) in enumerate(zip(self.channels, depths, strict=True), start=1):
            if index > 1:
                self.add_module(f"conv{index - 1}", nn.Conv2d(self.channels[index - 2], width, 1))
            blocks = (VANBlock(width, mlp_ratio=4, drop_path=drop_path) for _ in range(depth))
            self.add_module(f"block{index}", nn.Sequential(*blocks))
            self.add_module(f"norm{index}", LayerNorm2d(width, eps=1e-5))
        self.apply(initialise)
