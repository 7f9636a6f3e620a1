"""List and open image files in folders, zip archives and buckets, with fsspec."""

from __future__ import annotations

import io
import os
import re
import struct
import sys
import zipfile
from collections.abc import Iterator, Sequence
from fnmatch import fnmatchcase
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import IO, Any, NamedTuple, TypeAlias

from thoraxlib.images.reading import SUFFIXES
from thoraxlib.utils.arguments import few, repeated
from thoraxlib.utils.files import below, is_environment_error, open_regular, unzipping

_STAMPS = ("mtime", "etag", "ETag", "md5Hash", "generation", "LastModified", "updated", "created")
_MAGIC = re.compile(r"[*?[]")
_LARGEST = 2**30  # bytes of one file; images are far smaller
_LARGEST_PACKED, _RATIO = 2**26, 100  # bytes up to which any compression ratio is accepted, and the ratio beyond


#: Path or URL.
Address: TypeAlias = str | os.PathLike[str]


class Stored(NamedTuple):
    """Image file in a folder, a bucket or a zip archive.

    `name` is its path below the source, with slashes; an archive ``a.zip`` counts as a folder ``a``. `size` and `stamp`
    (time, checksum or tag, known without reading the file) change when the file changes.
    """

    name: str
    url: str
    member: str | None
    size: int
    stamp: str

    @property
    def origin(self) -> str:
        """Readable address of the file."""
        return self.url if self.member is None else f"{self.url}/{self.member}"

    def open(self) -> io.BytesIO:
        """Read the whole file into memory.

        Raises
        ------
        ValueError
            The file has more than 1 GiB or is not a regular file; or a member of an archive has an extreme compression
            ratio, or a compression other than deflate.
        """
        if self.size > _LARGEST:
            raise ValueError(f"the file has {self.size} bytes, more than {_LARGEST}")
        if self.member is not None:
            content = _inflated(_archive(self.url), self.member)
        else:
            with _opened(self.url) as source:
                content = source.read(_LARGEST + 1)
            if len(content) > _LARGEST:
                raise ValueError(f"the file has more than {_LARGEST} bytes")
        file = io.BytesIO(content)
        file.name = self.name
        return file


def listed(sources: Sequence[Address], pattern: str | None = None, without: Address | None = None) -> list[Stored]:
    """List the image files of all sources, sorted by name.

    Parameters
    ----------
    sources : sequence of paths
        Folders, zip archives or single files, or patterns of them such as ``images/*/p1*.zip``: local, or URLs that
        fsspec knows, such as ``gs://bucket/folder``. Archives within folders are opened, too.
    pattern : str, optional
        Pattern of file names, such as ``"IM*"``; by default the extensions .png, .jpg, .jpeg, .dcm and .dicom in any
        case. Hidden files and files in ``__MACOSX`` are left out.
    without : path, optional
        Local folder to leave out, even if a pattern or a link leads into it.

    Raises
    ------
    FileNotFoundError
        A source does not exist, or no source has an image.
    ImportError
        A bucket needs gcsfs or s3fs.
    ValueError
        Two files have the same name, a name points out of its source, or an archive is damaged.
    """
    images: dict[str, Stored] = {}
    for image in stream(sources, pattern, without):
        if images.setdefault(image.name, image) is not image:
            raise ValueError(f"the sources have two files {image.name}: {images[image.name].url} and {image.url}")
    return [images[name] for name in sorted(images)]


def stream(sources: Sequence[Address], pattern: str | None = None, without: Address | None = None) -> Iterator[Stored]:
    """Yield the image files source by source, with the parameters and errors of :func:`listed`.

    Memory holds the list of one folder below a source, of one archive, or of one bucket. The order is the same in each
    call. Different sources may have files of the same name.

    Raises
    ------
    FileNotFoundError
        A source does not exist, or no source has an image.
    """
    _archive.cache_clear()  # an archive may have been replaced
    none = True
    for source in sources:
        for image in _of_source(os.fspath(source), None if without is None else _real(without)):
            path = PurePosixPath(image.name)
            suits = fnmatchcase(path.name, pattern) if pattern else path.name.lower().endswith(SUFFIXES)
            if not suits or path.name.startswith(".") or "__MACOSX" in path.parts:
                continue
            below(image.name, image.url)
            none = False
            yield image._replace(name=str(path))  # x/./a.png is x/a.png
    if none:
        raise FileNotFoundError(f"no image ({pattern or ', '.join(SUFFIXES)}) in {', '.join(map(str, sources))}")


def reason(error: Exception, image: Stored) -> str:
    """Describe why an image could not be read; raise `error` again if it is not the fault of the image."""
    if is_environment_error(error) and sys.version_info >= (3, 11):
        error.add_note(f"at {image.origin}; the same call goes on there")
    if isinstance(error, ImportError) or is_environment_error(error):
        raise error
    return str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"


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
        # a match may be a link that is followed; links below it are not
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


def _real(path: Address) -> str:
    """Return a local path without links and with normalised case."""
    return os.path.normcase(os.path.realpath(path))


def _within(path: str, folder: str | None) -> bool:
    return folder is not None and f"{os.path.normcase(path)}{os.sep}".startswith(f"{folder}{os.sep}")


def _files(system: Any, root: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield path and details of all files below a folder; of a local folder, one subfolder at a time."""
    if "file" not in system.protocol or not system.isdir(root):
        # one answer of a bucket lists thousands of files of all folders
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
    if twice:  # zipfile reads only the last of them
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
    """Zip archive without the UTF-8 mark of its names: zipfile fails if marked names are not UTF-8."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)

    def read(self, size: int = -1) -> bytes:
        """Read bytes, with the mark cleared in a member's header and in the directory; zipfile reads each at once."""
        content, start = bytearray(self.file.read(size)), 0
        if size == 30 and content.startswith(b"PK\3\4") and len(content) == size:
            content[7] &= ~8
        while content.startswith(b"PK\1\2", start) and len(content) >= start + 46:
            content[start + 9] &= ~8
            start += 46 + sum(struct.unpack_from("<3H", content, start + 28))
        return bytes(content)


def _inflated(archive: zipfile.ZipFile, name: str) -> bytes:
    """Inflate a member up to its declared size; zipfile guarantees that limit for deflate only."""
    info = archive.getinfo(name)
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError("a member that is neither stored nor deflated: no other compression is read")
    if info.file_size > min(_LARGEST, max(_LARGEST_PACKED, _RATIO * info.compress_size)):
        raise ValueError(f"a member of {info.compress_size} bytes that promises {info.file_size}")
    with archive.open(info) as file:
        return b"".join(iter(lambda: file.read(2**20), b""))


def _local(url: str) -> Path | None:
    """Return the path of a local file, or None for another URL."""
    return Path(url.removeprefix("file://")) if url.startswith("file://") or "://" not in url else None


def _opened(url: str) -> IO[bytes]:
    """Open a file for reading; its name is never a chain of fsspec."""
    path = _local(url)
    if path is not None:
        return open_regular(path)
    if "::" in url:
        raise ValueError(f"{url}: a name with '::' is none that can be opened")
    import fsspec

    file: IO[bytes] = fsspec.open(url, "rb").open()
    return file
