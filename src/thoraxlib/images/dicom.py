"""DICOM files (extra ``dicom``): modality transform, window, polarity, padding; and how the pixels lie."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torchvision import tv_tensors

from thoraxlib.images import windows
from thoraxlib.images.decoding import stored_values
from thoraxlib.images.elements import DataSet, parse
from thoraxlib.images.geometry import Geometry
from thoraxlib.images.windows import Window
from thoraxlib.utils.arrays import Floats
from thoraxlib.utils.files import open_regular

File: TypeAlias = "str | os.PathLike[str] | BinaryIO"


def read_dicom(file: File, *, window: Window | None = None) -> tv_tensors.Image:
    """Read the image that a DICOM viewer would show of a single grey frame, on the stored grid of pixels.

    The steps of DICOM PS3.3 C.11: modality transform (rescale slope and intercept, or table), then the first VOI table
    or window, then inversion where PhotometricInterpretation is MONOCHROME1. Without table or window, 8-bit pixels
    stay as they are, and deeper ones are stretched between their 0.5 and 99.5 percentiles. Padding
    (PixelPaddingValue, PixelPaddingRangeLimit) is black and takes no part in percentiles.

    White is the greatest value that the bits of a VOI table's entries hold. Writers often state 16 bits, the size of an
    entry; then the bits are those of the greatest entry, at least 8. The file's first window is not used where it would
    show different pixels all alike: a warning tells it, and the image is stretched as without a window.

    Files without preamble and file meta information are read too. JPEG and JPEG-LS, but for JPEG of 8 bits, are decoded
    by GDCM in a process beside this one, which is started when it is needed, kept, and ends with this one.

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
        allows (twice ``PIL.Image.MAX_IMAGE_PIXELS``), more elements or bytes than are read, or a window or rescaling
        that makes no sense. The message names the element; of its value, it has integers only.
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
        stored = stored_values(dataset)
        inverted = dataset.texts("PhotometricInterpretation")[0] == "MONOCHROME1"

        def table(levels: Floats, counts: NDArray[np.int64]) -> Floats:
            padding = _is_padding(levels, dataset)
            seen = _seen(levels, np.where(padding, 0, counts), dataset, window, name)
            return np.where(padding, 0.0, 1 - seen if inverted else seen)

        image: NDArray[Any]
        if _final(stored, dataset, window):
            image = 255 - stored if inverted else stored.copy()
            image[_is_padding(stored, dataset)] = 0
        else:
            image = windows.shown(stored, table)
        if image.min() == image.max():
            warnings.warn(f"{name}: all pixels are shown with one value")
        return tv_tensors.Image(torch.from_numpy(image)[None])


def read_geometry(file: File) -> Geometry:
    """How the pixels of a DICOM file lie: size, spacing, shape of a pixel, and which way the patient faces.

    No pixel is decoded. The spacing is PixelSpacing, else ImagerPixelSpacing (in the plane of the detector, where
    the patient is somewhat magnified), else NominalScannedPixelSpacing; the shape of a pixel follows from it, or from
    PixelAspectRatio.

    Parameters
    ----------
    file : str, Path or binary file
        The file.

    Raises
    ------
    FileNotFoundError, ImportError, OSError, ValueError
        As :func:`read_dicom`; or a pixel is more than 10^9 times as long as it is wide, or as wide as it is long.
    """
    with _named(file) as (stream, _):
        dataset = parse(stream)
        keywords = ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing", "PixelAspectRatio")
        pairs = ((keyword, dataset.numbers(keyword)) for keyword in keywords)
        keyword, (down, across) = next(((k, p) for k, p in pairs if len(p) == 2 and min(p) > 0), ("", [1.0, 1.0]))
        if not 1e-9 < down / across < 1e9:
            raise ValueError(f"{keyword} makes a pixel more than 10^9 times as long as it is wide, or as wide as long")
        spacing = (down, across) if keyword.endswith("Spacing") else None
        directions = dataset.texts("PatientOrientation")
        orientation = (directions[0], directions[1]) if len(directions) == 2 and all(directions) else None
        return Geometry(dataset.integer("Rows"), dataset.integer("Columns"), spacing, down / across, orientation)


@contextmanager
def _named(file: File) -> Iterator[tuple[BinaryIO, str]]:
    """The file, open, and its name, which is put before errors. None of them quotes a free value of the file."""
    if isinstance(file, (str, os.PathLike)):
        with open_regular(file) as stream, _named(stream) as same:
            yield same
        return
    name = str(getattr(file, "name", "the file"))
    try:
        import pydicom  # noqa: F401
    except ImportError as error:
        raise ImportError('reading DICOM needs pydicom: pip install "thoraxlib[dicom]"') from error
    try:
        yield file, name
    except ImportError as error:
        raise ImportError(f"{name}: {error}") from error
    except ValueError as error:
        raise ValueError(f"{name} cannot be read as DICOM: {error}") from error
    except (OSError, MemoryError):  # of the system, not of the file
        raise
    except Exception:  # whose texts may quote the file
        raise ValueError(f"{name} cannot be read as DICOM: it is damaged") from None


def _final(stored: NDArray[Any], dataset: DataSet, how: Window | None) -> bool:
    """Whether the stored values are 8-bit greys that nothing has to be done to."""
    if stored.dtype != np.uint8 or dataset.integer("BitsAllocated") != 8 or dataset.integer("BitsStored") != 8:
        return False
    return how == "bits" or (how is None and not _views(dataset) and _is_identity(dataset))


def _is_identity(dataset: DataSet) -> bool:
    return not dataset.tables("ModalityLUTSequence") and _rescale(dataset) == (1.0, 0.0)


def _rescale(dataset: DataSet) -> tuple[float, float]:
    slope, intercept = dataset.numbers("RescaleSlope") or [1.0], dataset.numbers("RescaleIntercept") or [0.0]
    if slope[0] == 0:
        raise ValueError("RescaleSlope must not be 0: all pixels would have one value")
    return slope[0], intercept[0]


def _modality(levels: Floats, dataset: DataSet) -> Floats:
    """The stored levels after the modality transform."""
    tables = dataset.tables("ModalityLUTSequence")
    if tables:
        return _looked_up(levels, tables[0])[0]
    slope, intercept = _rescale(dataset)
    with np.errstate(over="ignore", invalid="ignore"):
        values = levels * slope + intercept
        apart = np.isfinite(values.max() - values.min()) and bool((np.diff(values) != 0).all())
    if not apart:
        raise ValueError(
            "RescaleSlope or RescaleIntercept is too large: the pixels' values are no longer numbers apart"
        )
    return values


def _seen(levels: Floats, counts: NDArray[np.int64], dataset: DataSet, how: Window | None, name: str) -> Floats:
    """What is shown of each stored level, within [0, 1], before inversion."""
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
    seen = _viewed(values, views[number], dataset)
    if how is None and np.count_nonzero(counts) > 1 and len(np.unique(seen[counts > 0])) == 1:
        warnings.warn(f"{name}: no pixel falls into the file's window; it is stretched between percentiles instead")
        return windows.windowed(values, counts, "percentiles")
    return seen


def _views(dataset: DataSet) -> list[DataSet | tuple[float, float]]:
    """The VOI tables of the file, then its windows (centre, width)."""
    pairs = zip(dataset.numbers("WindowCenter"), dataset.numbers("WindowWidth"), strict=False)
    return [*dataset.tables("VOILUTSequence"), *pairs]


def _viewed(values: Floats, view: DataSet | tuple[float, float], dataset: DataSet) -> Floats:
    """Values through one of the file's VOI tables or windows."""
    if isinstance(view, tuple):
        function = "".join(dataset.texts("VOILUTFunction")[:1]) or "LINEAR"
        try:
            return windows.window(values, *view, function)
        except ValueError:  # its message has what the file says
            raise ValueError(
                "WindowWidth is too small for VOILUTFunction, or that is not LINEAR, LINEAR_EXACT or SIGMOID"
            ) from None
    entries, depth = _looked_up(values, view)
    return np.asarray(np.clip(entries / (2.0**depth - 1), 0.0, 1.0))


def _looked_up(values: Floats, table: DataSet) -> tuple[Floats, int]:
    """Values through a table (PS3.3 C.11.1.1 and C.11.2.1.1), and the bits of its entries.

    Writers put the size of a stored entry, 16, for its bits: then the greatest entry says how many there are.
    """
    if len(table.numbers("LUTDescriptor")) != 3:
        raise ValueError("LUTDescriptor must be three numbers")
    number, first, depth = (int(entry) for entry in table.numbers("LUTDescriptor"))
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
        first -= 2**16  # negative, in a field that is read as unsigned
    return entries[np.clip(np.round(values) - first, 0, number - 1).astype(np.int64)].astype(np.float64), depth


def _is_padding(stored: NDArray[Any], dataset: DataSet) -> NDArray[np.bool_]:
    if "PixelPaddingValue" not in dataset:
        return np.zeros(stored.shape, dtype=bool)
    value = dataset.integer("PixelPaddingValue")
    ends = [value, dataset.integer("PixelPaddingRangeLimit", value)]
    if dataset.integer("PixelRepresentation", 0):
        span = 2 ** dataset.integer("BitsAllocated")
        ends = [end - span if end >= span // 2 else end for end in ends]
    return (stored >= min(ends)) & (stored <= max(ends))
