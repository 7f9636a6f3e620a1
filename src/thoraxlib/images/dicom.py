"""Read DICOM images (extra ``dicom``): decoding, modality transform, window, polarity, padding; and their geometry."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any, BinaryIO, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image as PILImage
from torchvision import tv_tensors

from thoraxlib.images import isolated, windows
from thoraxlib.images.elements import DataSet, parse
from thoraxlib.images.geometry import Geometry
from thoraxlib.images.pictures import Header, header
from thoraxlib.images.windows import Window
from thoraxlib.utils.arrays import Floats
from thoraxlib.utils.files import open_regular

File: TypeAlias = "str | os.PathLike[str] | BinaryIO"

_RLE = "1.2.840.10008.1.2.5"
_JPEG_EXTENDED = "1.2.840.10008.1.2.4.51"
_PLUGINS = ("pydicom", "pylibjpeg", "pyjpegls", "pillow")  # of pydicom, within this process
_GREY = ("MONOCHROME1", "MONOCHROME2")
_COLOUR = ("PALETTE COLOR", "RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT", "YBR_PARTIAL_420", "XYB", "HSV")


def read_dicom(file: File, *, window: Window | None = None) -> tv_tensors.Image:
    """Read a single grey frame as a DICOM viewer shows it, on the stored grid of pixels.

    The steps are those of DICOM PS3.3 C.11: modality transform (rescale slope and intercept, or table), then the first
    VOI table or window, then inversion if PhotometricInterpretation is MONOCHROME1. Without table or window, 8-bit
    pixels stay as they are, and deeper ones are stretched between their 0.5 and 99.5 percentiles. Padding
    (PixelPaddingValue, PixelPaddingRangeLimit) becomes black and does not count for percentiles.

    White is the largest value that the bits of a VOI table's entries allow. Many writers state 16 bits, the size of a
    stored entry; then the bits are those of the largest entry, at least 8. The file's first window is not used if it
    would map different pixels to one value: there is a warning, and the image is stretched as without a window.

    Files without preamble and file meta information are read too. JPEG and JPEG-LS, except JPEG of 8 bits, are decoded
    by GDCM in a process beside this one. It is started when it is needed, is reused, and ends with this one.

    Rows and columns are those of the file, whatever the patient's orientation and the shape of a pixel, so that boxes
    are in the file's own coordinates. :func:`read_geometry` reads orientation and pixel shape.

    Parameters
    ----------
    file : str, Path or binary file
        The file.
    window : Window, optional
        Instead of the file's first table or window: ``"percentiles"``, ``"minmax"`` or (centre, width), applied after
        the modality transform; a number k for the k-th (from 0) of the file's VOI tables and then windows; or
        ``"bits"``: the stored values over the range of BitsStored, without modality transform and window.

    Returns
    -------
    tv_tensors.Image
        (1, H, W): uint8 for 8-bit files without window and with an identity modality transform, else float32 within
        [0, 1].

    Raises
    ------
    FileNotFoundError
        The file does not exist.
    ImportError
        pydicom, or the decoder of the file's compression, is not installed.
    ValueError
        The file is not DICOM; has no pixels or damaged ones, several frames, colour, more pixels than Pillow's limit
        allows (twice ``PIL.Image.MAX_IMAGE_PIXELS``), or too many elements or bytes; or has an invalid window or
        rescaling. The message names the element, but contains no value of it other than integers.
    OSError
        Reading failed, or the process that decodes could not be started or was killed from outside.

    Warns
    -----
    UserWarning
        All pixels are shown with one value, or the file's own window, which would do that, is not used.
    """
    if window is not None:
        windows.check_window(window)
    with _named(file) as (stream, name):
        dataset = parse(stream)
        stored = _stored_values(dataset)
        inverted = dataset.texts("PhotometricInterpretation")[0] == "MONOCHROME1"

        def table(levels: Floats, counts: NDArray[np.int64]) -> Floats:
            padding = _is_padding(levels, dataset)
            values = _displayed(levels, np.where(padding, 0, counts), dataset, window, name)
            return np.where(padding, 0.0, 1 - values if inverted else values)

        image: NDArray[Any]
        if _is_final(stored, dataset, window):
            image = 255 - stored if inverted else stored.copy()
            image[_is_padding(stored, dataset)] = 0
        else:
            image = windows.displayed(stored, table)
        if image.min() == image.max():
            warnings.warn(f"{name}: all pixels are shown with one value")
        return tv_tensors.Image(torch.from_numpy(image)[None])


def read_geometry(file: File) -> Geometry:
    """Read size, spacing, pixel shape and orientation of a DICOM image, without decoding pixels.

    The spacing is PixelSpacing, else ImagerPixelSpacing (in the plane of the detector, where the patient is somewhat
    magnified), else NominalScannedPixelSpacing. The shape of a pixel follows from the spacing, or from
    PixelAspectRatio.

    Parameters
    ----------
    file : str, Path or binary file
        The file.

    Raises
    ------
    FileNotFoundError, ImportError, OSError, ValueError
        As :func:`read_dicom`; or one side of a pixel is more than 10^9 times as long as the other.
    """
    with _named(file) as (stream, _):
        dataset = parse(stream)
        keywords = ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing", "PixelAspectRatio")
        pairs = ((keyword, dataset.numbers(keyword)) for keyword in keywords)
        keyword, (down, across) = next(((k, p) for k, p in pairs if len(p) == 2 and min(p) > 0), ("", [1.0, 1.0]))
        if not 1e-9 < down / across < 1e9:
            raise ValueError(f"{keyword} makes a pixel more than 10^9 times as long in one direction as in the other")
        spacing = (down, across) if keyword.endswith("Spacing") else None
        directions = dataset.texts("PatientOrientation")
        orientation = (directions[0], directions[1]) if len(directions) == 2 and all(directions) else None
        return Geometry(dataset.integer("Rows"), dataset.integer("Columns"), spacing, down / across, orientation)


@contextmanager
def _named(file: File) -> Iterator[tuple[BinaryIO, str]]:
    """Open the file and yield it with its name, which is put before errors; no error quotes a text of the file."""
    if isinstance(file, (str, os.PathLike)):
        with open_regular(file) as stream, _named(stream) as named:
            yield named
        return
    name = str(getattr(file, "name", "the file"))
    if find_spec("pydicom") is None:
        raise ImportError('reading DICOM needs pydicom: pip install "thoraxlib[dicom]"')
    try:
        yield file, name
    except ImportError as error:
        raise ImportError(f"{name}: {error}") from error
    except ValueError as error:
        raise ValueError(f"{name} cannot be read as DICOM: {error}") from error
    except (OSError, MemoryError):  # of the system, not of the file
        raise
    except Exception:  # its message may quote the file
        raise ValueError(f"{name} cannot be read as DICOM: it is damaged") from None


def _is_final(stored: NDArray[Any], dataset: DataSet, how: Window | None) -> bool:
    """Return True if the stored values are 8-bit greys that no transform or window changes."""
    if stored.dtype != np.uint8 or dataset.integer("BitsAllocated") != 8 or dataset.integer("BitsStored") != 8:
        return False
    if how is not None:
        return how == "bits"
    return not _views(dataset) and not dataset.tables("ModalityLUTSequence") and _rescale(dataset) == (1.0, 0.0)


def _rescale(dataset: DataSet) -> tuple[float, float]:
    slope, intercept = dataset.numbers("RescaleSlope") or [1.0], dataset.numbers("RescaleIntercept") or [0.0]
    if slope[0] == 0:
        raise ValueError("RescaleSlope must not be 0: all pixels would have one value")
    return slope[0], intercept[0]


def _modality(levels: Floats, dataset: DataSet) -> Floats:
    """Apply the modality transform to stored levels."""
    tables = dataset.tables("ModalityLUTSequence")
    if tables:
        return _looked_up(levels, tables[0])[0]
    slope, intercept = _rescale(dataset)
    with np.errstate(over="ignore", invalid="ignore"):
        values = levels * slope + intercept
        distinct = np.isfinite(values.max() - values.min()) and bool((np.diff(values) != 0).all())
    if not distinct:
        raise ValueError("RescaleSlope or RescaleIntercept is too large: the pixels' values are no longer distinct")
    return values


def _displayed(levels: Floats, counts: NDArray[np.int64], dataset: DataSet, how: Window | None, name: str) -> Floats:
    """Displayed values of stored levels, in [0, 1], before inversion."""
    if how == "bits":
        span = 2.0 ** dataset.integer("BitsStored")
        lowest = -span / 2 if dataset.integer("PixelRepresentation", 0) else 0.0
        return np.asarray(np.clip((levels - lowest) / (span - 1), 0, 1))
    values, views = _modality(levels, dataset), _views(dataset)
    if isinstance(how, (str, tuple)) or (how is None and not views):
        return windows.windowed(values, counts, how or "percentiles")
    number = int(how or 0)
    if number >= len(views):
        raise ValueError(f"window={number}: the file has {len(views)} VOI tables and windows")
    viewed = _viewed(values, views[number], dataset)
    if how is None and np.count_nonzero(counts) > 1 and len(np.unique(viewed[counts > 0])) == 1:
        warnings.warn(f"{name}: no pixel falls into the file's window; it is stretched between percentiles instead")
        return windows.windowed(values, counts, "percentiles")
    return viewed


def _views(dataset: DataSet) -> list[DataSet | tuple[float, float]]:
    """List the VOI tables of the file, then its windows (centre, width)."""
    pairs = zip(dataset.numbers("WindowCenter"), dataset.numbers("WindowWidth"), strict=False)
    return [*dataset.tables("VOILUTSequence"), *pairs]


def _viewed(values: Floats, view: DataSet | tuple[float, float], dataset: DataSet) -> Floats:
    """Apply one of the file's VOI tables or windows to values."""
    if isinstance(view, tuple):
        function = "".join(dataset.texts("VOILUTFunction")[:1]) or "LINEAR"
        try:
            return windows.window(values, *view, function)
        except ValueError:  # its message quotes the file
            raise ValueError(
                "WindowWidth is too small for VOILUTFunction, or that is not LINEAR, LINEAR_EXACT or SIGMOID"
            ) from None
    entries, depth = _looked_up(values, view)
    return np.asarray(np.clip(entries / (2.0**depth - 1), 0.0, 1.0))


def _looked_up(values: Floats, table: DataSet) -> tuple[Floats, int]:
    """Look values up in a table (PS3.3 C.11.1.1 and C.11.2.1.1); return them and the bits of the table's entries.

    Where the table states 16 bits, the size of a stored entry, the largest entry decides.
    """
    descriptor = table.numbers("LUTDescriptor")
    if len(descriptor) != 3:
        raise ValueError("LUTDescriptor must be three numbers")
    number, first, depth = map(int, descriptor)
    number = number % 2**16 or 2**16
    data = table.value("LUTData")
    if len(data) in (number, number + 1):
        entries = np.frombuffer(data, np.uint8)[:number]
    else:
        entries = np.frombuffer(data[: len(data) // 2 * 2], "<u2" if table.little else ">u2")[:number]
    if not 1 <= depth <= 16 or len(entries) < number:
        raise ValueError(f"a look-up table of {number} entries of {depth} bits has {len(entries)} entries")
    if depth == 16:
        depth = max(int(entries.max()).bit_length(), 8)
    if table.vr("LUTDescriptor") == "US" and first >= 2**15 and values.min(initial=0) < 0:
        first -= 2**16  # a negative number in an unsigned field
    return entries[np.clip(np.round(values) - first, 0, number - 1).astype(np.int64)].astype(np.float64), depth


def _is_padding(stored: NDArray[Any], dataset: DataSet) -> NDArray[np.bool_]:
    """Mask of the stored values that are padding."""
    if "PixelPaddingValue" not in dataset:
        return np.zeros(stored.shape, dtype=bool)
    value = dataset.integer("PixelPaddingValue")
    ends = [value, dataset.integer("PixelPaddingRangeLimit", value)]
    if dataset.integer("PixelRepresentation", 0):
        span = 2 ** dataset.integer("BitsAllocated")
        ends = [end - span if end >= span // 2 else end for end in ends]
    return (stored >= min(ends)) & (stored <= max(ends))


def _stored_values(dataset: DataSet) -> NDArray[Any]:
    """Decode the pixels of a data set: (rows, columns), 8 or 16 bits, signed or unsigned."""
    rows, columns, allocated, used = _layout(dataset)
    signed = bool(dataset.integer("PixelRepresentation", 0))
    decoder = _decoder(dataset)
    content = dataset.value("PixelData")
    if decoder.is_encapsulated:
        image = _compressed(content, rows, columns, allocated, dataset.syntax)
        for_gdcm = decoder.UID in isolated.SYNTAXES and "gdcm" in decoder.available_plugins
        small = allocated == 8 and "pillow" in decoder.available_plugins  # Pillow handles damaged JPEG of 8 bits better
        if image is not None and for_gdcm and not (small and image[1].bits <= 8):
            size = 8 if image[1].bits <= 8 else 16
            if dataset.syntax == _JPEG_EXTENDED and image[1].bits not in (8, 12):
                raise ValueError(f"JPEG Extended is of 8 or 12 bits, the compressed image says {image[1].bits}")
            values = isolated.decode(image[0], dataset.syntax, rows, columns, size)
            levels = np.frombuffer(values, f"<u{size // 8}").reshape(rows, columns)
            shift = max(size - used, 0)  # unused high bits may hold an overlay
            return np.asarray((levels << shift).view(f"<{'i' if signed else 'u'}{size // 8}") >> shift)
    else:
        size = rows * columns * allocated // 8
        if len(content) < size:
            raise ValueError(f"PixelData is cut off: {len(content)} bytes, {rows} x {columns} pixels need {size}")
        if len(content) >= 2 * size and len(content) > size + 1:
            raise ValueError(f"a single frame is wanted, PixelData has the bytes of {len(content) // size}")
        content = content[:size]
    plugins = [name for name in _PLUGINS if name in decoder.available_plugins]
    if decoder.is_encapsulated and not plugins:
        raise ImportError(f'decoding {decoder.UID.name} needs more: pip install "thoraxlib[dicom]"')
    try:
        decoded: NDArray[Any] = decoder.as_array(
            content,
            raw=True,
            decoding_plugin="".join(plugins[:1]),
            rows=rows,
            columns=columns,
            samples_per_pixel=1,
            number_of_frames=1,
            photometric_interpretation="MONOCHROME2",
            bits_allocated=allocated,
            bits_stored=used,
            pixel_representation=int(signed),
            pixel_keyword="PixelData",
            pixel_vr=dataset.vr("PixelData"),
        )[0]
    except MemoryError:
        raise
    except Exception:  # decoders raise many kinds
        raise ValueError("its pixels cannot be decoded: they are damaged") from None
    return decoded


def _layout(dataset: DataSet) -> tuple[int, int, int, int]:
    """Return rows, columns, allocated and used bits; raise ValueError unless the header is of one grey image."""
    interpretation = "".join(dataset.texts("PhotometricInterpretation")[:1])
    if interpretation not in _GREY:
        stated = interpretation if interpretation in _COLOUR else "another text" if interpretation else "missing"
        raise ValueError(f"PhotometricInterpretation must be MONOCHROME1 or MONOCHROME2, got {stated}")
    if "PixelData" not in dataset:
        raise ValueError("it has no PixelData")
    frames, samples = dataset.integer("NumberOfFrames", 1), dataset.integer("SamplesPerPixel", 1)
    if frames > 1:
        raise ValueError(f"a single frame is wanted, NumberOfFrames is {frames}")
    if samples != 1:
        raise ValueError(f"a grey frame is wanted, SamplesPerPixel is {samples}")
    rows, columns = dataset.integer("Rows"), dataset.integer("Columns")
    if rows < 1 or columns < 1:
        raise ValueError(f"Rows and Columns must be above 0, got {rows} x {columns}")
    limit = PILImage.MAX_IMAGE_PIXELS
    if limit is not None and rows * columns > 2 * limit:
        raise ValueError(f"{rows} x {columns} pixels are too large; raise PIL.Image.MAX_IMAGE_PIXELS if it is meant")
    allocated, used = dataset.integer("BitsAllocated"), dataset.integer("BitsStored")
    if allocated not in (8, 16) or not 1 <= used <= allocated:
        raise ValueError(f"BitsAllocated must be 8 or 16, and BitsStored not more; got {allocated} and {used}")
    highest = dataset.integer("HighBit", used - 1)
    if highest != used - 1:
        raise ValueError(f"HighBit must be BitsStored - 1 = {used - 1}, got {highest}")
    return rows, columns, allocated, used


def _decoder(dataset: DataSet) -> Any:
    """Return pydicom's decoder of the transfer syntax."""
    from pydicom.pixels import get_decoder
    from pydicom.uid import UID, UID_dictionary

    name = UID_dictionary.get(dataset.syntax, ("",))[0]
    try:
        if not name:  # UID() would quote it in a warning
            raise NotImplementedError
        return get_decoder(UID(dataset.syntax))
    except NotImplementedError:
        raise ValueError(f"the transfer syntax {name or 'of the file'} is not known to pydicom") from None


def _compressed(content: bytes, rows: int, columns: int, allocated: int, syntax: str) -> tuple[bytes, Header] | None:
    """Return the compressed image in an encapsulated value and its header; None for RLE, which has no header.

    A compressed image that does not agree with the data set is a ValueError.
    """
    from pydicom.encaps import get_frame

    try:
        image = get_frame(content, 0, number_of_frames=1)
    except Exception:
        raise ValueError("its compressed image is damaged: PixelData does not consist of fragments") from None
    head = header(image)
    if head is None:
        if syntax != _RLE:
            raise ValueError("its compressed image is damaged: it has no header of JPEG")
        return None
    if head[:2] != (rows, columns):
        raise ValueError(f"the header says {rows} x {columns} pixels, the compressed image has {head[0]} x {head[1]}")
    if head.bits > allocated or head.channels != 1:
        raise ValueError(f"the compressed image has {head.bits} bits and {head.channels} channels")
    return image, head
