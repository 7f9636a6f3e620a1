"""Errors of the machine, as against those of the file that was being read."""

from __future__ import annotations

import errno
import os

_NAMES = (
    # memory, disk, descriptors, devices
    *("ENOMEM", "ENOSPC", "EDQUOT", "EFBIG", "EROFS", "EMFILE", "ENFILE", "ENOLCK", "ENOBUFS", "EAGAIN", "EBUSY"),
    *("EIO", "EREMOTEIO", "ESTALE", "ENODEV", "ENXIO"),
    # connections
    *("ETIMEDOUT", "ECONNRESET", "ECONNREFUSED", "ECONNABORTED", "EPIPE", "ENOTCONN", "ESHUTDOWN"),
    *("ENETDOWN", "ENETUNREACH", "ENETRESET", "EHOSTDOWN", "EHOSTUNREACH"),
)
_NUMBERS = frozenset(getattr(errno, name) for name in _NAMES if hasattr(errno, name))
#: Texts of torch's RuntimeErrors, which have no number.
_TEXTS = (
    *(os.strerror(number) for number in sorted(_NUMBERS)),
    *("can't allocate memory", "not enough memory", "out of memory", "ancdata"),
)
#: Packages that fsspec reaches buckets through; asyncio and concurrent raise their own TimeoutError in Python 3.10.
_NETWORK = frozenset(
    (
        *("aiobotocore", "aiohttp", "asyncio", "botocore", "concurrent", "gcsfs", "google"),
        *("http", "httpx", "requests", "socket", "ssl", "urllib3"),
    )
)


def is_environment_error(error: BaseException) -> bool:
    """Tell whether an error says something about the machine, so that another file would have met it, too.

    Work on many files ends at such an error, and the same call goes on later; every other error is booked as the one
    file's. Errors of the machine: no memory, disk space, quota or descriptors left; a disk or share that fails or is
    read-only; a bucket that does not answer, that fails itself, or that does not take the credentials. Errors of the
    file: it is gone, the system lets nobody read this one, or its content is wrong.

    Parameters
    ----------
    error : BaseException
        With the errors that it was raised from.

    Examples
    --------
    >>> is_environment_error(OSError(errno.ENOSPC, "No space left on device")), is_environment_error(MemoryError())
    (True, True)
    >>> is_environment_error(FileNotFoundError("a.png")), is_environment_error(ValueError("a.png is truncated"))
    (False, False)
    """
    if isinstance(error, (FileNotFoundError, IsADirectoryError, NotADirectoryError)):
        return False
    if isinstance(error, (MemoryError, TimeoutError, ConnectionError)):
        return True
    if any(kind.__module__.partition(".")[0] in _NETWORK for kind in type(error).__mro__):
        return True
    if isinstance(error, PermissionError):
        return error.filename is None  # the system names the file that it refuses; a bucket that refuses us does not
    if isinstance(error, OSError) and (error.errno in _NUMBERS or str(error).startswith("Forbidden: ")):  # gcsfs's 403
        return True
    if isinstance(error, RuntimeError) and any(text in str(error) for text in _TEXTS):
        return True
    return error.__cause__ is not None and is_environment_error(error.__cause__)
