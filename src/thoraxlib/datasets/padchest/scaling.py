"""PadChest's 16-bit greys within [0, 1]."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision import tv_tensors

from thoraxlib.images import read
from thoraxlib.images.dicom import window

__all__ = ["SCALES", "Greys", "read_scaled"]

SCALES = ("window", "percentiles", "minmax", "bits_stored", "65535")
_PERCENTILES = (0.005, 0.995)


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
    stored = image.as_subclass(Tensor) * 65535
    shown = _through_window(stored, greys) if scale == "window" else None
    if shown is None:
        low, high = stored.aminmax() if scale == "minmax" else _percentiles(stored)
        shown = ((stored - low) / max(float(high - low), 1)).clamp(0, 1)
    return tv_tensors.Image(shown)


def _through_window(stored: Tensor, greys: Greys) -> Tensor | None:
    """None without a window, or where pixels exceed the stored bits, which it is meant for."""
    if greys.centre is None or greys.width is None or greys.width < 1:
        return None
    if greys.bits is not None and float(stored.max()) >= 2**greys.bits:
        return None
    return torch.from_numpy(window(stored.numpy(), greys.centre, greys.width)).float()


def _percentiles(stored: Tensor) -> NDArray[np.float32]:
    values = stored.numpy().ravel()
    ranks = [round(share * (values.size - 1)) for share in _PERCENTILES]
    return np.partition(values, ranks)[ranks]  # type: ignore[no-any-return]
