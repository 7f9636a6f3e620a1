"""The Visual Attention Network."""

from __future__ import annotations

import inspect
from collections.abc import Sequence

from torch import Tensor, nn

from thoraxlib.backbones import register
from thoraxlib.backbones.base import Backbone
from thoraxlib.checkpoints import read
from thoraxlib.layers.van import VANStage
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
_HUB = {
    "van_b0": ("Visual-Attention-Network/VAN-Tiny-original", "van_tiny_754.pth.tar"),
    "van_b1": ("Visual-Attention-Network/VAN-Small-original", "van_small_811.pth.tar"),
    "van_b2": ("Visual-Attention-Network/VAN-Base-original", "van_base_828.pth.tar"),
    "van_b3": ("Visual-Attention-Network/VAN-Large-original", "van_large_839.pth.tar"),
}


class InTurn(Backbone):
    """Modules run in turn, in the order in which they were added; the outputs of ``norm1``, ... are the maps."""

    def forward(self, x: Tensor) -> list[Tensor]:
        """Feature maps of `x`, finest first, (N, C_i, H_i, W_i)."""
        maps = []
        for name, part in self.named_children():
            x = part(x)
            if name.startswith("norm"):
                maps.append(x)
        return maps


class VAN(InTurn):
    """Four stages of VAN blocks, strides 4, 8, 16, 32 (Guo et al. 2022, arXiv 2202.09741).

    Each map is behind its stage's layer norm. The published ImageNet weights (b0 to b3) were trained on pixels with
    mean 0.5 and deviation 0.5.

    Parameters
    ----------
    widths, depths : sequence of int
        Channels and blocks of each stage.
    mlp_ratios : sequence of float
        Of each stage's blocks.
    in_chans : int
        Channels of the image; pretrained first layers are adapted by timm's rule.
    gate : str, mapping or module
        What the blocks' attention multiplies with: "lka", "lka_multiscale", "lka_dilated", ...
    dropout : float
        In the MLPs, in training.
    drop_path_rate : float
        Share of samples for which the last block is left out, in training; rises linearly from 0 over the blocks. The
        paper's is 0.1 (b0 to b2) and 0.2 (b3).

    Raises
    ------
    ValueError
        Widths, depths and ratios that are not as many.
    """

    def __init__(
        self,
        widths: Sequence[int],
        depths: Sequence[int],
        *,
        mlp_ratios: Sequence[float] = (8, 8, 4, 4),
        in_chans: int = 3,
        gate: Spec | nn.Module = "lka",
        dropout: float = 0.0,
        drop_path_rate: float = 0.0,
    ) -> None:
        super().__init__()
        if not len(widths) == len(depths) == len(mlp_ratios):
            raise ValueError(f"widths, depths and mlp_ratios must be as many, got {widths}, {depths}, {mlp_ratios}")
        self.channels, self.depths = tuple(widths), tuple(depths)
        self.strides = tuple(4 * 2**stage for stage in range(len(widths)))
        self.in_chans = in_chans
        total, done = sum(depths), 0
        for index, (width, depth, ratio) in enumerate(zip(widths, depths, mlp_ratios, strict=True)):
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
            for name, part in stage.named_children():  # patch_embed1, block1, norm1, ...: the published names
                self.add_module(f"{name}{index + 1}", part)


def _published(name: str, backbone: VAN) -> None:
    """Load ImageNet weights from the Hugging Face hub into `backbone`."""
    from huggingface_hub import hf_hub_download
    from timm.models import adapt_input_conv

    if name not in _HUB:
        raise ValueError(f"{name}: no published weights; {', '.join(_HUB)} have them")
    if (backbone.channels, backbone.depths) != _SIZES[name]:
        widths, depths = _SIZES[name]
        raise ValueError(
            f"{name}: the published weights have widths {widths} and depths {depths}, got {backbone.channels} and "
            f"{backbone.depths}"
        )
    try:
        path = hf_hub_download(*_HUB[name])
    except Exception as error:
        raise RuntimeError(
            f"backbones: pretrained weights of {name} could not be downloaded ({type(error).__name__}: {error}); "
            "build with pretrained=False to do without"
        ) from error
    state = {key: value for key, value in read(path).items() if not key.startswith("head.")}
    state["patch_embed1.proj.weight"] = adapt_input_conv(backbone.in_chans, state["patch_embed1.proj.weight"])
    backbone.load_state_dict(state)


def _register(name: str) -> None:
    widths, depths = _SIZES[name]

    def factory(
        *,
        in_chans: int = 3,
        pretrained: bool = False,
        widths: Sequence[int] = widths,
        depths: Sequence[int] = depths,
        gate: Spec | nn.Module = "lka",
        dropout: float = 0.0,
        drop_path_rate: float = 0.0,
    ) -> VAN:
        backbone = VAN(widths, depths, in_chans=in_chans, gate=gate, dropout=dropout, drop_path_rate=drop_path_rate)
        if pretrained:
            _published(name, backbone)
        return backbone

    factory.__doc__ = f"VAN-{name[4:].upper()}: widths {widths}, depths {depths}.\n\n{inspect.getdoc(VAN)}"
    register(name)(factory)


for _name in _SIZES:
    _register(_name)
