"""Decode JPEG and JPEG-LS with GDCM: a program that :mod:`thoraxlib.images.isolated` runs in a process of its own.

Some damaged images make GDCM end its process; this process may end. It is started by its path, so that nothing but
GDCM is imported. It first writes :data:`READY`. Then it answers each request on its input (:data:`REQUEST` and the
compressed image) on its output: the number of bytes (:data:`ANSWER`), 0 if GDCM refuses the image, and the bytes. It
ends when its input ends.
"""

from __future__ import annotations

import os
import struct
import sys
from typing import Any, BinaryIO

#: Rows, columns, bits of a value in the answer, time limit in seconds, transfer syntax, bytes of the image.
REQUEST = struct.Struct("<4I64sQ")
#: Number of bytes of the values.
ANSWER = struct.Struct("<Q")
#: The first byte of the output.
READY = b"\x06"


def main() -> None:
    """Answer requests until the input ends."""
    requests = sys.stdin.buffer
    answers = os.fdopen(os.dup(1), "wb")
    silence = os.open(os.devnull, os.O_WRONLY)
    os.dup2(silence, 1)  # GDCM prints remarks
    os.dup2(silence, 2)
    sys.path[:] = sys.argv[1:]
    import faulthandler

    import gdcm  # type: ignore

    answers.write(READY)
    answers.flush()
    while request := _exactly(requests, REQUEST.size):
        *layout, seconds, syntax, length = REQUEST.unpack(request)
        compressed = _exactly(requests, length)
        faulthandler.dump_traceback_later(seconds, exit=True)  # also ends a decoder that does not return
        try:
            values = _decoded(gdcm, compressed, syntax.rstrip(b"\0").decode(), *layout)
        except Exception:
            values = b""
        faulthandler.cancel_dump_traceback_later()
        answers.write(ANSWER.pack(len(values)))
        answers.write(values)
        answers.flush()


def _exactly(file: BinaryIO, length: int) -> bytes:
    """Read `length` bytes; end this process if the input ends within a request, or return nothing between requests."""
    content = file.read(length)
    if len(content) < length and (content or length != REQUEST.size):
        sys.exit()
    return content


def _decoded(gdcm: Any, compressed: bytes, syntax: str, rows: int, columns: int, bits: int) -> bytes:
    fragment = gdcm.Fragment()
    fragment.SetByteStringValue(compressed)
    fragments = gdcm.SequenceOfFragments.New()
    fragments.AddFragment(fragment)
    element = gdcm.DataElement(gdcm.Tag(0x7FE0, 0x0010))
    element.SetValue(fragments.__ref__())
    image = gdcm.Image()
    image.SetNumberOfDimensions(2)
    image.SetDimensions((columns, rows, 1))
    image.SetDataElement(element)
    image.SetPhotometricInterpretation(gdcm.PhotometricInterpretation(gdcm.PhotometricInterpretation.MONOCHROME2))
    image.SetTransferSyntax(gdcm.TransferSyntax(gdcm.TransferSyntax.GetTSType(syntax)))
    image.SetPixelFormat(gdcm.PixelFormat(1, bits, bits, bits - 1, 0))  # fewer used bits may end the process
    values: bytes = image.GetBuffer().encode("utf-8", "surrogateescape")
    return values


if __name__ == "__main__":
    main()
