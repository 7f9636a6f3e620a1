"""The contract of a backbone."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor, nn


class Backbone(nn.Module):
    """Image to feature maps.

    ``forward(x: (N, in_chans, H, W)) -> list[Tensor]``: finest first, each (N, C_i, H_i, W_i), always NCHW.

    Attributes
    ----------
    channels : tuple of int
        C_i of each map.
    strides : tuple of int
        Nominal H / H_i of each map.
    in_chans : int
        Channels of the image.
    """

    channels: tuple[int, ...]
    strides: tuple[int, ...]
    in_chans: int

    def forward(self, x: Tensor) -> list[Tensor]:
        """Feature maps of `x`, finest first."""
        raise NotImplementedError

    def checkpoint_keys(self, keys: Iterable[str]) -> dict[str, str]:
        """For each own state-dict key, its counterpart among a published checkpoint's `keys`, where it has one."""
        available = set(keys)
        return {own: own for own in self.state_dict() if own in available}


def check_backbone(module: nn.Module) -> None:
    """Raise unless `module` keeps the contract of :class:`Backbone` as far as can be seen without running it.

    Raises
    ------
    TypeError
        `module` is no module or lacks ``channels`` or ``strides``.
    """
    if not isinstance(module, nn.Module):
        raise TypeError(f"backbone must be a name, a mapping with 'name', or an nn.Module, got {type(module).__name__}")
    for attribute in ("channels", "strides"):
        value = getattr(module, attribute, None)
        if not isinstance(value, (tuple, list)) or not value:
            raise TypeError(
                f"backbone {type(module).__name__} needs the attribute {attribute!r}, a tuple with one int for each "
                "feature map that its forward returns, finest first; see thoraxlib.backbones.Backbone"
            )
