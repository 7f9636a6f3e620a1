"""Run GDCM in a separate process, so that a crash or an endless loop of the decoder is the error of one image."""

from __future__ import annotations

import atexit
import os
import signal
import subprocess
import sys
import threading
from multiprocessing.spawn import get_executable

from thoraxlib.images import gdcm_process
from thoraxlib.images.gdcm_process import ANSWER, READY, REQUEST

#: Transfer syntaxes that GDCM decodes: JPEG, JPEG lossless and JPEG-LS.
SYNTAXES = frozenset(f"1.2.840.10008.1.2.4.{number}" for number in (50, 51, 57, 70, 80, 81))

_SECONDS = 120  # limit for an image

_turn = threading.Lock()  # one request at a time
_starting = threading.Lock()  # blocks forks, in which the pipes of a process being started would stay open
_process: subprocess.Popen[bytes] | None = None  # started on demand, and again after it ended


def decode(image: bytes, syntax: str, rows: int, columns: int, bits: int) -> bytearray:
    """Decode one grey compressed image with GDCM, in another process.

    Parameters
    ----------
    image : bytes
        The compressed image.
    syntax : str
        UID of its transfer syntax, one of :data:`SYNTAXES`.
    rows, columns : int
        Its size.
    bits : {8, 16}
        Bits of a returned value: 8 for images of up to 8 bits, else 16.

    Returns
    -------
    bytearray
        The values, row by row, little-endian.

    Raises
    ------
    ValueError
        GDCM refused the image, crashed, or took longer than two minutes.
    ChildProcessError
        The process cannot be started, or was killed from outside, as the system does when memory runs out.
    """
    request = REQUEST.pack(rows, columns, bits, _SECONDS, syntax.encode(), len(image))
    with _turn:
        process = _running()
        try:
            for content in (request, image):
                rest = memoryview(content)
                while rest:
                    rest = rest[process.stdin.write(rest) :]  # type: ignore[union-attr]
            (length,) = ANSWER.unpack(_read(process, ANSWER.size))
            if length not in (0, rows * columns * bits // 8):
                raise EOFError
            values = _read(process, length)
        except (EOFError, BrokenPipeError):
            _stop()
            if process.returncode == -getattr(signal, "SIGKILL", 0):
                raise ChildProcessError("the process that decodes with GDCM was killed") from None
            raise ValueError("GDCM cannot decode it, and ended: the compressed image is damaged") from None
        except BaseException:  # an interrupt: the pending answer must not become that of the next request
            _stop()
            raise
    if not length:
        raise ValueError("GDCM cannot decode it: the compressed image is damaged")
    return values


def _running() -> subprocess.Popen[bytes]:
    global _process
    if _process is not None and _process.poll() is None:
        return _process
    _stop()
    command = [os.fsdecode(get_executable()), "-I", "-S", gdcm_process.__file__, *map(str, sys.path)]
    with _starting:
        _process = subprocess.Popen(
            command,
            bufsize=0,  # a buffer would be written again by a fork
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # protects it from keyboard interrupts
        )
    try:
        _read(_process, len(READY))
    except BaseException as error:
        _stop()
        if isinstance(error, EOFError):
            raise ChildProcessError("the process that decodes with GDCM cannot be started") from None
        raise
    return _process


def _read(process: subprocess.Popen[bytes], length: int) -> bytearray:
    content = bytearray(length)
    rest = memoryview(content)
    while rest:
        count = process.stdout.readinto(rest)  # type: ignore[union-attr]
        if not count:
            raise EOFError
        rest = rest[count:]
    return content


@atexit.register
def _stop() -> None:
    global _process
    process, _process = _process, None
    if process is None:
        return
    _close(process)
    try:
        process.wait(0.2)  # the exit status of its own end says more than that of a kill
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _close(process: subprocess.Popen[bytes]) -> None:
    process.stdin.close()  # type: ignore[union-attr]
    process.stdout.close()  # type: ignore[union-attr]


def _after_fork() -> None:
    """Forget the parent's GDCM process in a fork."""
    global _turn, _process
    _starting.release()
    _turn = threading.Lock()
    process, _process = _process, None
    if process is not None:
        _close(process)
        process.returncode = 0  # not a child of this process


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_starting.acquire, after_in_parent=_starting.release, after_in_child=_after_fork)
