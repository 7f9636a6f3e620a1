"""DICOM files (extra ``dicom``): modality transform, window, polarity, padding; and how the pixels lie."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image as PILImage
from torchvision import tv_tensors

from thoraxlib.arrays import Floats
from thoraxlib.images import windows
from thoraxlib.images.codestream import header
from thoraxlib.images.geometry import Geometry
from thoraxlib.images.windows import Window

__all__ = ["read_dicom", "read_geometry"]

File: TypeAlias = "str | os.PathLike[str] | BinaryIO"

# GDCM, the only one for JPEG lossless, may not survive a damaged picture.
_DECODERS = ("pydicom", "pylibjpeg", "pyjpegls", "pillow", "gdcm")
_DEFLATED = b"1.2.840.10008.1.2.1.99"


def read_dicom(file: File, *, window: Window | None = None) -> tv_tensors.Image:
    """The picture that a DICOM viewer would show of a single grey frame, on the stored grid of pixels.

    The steps of DICOM PS3.3 C.11: modality transform (rescale slope and intercept, or table), then the first VOI table
    or window, then inversion where PhotometricInterpretation is MONOCHROME1. Without table or window, 8-bit pixels
    stay as they are, and deeper ones are stretched between their 0.5 and 99.5 percentiles. Padding
    (PixelPaddingValue, PixelPaddingRangeLimit) is black and takes no part in percentiles.

    Rows and columns are those of the file, whichever way the patient faces and whatever the shape of a pixel, so that
    boxes are in the file's own frame: :func:`read_geometry` says how it lies.

    Parameters
    ----------
    file : str, Path or binary file
        The file.
    window : Window, optional
        Another one than the file's first: ``"percentiles"``, ``"minmax"`` or (centre, width), of what the modality
        transform gives; a number k for the k-th (from 0) of the file's VOI tables and then windows; or ``"bits"``: the
        stored values over the range of BitsStored, without modality transform and window.

    Returns
    -------
    tv_tensors.Image
        (1, H, W): uint8 for 8-bit files without window whose values the modality transform leaves as they are, else
        float32 within [0, 1].

    Raises
    ------
    FileNotFoundError
        There is no such file.
    ImportError
        pydicom is not installed, or what decodes the file's compression.
    ValueError
        The file is no DICOM file, has no or damaged pixels, several frames, colour, more pixels than Pillow's limit
        allows (twice ``PIL.Image.MAX_IMAGE_PIXELS``), or a window that makes no sense.
    """
    if window is not None:
        windows.check_window(window)
    with _named(file) as stream:
        dataset = _parsed(stream)
        inverted = _check(dataset)
        stored = _decoded(dataset)
        if stored.ndim != 2 or stored.size == 0:
            raise ValueError(f"a single grey frame (rows, columns) is wanted, got shape {stored.shape}")
        if _final(dataset, window):
            levels = 255 - stored if inverted else stored.copy()
            levels[_is_padding(stored, dataset)] = 0
            return tv_tensors.Image(torch.from_numpy(levels)[None])

        def table(levels: Floats, counts: NDArray[np.int64]) -> Floats:
            padding = _is_padding(levels, dataset)
            seen = _seen(levels, np.where(padding, 0, counts), dataset, window)
            return np.where(padding, 0.0, 1 - seen if inverted else seen)

        return tv_tensors.Image(torch.from_numpy(windows.shown(stored, table))[None])


def read_geometry(file: File) -> Geometry:
    """How the pixels of a DICOM file lie: size, spacing, shape of a pixel, and which way the patient faces.

    Only the header is read. The spacing is PixelSpacing, else ImagerPixelSpacing (in the plane of the detector, where
    the patient is somewhat magnified), else NominalScannedPixelSpacing; the shape of a pixel follows from it, or from
    PixelAspectRatio.

    Parameters
    ----------
    file : str, Path or binary file
        The file.

    Raises
    ------
    FileNotFoundError, ImportError, ValueError
        As :func:`read_dicom`.
    """
    with _named(file) as stream:
        dataset = _parsed(stream, stop_before_pixels=True)
        spacings = (_numbers(dataset, f"{name}Spacing") for name in ("Pixel", "ImagerPixel", "NominalScannedPixel"))
        spacing = next(((s[0], s[1]) for s in spacings if len(s) == 2 and min(s) > 0), None)
        ratio = spacing or _numbers(dataset, "PixelAspectRatio")
        aspect = ratio[0] / ratio[1] if len(ratio) == 2 and min(ratio) > 0 else 1.0
        directions = [str(part) for part in np.atleast_1d(dataset.get("PatientOrientation") or [])]
        orientation = (directions[0], directions[1]) if len(directions) == 2 and all(directions) else None
        return Geometry(int(dataset.Rows), int(dataset.Columns), spacing, aspect, orientation)


@contextmanager
def _named(file: File) -> Iterator[BinaryIO]:
    """The file, open; whatever is wrong with it (pydicom and its decoders raise many kinds) is a ValueError."""
    if isinstance(file, (str, os.PathLike)):
        with Path(file).open("rb") as stream, _named(stream) as same:
            yield same
        return
    name = getattr(file, "name", "the file")
    try:
        yield file
    except ImportError as error:
        raise ImportError(f"{name}: {error}") from error
    except Exception as error:
        told = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
        raise ValueError(f"{name} cannot be read as DICOM: {told}") from error


def _parsed(stream: BinaryIO, **options: Any) -> Any:
    try:
        import pydicom
    except ImportError as error:
        raise ImportError('reading DICOM needs pydicom: pip install "thoraxlib[dicom]"') from error
    content = stream.read()
    if _DEFLATED in content:  # pydicom would inflate it without a limit
        raise ValueError("the transfer syntax Deflated Explicit VR Little Endian is not accepted")
    return pydicom.dcmread(io.BytesIO(content), **options)


def _check(dataset: Any) -> bool:
    """Refuse, before anything is decoded, what would not become one grey picture; whether it is stored inverted."""
    polarity = str(dataset.get("PhotometricInterpretation", "missing"))
    if polarity not in ("MONOCHROME1", "MONOCHROME2"):
        raise ValueError(f"PhotometricInterpretation must be MONOCHROME1 or MONOCHROME2, got {polarity}")
    if "PixelData" not in dataset:
        raise ValueError("it has no PixelData")
    rows, columns, frames = (int(dataset.get(name) or 1) for name in ("Rows", "Columns", "NumberOfFrames"))
    if frames != 1:
        raise ValueError(f"a single frame is wanted, NumberOfFrames is {frames}")
    if int(dataset.get("SamplesPerPixel") or 1) != 1:
        raise ValueError(f"a grey frame is wanted, SamplesPerPixel is {dataset.SamplesPerPixel}")
    allocated, used = int(dataset.BitsAllocated), int(dataset.BitsStored)
    if allocated not in (8, 16) or not 1 <= used <= allocated:
        raise ValueError(f"BitsAllocated must be 8 or 16, and BitsStored not more; got {allocated} and {used}")
    highest = dataset.get("HighBit")
    if highest not in (None, used - 1):  # the values would have to be shifted, which pydicom does not
        raise ValueError(f"HighBit must be BitsStored - 1 = {used - 1}, got {highest}")
    limit = PILImage.MAX_IMAGE_PIXELS
    if limit is not None and rows * columns > 2 * limit:
        raise ValueError(f"{rows} x {columns} pixels are too large; raise PIL.Image.MAX_IMAGE_PIXELS if it is meant")
    if dataset.file_meta.TransferSyntaxUID.is_encapsulated:
        _check_codec(dataset, rows, columns)
    return polarity == "MONOCHROME1"


def _check_codec(dataset: Any, rows: int, columns: int) -> None:
    """Refuse what cannot be decoded, and a compressed picture that is not what the file's header says."""
    from pydicom.encaps import get_frame
    from pydicom.pixels import get_decoder

    syntax = dataset.file_meta.TransferSyntaxUID
    try:
        decoder = get_decoder(syntax)
    except NotImplementedError as error:
        raise ValueError(f"the transfer syntax {syntax.name} is not known to pydicom") from error
    if not decoder.is_available:
        lacking = "; ".join(decoder.missing_dependencies)
        raise ImportError(f'decoding {syntax.name} needs more: pip install "thoraxlib[dicom]" ({lacking})')
    found = header(get_frame(dataset.PixelData, 0, number_of_frames=1))
    if found is None:  # RLE: its decoder goes by the file's header
        return
    if found[:2] != (rows, columns):
        raise ValueError(
            f"the header says {rows} x {columns} pixels, the compressed picture has {found[0]} x {found[1]}"
        )
    if found.bits > dataset.BitsAllocated or found.channels != 1:
        raise ValueError(f"the compressed picture has {found.bits} bits and {found.channels} channels")


def _decoded(dataset: Any) -> NDArray[Any]:
    """The stored values, by the decoder that bears damaged pictures best."""
    syntax = dataset.file_meta.TransferSyntaxUID
    if syntax.is_encapsulated:
        from pydicom.pixels import get_decoder

        able = get_decoder(syntax).available_plugins
        plugins = [name for name in _DECODERS if name in able] or list(able)
        if plugins[0] == "pillow" and len(plugins) > 1 and dataset.BitsAllocated > 8:  # which Pillow's JPEG is not for
            plugins.pop(0)
        dataset.pixel_array_options(decoding_plugin=plugins[0])
    stored: NDArray[Any] = dataset.pixel_array
    return stored


def _final(dataset: Any, how: Window | None) -> bool:
    """Whether the stored values are 8-bit greys that nothing has to be done to."""
    if dataset.BitsAllocated != 8 or dataset.BitsStored != 8 or dataset.get("PixelRepresentation"):
        return False
    return how == "bits" or (how is None and not _views(dataset) and _is_identity(dataset))


def _is_identity(dataset: Any) -> bool:
    return not dataset.get("ModalityLUTSequence") and _rescale(dataset) == (1.0, 0.0)


def _rescale(dataset: Any) -> tuple[float, float]:
    slope, intercept = _numbers(dataset, "RescaleSlope") or [1.0], _numbers(dataset, "RescaleIntercept") or [0.0]
    if slope[0] == 0:
        raise ValueError("RescaleSlope must not be 0: all pixels would have one value")
    return slope[0], intercept[0]


def _seen(levels: Floats, counts: NDArray[np.int64], dataset: Any, how: Window | None) -> Floats:
    """What is shown of each stored level, within [0, 1], before inversion."""
    if how == "bits":
        span = 2.0 ** int(dataset.BitsStored)
        lowest = -span / 2 if dataset.get("PixelRepresentation") else 0.0
        return np.asarray(np.clip((levels - lowest) / (span - 1), 0, 1))
    if dataset.get("ModalityLUTSequence"):
        values = _looked_up(levels, dataset.ModalityLUTSequence[0])[0]
    else:
        slope, intercept = _rescale(dataset)
        values = levels * slope + intercept
    views = _views(dataset)
    if isinstance(how, (str, tuple)) or (how is None and not views):
        return windows.windowed(values, counts, how or "percentiles")
    number = int(how or 0)
    if number >= len(views):
        raise ValueError(f"window={number}: the file has {len(views)} VOI tables and windows")
    view = views[number]
    if isinstance(view, tuple):
        centre, width = view
        return windows.window(values, centre, width, str(dataset.get("VOILUTFunction") or "LINEAR"))
    entries, depth = _looked_up(values, view)
    return np.asarray(np.clip(entries / (2.0**depth - 1), 0.0, 1.0))


def _views(dataset: Any) -> list[Any]:
    """The VOI tables of the file, then its windows (centre, width)."""
    pairs = zip(_numbers(dataset, "WindowCenter"), _numbers(dataset, "WindowWidth"), strict=False)
    return [*(dataset.get("VOILUTSequence") or []), *pairs]


def _looked_up(values: Floats, item: Any) -> tuple[Floats, int]:
    """Values through a table (PS3.3 C.11.1.1 and C.11.2.1.1), and the bits of its entries.

    Not pydicom's ``apply_voi``: its index into a table of 8-bit entries is of 8 bits too, and wraps round.
    """
    number, first, depth = (int(entry) for entry in item.LUTDescriptor)
    number = number or 2**16
    data = item.LUTData
    if isinstance(data, bytes):
        entries = np.frombuffer(data, np.uint8 if len(data) in (number, number + 1) else "<u2")
    else:
        entries = np.atleast_1d(np.asarray(data))
    if not 1 <= depth <= 16 or len(entries) < number:
        raise ValueError(f"a look-up table of {number} entries of {depth} bits has {len(entries)} entries")
    if item["LUTDescriptor"].VR == "US" and first >= 2**15 and values.min(initial=0) < 0:
        first -= 2**16  # negative, in a field that is read as unsigned
    return entries[np.clip(np.round(values) - first, 0, number - 1).astype(np.int64)].astype(np.float64), depth


def _is_padding(stored: NDArray[Any], dataset: Any) -> NDArray[np.bool_]:
    value = dataset.get("PixelPaddingValue")
    if value is None:
        return np.zeros(stored.shape, dtype=bool)
    limit = dataset.get("PixelPaddingRangeLimit")
    ends = [int(value), int(value if limit is None else limit)]
    if dataset.get("PixelRepresentation"):
        span = 2 ** int(dataset.BitsAllocated)
        ends = [end - span if end >= span // 2 else end for end in ends]
    return (stored >= min(ends)) & (stored <= max(ends))


def _numbers(dataset: Any, name: str) -> list[float]:
    """The finite values of a tag with one or several numbers; none where it is absent or empty."""
    value = dataset.get(name)
    if value is None or value == "":
        return []
    numbers = [float(v) for v in np.atleast_1d(value)]
    if not np.isfinite(numbers).all():
        raise ValueError(f"{name} must be finite, got {value}")
    return numbers
