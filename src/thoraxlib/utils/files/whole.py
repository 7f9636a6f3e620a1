"""Files that are written whole or not at all."""

from __future__ import annotations

import errno
import os
import re
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path

_SCRATCH = re.compile(r"\.(?P<of>.*)\.(?P<token>[0-9a-f]+)\.part(\.[^.]+)?", flags=re.DOTALL)
_STEM = 40  # characters of a name that a scratch file keeps, which is longer by 23
_ABANDONED = 24 * 3600.0  # seconds without a change after which nobody writes to a scratch file any more
_UNSUPPORTED = (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP)  # by some shares


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a scratch file beside `path` to write to; it replaces `path` at the end, and is gone after an error.

    The folder is made if need be, and the scratch file keeps the extension. A link at `path` is replaced, not followed.
    The mode is that of any new file, 0666 without the bits of the umask, whatever wrote the scratch file and whatever
    mode `path` had. Scratch files in the folder that have not changed for a day, of processes that were killed, are
    removed, which a process does once. The disk is waited for: for the content before the file counts, and then for its
    name.

    Parameters
    ----------
    path : path
        The file.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "new" / "table.csv"
    >>> with replacing(path) as scratch:
    ...     _ = scratch.write_text("a,b")
    >>> path.read_text()
    'a,b'
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    _discard_abandoned(path.parent.absolute())
    scratch = path.with_name(
        f".{path.stem[:_STEM]}.{secrets.token_hex(8)}.part{path.suffix}"
    )  # pids of machines may be equal
    scratch.touch(exist_ok=False)
    mode = scratch.stat().st_mode
    try:
        yield scratch
        if scratch.stat().st_mode != mode:  # a library wrote a private file, and renamed it to ours
            scratch.chmod(mode)
        _sync(scratch, os.O_RDWR)
        scratch.replace(path)
        if hasattr(os, "O_DIRECTORY"):
            _sync(path.parent, os.O_DIRECTORY)
    finally:
        scratch.unlink(missing_ok=True)


def discard_scratch(folder: Path, of: str | None = None) -> None:
    """Remove what processes that were killed within :func:`replacing` left in `folder` and below.

    Parameters
    ----------
    folder : Path
        In which nobody is at work now.
    of : str, optional
        The stem of the file that was written; by default any.
    """
    for here, _, files in os.walk(folder):
        for name in files:
            match = _SCRATCH.fullmatch(name)
            if match is not None and (of is None or match["of"] == of[:_STEM]):
                Path(here, name).unlink(missing_ok=True)


@lru_cache(maxsize=256)  # once in a while, as the folder may be large
def _discard_abandoned(folder: Path) -> None:
    """Remove old scratch files of `folder`, as far as that can be done."""
    with suppress(OSError):
        for path in folder.iterdir():
            match = _SCRATCH.fullmatch(path.name)
            # others may have files of the name .a.0.part.b
            if match is not None and len(match["token"]) == 16 and time.time() - path.lstat().st_mtime > _ABANDONED:
                path.unlink(missing_ok=True)


def _sync(path: Path, flags: int) -> None:
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise
    finally:
        os.close(descriptor)
