"""Decode the pixels of a DICOM data set in any transfer syntax, with the decoder that handles damage best."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PILImage

from thoraxlib.images import isolated
from thoraxlib.images.codestream import Header, header
from thoraxlib.images.elements import DataSet

_RLE = "1.2.840.10008.1.2.5"
_JPEG_EXTENDED = "1.2.840.10008.1.2.4.51"
_PLUGINS = ("pydicom", "pylibjpeg", "pyjpegls", "pillow")  # of pydicom, within this process
_GREY = ("MONOCHROME1", "MONOCHROME2")
_COLOUR = ("PALETTE COLOR", "RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT", "YBR_PARTIAL_420", "XYB", "HSV")


def stored_values(dataset: DataSet) -> NDArray[Any]:
    """Decode the pixels of a data set: (rows, columns), 8 or 16 bits, signed or unsigned.

    Raises
    ------
    ImportError
        The decoder of the transfer syntax is not installed.
    ValueError
        The data set is not a single grey frame, has more pixels than Pillow's limit allows, or damaged ones.
    """
    rows, columns, allocated, used = _layout(dataset)
    signed = bool(dataset.integer("PixelRepresentation", 0))
    decoder = _decoder(dataset)
    content = dataset.value("PixelData")
    if decoder.is_encapsulated:
        image = _compressed(content, rows, columns, allocated, dataset.syntax)
        if image is not None and _for_gdcm(decoder, image[1], allocated):
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
        raise ImportError('decoding its pixels needs more: pip install "thoraxlib[dicom]"')
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
        decoder = get_decoder(UID(dataset.syntax))
    except NotImplementedError:
        raise ValueError(f"the transfer syntax {name or 'of the file'} is not known to pydicom") from None
    if not decoder.is_available:
        missing = "; ".join(decoder.missing_dependencies)
        raise ImportError(f'decoding {name} needs more: pip install "thoraxlib[dicom]" ({missing})')
    return decoder


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


def _for_gdcm(decoder: Any, head: Header, allocated: int) -> bool:
    """Return True if GDCM decodes the image: all but JPEG 2000, and JPEG of 8 bits, for which Pillow is safer."""
    if decoder.UID not in isolated.SYNTAXES or "gdcm" not in decoder.available_plugins:
        return False
    return allocated > 8 or head.bits > 8 or "pillow" not in decoder.available_plugins
