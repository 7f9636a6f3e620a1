"""Files that are written whole or not at all."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["discard_scratch", "replacing"]


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
    scratch = path.with_name(f".{path.stem}.{secrets.token_hex(8)}.part{path.suffix}")  # pids of machines may be equal
    try:
        yield scratch
        scratch.replace(path)
    finally:
        scratch.unlink(missing_ok=True)


def discard_scratch(folder: Path, of: str = "*") -> None:
    """Remove what processes that were killed within :func:`replacing` left in `folder`, of files with the stem `of`."""
    for scratch in folder.rglob(f".{of}.*.part.*"):
        scratch.unlink(missing_ok=True)
