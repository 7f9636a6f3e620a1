"""Files that are whole or absent."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["replacing"]


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
