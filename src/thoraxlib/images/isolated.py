"""GDCM in a process beside this one, so that an image on which it ends its process, or never returns, is one error."""

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

#: Transfer syntaxes that are decoded here: JPEG, JPEG lossless and JPEG-LS.
SYNTAXES = frozenset(f"1.2.840.10008.1.2.4.{number}" for number in (50, 51, 57, 70, 80, 81))

_SECONDS = 120  # that an image may take

_turn = threading.Lock()  # one request at a time
_starting = threading.Lock()  # no fork while a process is started, or its pipes would stay open in the fork
_process: subprocess.Popen[bytes] | None = None  # started when it is needed, and again after it ended


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
        Of a value in what is returned: 8 for images of up to 8 bits, else 16.

    Returns
    -------
    bytearray
        The values, row by row, little-endian.

    Raises
    ------
    ValueError
        GDCM refuses the image, ended on it, or took longer than two minutes.
    ChildProcessError
        The process cannot be started, or was killed from outside, as the system does when memory runs out.
    """
    wanted = rows * columns * bits // 8
    request = REQUEST.pack(rows, columns, bits, _SECONDS, syntax.encode(), len(image))
    with _turn:
        process = _running()
        try:
            _write(process, request)
            _write(process, image)
            (length,) = ANSWER.unpack(_read(process, ANSWER.size))
            if length not in (0, wanted):
                raise EOFError
            values = _read(process, length)
        except (EOFError, BrokenPipeError):
            _stop()
            if process.returncode == -getattr(signal, "SIGKILL", 0):
                raise ChildProcessError("the process that decodes with GDCM was killed") from None
            raise ValueError("GDCM cannot decode it, and ended: the compressed image is damaged") from None
        except BaseException:  # an interrupt: what is on its way must not be the answer to the next request
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
    paths = [path for path in sys.path if isinstance(path, str)]
    command = [os.fsdecode(get_executable()), "-I", "-S", gdcm_process.__file__, *paths]
    with _starting:
        _process = subprocess.Popen(
            command,
            bufsize=0,  # nothing is left in a buffer that a forked process would write again
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # an interrupt from the keyboard is not for it
        )
    try:
        _read(_process, len(READY))
    except EOFError:
        _stop()
        raise ChildProcessError("the process that decodes with GDCM cannot be started") from None
    except BaseException:
        _stop()
        raise
    return _process


def _write(process: subprocess.Popen[bytes], content: bytes) -> None:
    assert process.stdin is not None
    rest = memoryview(content)
    while rest:
        rest = rest[process.stdin.write(rest) :]


def _read(process: subprocess.Popen[bytes], length: int) -> bytearray:
    assert process.stdout is not None
    content = bytearray(length)
    rest = memoryview(content)
    while rest:
        count = process.stdout.readinto(rest)  # type: ignore[attr-defined]
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
        process.wait(0.2)  # its own end says more than that it was killed
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _close(process: subprocess.Popen[bytes]) -> None:
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            pipe.close()


def _after_fork() -> None:
    """Leave the parent's process, in a fork, to the parent."""
    global _turn, _process
    _starting.release()
    _turn = threading.Lock()
    process, _process = _process, None
    if process is not None:
        _close(process)
        process.returncode = 0  # it is no child of this process


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_starting.acquire, after_in_parent=_starting.release, after_in_child=_after_fork)
