"""Every map of the backbone, none changed."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from thoraxlib.fusion import register
from thoraxlib.fusion.base import Fusion, pyramid_channels

__all__ = ["Pyramid"]


@register("pyramid")
class Pyramid(Fusion):
    """All maps: a head pools each and puts the vectors side by side.

    FusionVAN (QUST-SmartData/CXRClassification), with ``repeat_last=True``, as SegFusionVAN's layout without masks.

    Parameters
    ----------
    channels : sequence of int
        Of the backbone's maps.
    repeat_last : bool
        Give the last map twice.

    Raises
    ------
    ValueError
        A backbone with a single map.
    """

    def __init__(self, channels: Sequence[int], *, repeat_last: bool = False) -> None:
        super().__init__()
        self.repeat_last = repeat_last
        self.channels = pyramid_channels(channels)
        if repeat_last:
            self.channels += self.channels[-1:]

    def forward(self, maps: Sequence[Tensor], masks: Tensor | None = None) -> list[Tensor]:
        """The maps."""
        return [*maps, maps[-1]] if self.repeat_last else list(maps)
