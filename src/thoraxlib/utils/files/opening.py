"""Opening of files that others name: regular ones only."""

from __future__ import annotations

import os
import stat
from typing import BinaryIO

_LARGEST = 2**31  # bytes: several times the largest release's file
_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}
_FLAGS = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0)  # Windows has neither


def open_regular(path: str | os.PathLike[str], *, largest: int | None = None) -> BinaryIO:
    """Open a file for reading bytes, if it is a regular one.

    Links are followed. A named pipe could block for ever, and a device has no end. The kind is checked on the open
    file, so that nothing can take its place between check and reading. Every reader of files that a user, a table or a
    folder names should open them here.

    Parameters
    ----------
    path : path
        The file.
    largest : int, optional
        Bytes that it may have.

    Returns
    -------
    binary file
        Its ``name`` is `path`.

    Raises
    ------
    FileNotFoundError, PermissionError
        As :func:`open` raises them.
    ValueError
        A folder, a named pipe, a socket or a device; or a file with more bytes than `largest`.

    Examples
    --------
    >>> open_regular("/dev/zero")
    Traceback (most recent call last):
    ValueError: /dev/zero is a device; a regular file is wanted
    """
    path = os.fspath(path)
    _check(path, os.stat(path), largest)  # opening alone may do harm: a tape rewinds, a socket gives another error

    def opener(name: str, flags: int) -> int:
        descriptor = os.open(name, flags | _FLAGS)
        try:
            _check(name, os.fstat(descriptor), largest)
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor

    return open(path, "rb", opener=opener)


def read_regular(path: str | os.PathLike[str]) -> bytes:
    """Read a whole file, as :func:`open_regular` opens it, of 2 GiB at most."""
    with open_regular(path, largest=_LARGEST) as file:
        return file.read(_LARGEST + 1)


def _check(path: str, found: os.stat_result, largest: int | None) -> None:
    if not stat.S_ISREG(found.st_mode):
        kind = _KINDS.get(stat.S_IFMT(found.st_mode), "of another kind")
        raise ValueError(f"{path} is {kind}; a regular file is wanted")
    if largest is not None and found.st_size > largest:
        raise ValueError(f"{path} has {found.st_size} bytes, more than {largest}")
