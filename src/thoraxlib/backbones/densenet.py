"""DenseNets: timm's, with finer maps and without the last activation on request."""

from __future__ import annotations

from typing import Any

from torch import nn

from thoraxlib.arguments import one_of
from thoraxlib.backbones.timm import TimmBackbone

__all__ = ["DenseNetBackbone"]


class DenseNetBackbone(TimmBackbone):
    """A timm DenseNet; parameters are the same whatever the options.

    Parameters
    ----------
    timm_name : str
        ``"densenet121"``, ``"densenet169"``, ...
    output_stride : {32, 16, 8, 4}
        Stride of the last map. Below 32, the last transitions do not pool: finer heat maps for more time.
    dilated : bool
        With a lower `output_stride`, dilate the 3x3 convolutions behind it (as in DeepLab), so that weights trained at
        stride 32 still fit. False leaves them as they are: each place sees less around it, for training from scratch
        on small images.
    final_act : bool
        Keep the ReLU after the last norm, as timm and torchvision have it; False stops at the norm.
    **options
        As for :class:`thoraxlib.backbones.TimmBackbone`.
    """

    def __init__(
        self, timm_name: str, *, output_stride: int = 32, dilated: bool = True, final_act: bool = True, **options: Any
    ) -> None:
        one_of("output_stride", output_stride, (32, 16, 8, 4))
        super().__init__(timm_name, **options)
        if not final_act:
            list(self.net.children())[-1].act = nn.Identity()
        self._refine(output_stride, dilated)
        self.strides = tuple(min(stride, output_stride) for stride in self.strides)

    def _refine(self, output_stride: int, dilated: bool) -> None:
        stride, dilation = 4, 1  # behind the stem
        for name, stage in self.net.named_children():
            if "transition" in name:
                stride *= 2
                if stride > output_stride:
                    stage.pool = nn.Identity()
                    dilation *= 2 if dilated else 1
            elif "denseblock" in name and dilation > 1:
                for module in stage.modules():
                    if isinstance(module, nn.Conv2d) and module.kernel_size == (3, 3):
                        module.dilation = module.padding = (dilation, dilation)
