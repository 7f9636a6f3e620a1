"""Zip archives that are damaged, or promise more than they hold."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from thoraxlib.utils.files.environment import is_environment_error
from thoraxlib.utils.files.opening import open_regular


@contextmanager
def unzipping(trouble: str) -> Iterator[None]:
    """Turn errors within into a ValueError that begins with `trouble`, as zipfile raises many kinds.

    Errors of the machine, and of files that are gone or not to be read, stay as they are.
    """
    try:
        yield
    except (FileNotFoundError, PermissionError):
        raise
    except Exception as error:
        if is_environment_error(error):
            raise
        raise ValueError(f"{trouble}: {error}") from error


def check_stored(path: Path) -> None:
    """Refuse a zip archive that promises more than it holds; torch.save and numpy.savez compress nothing.

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
