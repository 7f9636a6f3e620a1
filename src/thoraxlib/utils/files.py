"""Files: read regular files only, write whole files only, lock folders, check names, tell errors of the machine."""

from __future__ import annotations

import errno
import json
import os
import re
import secrets
import stat
import time
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

# -- errors of the machine ----------------------------------------------------------------------------

_NAMES = (
    # memory, disk, descriptors, devices
    *("ENOMEM", "ENOSPC", "EDQUOT", "EFBIG", "EROFS", "EMFILE", "ENFILE", "ENOLCK", "ENOBUFS", "EAGAIN", "EBUSY"),
    *("EIO", "EREMOTEIO", "ESTALE", "ENODEV", "ENXIO"),
    # connections
    *("ETIMEDOUT", "ECONNRESET", "ECONNREFUSED", "ECONNABORTED", "EPIPE", "ENOTCONN", "ESHUTDOWN"),
    *("ENETDOWN", "ENETUNREACH", "ENETRESET", "EHOSTDOWN", "EHOSTUNREACH"),
)
_NUMBERS = frozenset(getattr(errno, name) for name in _NAMES if hasattr(errno, name))
#: Messages of torch's RuntimeErrors, which have no error number.
_TEXTS = (
    *(os.strerror(number) for number in sorted(_NUMBERS)),
    *("can't allocate memory", "not enough memory", "out of memory", "ancdata"),
)
#: Packages by which fsspec reaches buckets; asyncio and concurrent have their own TimeoutError in Python 3.10.
_NETWORK = frozenset(
    (
        *("aiobotocore", "aiohttp", "asyncio", "botocore", "concurrent", "gcsfs", "google"),
        *("http", "httpx", "requests", "socket", "ssl", "urllib3"),
    )
)


def is_environment_error(error: BaseException) -> bool:
    """Return True if an error comes from the machine or network, so that any other file would raise it too.

    Work on many files ends at such an error, and the same call resumes it later; every other error is recorded for the
    one file. Errors of the machine: no memory, disk space, quota or descriptors left; a disk or share that fails or is
    read-only; a bucket that does not answer, that fails itself, or that refuses the credentials. Errors of the file: it
    does not exist, the system denies access to this file, or its content is wrong.

    Parameters
    ----------
    error : BaseException
        Its causes (``__cause__``) are checked too.

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


# -- reading ------------------------------------------------------------------------------------------

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
    """Open a regular file for reading bytes, and refuse everything else.

    Links are followed. A named pipe could block for ever, and a device has no end. The kind is checked on the open
    file, so that nothing can replace it between check and reading. Every reader of files that a user, a table or a
    folder names should open them here.

    Parameters
    ----------
    path : path
        The file.
    largest : int, optional
        Largest allowed size, in bytes.

    Returns
    -------
    binary file
        Its ``name`` is `path`.

    Raises
    ------
    FileNotFoundError, PermissionError
        Same as :func:`open`.
    ValueError
        A folder, a named pipe, a socket or a device; or a file with more bytes than `largest`.

    Examples
    --------
    >>> open_regular("/dev/zero")
    Traceback (most recent call last):
    ValueError: /dev/zero is a device; a regular file is wanted
    """
    path = os.fspath(path)
    _check_regular(path, os.stat(path), largest)  # opening alone may do harm: a tape rewinds

    def opener(name: str, flags: int) -> int:
        descriptor = os.open(name, flags | _FLAGS)
        try:
            _check_regular(name, os.fstat(descriptor), largest)
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor

    return open(path, "rb", opener=opener)


def _check_regular(path: str, status: os.stat_result, largest: int | None) -> None:
    if not stat.S_ISREG(status.st_mode):
        kind = _KINDS.get(stat.S_IFMT(status.st_mode), "of another kind")
        raise ValueError(f"{path} is {kind}; a regular file is wanted")
    if largest is not None and status.st_size > largest:
        raise ValueError(f"{path} has {status.st_size} bytes, more than {largest}")


def read_regular(path: str | os.PathLike[str]) -> bytes:
    """Read a whole regular file of at most 2 GiB; see :func:`open_regular`."""
    with open_regular(path, largest=_LARGEST) as file:
        return file.read(_LARGEST + 1)


def read_json(path: str | os.PathLike[str]) -> Any:
    """Return the content of a JSON file.

    Raises
    ------
    FileNotFoundError
        No such file.
    ValueError
        Naming the file: it is not UTF-8, no JSON, nested too deeply, larger than 2 GiB, or no regular file.
    """
    return parse_json(read_regular(path), path)


def parse_json(content: bytes | str, source: object) -> Any:
    """Parse JSON text; the message of the ValueError names its `source`."""
    try:
        return json.loads(content.decode("utf-8-sig") if isinstance(content, bytes) else content)
    except ValueError as error:
        raise ValueError(f"{source} is no JSON file: {error}") from error
    except RecursionError as error:
        raise ValueError(f"{source} is no JSON file that can be read: it is nested too deeply") from error


@contextmanager
def unzipping(message: str) -> Iterator[None]:
    """Turn the many kinds of errors of zipfile into a ValueError that begins with `message`.

    Errors of the machine, of missing files and of denied access stay unchanged.
    """
    try:
        yield
    except (FileNotFoundError, PermissionError):
        raise
    except Exception as error:
        if is_environment_error(error):
            raise
        raise ValueError(f"{message}: {error}") from error


def check_stored(path: Path) -> None:
    """Refuse a zip archive that declares more bytes than it has; torch.save and numpy.savez do not compress.

    Raises
    ------
    ValueError
        Naming the file: it is such an archive, a damaged one, or no regular file. Other files pass.
    """
    with open_regular(path) as file:
        if not zipfile.is_zipfile(file):
            return
        size = os.fstat(file.fileno()).st_size
        with unzipping(f"{path}: a damaged archive"), zipfile.ZipFile(file) as archive:
            promised = sum(entry.file_size for entry in archive.infolist())
    if promised > size:
        raise ValueError(f"{path}: an archive of {size} bytes that promises {promised}; it must not be compressed")


# -- writing ------------------------------------------------------------------------------------------

_SCRATCH = re.compile(r"\.(?P<of>.*)\.(?P<token>[0-9a-f]+)\.part(\.[^.]+)?", flags=re.DOTALL)
_STEM = 40  # characters of the file name that a scratch file keeps; the scratch name has 23 more
_ABANDONED = 24 * 3600.0  # seconds without a change after which a scratch file counts as left by a killed process
_UNSUPPORTED = (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP)  # by some shares


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Write a file whole or not at all: yield a scratch file that replaces `path` at the end, or is removed on error.

    The folder is made if needed, and the scratch file keeps the extension. A link at `path` is replaced, not followed.
    The mode is that of any new file (0666 without the bits of the umask), whatever wrote the scratch file and whatever
    mode `path` had. Once in a process, scratch files in the folder that have not changed for a day are removed: they
    belong to killed processes. The content is synced to disk before the file is renamed, then the folder.

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
    )  # no process id: two machines may use the same one
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
    """Remove the scratch files that killed processes left in `folder` and its subfolders; see :func:`replacing`.

    Parameters
    ----------
    folder : Path
        No other process may be writing here.
    of : str, optional
        Stem of the file that was written; by default any.
    """
    for here, _, files in os.walk(folder):
        for name in files:
            match = _SCRATCH.fullmatch(name)
            if match is not None and (of is None or match["of"] == of[:_STEM]):
                Path(here, name).unlink(missing_ok=True)


@lru_cache(maxsize=256)  # once in a while, as the folder may be large
def _discard_abandoned(folder: Path) -> None:
    """Remove old scratch files of `folder`; errors are ignored."""
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


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write a UTF-8 text file, whole or not at all; its folder is made if needed."""
    with replacing(path) as scratch:
        scratch.write_text(text, encoding="utf-8")


def write_json(path: str | os.PathLike[str], content: Any, *, indent: int | None = None) -> None:
    """Write a JSON file, whole or not at all; its folder is made if needed.

    Parameters
    ----------
    path : path
        The file.
    content : Any
        Plain values.
    indent : int, optional
        Blanks of each level, for human readers; by default all is on one line.

    Raises
    ------
    TypeError, ValueError
        `content` has values that JSON cannot hold.
    """
    write_text(path, json.dumps(content, indent=indent) + "\n")


# -- jobs in a folder ---------------------------------------------------------------------------------


@contextmanager
def locked(folder: Path, *, wait: bool = False) -> Iterator[None]:
    """Lock a folder against other processes, by an empty file ``.lock`` in it.

    Raises
    ------
    ValueError
        Another process holds the lock, and `wait` is False; or ``.lock`` is a link or has content, so it is not ours.
    """
    from filelock import FileLock, Timeout

    folder.mkdir(parents=True, exist_ok=True)
    path = folder / ".lock"
    if os.path.lexists(path) and (not stat.S_ISREG((status := path.lstat()).st_mode) or status.st_size):
        raise ValueError(f"{path} was not written by thoraxlib, which locks {folder} by an empty file of that name")
    lock = FileLock(path)  # opens no link
    try:
        held = lock.acquire(timeout=-1 if wait else 0)
    except Timeout as error:
        raise ValueError(f"another process is writing to {folder}") from error
    with held:
        yield


def check_resumable(
    path: Path,
    stored: Mapping[str, Any],
    requested: Mapping[str, Any],
    job: str,
    messages: Mapping[str, str] | None = None,
    *,
    remedy: str = "choose another folder, or delete this one",
) -> None:
    """Raise ValueError if the stored settings of a job differ from the requested ones.

    Parameters
    ----------
    path : Path
        Folder of the job, for the message.
    stored, requested : mapping
        Settings; each of `requested` must equal the stored one.
    job : str
        Kind of job, for the message: "a run".
    messages : mapping of str to str, optional
        Messages for settings whose values are not readable.
    remedy : str
        Advice for the user.
    """
    different = [
        (messages or {}).get(key, f"{key}={stored.get(key)!r} before, {value!r} now")
        for key, value in json.loads(json.dumps(dict(requested))).items()
        if stored.get(key) != value
    ]
    if different:
        raise ValueError(f"{path} holds {job} with other settings ({'; '.join(different)}): {remedy}")


# -- names that files give ----------------------------------------------------------------------------

_DRIVE = re.compile(r"[A-Za-z]:")
_BUCKETS = ("s3", "s3a", "gs", "gcs", "az", "abfs", "abfss")


def below(name: str, source: object) -> str:
    r"""Return `name`, given by a table, manifest or archive, if it is a path below the folder that it is joined to.

    Every reader and writer that joins such a name to a folder checks it here. The rules of all systems hold on each:
    ``C:x`` and ``..\x`` are refused on Linux too, so that a folder is safe to copy to Windows.

    Parameters
    ----------
    name : str
        Path with slashes; "" is the folder itself.
    source : object
        The file that gives the name, for the message.

    Raises
    ------
    ValueError
        The name is absolute, begins with a drive letter, has a part ``..``, or is no possible name of a file.

    Examples
    --------
    >>> below("images/a..b.png", "labels.csv")
    'images/a..b.png'
    >>> below("images/../../x.png", "labels.csv")
    Traceback (most recent call last):
    ValueError: labels.csv: 'images/../../x.png' is no path below its folder, it points out of it
    """
    parts = name.replace("\\", "/").split("/")
    if ".." in parts or (len(parts) > 1 and not parts[0]) or _DRIVE.match(name):
        raise ValueError(f"{source}: {name!r} is no path below its folder, it points out of it")
    try:
        possible = b"\0" not in os.fsencode(name)
    except UnicodeEncodeError:
        possible = False
    if not possible:
        raise ValueError(f"{source}: {name!r} is no name that a file can have")
    return name


def address(name: str, table: str) -> str:
    """Resolve the address of an image that a row of a table gives, and refuse addresses that a table may not give.

    A table may come from anybody, and fsspec opens more than files: web pages, archives in archives, code in templates.
    So a row names a path below the table's folder, or an object in a bucket (s3, s3a, gs, gcs, az, abfs, abfss). A
    table on this machine may name any file of this machine by its absolute path, with or without ``file://``.

    Parameters
    ----------
    name : str
        Address in the row.
    table : str
        Path or URL of the table, as the caller gave it.

    Raises
    ------
    ValueError
        Another scheme, a chain of addresses (``::``), ``~``, a relative path that leaves the folder of the table, or a
        path of this machine in a table that is elsewhere.

    Examples
    --------
    >>> address("a/x.png", "lists/table.csv"), address("gs://bucket/x.png", "table.csv")
    ('lists/a/x.png', 'gs://bucket/x.png')
    >>> address("a/x.png", "gs://bucket/lists/table.csv")
    'gs://bucket/lists/a/x.png'
    >>> address("http://host/x.png", "table.csv")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ValueError: table.csv: 'http://host/x.png' has the scheme 'http'; a table names files, or objects of s3, ...
    """
    scheme, separator, rest = name.partition("://")
    if "::" in name or "\0" in name:
        raise ValueError(f"{table}: {name!r} has '::', which chains addresses, or NUL; a table names one file a row")
    if separator and scheme in _BUCKETS:
        return name
    if separator and scheme != "file":
        allowed = ", ".join(_BUCKETS)
        raise ValueError(f"{table}: {name!r} has the scheme {scheme!r}; a table names files, or objects of {allowed}")
    path = rest if separator else name
    if separator or os.path.isabs(path):
        local = "://" not in table or table.startswith(("file://", "local://"))
        if not local or not os.path.isabs(path) or path.startswith(("//", "\\\\")):
            raise ValueError(f"{table}: {name!r} is no file that a table at that address may name")
        return name
    if name.startswith("~"):
        raise ValueError(f"{table}: {name!r} begins with '~', which stands for no folder here; './~x' is a file's name")
    below(name, table)
    if "://" in table:
        return f"{table.rpartition('/')[0]}/{PurePosixPath(name)}"
    return str(PurePosixPath(os.path.dirname(table) or ".") / name)


def printable(name: str) -> str:
    r"""Escape the characters of a file name that UTF-8 or a table cannot hold.

    >>> printable("a\udcff.png")
    'a\\udcff.png'
    """
    return name.encode(errors="backslashreplace").decode().replace("\0", "\\x00")
