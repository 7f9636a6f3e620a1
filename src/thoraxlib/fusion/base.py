"""The contract of a fusion."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

__all__ = ["Fusion", "pyramid_channels"]


class Fusion(nn.Module):
    """``forward(maps, masks) -> maps``: a backbone's maps, finest first, to those that a head sees.

    Attributes
    ----------
    channels : tuple of int
        Of the maps that come out.
    uses_masks : bool
        Whether it needs organ masks, (N, 1, H, W) in [0, 1] at the image's size.
    """

    channels: tuple[int, ...]
    uses_masks: bool = False

    def image(self, x: Tensor, masks: Tensor | None) -> Tensor:
        """What the backbone sees of images (N, C, H, W): by default the images."""
        return x

    def sizes(self, sizes: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
        """Sides of the maps that come out, from those of the backbone's: the last ones', the very last for more."""
        count = len(self.channels)
        return [*sizes, *[sizes[-1]] * (count - len(sizes))][-count:]

    def forward(self, maps: Sequence[Tensor], masks: Tensor | None = None) -> list[Tensor]:
        """Maps (N, C_i, h_i, w_i) for the head."""
        raise NotImplementedError

    def needed(self, masks: Tensor | None) -> Tensor:
        """`masks`, for a fusion that cannot do without.

        Raises
        ------
        ValueError
            There are none.
        """
        if masks is None:
            raise ValueError(f"{type(self).__name__} needs organ masks (N, 1, H, W)")
        return masks


def pyramid_channels(channels: Sequence[int]) -> tuple[int, ...]:
    """`channels`, of two maps or more.

    Raises
    ------
    ValueError
        Of fewer.
    """
    if len(channels) < 2:
        raise ValueError(
            f"a fusion over the stages needs a backbone with two maps or more, got channels={tuple(channels)}; "
            "use fusion='seg_input', or a backbone with more stages"
        )
    return tuple(channels)
