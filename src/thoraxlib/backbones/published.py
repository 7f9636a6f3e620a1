"""Backbones with published weights: by the names of the catalogue, and the loading of their files."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from thoraxlib import backbones, weights
from thoraxlib.backbones.base import Backbone, variant
from thoraxlib.checkpoints import load_checkpoint
from thoraxlib.input_spec import InputSpec


def published_backbone(
    name: str,
    *,
    in_chans: int = 3,
    pretrained: bool = False,
    img_size: int | tuple[int, int] | None = None,
    **options: Any,
) -> Backbone:
    """Feature maps of a network whose weights are in the catalogue (:mod:`thoraxlib.weights`).

    Parameters
    ----------
    name : str
        Name in the catalogue.
    in_chans : int
        Channels of the image; weights of the first layer are adapted as timm does.
    pretrained : bool
        Load the published weights: downloaded once, and verified.
    img_size : int or (int, int), optional
        Input size, by default the published one; position embeddings are resampled to another.
    **options
        Further options of the network.

    Raises
    ------
    OptionError
        The network does not accept one of the `options`.
    RuntimeError
        The weights could not be downloaded, or the file is not the published one.
    """
    card = weights.describe(name)
    spec = InputSpec(**card.input)
    spec = spec.with_channels(in_chans).updated(None if img_size is None else {"size": img_size})
    backbone = backbones.registry.resolve({**card.network, **options}, in_chans=in_chans, img_size=spec.size)
    backbone.input_spec = spec
    if pretrained:
        load_published(backbone, name)
    return backbone


def load_published(backbone: Backbone, name: str) -> None:
    """Load weights of the catalogue into their backbone.

    Raises
    ------
    RuntimeError
        The file cannot be had, or is not the published one.
    """
    card = weights.describe(name)
    try:
        path = weights.fetch(name)
    except ImportError:  # of the package that has them
        raise
    except Exception as error:
        raise RuntimeError(
            f"backbones: pretrained weights of {card.build['name']} could not be downloaded "
            f"({type(error).__name__}: {error}); build with pretrained=False to do without"
        ) from error
    load_checkpoint(backbone, path, layout=card.layout)


class PublishedSource:
    """Source of the registry: names of the catalogue whose weights say the network that holds them."""

    def names(self) -> Iterable[str]:
        """List the names."""
        return [name for name in weights.names() if weights.describe(name).network]

    def find(self, name: str) -> Callable[..., Backbone] | None:
        """Return a factory for the network of the weights called `name`, or None if they are no backbone's."""
        if name not in self.names():
            return None
        card = weights.describe(name)
        factory: Callable[..., Backbone] = variant(
            card.summary, published_backbone, name, input_spec=InputSpec(**card.input)
        )
        return factory
