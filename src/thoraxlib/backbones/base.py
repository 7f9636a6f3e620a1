"""Base class of the backbones, and its contract."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from functools import partial
from typing import Any

from torch import Tensor, nn

from thoraxlib.input_spec import InputSpec


class Backbone(nn.Module):
    """Base class of backbones: image -> feature maps.

    ``forward(x: (N, in_chans, H, W)) -> list[Tensor]``: finest first, each (N, C_i, H_i, W_i), always NCHW.

    Attributes
    ----------
    channels : tuple of int
        C_i of each map.
    strides : tuple of int
        Nominal H / H_i of each map.
    in_chans : int
        Channels of the image.
    input_spec : InputSpec
        Input that the published weights expect; by default 224 x 224 pixels with ImageNet's statistics.
    """

    channels: tuple[int, ...]
    strides: tuple[int, ...]
    in_chans: int
    input_spec: InputSpec = InputSpec()

    def forward(self, x: Tensor) -> list[Tensor]:
        """Compute the feature maps of `x`, finest first."""
        raise NotImplementedError

    def checkpoint_keys(self, keys: Iterable[str]) -> dict[str, str]:
        """Map each own state-dict key to its counterpart among a published checkpoint's `keys`, if it has one."""
        available = set(keys)
        return {own: own for own in self.state_dict() if own in available}


def check_backbone(module: nn.Module) -> None:
    """Raise an error unless `module` has the attributes of a :class:`Backbone`; its forward is not run.

    Raises
    ------
    TypeError
        `module` is no module, or lacks ``channels`` or ``strides``.
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


def variant(summary: str, backbone: type[Backbone], *args: Any, **options: Any) -> Any:
    """Return a factory of `backbone` with some arguments filled in; `summary` is the first line of its docstring."""
    factory = partial(backbone, *args, **options)
    doc = f"{summary}\n\n{inspect.getdoc(backbone)}"
    vars(factory).update(__doc__=doc, __module__=backbone.__module__, __qualname__=backbone.__qualname__)
    vars(factory).update(input_spec=backbone.input_spec)
    return factory
