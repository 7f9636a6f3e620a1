"""A small vision transformer for every map."""

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
    """The sum of a vision transformer's logits for every map but the last, and of the last one's linear logits.

    SegFusionVANViT (QUST-SmartData/CXRClassification), whose own transformers are never trained nor saved.

    Parameters
    ----------
    in_channels : sequence of int
        Of the maps: as many transformers as there are, less one.
    num_labels : int
        K.
    sizes : sequence of (int, int)
        (h, w) of the maps for which the position codes are made; they are resampled for others. A model with a fusion
        fills them in.
    pool : str, mapping or nn.Module
        Of the last map; from :mod:`thoraxlib.layers.pooling`.
    patch : int
        Places of a map that become a token, on each side; fewer for a map that is smaller by `sizes`. A rest at the
        right and bottom is cut off; a map that is smaller than a patch all the same is filled up with zeros.
    width, depth, num_heads : int
        Of each transformer.

    Raises
    ------
    ValueError
        A single map, or another number of sizes than of maps.
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
                img_size=tuple(side // side_of * side_of for side in size),
                patch_size=side_of,
                in_chans=channels,
                num_classes=num_labels,
                embed_dim=width,
                depth=depth,
                num_heads=num_heads,
                dynamic_img_size=True,
            )
            for channels, size, side_of in zip(stages, sizes, self.patches, strict=False)
        )
        self.linear = LinearHead(last, num_labels, pool=pool)

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Logits (N, K) of maps (N, C_i, h_i, w_i)."""
        *stages, last = features
        logits: Tensor = self.linear(last)
        for vit, x, patch in zip(self.vits, stages, self.patches, strict=True):
            height, width = (max(side // patch, 1) * patch for side in x.shape[-2:])
            # backbones that do not pad have smaller maps than their strides say
            short = [max(patch - side, 0) for side in x.shape[-2:]]
            x = F.pad(x, (0, short[1], 0, short[0])) if any(short) else x
            logits = logits + vit(x[..., :height, :width])
        return logits
