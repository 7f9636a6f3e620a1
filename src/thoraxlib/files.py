"""Files that are whole or absent, names from files that stay below a folder, and JSON that is said to be broken."""

from __future__ import annotations

import json
import os
import re
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

__all__ = ["below", "check_stored", "parse_json", "read_json", "replacing", "unzipping"]

_DRIVE = re.compile(r"[A-Za-z]:")


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A place beside `path` to write to; it takes the place of `path` at the end, and is gone after an error.

    The folder is made if need be, and the name keeps its extension.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "new" / "table.csv"
    >>> with replacing(path) as scratch:
    ...     _ = scratch.write_text("a,b")
    >>> path.read_text()
    'a,b'
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(f".{path.stem}.{os.getpid()}.part{path.suffix}")
    try:
        yield scratch
        scratch.replace(path)
    finally:
        scratch.unlink(missing_ok=True)


def below(name: str, source: object) -> str:
    r"""`name`, which a table, manifest or archive gave, if it is a path below whatever folder it is joined to.

    Every reader and writer that joins such a name to a folder asks here. The rules of all systems hold on each, so that
    a copy of the data is no more dangerous than the data: ``C:x`` and ``..\x`` are refused on Linux too.

    Parameters
    ----------
    name : str
        With slashes; "" is the folder itself.
    source : object
        What holds the name, for the message.

    Raises
    ------
    ValueError
        The name is absolute, begins with a drive's letter, has a part ``..``, or is none that a file can have.

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


@contextmanager
def unzipping(trouble: str) -> Iterator[None]:
    """What goes wrong within is a ValueError that begins with `trouble`: zipfile raises many kinds."""
    try:
        yield
    except (FileNotFoundError, PermissionError):
        raise
    except Exception as error:
        raise ValueError(f"{trouble}: {error}") from error


def check_stored(path: Path) -> None:
    """Refuse a zip archive that promises more than it holds; torch.save and numpy.savez compress nothing.

    Raises
    ------
    ValueError
        Naming the file: it is such an archive, or a damaged one. Other files pass.
    """
    if not zipfile.is_zipfile(path):
        return
    size = path.stat().st_size
    with unzipping(f"{path}: a damaged archive"), zipfile.ZipFile(path) as archive:
        promised = sum(entry.file_size for entry in archive.infolist())
    if promised > size:
        raise ValueError(f"{path}: an archive of {size} bytes that promises {promised}; it must not be compressed")


def read_json(path: str | os.PathLike[str]) -> Any:
    """What a JSON file holds.

    Raises
    ------
    FileNotFoundError
        No such file.
    ValueError
        Naming the file: it is not UTF-8, no JSON, or nested too deeply to be read.
    """
    return parse_json(Path(path).read_bytes(), path)


def parse_json(content: bytes | str, source: object) -> Any:
    """What JSON text says; `source` is where it comes from, for the message of the ValueError."""
    try:
        return json.loads(content.decode("utf-8-sig") if isinstance(content, bytes) else content)
    except ValueError as error:
        raise ValueError(f"{source} is no JSON file: {error}") from error
    except RecursionError as error:
        raise ValueError(f"{source} is no JSON file that can be read: it is nested too deeply") from error
