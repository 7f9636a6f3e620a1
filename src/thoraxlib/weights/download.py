"""Download files of the catalogue: resumed, verified, once for all processes."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock

from thoraxlib.utils.files import read_json, write_json
from thoraxlib.weights.cards import NO_LICENCE, WeightsCard, describe

#: Folder of files that are there already: ``<folder>/<name>/<file>`` or ``<folder>/<file>``.
FOLDER = "THORAXLIB_WEIGHTS"
#: Digests of first downloads, by address, of files for which none is recorded.
DIGESTS = "digests.json"


class DigestError(ValueError):
    """A file that is not the published one."""


def cache_folder() -> Path:
    """Folder of downloaded weights: ``$XDG_CACHE_HOME/thoraxlib/weights``, by default in ``~/.cache``."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "thoraxlib" / "weights"


def fetch(name: str, *, progress: bool = True) -> Path:
    """Return the file of published weights, downloaded if need be, and verified.

    The file is looked for in the folder that the environment variable ``THORAXLIB_WEIGHTS`` names, then in the cache
    (:func:`cache_folder`), and else downloaded, from the source's own address at a pinned commit. An interrupted
    download is resumed. The licences are printed before the first download.

    Parameters
    ----------
    name : str
        One of :func:`thoraxlib.weights.names`.
    progress : bool
        Show a bar.

    Returns
    -------
    Path
        The file. Its SHA-256, or its git blob id, is the recorded one; if none is recorded, that of the first download.

    Raises
    ------
    UnknownNameError
        No such name.
    DigestError
        The file is not the published one. A downloaded one is removed; one of the user's stays.
    FileNotFoundError
        Weights that are got by hand; the message says where.
    ConnectionError, PermissionError
        No network, no such file there, or a cache that cannot be written. The message says what to fetch from where,
        and where to put it.
    """
    card = describe(name)
    if card.address is None:
        raise FileNotFoundError(f"{name}: these weights are got by hand from {card.source}. {' '.join(card.notes)}")
    given = os.environ.get(FOLDER)
    if given:
        for path in (Path(given, name, card.file_name), Path(given, card.file_name)):
            if path.is_file():
                verify(path, card)
                return path
    if card.hub is not None:
        return _from_hub(card, progress)
    folder = cache_folder() / name
    path = folder / card.file_name
    if path.is_file():
        verify(path, card)
        return path
    with _writing(folder, card):
        folder.mkdir(parents=True, exist_ok=True)
    with _writing(folder, card), FileLock(folder / ".lock"):
        if not path.is_file():  # another process may have been faster
            _download(card, path, progress)
    verify(path, card)
    return path


def verify(path: Path, card: WeightsCard) -> None:
    """Raise DigestError unless a file is the published one.

    Where no digest is recorded, the digest of the first file that was verified counts.
    """
    if card.sha256 is not None:
        _compare(path, "SHA-256", _sha256(path), card.sha256, card)
    elif card.git_blob is not None:
        _compare(path, "git blob id", git_blob_id(path), card.git_blob, card)
    else:
        _compare(path, "SHA-256", _sha256(path), _first_digest(card, path), card)


def git_blob_id(path: Path) -> str:
    """Id that git gives a file: SHA-1 of ``blob <size>``, a zero byte, and the content."""
    return _digest(path, hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False))


def _sha256(path: Path) -> str:
    return _digest(path, hashlib.sha256())


def _digest(path: Path, digest: hashlib._Hash) -> str:
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def _compare(path: Path, kind: str, found: str, expected: str, card: WeightsCard) -> None:
    if found != expected:
        raise DigestError(
            f"{card.name}: {path} has the {kind} {found}, the published file has {expected}: it is damaged, or another "
            f"file. Delete it, and fetch it again from {card.address}"
        )


def _first_digest(card: WeightsCard, path: Path) -> str:
    """SHA-256 of the first file from this address; that of `path` if there was none before."""
    record = cache_folder() / DIGESTS
    address = str(card.address)
    known = read_json(record) if record.is_file() else {}
    if address not in known:
        with _writing(record.parent, card):
            record.parent.mkdir(parents=True, exist_ok=True)
        with _writing(record.parent, card), FileLock(record.with_suffix(".lock")):
            known = read_json(record) if record.is_file() else {}
            known.setdefault(address, _sha256(path))
            write_json(record, known, indent=1)
    digest: str = known[address]
    return digest


def _download(card: WeightsCard, path: Path, progress: bool) -> None:
    """Download to a partial file beside `path`, which becomes `path` once it is verified.

    ``http_get`` of huggingface_hub, which is installed anyway, resumes by range, starts again where a server has no
    ranges, tries again after a broken connection, and compares the size; pooch and torch.hub do not resume.
    """
    from huggingface_hub.errors import HfHubHTTPError
    from huggingface_hub.file_download import http_get

    print(licences(card))
    partial = path.with_name(f"{path.name}.part")
    try:
        with _bars(progress), partial.open("ab") as file:
            http_get(str(card.address), file, resume_size=partial.stat().st_size, expected_size=card.size)
    except OSError as error:
        # a partial file that is too long, or an answer other than 200 and 206, would fail again and again
        done = partial.stat().st_size
        useless = not done or (card.size is not None and done >= card.size) or isinstance(error, HfHubHTTPError)
        if useless:
            partial.unlink()
        raise _unavailable(card, error, path, 0 if useless else done) from error
    except Exception as error:  # of the HTTP library that huggingface_hub uses
        raise _unavailable(card, error, path, partial.stat().st_size) from error
    try:
        _refuse_pages(partial, card)
        verify(partial, card)
    except ValueError:
        partial.unlink()
        raise
    partial.replace(path)


def _from_hub(card: WeightsCard, progress: bool) -> Path:
    """Return a file of the Hub, in the Hub's own cache."""
    from huggingface_hub import hf_hub_download, try_to_load_from_cache

    where = str(card.hub), str(card.path)
    if not isinstance(try_to_load_from_cache(*where, revision=card.commit), str):
        print(licences(card))
    try:
        with _bars(progress):
            path = Path(hf_hub_download(*where, revision=card.commit))
    except Exception as error:
        raise _unavailable(card, error, Path(f"${FOLDER}", card.name, card.file_name), 0) from error
    try:
        verify(path, card)
    except DigestError:
        path.resolve().unlink()
        path.unlink(missing_ok=True)
        raise
    return path


def _unavailable(card: WeightsCard, error: Exception, path: Path, kept: int) -> ConnectionError:
    reason = f"{type(error).__name__}: {error}".partition("\n")[0]
    resumes = f"The first {kept:,} bytes are kept, and the next call resumes. " if kept else ""
    return ConnectionError(
        f"{card.name}: {card.address} could not be downloaded ({reason}). {resumes}"
        f"Without a network: fetch the file elsewhere, and put it at {path}, or into a folder that {FOLDER} names"
    )


@contextmanager
def _bars(shown: bool) -> Iterator[None]:
    from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    hide = not shown and not are_progress_bars_disabled()
    if hide:
        disable_progress_bars()
    try:
        yield
    finally:
        if hide:
            enable_progress_bars()


def _refuse_pages(path: Path, card: WeightsCard) -> None:
    with path.open("rb") as file:
        start = file.read(256).lstrip().lower()
    if start.startswith((b"<!doctype", b"<html", b"<?xml")):
        raise DigestError(f"{card.name}: {card.address} gave a web page, not the file; nothing was kept")


def licences(card: WeightsCard) -> str:
    """Source and licences of weights, in a line or two."""
    text = (
        f"{card.name}: from {card.source}; licence of the code: {card.code_licence}, of the weights: "
        f"{card.weights_licence}"
    )
    if NO_LICENCE in (card.code_licence, card.weights_licence):
        text += ". Where no licence is stated, ask the authors before you use or pass on the file"
    return text


@contextmanager
def _writing(folder: Path, card: WeightsCard) -> Iterator[None]:
    """Name the cache where it cannot be written."""
    try:
        yield
    except PermissionError as error:
        raise PermissionError(
            f"{card.name}: the cache {folder} cannot be written ({error}). Set XDG_CACHE_HOME to another folder, or "
            f"put the file of {card.address} into a folder that {FOLDER} names"
        ) from error
    except OSError as error:
        if error.errno == errno.EROFS:
            raise PermissionError(
                f"{card.name}: the cache {folder} is read-only. Set XDG_CACHE_HOME or {FOLDER}"
            ) from error
        raise
