"""PadChest's 16-bit greys within [0, 1]."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torchvision import tv_tensors

from thoraxlib.images import read
from thoraxlib.images.windows import Window

SCALES = ("window", "percentiles", "minmax", "bits_stored", "65535")


class Greys(NamedTuple):
    """What the table says of an image's greys; None where it says nothing."""

    bits: int | None = None
    centre: float | None = None
    width: float | None = None


def read_scaled(path: Path, scale: str, greys: Greys) -> tv_tensors.Image:
    """An image by one of :data:`SCALES`; 8-bit images are as they are. See :class:`PadChest`."""
    if scale == "bits_stored":
        return read(path, bits=greys.bits)
    image = read(path)
    if scale == "65535" or not image.is_floating_point():
        return image
    stored = (image.as_subclass(Tensor) * 65535).round().to(torch.uint16)
    how: Window = "minmax" if scale == "minmax" else "percentiles"
    if scale == "window" and greys.centre is not None and greys.width is not None and greys.width >= 1:
        # pixels beyond the stored bits are not those that the window was meant for
        meant = greys.bits is None or float(image.max()) * 65535 < 2**greys.bits
        how = (greys.centre, greys.width) if meant else how
    return read(stored, window=how)
