"""Image files in folders, zip archives and buckets, through fsspec."""

from __future__ import annotations

import io
import os
import re
import stat
import struct
import zipfile
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import IO, Any, NamedTuple

from thoraxlib.images.reading import SUFFIXES
from thoraxlib.utils.arguments import few, repeated
from thoraxlib.utils.files import below, unzipping

_STAMPS = ("mtime", "etag", "ETag", "md5Hash", "generation", "LastModified", "updated", "created")
_MAGIC = re.compile(r"[*?[]")
_LARGEST = 2**30  # bytes of one file: far above any image
_LARGEST_PACKED, _RATIO = 2**26, 100  # bytes up to which a member of an archive may be packed as well as can be


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
            More than a gigabyte; a member of an archive that promises far more than the archive holds of it, or that is
            neither stored nor deflated; or no regular file: a pipe or a device may never end.
        """
        if self.size > _LARGEST:
            raise ValueError(f"the file has {self.size} bytes, more than {_LARGEST}")
        if self.member is not None:
            return Content(_inflated(_archive(self.url), self.member), self.name)
        with _opened(self.url) as file:
            content = file.read(_LARGEST + 1)
        if len(content) > _LARGEST:
            raise ValueError(f"the file has more than {_LARGEST} bytes")
        return Content(content, self.name)


class Content(io.BytesIO):
    """A file in memory, with its name."""

    def __init__(self, content: bytes, name: str) -> None:
        super().__init__(content)
        self.name = name


def listed(
    sources: Sequence[str | os.PathLike[str]],
    pattern: str | None = None,
    without: str | os.PathLike[str] | None = None,
) -> list[Stored]:
    """The image files of all sources, in the order of their names.

    Parameters
    ----------
    sources : sequence of paths
        Folders, zip archives or single files, or patterns of them such as ``images/*/p1*.zip``: local, or URLs that
        fsspec knows, such as ``gs://bucket/folder``. Archives within folders are looked into as well.
    pattern : str, optional
        Of the file's own name, such as ``"IM*"``; by default the endings .png, .jpg, .jpeg, .dcm and .dicom in either
        case. Hidden files and those in ``__MACOSX`` are left out.
    without : path, optional
        A local folder, of which no file is taken, wherever a pattern or a link leads.

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
    for image in streamed(sources, pattern, without):
        if found.setdefault(image.name, image) is not image:
            raise ValueError(f"the sources have two files {image.name}: {found[image.name].url} and {image.url}")
    return [found[name] for name in sorted(found)]


def streamed(
    sources: Sequence[str | os.PathLike[str]],
    pattern: str | None = None,
    without: str | os.PathLike[str] | None = None,
) -> Iterator[Stored]:
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
        for image in _of_source(os.fspath(source), None if without is None else _real(without)):
            if not _wanted(PurePosixPath(image.name), pattern):
                continue
            below(image.name, image.url)
            none = False
            yield image._replace(name=str(PurePosixPath(image.name)))  # x/./a.png is x/a.png
    if none:
        raise FileNotFoundError(f"no image ({pattern or ', '.join(SUFFIXES)}) in {', '.join(map(str, sources))}")


def told(error: Exception) -> str:
    """Why an image could not be read."""
    return str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"


def _wanted(name: PurePosixPath, pattern: str | None) -> bool:
    if name.name.startswith(".") or "__MACOSX" in name.parts:
        return False
    return fnmatchcase(name.name, pattern) if pattern else name.name.lower().endswith(SUFFIXES)


def _of_source(source: str, without: str | None) -> Iterator[Stored]:
    import fsspec

    try:
        system, root = fsspec.core.url_to_fs(source)
    except ImportError as error:
        raise ImportError(f'{source} needs more: pip install "thoraxlib[cloud]" ({error})') from error
    matches, top = [root], root
    magic = _MAGIC.search(root)
    if magic is not None and not system.exists(root):
        matches, top = sorted(system.glob(root)), root[: magic.start()].rpartition("/")[0]
    none = True
    for match in matches:
        # listing follows a link to a match, but none below it
        real = _real(match) if without is not None and _local(system.unstrip_protocol(match)) is not None else None
        for path, info in _files(system, match):
            if real is not None and _within(_real(path) if info.get("islink") else real + path[len(match) :], without):
                continue
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


def _real(path: str | os.PathLike[str]) -> str:
    """A local path without links, and in one spelling where the system has several."""
    return os.path.normcase(os.path.realpath(path))


def _within(path: str, folder: str | None) -> bool:
    return folder is not None and f"{os.path.normcase(path)}{os.sep}".startswith(f"{folder}{os.sep}")


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
    twice = repeated(member.filename for member in members)
    if twice:  # of two members of one name, only the last can be read
        raise ValueError(f"{url} has several members of one name: {few(twice, 3)}")
    for member in members:
        if not member.is_dir():
            stamp = f"crc {member.CRC:08x}"
            yield Stored(prefix + member.filename, url, member.filename, member.file_size, stamp)


@lru_cache(maxsize=4)
def _archive(url: str) -> zipfile.ZipFile:
    try:
        return zipfile.ZipFile(_opened(url))
    except UnicodeDecodeError:
        return zipfile.ZipFile(_Unmarked(_opened(url)))


class _Unmarked:
    """An archive that marks names as UTF-8 that are not, at which zipfile gives up; without any such mark."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)

    def read(self, size: int = -1) -> bytes:
        """Bytes as the file has them, but for a member's header and for the directory, which zipfile reads in one."""
        content, start = bytearray(self.file.read(size)), 0
        if size == 30 and content.startswith(b"PK\3\4") and len(content) == size:
            content[7] &= ~8
        while content.startswith(b"PK\1\2", start) and len(content) >= start + 46:
            content[start + 9] &= ~8
            start += 46 + sum(struct.unpack_from("<3H", content, start + 28))
        return bytes(content)


def _inflated(archive: zipfile.ZipFile, name: str) -> bytes:
    """A member: no more than it promises is inflated, which zipfile leaves open for other ways of packing."""
    info = archive.getinfo(name)
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError("a member that is neither stored nor deflated, which are the ways of packing that are read")
    if info.file_size > min(_LARGEST, max(_LARGEST_PACKED, _RATIO * info.compress_size)):
        raise ValueError(f"a member of {info.compress_size} bytes that promises {info.file_size}")
    with archive.open(info) as file:
        return b"".join(iter(lambda: file.read(2**20), b""))


def _local(url: str) -> Path | None:
    """The path of a local file."""
    return Path(url.removeprefix("file://")) if url.startswith("file://") or "://" not in url else None


def _opened(url: str) -> IO[bytes]:
    """A file, open for reading: its name is that of one file, whatever is in it, and never a chain of fsspec's."""
    path = _local(url)
    if path is not None:
        if not stat.S_ISREG(path.stat().st_mode):
            raise ValueError(f"{path} is no regular file")
        return path.open("rb")
    if "::" in url:
        raise ValueError(f"{url}: a name with '::' is none that can be opened")
    import fsspec

    file: IO[bytes] = fsspec.open(url, "rb").open()
    return file
