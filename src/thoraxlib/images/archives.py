"""Image files in folders, zip archives and buckets, through fsspec."""

from __future__ import annotations

import io
import os
import re
import zipfile
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from functools import lru_cache
from pathlib import PurePosixPath
from typing import Any, NamedTuple

from thoraxlib.files import below, opened, unzipping
from thoraxlib.images.reading import SUFFIXES

__all__ = ["Stored", "listed", "streamed", "told"]

_STAMPS = ("mtime", "etag", "ETag", "md5Hash", "generation", "LastModified", "updated", "created")
_MAGIC = re.compile(r"[*?[]")
_LARGEST = 2**30  # bytes of one file: far above any film


class Stored(NamedTuple):
    """An image file, in a folder, a bucket or a zip archive.

    `name` is its path below the source, with slashes; the files of an archive ``a.zip`` are those of a folder ``a``.
    `size` and `stamp` (time, checksum or tag, whatever its home knows without reading it) change when it does.
    """

    name: str
    url: str
    member: str | None
    size: int
    stamp: str

    @property
    def origin(self) -> str:
        """Where it is, for people."""
        return self.url if self.member is None else f"{self.url}/{self.member}"

    def open(self) -> Content:
        """All its bytes, as a file.

        Raises
        ------
        ValueError
            More than a gigabyte.
        """
        if self.size > _LARGEST:
            raise ValueError(f"the file has {self.size} bytes, more than {_LARGEST}")
        if self.member is not None:
            return Content(_archive(self.url).read(self.member), self.name)
        with opened(self.url) as file:
            return Content(file.read(), self.name)


class Content(io.BytesIO):
    """A file in memory, with its name."""

    def __init__(self, content: bytes, name: str) -> None:
        super().__init__(content)
        self.name = name


def listed(sources: Sequence[str | os.PathLike[str]], pattern: str | None = None) -> list[Stored]:
    """The image files of all sources, in the order of their names.

    Parameters
    ----------
    sources : sequence of paths
        Folders, zip archives or single files, or patterns of them such as ``films/*/p1*.zip``: local, or URLs that
        fsspec knows, such as ``gs://bucket/folder``. Archives within folders are looked into as well.
    pattern : str, optional
        Of the file's own name, such as ``"IM*"``; by default the endings .png, .jpg, .jpeg, .dcm and .dicom in either
        case. Hidden files and those in ``__MACOSX`` are left out.

    Raises
    ------
    FileNotFoundError
        A source does not exist, or there is no image in any of them.
    ImportError
        A bucket needs gcsfs or s3fs.
    ValueError
        Two files of one name, a name that points out of its source, or a damaged archive.
    """
    found: dict[str, Stored] = {}
    for film in streamed(sources, pattern):
        if found.setdefault(film.name, film) is not film:
            raise ValueError(f"the sources have two files {film.name}: {found[film.name].url} and {film.url}")
    return [found[name] for name in sorted(found)]


def streamed(sources: Sequence[str | os.PathLike[str]], pattern: str | None = None) -> Iterator[Stored]:
    """As :func:`listed`, source by source, holding no more than a folder below a source, an archive or a bucket's list.

    The order is the same in each call. Names of several sources may be equal.

    Raises
    ------
    FileNotFoundError
        No image, or a source that is not there.
    """
    _archive.cache_clear()  # an archive may have been replaced
    none = True
    for source in sources:
        for film in _of_source(os.fspath(source)):
            if not _wanted(PurePosixPath(film.name), pattern):
                continue
            below(film.name, film.url)
            none = False
            yield film
    if none:
        raise FileNotFoundError(f"no image ({pattern or ', '.join(SUFFIXES)}) in {', '.join(map(str, sources))}")


def told(error: Exception) -> str:
    """Why a film could not be read."""
    return str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"


def _wanted(name: PurePosixPath, pattern: str | None) -> bool:
    if name.name.startswith(".") or "__MACOSX" in name.parts:
        return False
    return fnmatchcase(name.name, pattern) if pattern else name.name.lower().endswith(SUFFIXES)


def _of_source(source: str) -> Iterator[Stored]:
    import fsspec

    try:
        system, root = fsspec.core.url_to_fs(source)
    except ImportError as error:
        raise ImportError(f'{source} needs more: pip install "thoraxlib[cloud]" ({error})') from error
    files, top = _files(system, root), root
    magic = _MAGIC.search(root)
    if magic is not None and not system.exists(root):
        top = root[: magic.start()].rpartition("/")[0]
        files = (file for match in sorted(system.glob(root)) for file in _files(system, match))
    none = True
    for path, info in files:
        none = False
        name = path[len(top) :].lstrip("/") or PurePosixPath(path).name
        url = system.unstrip_protocol(path)
        if name.lower().endswith(".zip"):
            yield from _of_archive(url, "" if path == root else f"{name[:-4]}/")
        else:
            stamp = next((str(info[key]) for key in _STAMPS if info.get(key) is not None), "")
            yield Stored(name, url, None, int(info["size"] or 0), stamp)
    if none:
        raise FileNotFoundError(f"no such folder or file, or nothing in it: {source}")


def _files(system: Any, root: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Paths and what is known of all files in and below a folder; of a local one, a folder below it at a time."""
    if "file" not in system.protocol or not system.isdir(root):
        # a bucket lists thousands of files, whatever their folders, in one answer
        yield from system.find(root, detail=True).items()
        return
    for entry in sorted(system.ls(root, detail=True), key=lambda entry: str(entry["name"])):
        if entry["type"] == "directory":
            yield from system.find(entry["name"], detail=True).items()
        else:
            yield entry["name"], entry


def _of_archive(url: str, prefix: str) -> Iterator[Stored]:
    with unzipping(f"{url} is no zip archive, or is cut off"):
        members = _archive(url).infolist()
    for member in members:
        if not member.is_dir():
            stamp = f"crc {member.CRC:08x}"
            yield Stored(prefix + member.filename, url, member.filename, member.file_size, stamp)


@lru_cache(maxsize=4)
def _archive(url: str) -> zipfile.ZipFile:
    return zipfile.ZipFile(opened(url))
