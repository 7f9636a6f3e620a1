"""Segmentation networks of torchvision."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Sequence
from functools import partial

from torch import Tensor, nn

from thoraxlib.segmentation.base import ORGANS, Segmenter

_NAMES = (
    *("deeplabv3_mobilenet_v3_large", "deeplabv3_resnet50", "deeplabv3_resnet101"),
    *("fcn_resnet50", "fcn_resnet101", "lraspp_mobilenet_v3_large"),
)


class TorchvisionSegmenter(Segmenter):
    """A segmentation network of torchvision: (N, 3, H, W) -> (N, M, H, W).

    Parameters
    ----------
    torchvision_name : str
        "deeplabv3_resnet50", ...
    classes : sequence of str
        M names, the background first.
    in_chans : int
        Must be 3.
    pretrained : bool
        ImageNet weights for its backbone (downloaded by torchvision).

    Raises
    ------
    ValueError
        Classes that are too few or repeated, or a number of channels other than 3.
    RuntimeError
        The weights could not be downloaded.
    """

    def __init__(
        self, torchvision_name: str, *, classes: Sequence[str] = ORGANS, in_chans: int = 3, pretrained: bool = False
    ) -> None:
        from torchvision import models

        super().__init__(classes, in_chans)
        if in_chans != 3:
            raise ValueError(f"torchvision's {torchvision_name} takes 3 channels, got in_chans={in_chans}")
        weights = "DEFAULT" if pretrained else None
        try:
            self.net: nn.Module = models.get_model(
                torchvision_name, weights=None, weights_backbone=weights, num_classes=len(self.classes)
            )
        except OSError as error:
            raise RuntimeError(
                f"segmentation: weights of {torchvision_name}'s backbone could not be downloaded ({error}); build with "
                "pretrained=False to do without"
            ) from error

    def forward(self, x: Tensor) -> Tensor:
        """Compute logits (N, M, H, W)."""
        logits: Tensor = self.net(x)["out"]
        return logits


class TorchvisionSource:
    """Source of the registry: torchvision's segmentation networks."""

    def names(self) -> Iterable[str]:
        """List the networks."""
        return _NAMES

    def find(self, name: str) -> Callable[..., Segmenter] | None:
        """Return a factory for the network `name`, or None if torchvision does not have it."""
        if name not in _NAMES:
            return None
        factory = partial(TorchvisionSegmenter, name)
        factory.__doc__ = f"The network ``{name}`` of torchvision.\n\n{inspect.getdoc(TorchvisionSegmenter)}"
        factory.__module__ = __name__  # type: ignore[attr-defined]
        return factory
