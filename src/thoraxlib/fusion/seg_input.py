"""Only the organs of the image."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from thoraxlib.fusion import register
from thoraxlib.fusion.base import Fusion

__all__ = ["SegInput"]


@register("seg_input")
class SegInput(Fusion):
    """The image times the mask goes into the backbone; the head sees the last map.

    SegVANGCN (QUST-SmartData/CXRClassification).

    Parameters
    ----------
    channels : sequence of int
        Of the backbone's maps.
    """

    uses_masks = True

    def __init__(self, channels: Sequence[int]) -> None:
        super().__init__()
        self.channels = (channels[-1],)

    def image(self, x: Tensor, masks: Tensor | None) -> Tensor:
        """Images (N, C, H, W) times masks (N, 1, H, W)."""
        return x * self.needed(masks)

    def forward(self, maps: Sequence[Tensor], masks: Tensor | None = None) -> list[Tensor]:
        """The last map."""
        return [maps[-1]]
