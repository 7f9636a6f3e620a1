"""A small vision transformer for every map."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from thoraxlib.heads import register
from thoraxlib.heads.base import Head

__all__ = ["ViTPerStage"]


@register("vit_per_stage")
class ViTPerStage(Head):
    """The sum of a vision transformer's logits for every map but the last, and of the last one's linear logits.

    SegFusionVANViT (QUST-SmartData/CXRClassification), whose own transformers are never trained nor saved.

    Parameters
    ----------
    in_channels : sequence of int
        Of the maps: as many transformers as there are, less one.
    num_labels : int
        K.
    sizes : sequence of (int, int)
        (h, w) of the maps for which the position codes are made; they are resampled for others.
    patch : int
        Places of a map that become a token, on each side. A rest at the right and bottom is cut off.
    width, depth, num_heads : int
        Of each transformer.

    Raises
    ------
    ValueError
        A single map, or one that is smaller than a patch.
    """

    def __init__(
        self,
        in_channels: int | Sequence[int],
        num_labels: int,
        *,
        sizes: Sequence[tuple[int, int]],
        patch: int = 3,
        width: int = 768,
        depth: int = 3,
        num_heads: int = 12,
    ) -> None:
        from timm.models.vision_transformer import VisionTransformer

        super().__init__()
        if isinstance(in_channels, int) or len(in_channels) < 2 or len(sizes) != len(in_channels):
            raise ValueError(
                f"in_channels and sizes must be of two maps or more, got {in_channels} and {sizes}: build the model "
                "with a fusion of several maps (fusion='pyramid' or 'seg_pyramid')"
            )
        self.patch = patch
        *stages, last = in_channels
        for size in sizes[:-1]:
            if min(size) < patch:
                raise ValueError(f"a map of {size[0]} x {size[1]} is smaller than patch={patch}; use larger images")
        self.vits = nn.ModuleList(
            VisionTransformer(
                img_size=tuple(side // patch * patch for side in size),
                patch_size=patch,
                in_chans=channels,
                num_classes=num_labels,
                embed_dim=width,
                depth=depth,
                num_heads=num_heads,
                dynamic_img_size=True,
            )
            for channels, size in zip(stages, sizes, strict=False)
        )
        self.fc = nn.Linear(last, num_labels)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Logits (N, K) of maps (N, C_i, h_i, w_i)."""
        *stages, last = features
        logits: Tensor = self.fc(last.mean(dim=(2, 3)))
        seen = [vit(self._whole_patches(x)) for vit, x in zip(self.vits, stages, strict=True)]
        return torch.stack([logits, *seen]).sum(dim=0)

    def _whole_patches(self, x: Tensor) -> Tensor:
        height, width = (side // self.patch * self.patch for side in x.shape[-2:])
        return x[..., :height, :width]
