"""The backbones that timm lacks, from torchvision: AlexNet and GoogLeNet."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from thoraxlib.backbones import register
from thoraxlib.backbones.base import Backbone
from thoraxlib.input_spec import IMAGENET_MEAN, IMAGENET_STD


class _Tapped(Backbone):
    """Modules run in turn; the outputs of some of them are the maps.

    `taps` maps a module's dotted name to (channels, stride) of its output. Names are torchvision's, so that its
    checkpoints fit.
    """

    def __init__(
        self,
        modules: Iterable[tuple[str, nn.Module]],
        taps: Mapping[str, tuple[int, int]],
        in_chans: int,
        affine: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.affine = affine or nn.Identity()
        self.stages = nn.ModuleDict({name.replace(".", "_"): module for name, module in modules})
        self._taps = frozenset(name.replace(".", "_") for name in taps)
        self.channels = tuple(channels for channels, _ in taps.values())
        self.strides = tuple(stride for _, stride in taps.values())
        self.in_chans = in_chans

    def forward(self, x: Tensor) -> list[Tensor]:
        """Feature maps of `x`, finest first, (N, C_i, H_i, W_i)."""
        x = self.affine(x)
        maps = []
        for name, module in self.stages.items():
            x = module(x)
            if name in self._taps:
                maps.append(x)
        return maps

    def checkpoint_keys(self, keys: Iterable[str]) -> dict[str, str]:
        """Own keys by torchvision's names: ``features.0.weight`` is ``stages.features_0.weight`` here."""
        by_own = {f"stages.{key.replace('.', '_', 1) if key.startswith('features.') else key}": key for key in keys}
        return {own: by_own[own] for own in self.state_dict() if own in by_own}


class _HalfNormalize(nn.Module):
    """ImageNet-normalised pixels to (pixel - 0.5) / 0.5, which torchvision's GoogLeNet weights were trained on."""

    scale: Tensor
    shift: Tensor

    def __init__(self) -> None:
        super().__init__()
        mean, std = torch.tensor(IMAGENET_MEAN), torch.tensor(IMAGENET_STD)
        self.register_buffer("scale", (std / 0.5).view(-1, 1, 1), persistent=False)
        self.register_buffer("shift", ((mean - 0.5) / 0.5).view(-1, 1, 1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale + self.shift


@register("alexnet")
def alexnet(*, in_chans: int = 3, pretrained: bool = False) -> Backbone:
    """AlexNet in torchvision's version (one column); its last two maps are before and after the last max pool.

    Parameters
    ----------
    in_chans : int
        Channels of the images; the first layer's weights are adapted to them.
    pretrained : bool
        ImageNet weights.
    """
    from torchvision import models

    net = _create("alexnet", models.alexnet, models.AlexNet_Weights.IMAGENET1K_V1 if pretrained else None)
    adapt_first_conv(net.features, "0", in_chans)
    taps = {"features.1": (64, 4), "features.4": (192, 8), "features.11": (256, 16), "features.12": (256, 32)}
    return _Tapped(((f"features.{i}", module) for i, module in net.features.named_children()), taps, in_chans)


@register("googlenet")
def googlenet(*, in_chans: int = 3, pretrained: bool = False) -> Backbone:
    """GoogLeNet in torchvision's version, with batch norm and without auxiliary heads.

    Parameters
    ----------
    in_chans : int
        Channels of the images.
    pretrained : bool
        ImageNet weights, for images of 3 channels.

    Raises
    ------
    ValueError
        Pretrained, and other than 3 channels.
    """
    from torchvision import models

    if pretrained and in_chans != 3:
        raise ValueError(f"googlenet: pretrained=True needs in_chans=3, got {in_chans}")
    weights = models.GoogLeNet_Weights.IMAGENET1K_V1 if pretrained else None
    net = _create(
        "googlenet", models.googlenet, weights, **({} if pretrained else {"init_weights": True, "aux_logits": False})
    )
    adapt_first_conv(net.conv1, "conv", in_chans)
    taps = {
        "conv1": (64, 2),
        "conv3": (192, 4),
        "inception3b": (480, 8),
        "inception4e": (832, 16),
        "inception5b": (1024, 32),
    }
    backbone = [
        (name, module)
        for name, module in net.named_children()
        if not name.startswith(("aux", "avgpool", "dropout", "fc"))
    ]
    return _Tapped(backbone, taps, in_chans, _HalfNormalize() if pretrained else None)


def _create(name: str, factory: Any, weights: Any, **options: Any) -> Any:
    try:
        return factory(weights=weights, **options)
    except OSError as error:  # urllib's errors are OSErrors
        raise RuntimeError(
            f"backbones: pretrained weights of torchvision's {name} could not be downloaded ({error}); "
            "build with pretrained=False to do without"
        ) from error


def adapt_first_conv(parent: nn.Module, name: str, in_chans: int) -> None:
    """Give the first convolution `in_chans` inputs, its weights adapted by timm's rule.

    Raises
    ------
    ValueError
        Channels that are no positive int.
    """
    from timm.models import adapt_input_conv

    if not isinstance(in_chans, int) or in_chans < 1:
        raise ValueError(f"in_chans must be a positive int, got {in_chans!r}")
    conv = parent.get_submodule(name)
    assert isinstance(conv, nn.Conv2d)
    if in_chans != conv.in_channels:
        conv.weight = nn.Parameter(adapt_input_conv(in_chans, conv.weight.detach()))
        conv.in_channels = in_chans
