"""Atomic writing, modes of new files, locks of folders, errors of the machine."""

from __future__ import annotations

import asyncio
import errno
import os
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from thoraxlib.utils import files
from thoraxlib.utils.files import discard_scratch, is_environment_error, locked, replacing

LEFT = ".table.0123456789abcdef.part.csv"


@pytest.fixture
def umask() -> Iterator[Callable[[int], int]]:
    before = os.umask(0o022)
    yield os.umask
    os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


# -- whole files --------------------------------------------------------------------------------------


@pytest.mark.skipif(os.name == "nt", reason="has no such modes")
@pytest.mark.parametrize(
    ("mask", "of_file", "of_folder"), [(0o022, 0o644, 0o755), (0o002, 0o664, 0o775), (0o077, 0o600, 0o700)]
)
def test_file_modes_follow_the_umask(
    mask: int, of_file: int, of_folder: int, umask: Callable[[int], int], tmp_path: Path
) -> None:
    umask(mask)
    path = tmp_path / "new" / "table.csv"
    for private in (False, True, False):
        with replacing(path) as scratch:
            if private:  # as safetensors does
                other = scratch.with_name("other")
                other.touch(0o600)
                other.replace(scratch)
            scratch.write_text("a,b")
        assert mode(path) == of_file
    assert mode(path.parent) == of_folder
    with locked(path.parent):
        assert mode(path.parent / ".lock") == of_file


def test_content_is_synced_before_the_rename(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path, synced = tmp_path / "table.csv", []

    def fsync(descriptor: int) -> None:
        there = os.fstat(descriptor)
        synced.append(("folder" if stat.S_ISDIR(there.st_mode) else there.st_size, path.exists()))

    monkeypatch.setattr(os, "fsync", fsync)
    with replacing(path) as scratch:
        scratch.write_text("a,b")
    assert synced == [(3, False), ("folder", True)]


@pytest.mark.parametrize("number", [errno.EINVAL, errno.EIO])
def test_a_failed_sync_is_an_error_unless_unsupported(
    number: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def fsync(descriptor: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fsync)
    path = tmp_path / "table.csv"
    path.write_text("before")
    if number == errno.EINVAL:
        with replacing(path) as scratch:
            scratch.write_text("after")
    else:
        with pytest.raises(OSError, match="Input/output error"), replacing(path) as scratch:
            scratch.write_text("after")
    assert path.read_text() == ("after" if number == errno.EINVAL else "before")
    assert [each.name for each in tmp_path.iterdir()] == ["table.csv"]


def test_a_link_is_replaced_not_followed(tmp_path: Path) -> None:
    (tmp_path / "victim").write_text("as it was")
    (tmp_path / "link").symlink_to(tmp_path / "victim")
    with replacing(tmp_path / "link") as scratch:
        scratch.write_text("new")
    assert (tmp_path / "victim").read_text() == "as it was"
    assert not (tmp_path / "link").is_symlink()


def test_scratch_files_of_killed_processes_are_removed(tmp_path: Path) -> None:
    theirs = [".a.x.part.c", "table.0123456789abcdef.part.csv", ".table.0123456789abcdef.csv", ".x.part"]
    for name in (LEFT, ".labels.0123456789abcdef.part", *theirs):
        (tmp_path / "below").mkdir(exist_ok=True)
        (tmp_path / "below" / name).touch()
    discard_scratch(tmp_path, "table")
    assert {path.name for path in (tmp_path / "below").iterdir()} == {".labels.0123456789abcdef.part", *theirs}
    discard_scratch(tmp_path)
    assert {path.name for path in (tmp_path / "below").iterdir()} == set(theirs)


def test_old_scratch_files_are_removed_by_the_next_writer(tmp_path: Path) -> None:
    fresh, old, theirs = (tmp_path / name for name in (LEFT, ".weights.fedcba9876543210.part", ".a.01.part.rar"))
    for path, hours in ((fresh, 1), (old, 25), (theirs, 25)):
        path.touch()
        os.utime(path, (time.time() - 3600 * hours,) * 2)
    with replacing(tmp_path / "table.csv") as scratch:
        scratch.write_text("a")
    assert {path.name for path in tmp_path.iterdir()} == {"table.csv", LEFT, theirs.name}
    files._discard_abandoned.cache_clear()


# -- the lock -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["link", "dangling link", "hard link", "foreign file", "folder", "pipe"])
@pytest.mark.parametrize("wait", [False, True])
def test_a_foreign_lock_file_is_refused_and_kept(kind: str, wait: bool, tmp_path: Path) -> None:
    victim, folder = tmp_path / "victim", tmp_path / "folder"
    lock = folder / ".lock"
    folder.mkdir()
    if kind != "dangling link":
        victim.write_text("as it was")
    if kind.endswith(("hard link", "file")):
        os.link(victim, lock)
    elif kind == "pipe":
        os.mkfifo(lock)
    elif kind == "folder":
        lock.mkdir()
    else:
        lock.symlink_to(victim)
    before = lock.lstat()
    with pytest.raises(ValueError, match=r"folder/\.lock was not written by thoraxlib"), locked(folder, wait=wait):
        pytest.fail("held")
    assert lock.lstat() == before
    assert not victim.exists() if kind == "dangling link" else victim.read_text() == "as it was"


def test_a_lock_is_released_and_its_file_stays_empty(tmp_path: Path) -> None:
    for _ in range(2):
        with locked(tmp_path), pytest.raises(ValueError, match="another process is writing to"), locked(tmp_path):
            pytest.fail("held twice")
    assert (tmp_path / ".lock").stat().st_size == 0
    with pytest.raises(KeyError), locked(tmp_path):
        raise KeyError
    with locked(tmp_path, wait=True):
        pass


# -- errors of the machine ----------------------------------------------------------------------------


def raised_from(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


def of(module: str, kind: type[Exception] = Exception) -> Exception:
    """Return an error of a package that is not installed."""
    return type("Trouble", (kind,), {"__module__": module})("trouble")


MACHINE = {
    **{name: OSError(getattr(errno, name), "trouble") for name in ("ENOSPC", "EDQUOT", "EMFILE", "ENFILE", "EIO")},
    **{name: OSError(getattr(errno, name), "trouble") for name in ("EROFS", "ESTALE", "ENOMEM", "EFBIG", "EBUSY")},
    "memory": MemoryError(),
    "torch's memory": RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."),
    "CUDA's memory": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
    "shared memory": RuntimeError("unable to write to file </torch_1>: No space left on device (28)"),
    "descriptors of workers": RuntimeError("received 0 items of ancdata"),
    "time": TimeoutError(),
    "asyncio's time": asyncio.TimeoutError(),
    "a reset": ConnectionResetError(errno.ECONNRESET, "reset"),
    "a bucket's credentials": PermissionError("The AWS Access Key Id you provided does not exist"),
    "gcsfs, 403": OSError("Forbidden: bucket/a.png"),
    "gcsfs, 500": of("gcsfs.retry"),
    "botocore": of("botocore.exceptions"),
    "aiohttp": of("aiohttp.client_exceptions", OSError),
    "wrapped": raised_from(ValueError("a.png is truncated or corrupt"), OSError(errno.EIO, "trouble")),
    "wrapped twice": raised_from(ValueError("a.png"), raised_from(RuntimeError("x"), MemoryError())),
}
OWN = {
    "gone": FileNotFoundError(errno.ENOENT, "no such file", "a.png"),
    "gone from a bucket": raised_from(FileNotFoundError("bucket/a.png"), of("botocore.exceptions")),
    "not to be read": PermissionError(errno.EACCES, "Permission denied", "a.png"),
    "a folder": IsADirectoryError(errno.EISDIR, "is a directory", "a.png"),
    "content": ValueError("No space left on device"),
    "Pillow": OSError("image file is truncated (3 bytes not processed)"),
    "a decoder": RuntimeError("codestream is damaged"),
    "end": EOFError(),
    "depth": RecursionError("maximum recursion depth exceeded"),
    "wrapped": raised_from(ValueError("a.png is corrupt"), OSError("broken data stream")),
}


@pytest.mark.parametrize("name", MACHINE)
def test_errors_of_the_machine(name: str) -> None:
    assert is_environment_error(MACHINE[name])


@pytest.mark.parametrize("name", OWN)
def test_errors_of_a_file(name: str) -> None:
    assert not is_environment_error(OWN[name])
