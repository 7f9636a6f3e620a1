"""A head with a small vision transformer for each map."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from thoraxlib.heads import register
from thoraxlib.heads.base import Head
from thoraxlib.heads.linear import LinearHead
from thoraxlib.registry import Spec


@register("vit_per_stage")
class ViTPerStage(Head):
    """Sum of the logits of a vision transformer for each map but the last, and of a linear head for the last.

    SegFusionVANViT (QUST-SmartData/CXRClassification), whose own transformers are neither trained nor saved.

    Parameters
    ----------
    in_channels : sequence of int
        Channels of the maps; there is one transformer for each map but the last.
    num_labels : int
        K.
    sizes : sequence of (int, int)
        (h, w) of the maps, for which the position embeddings are made; they are resampled for other sizes. A model
        with a fusion fills them in.
    pool : str, mapping or nn.Module
        Pooling of the last map; from :mod:`thoraxlib.layers.pooling`.
    patch : int
        Side of a patch (one token), in locations of the map; smaller for maps smaller than that by `sizes`. A remainder
        at the right and bottom is cut off; a map smaller than a patch is padded with zeros.
    width, depth, num_heads : int
        Width, depth and attention heads of each transformer.

    Raises
    ------
    ValueError
        A single map, or a number of sizes that differs from that of the maps.
    """

    def __init__(
        self,
        in_channels: int | Sequence[int],
        num_labels: int,
        *,
        sizes: Sequence[tuple[int, int]] = (),
        pool: Spec | nn.Module = "avg",
        patch: int = 3,
        width: int = 768,
        depth: int = 3,
        num_heads: int = 12,
    ) -> None:
        from timm.models.vision_transformer import VisionTransformer

        super().__init__()
        if isinstance(in_channels, int) or len(in_channels) < 2 or len(sizes) != len(in_channels):
            raise ValueError(
                f"the head 'vit_per_stage' takes two maps or more, got {in_channels} channels of sizes {list(sizes)}: "
                "build the model with a fusion of several maps (fusion='pyramid' or 'seg_pyramid')"
            )
        *stages, last = in_channels
        self.patches = [min(patch, *size) for size in sizes[:-1]]
        self.vits = nn.ModuleList(
            VisionTransformer(
                img_size=tuple(side // patch_size * patch_size for side in size),
                patch_size=patch_size,
                in_chans=channels,
                num_classes=num_labels,
                embed_dim=width,
                depth=depth,
                num_heads=num_heads,
                dynamic_img_size=True,
            )
            for channels, size, patch_size in zip(stages, sizes, self.patches, strict=False)
        )
        self.linear = LinearHead(last, num_labels, pool=pool)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Compute the logits (N, K) of maps (N, C_i, h_i, w_i)."""
        *stages, last = features
        logits: Tensor = self.linear(last)
        for vit, x, patch in zip(self.vits, stages, self.patches, strict=True):
            height, width = (max(side // patch, 1) * patch for side in x.shape[-2:])
            # maps of backbones without padding are smaller than the strides say
            short = [max(patch - side, 0) for side in x.shape[-2:]]
            x = F.pad(x, (0, short[1], 0, short[0])) if any(short) else x
            logits = logits + vit(x[..., :height, :width])
        return logits
