"""Download files: resumed, verified, once for all processes."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock


class DigestError(ValueError):
    """A file that is not the published one."""


def cache_folder() -> Path:
    """Return the folder of downloads: ``$XDG_CACHE_HOME/thoraxlib``, by default in ``~/.cache``."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "thoraxlib"


def digest(path: Path, algorithm: str = "sha256") -> str:
    """Return the hexadecimal digest of a file.

    Parameters
    ----------
    path : Path
        The file.
    algorithm : {"sha256", "md5", "git"}
        "git" is the id of the file's blob: SHA-1 of ``blob <size>``, a zero byte, and the content.
    """
    if algorithm == "git":
        found = hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False)
    else:
        found = hashlib.new(algorithm, usedforsecurity=False)
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            found.update(chunk)
    return found.hexdigest()


def download(
    url: str,
    path: Path,
    verify: Callable[[Path], None],
    *,
    size: int | None = None,
    progress: bool = True,
    begin: Callable[[], None] | None = None,
    hint: str = "",
) -> None:
    """Download `url` to `path`, unless another process is faster.

    The content comes into a partial file beside `path`, which becomes `path` once it is verified. An interrupted
    download is resumed. ``http_get`` of huggingface_hub, which is installed anyway, asks for ranges, starts again where
    a server has none, tries again after a broken connection, and compares the size; pooch and torch.hub do not resume.

    Parameters
    ----------
    url : str
        Address of the file.
    path : Path
        The file; its folder is made if need be.
    verify : callable
        Raises :class:`DigestError` for a file that is not the published one; such a file is removed.
    size : int, optional
        Bytes.
    progress : bool
        Show a bar.
    begin : callable, optional
        Called before the download.
    hint : str
        Other places for the file, for messages: "or into ...".

    Raises
    ------
    DigestError
        Another file, or a web page.
    ConnectionError
        The file cannot be downloaded; the message says where to put it.
    PermissionError
        The folder cannot be written.
    """
    from huggingface_hub.errors import HfHubHTTPError
    from huggingface_hub.file_download import http_get

    with writing(path.parent, url, hint):
        path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.part")
    with writing(path.parent, url, hint), FileLock(path.parent / ".lock"):
        if path.is_file():
            return
        if begin is not None:
            begin()
        try:
            with bars(progress), partial.open("ab") as file:
                http_get(url, file, resume_size=partial.stat().st_size, expected_size=size)
        except OSError as error:
            # a partial file that is too long, or an answer other than 200 and 206, would fail again and again
            done = partial.stat().st_size
            useless = not done or (size is not None and done >= size) or isinstance(error, HfHubHTTPError)
            if useless:
                partial.unlink()
            failure = unavailable(url, error, path, 0 if useless else done, hint)
            raise failure from error
        except Exception as error:  # of the HTTP library that huggingface_hub uses
            failure = unavailable(url, error, path, partial.stat().st_size, hint)
            raise failure from error
        try:
            _refuse_pages(partial, url)
            verify(partial)
        except ValueError:
            partial.unlink()
            raise
        partial.replace(path)


def unavailable(url: str, error: Exception, path: Path, kept: int = 0, hint: str = "") -> ConnectionError:
    """Return an error that says what to fetch from where, and where to put it."""
    reason = f"{type(error).__name__}: {error}".partition("\n")[0]
    resumes = f"The first {kept:,} bytes are kept, and the next call resumes. " if kept else ""
    return ConnectionError(
        f"{url} could not be downloaded ({reason}). {resumes}Without a network: fetch the file elsewhere, and put it "
        f"at {path}{hint}"
    )


@contextmanager
def bars(shown: bool) -> Iterator[None]:
    """Hide huggingface_hub's progress bars, unless `shown`."""
    from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    hide = not shown and not are_progress_bars_disabled()
    if hide:
        disable_progress_bars()
    try:
        yield
    finally:
        if hide:
            enable_progress_bars()


@contextmanager
def writing(folder: Path, url: str, hint: str = "") -> Iterator[None]:
    """Raise PermissionError, which names the folder and the remedy, for errors that say that it cannot be written."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise
        raise PermissionError(
            f"{folder} cannot be written ({error}). Set XDG_CACHE_HOME to another folder, or put the file of {url} at "
            f"its place there{hint}"
        ) from error


def _refuse_pages(path: Path, url: str) -> None:
    with path.open("rb") as file:
        start = file.read(256).lstrip().lower()
    if start.startswith((b"<!doctype", b"<html", b"<?xml")):
        raise DigestError(f"{url} gave a web page, not the file; nothing was kept")
