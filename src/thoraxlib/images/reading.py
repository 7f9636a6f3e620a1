"""Read an image from any source as one grey ``tv_tensors.Image``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import BinaryIO, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image as PILImage
from torch import Tensor
from torchvision import tv_tensors

from thoraxlib.images.elements import is_dicom
from thoraxlib.images.pictures import Pixels, pixels_of, read_pixels
from thoraxlib.images.windows import Window, check_window, displayed, windowed
from thoraxlib.utils.files import open_regular

#: Sources that :func:`read` accepts.
Source: TypeAlias = str | os.PathLike[str] | BinaryIO | PILImage.Image | NDArray[np.generic] | Tensor

#: Extensions of image files.
SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".dcm", ".dicom")

_DICOM_SUFFIXES = SUFFIXES[-2:]
_LARGEST = 2**30  # bytes of a file; images are far smaller


def read(source: Source, *, bits: int | None = None, window: Window | None = None) -> tv_tensors.Image:
    """Read one image as grey.

    Parameters
    ----------
    source : str, Path, binary file, PIL image, array or tensor
        - a file, by its path or open for reading: PNG, JPEG, TIFF, BMP, GIF, PPM, WebP or JPEG 2000 (grey, palette or
          colour, up to 16 bits per channel), or DICOM (with the extra ``dicom``; see
          :func:`thoraxlib.images.dicom.read_dicom`). The content decides, not the extension. If a file has several
          images, the first one is read;
        - a Pillow image;
        - an array (H, W) or (H, W, 1 | 3 | 4): channels last;
        - a tensor (H, W) or (1 | 3 | 4, H, W): channels first.

        Arrays and tensors are uint8, uint16, or floating point within [0, 1]. Colour becomes grey with the weights of
        ITU-R BT.601; alpha is ignored. Files and Pillow images are turned as their EXIF or TIFF orientation says (boxes
        are in that frame), and inverted if TIFF defines zero as white.
    bits : int, optional
        Bits in use, for sources of more than 8 bits: 12 for PNG files made of DICOM that store 0 ... 4095. By default
        all 16: the value 65535 becomes 1. DICOM files state it themselves.
    window : {"bits", "percentiles", "minmax"}, (float, float) or int, optional
        Mapping of greys of more than 8 bits to [0, 1]; 8-bit pixels of files other than DICOM are not changed.
        ``"bits"``: the whole range of `bits`. ``"percentiles"``: from the 0.5 to the 99.5 percentile of the image.
        ``"minmax"``: from its minimum to its maximum. (centre, width): a DICOM window in the unit of the pixels. A
        number k, for DICOM: the k-th of the file's VOI tables and windows. The default is the first of these, else
        ``"percentiles"``, for DICOM, and ``"bits"`` for all other sources.

    Returns
    -------
    tv_tensors.Image
        (1, H, W): uint8 for sources of up to 8 bits, else float32 within [0, 1].

    Raises
    ------
    FileNotFoundError
        The file does not exist.
    ValueError
        The file is truncated, corrupt, not a regular file, of another format, larger than 1 GiB, or has more pixels
        than Pillow's limit (twice ``PIL.Image.MAX_IMAGE_PIXELS``); its colours have more than 8 bits in a form that
        Pillow cannot read in full depth (16-bit RGB and RGBA of PNG and TIFF, and PNG's grey with alpha, are read);
        pixels are NaN, infinite, outside [0, 1] or beyond `bits`; or the shape, `bits` or `window` is not allowed.
    TypeError
        `source` is of another type, or its pixels are.

    Examples
    --------
    >>> read(np.full((2, 3), 255, np.uint8)).shape
    torch.Size([1, 2, 3])
    >>> read(np.full((2, 3), 4095, np.uint16), bits=12).max().item()
    1.0
    >>> read(np.array([[1000, 2000, 3000]], np.uint16), window="minmax")[0].tolist()
    [[0.0, 0.5, 1.0]]
    """
    check_greys(bits, window)
    if isinstance(source, (str, os.PathLike)):
        path = Path(source)
        if not path.exists():
            raise FileNotFoundError(f"no such image file: {path}")
        with open_regular(path, largest=_LARGEST) as file:
            return _read_file(file, path, bits, window)
    if isinstance(source, PILImage.Image):
        return _from_pixels(pixels_of(source), bits, window)
    if isinstance(source, np.ndarray):
        if source.ndim == 3 and source.shape[-1] not in (1, 3, 4):
            raise ValueError(f"an array must be (H, W) or (H, W, 1 | 3 | 4), channels last, got shape {source.shape}")
        tensor = _array_to_tensor(source)
        return _from_tensor(tensor.permute(2, 0, 1) if tensor.ndim == 3 else tensor, bits, window)
    if isinstance(source, Tensor):
        return _from_tensor(source, bits, window)
    if hasattr(source, "read") and hasattr(source, "seek"):
        return _read_file(source, Path(str(getattr(source, "name", "the file"))), bits, window)
    kind = f"{type(source).__module__}.{type(source).__qualname__}"
    raise TypeError(f"source must be a path, a binary file, a PIL image, an array or a tensor, got {kind}")


def check_greys(bits: int | None, window: Window | None) -> None:
    """Raise ValueError unless `bits` and `window` are allowed values of :func:`read`."""
    if bits is not None and (isinstance(bits, bool) or not (isinstance(bits, int) and 1 <= bits <= 16)):
        raise ValueError(f"bits must be between 1 and 16, got {bits!r}")
    if window is not None:
        check_window(window)


def _read_file(file: BinaryIO, path: Path, bits: int | None, window: Window | None) -> tv_tensors.Image:
    head = file.read(132)
    file.seek(0)
    if path.suffix.lower() in _DICOM_SUFFIXES or is_dicom(head):
        from thoraxlib.images.dicom import read_dicom

        return read_dicom(file, window=window)
    pixels = read_pixels(file, path)
    try:
        return _from_pixels(pixels, bits, window)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path}: {error}") from error


def _from_pixels(pixels: Pixels, bits: int | None, window: Window | None) -> tv_tensors.Image:
    x = torch.from_numpy(pixels.values)
    image = _from_tensor(x.permute(2, 0, 1) if x.ndim == 3 else x, bits, window)
    return tv_tensors.Image(1 - image) if pixels.inverted else image


def _array_to_tensor(array: NDArray[np.generic]) -> Tensor:
    # a copy: from_numpy shares memory, and accepts neither other byte orders nor negative strides
    native = array.dtype.newbyteorder("=")
    if native in (np.uint8, np.uint16):
        return torch.from_numpy(np.array(array, dtype=native, order="C"))
    if native.kind != "f":
        raise TypeError(_pixel_types(array.dtype))
    return torch.from_numpy(np.array(array, dtype=np.float32, order="C"))


def _from_tensor(x: Tensor, bits: int | None, window: Window | None) -> tv_tensors.Image:
    """Check a tensor and convert it to grey: (1, H, W), uint8 or float32 in [0, 1]."""
    if x.ndim == 2:
        x = x.unsqueeze(0)
    if x.ndim != 3 or x.shape[0] not in (1, 3, 4):
        raise ValueError(f"a tensor must be (H, W) or (1 | 3 | 4, H, W), channels first, got shape {tuple(x.shape)}")
    if x.numel() == 0:
        raise ValueError(f"the image is empty: shape {tuple(x.shape)}")
    if isinstance(window, int):
        raise ValueError(f"window={window}: only DICOM files have windows of their own")
    if x.dtype == torch.uint16 and window not in (None, "bits"):
        deep = x if x.shape[0] == 1 else _grey(scaled(x)).mul_(65535).round_().to(torch.uint16)
        pixels = displayed(deep.cpu().numpy(), lambda levels, counts: windowed(levels, counts, window))
        return tv_tensors.Image(torch.from_numpy(pixels).to(x.device))
    return tv_tensors.Image(_grey(scaled(x, bits)))


def scaled(x: Tensor, bits: int | None = None) -> Tensor:
    """Convert uint16 and floating-point pixels to float32 within [0, 1]; return uint8 unchanged.

    Raises
    ------
    ValueError
        Pixels are beyond `bits`, not finite, or floating-point ones outside of [0, 1].
    TypeError
        The pixels have another type.
    """
    if x.dtype == torch.uint8:
        return x
    if x.dtype == torch.uint16:
        top = 2 ** (bits or 16) - 1
        x = x.to(torch.float32)
        if bits is not None and x.max() > top:
            raise ValueError(f"bits={bits} allows pixels up to {top}, the largest is {int(x.max())}")
        return torch.div(x, top)
    if not x.is_floating_point():
        raise TypeError(_pixel_types(x.dtype))
    x = x.to(torch.float32)
    low, high = x.aminmax()
    if not (low >= 0 and high <= 1):  # written so that NaN fails, too
        if not x.isfinite().all():
            raise ValueError("pixels must be finite, got NaN or infinite ones")
        remedy = "give 8-bit pixels as uint8, deeper ones as uint16"
        raise ValueError(f"floating-point pixels must lie in [0, 1], got {low:.6g} ... {high:.6g}; {remedy}")
    return x


def _pixel_types(dtype: object) -> str:
    return f"pixels must be uint8, uint16 or floating point in [0, 1], got {dtype}"


def _grey(x: Tensor) -> Tensor:
    """Convert (1 | 3 | 4, H, W) to grey (1, H, W), by ITU-R BT.601; equal channels keep their value exactly."""
    if x.shape[0] == 1:
        return x
    if x.dtype == torch.uint8:  # 16-bit fixed point, as Pillow computes it
        weights = torch.tensor([19595, 38470, 7471], dtype=torch.int32, device=x.device).view(3, 1, 1)
        luma = (x[:3].to(torch.int32) * weights).sum(0, keepdim=True, dtype=torch.int32)
        return luma.add(32768).bitwise_right_shift(16).to(torch.uint8)
    weights = x.new_tensor([0.299, 0.587, 0.114]).view(3, 1, 1)
    return (x[:3] * weights).sum(0, keepdim=True).clamp(0, 1)
