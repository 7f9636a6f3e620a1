"""How the tokens of a transformer's layer lie on the image."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from torch import Tensor


def grid_of(count: int, size: tuple[int, int], model: Any, network: Any) -> tuple[int, int, int] | None:
    """How many of `count` tokens come before the patches', and rows and columns of these; None where they form no grid.

    A layer may come before the class token (XCiT, CaiT) or behind it. The number of patches, where the network knows
    it, tells which; else the class tokens are counted as the model or, where it does not say, the network has them.

    Parameters
    ----------
    count : int
        Tokens of an image.
    size : (int, int)
        Of the images, (H, W).
    model : object
        Has ``num_prefix_tokens``, or not.
    network : nn.Module
        Has ``patch_embed`` and ``cls_token`` as timm's networks do, or not.

    Examples
    --------
    >>> from types import SimpleNamespace
    >>> xcit = SimpleNamespace(num_prefix_tokens=1, patch_embed=SimpleNamespace(patch_size=16))
    >>> grid_of(196, (224, 224), xcit, xcit), grid_of(197, (224, 224), xcit, xcit)
    ((0, 14, 14), (1, 14, 14))
    """
    prefix = getattr(model, "num_prefix_tokens", None)
    if prefix is None:
        token = getattr(network, "cls_token", None)
        prefix = token.shape[1] if isinstance(token, Tensor) and token.ndim == 3 else 0
    for rows, columns in _patches(getattr(network, "patch_embed", None), size):
        for skipped in (0, int(prefix)):
            if count - skipped == rows * columns:
                return skipped, rows, columns
    left = count - int(prefix)
    rows = max(round((max(left, 0) * size[0] / size[1]) ** 0.5), 1)
    return (int(prefix), rows, left // rows) if left > 0 and left % rows == 0 else None


def _patches(embed: Any, size: tuple[int, int]) -> Iterator[tuple[int, int]]:
    """Rows and columns of patches, as the layer that makes them says."""
    grid = getattr(embed, "grid_size", None)
    if grid and fits((int(grid[0]), int(grid[1])), size):
        yield int(grid[0]), int(grid[1])
    patch = getattr(embed, "patch_size", None)
    if patch:
        high, wide = (patch, patch) if isinstance(patch, int) else patch
        yield size[0] // high, size[1] // wide
        yield -(-size[0] // high), -(-size[1] // wide)  # where the image is padded


def fits(grid: Sequence[int], size: Sequence[int]) -> bool:
    """Whether a grid (h, w) has the shape of images of `size`, within one cell."""
    return abs(grid[0] * size[1] - grid[1] * size[0]) <= max(size)
