"""Preparation where the machine fails, others have files in the way, or sources are odd."""

from __future__ import annotations

import csv
import errno
import json
import os
import re
import shutil
import stat
import subprocess
import sys
import tracemalloc
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import thoraxlib
from thoraxlib.archives import preparation
from thoraxlib.archives.sources import Stored, listed
from thoraxlib.cli import main
from thoraxlib.images import TrainingCopy, copies
from thoraxlib.input_spec import InputSpec

SPEC = InputSpec(size=64, resize="pad")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """12 images of noise, which no file packs well."""
    for number in range(12):
        path = tmp_path / "images" / f"{number % 2}" / f"{number:02d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.random.default_rng(number).integers(0, 256, (64, 64), np.uint8)).save(path)
    return tmp_path / "images"


def prepare(*args: Any, **options: Any) -> TrainingCopy:
    return thoraxlib.prepare(*args, **{"spec": SPEC, "num_workers": 0, "progress": False, **options})


def complete(folder: Path) -> bool:
    return bool(json.loads((folder / copies.COPY).read_text())["complete"])


def is_right(copy: TrainingCopy, tree: Path) -> bool:
    """Whether all images are there, pixel for pixel."""
    return sorted(copy.names) == sorted(path.relative_to(tree).as_posix() for path in tree.rglob("*.png")) and all(
        np.array_equal(copy.image(name)[0], np.asarray(Image.open(tree / name))) for name in copy.names
    )


# -- the machine --------------------------------------------------------------------------------------


@contextmanager
def limited(what: str, value: int) -> Iterator[None]:
    """This process with a limit."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(getattr(resource, what))
    resource.setrlimit(getattr(resource, what), (value, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(getattr(resource, what), before)


#: Of the array in the midst of the fifth image, whose first part the system still takes.
GROWTH = 128 + 4 * 64 * 64 + 1000


def test_files_that_may_not_grow(tree: Path, tmp_path: Path) -> None:
    with limited("RLIMIT_FSIZE", GROWTH), pytest.raises(OSError, match="File too large"):
        prepare(tree, tmp_path / "copy")
    assert not complete(tmp_path / "copy")
    assert (tmp_path / "copy" / copies.MANIFEST).read_text().count("\n") == 4
    assert is_right(prepare(tree, tmp_path / "copy"), tree)


@pytest.mark.parametrize("free", range(3))
def test_no_descriptors_left(free: int, tree: Path, tmp_path: Path) -> None:
    prepare(tree, tmp_path / "other")  # what is imported at first use is there
    descriptor = os.open(tmp_path, os.O_RDONLY)
    os.close(descriptor)
    with limited("RLIMIT_NOFILE", descriptor + free), pytest.raises(OSError, match="Too many open files"):
        prepare(tree, tmp_path / "copy")
    assert not (tmp_path / "copy" / copies.COPY).exists() or not complete(tmp_path / "copy")
    copy = prepare(tree, tmp_path / "copy")
    assert copy.failures == {}
    assert is_right(copy, tree)


_RUN = """
import sys
import thoraxlib
from thoraxlib.input_spec import InputSpec
if __name__ == "__main__":
    try:
        thoraxlib.prepare({tree!r}, {folder!r}, num_workers=2, progress=False, spec=InputSpec(64, resize="pad"))
    except OSError as error:
        sys.exit(error.errno)
"""


@pytest.mark.slow
def test_errors_of_the_machine_come_from_workers(tree: Path, tmp_path: Path) -> None:
    memory = Path("/proc/self/mem")  # reading where nothing is mapped is EIO
    if not memory.is_file():
        pytest.skip("needs /proc")
    (tree / "0/mem.png").symlink_to(memory)
    (tmp_path / "run.py").write_text(_RUN.format(tree=str(tree), folder=str(tmp_path / "copy")))
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    assert subprocess.run([sys.executable, tmp_path / "run.py"], env=environment).returncode == errno.EIO
    assert not complete(tmp_path / "copy")
    (tree / "0/mem.png").unlink()
    assert is_right(prepare(tree, tmp_path / "copy"), tree)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """Mounts a disk of some kilobytes."""
    place = tmp_path / "disk"
    place.mkdir()

    def mount(kilobytes: int, *options: str) -> Path:
        command = ["mount", "-t", "tmpfs", "-o", ",".join((f"size={kilobytes}k", *options)), "tmpfs", str(place)]
        try:
            done = subprocess.run(command, capture_output=True).returncode == 0
        except FileNotFoundError:
            done = False
        if not done:
            pytest.skip("may not mount a disk here")
        return place

    yield mount
    if place.is_mount():
        subprocess.run(["umount", place], check=True)


@pytest.mark.parametrize("free", [8, 16, 28, 40, 48, 52, 56])
def test_a_full_disk(free: int, small_disk: Callable[..., Path], tree: Path, tmp_path: Path) -> None:
    folder = small_disk(free) / "copy"
    with pytest.raises(OSError, match="No space left on device"):
        prepare(tree, folder)
    if (folder / copies.COPY).exists() and (folder / copies.COPY).stat().st_size:
        assert not complete(folder)
        with pytest.raises(ValueError, match="not finished"):
            TrainingCopy(folder)
    subprocess.run(["mount", "-o", "remount,size=1m", tmp_path / "disk"], check=True)
    copy = prepare(tree, folder)
    assert copy.failures == {}
    assert is_right(copy, tree)


SYSTEM = [OSError(errno.EIO, "Input/output error"), MemoryError("no memory"), TimeoutError("the bucket is silent")]


@pytest.mark.parametrize("error", SYSTEM, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("where", ["open", "read", "decode"])
def test_errors_of_the_machine_end_the_run_and_are_no_images_fault(
    where: str, error: Exception, tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = 0

    def fails(*args: Any, **options: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 5:
            if where == "decode":
                raise ValueError("05.png is truncated or corrupt") from error
            raise error
        return before(*args, **options)

    if where == "open":
        before: Any = Stored.open
        monkeypatch.setattr(Stored, "open", fails)
    else:
        before = preparation.read
        monkeypatch.setattr(preparation, "read", fails)
    with pytest.raises(ValueError if where == "decode" else type(error)):
        prepare(tree, tmp_path / "copy")
    assert not complete(tmp_path / "copy")
    entries = copies.entries(tmp_path / "copy" / copies.MANIFEST)
    assert len(entries) == 4
    assert not any("error" in entry for entry in entries.values())
    monkeypatch.undo()
    assert is_right(prepare(tree, tmp_path / "copy"), tree)


def test_the_command_tells_errors_of_the_machine_from_failures(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(*args: Any, **options: Any) -> Any:
        raise MemoryError("no memory for 9 bytes")

    monkeypatch.setattr(Stored, "open", fails)
    assert main(["prepare", str(tree), str(tmp_path / "copy"), "--num-workers", "0"]) == 2
    told = capsys.readouterr().err
    assert "error: no memory for 9 bytes" in told
    assert "0/00.png; the same call goes on there" in told or sys.version_info < (3, 11)


def test_descriptors_that_run_out_are_no_damage_of_an_archive_or_a_copy(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.make_archive(str(tmp_path / "all"), "zip", tree)
    copy = prepare(tree, tmp_path / "copy")

    def fails(*args: Any, **options: Any) -> Any:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(zipfile, "ZipFile", fails)
    monkeypatch.setattr(np, "load", fails)
    with pytest.raises(OSError, match="Too many open files"):
        listed([tmp_path / "all.zip"])
    with pytest.raises(OSError, match="Too many open files"):
        _ = copy.pixels


def test_all_is_synced_before_the_copy_is_complete(tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced = list[str]()
    fsync = os.fsync

    def one(descriptor: int) -> None:
        synced.append(os.path.basename(os.readlink(f"/proc/self/fd/{descriptor}")))
        fsync(descriptor)

    if not Path("/proc/self/fd").exists():
        pytest.skip("needs /proc")
    monkeypatch.setattr(os, "fsync", one)
    prepare(tree, tmp_path / "copy")
    last = max(place for place, name in enumerate(synced) if re.fullmatch(r"\.copy\..*\.part\.json", name))
    assert {copies.PIXELS, copies.MANIFEST} <= set(synced[last - 3 : last])


# -- files of others ----------------------------------------------------------------------------------


def everything(folder: Path) -> dict[str, Any]:
    """Content, kind and times of all that is below a folder."""
    return {
        path.relative_to(folder).as_posix(): (
            path.lstat().st_mode,
            path.lstat().st_mtime_ns,
            path.read_bytes() if stat.S_ISREG(path.lstat().st_mode) else None,
        )
        for path in folder.rglob("*")
        if path.name != ".lock"
    }


@pytest.mark.parametrize("name", [copies.MANIFEST, copies.PIXELS, preparation.FAILURES, copies.COPY, ".lock"])
@pytest.mark.parametrize("kind", ["file", "link", "dangling link", "pipe"])
def test_files_of_others_stay_as_they_are(name: str, kind: str, tree: Path, tmp_path: Path) -> None:
    theirs, folder = tmp_path / "theirs", tmp_path / "copy"
    folder.mkdir()
    theirs.mkdir()
    if kind == "file":
        (folder / name).write_text('{"name": "thesis"}')
    elif kind == "pipe":
        os.mkfifo(folder / name)
    else:
        (folder / name).symlink_to(theirs / "file")
    if kind == "link":
        (theirs / "file").write_text("work of years, without an end of line")
    before = everything(folder), everything(theirs)
    with pytest.raises(ValueError, match=re.escape(name)):
        prepare(tree, folder)
    assert (everything(folder), everything(theirs)) == before


@pytest.mark.parametrize("name", [copies.MANIFEST, copies.PIXELS])
def test_links_planted_into_a_copy_are_not_followed(name: str, tree: Path, tmp_path: Path) -> None:
    folder, victim = tmp_path / "copy", tmp_path / "victim"
    prepare(tree, folder)
    content = folder / name
    content.rename(victim)
    content.symlink_to(victim)
    Image.new("L", (64, 64)).save(tree / "0/02.png")  # something to do
    before = victim.read_bytes()
    with pytest.raises(ValueError, match=rf"{re.escape(str(content))} is a link"):
        prepare(tree, folder)
    assert victim.read_bytes() == before


@pytest.mark.parametrize("name", [copies.COPY, preparation.FAILURES])
def test_links_to_what_is_written_whole_are_replaced(name: str, tree: Path, tmp_path: Path) -> None:
    (tree / "0/02.png").write_bytes(b"damaged")
    folder, victim = tmp_path / "copy", tmp_path / "victim"
    with pytest.warns(UserWarning, match="1 of 12"):
        prepare(tree, folder)
    (folder / name).rename(victim)
    (folder / name).symlink_to(victim)
    before = victim.read_bytes(), victim.stat().st_mtime_ns
    with pytest.warns(UserWarning, match="1 of 12"):
        prepare(tree, folder)
    assert not (folder / name).is_symlink()
    assert (victim.read_bytes(), victim.stat().st_mtime_ns) == before


@pytest.mark.parametrize("content", ["{}", '{"version": 1, "settings": 3}', '{"name": "their experiment"}'])
def test_a_description_of_something_else(content: str, tree: Path, tmp_path: Path) -> None:
    (tmp_path / "copy").mkdir()
    (tmp_path / "copy" / copies.COPY).write_text(content)
    (tmp_path / "copy" / copies.MANIFEST).write_text("theirs")
    before = everything(tmp_path / "copy")
    with pytest.raises(ValueError, match=r"copy\.json describes no training copy"):
        prepare(tree, tmp_path / "copy")
    assert everything(tmp_path / "copy") == before


@pytest.mark.skipif(os.name == "nt", reason="has no such modes")
def test_modes_are_those_of_new_files(tree: Path, tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        prepare(tree, tmp_path / "copy")
    finally:
        os.umask(before)
    for path in (tmp_path / "copy", *(tmp_path / "copy").rglob("*")):
        assert stat.S_IMODE(path.stat().st_mode) == (0o750 if path.is_dir() else 0o640), path


# -- sources ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("pattern", ["G/*", "G*", "link/*", "*/*.png", "G/c*"])
def test_a_copy_is_no_source_of_itself(
    pattern: str, tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As often as it is called, and whatever leads into the copy."""
    tree.rename(tmp_path / "G")
    for path in (tmp_path / "G").glob("*/*.png"):
        path.rename(tmp_path / "G" / f"c{path.name}")
    for folder in "01":
        (tmp_path / "G" / folder).rmdir()
    (tmp_path / "link").symlink_to(tmp_path / "G")
    (tmp_path / "G" / "c99.png").symlink_to(tmp_path / "G" / "copy" / "pixels.png")
    monkeypatch.chdir(tmp_path)
    for _ in range(3):
        copy = prepare(tmp_path / pattern, "G/copy")
        assert len(copy) == 12
        (tmp_path / "G/copy/pixels.png").write_bytes((tmp_path / "G/c00.png").read_bytes())


def test_names_that_are_spelled_in_two_ways(tree: Path, tmp_path: Path) -> None:
    def packed(*names: str) -> Path:
        with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
            for name in names:
                archive.write(tree / "0/00.png", name)
        return tmp_path / "all.zip"

    for number, other in enumerate(("x/./a.png", "x//a.png", "./x/a.png")):
        assert prepare(packed(other), tmp_path / f"copy{number}").names == ("x/a.png",)
        with pytest.raises(ValueError, match=r"(two files|several members of one name:) x/a\.png"):
            prepare(packed("x/a.png", other), tmp_path / "twice")
    assert len(prepare(packed("x/a.png", "X/A.png", "x/ü.png", "x/u\u0308.png"), tmp_path / "copy")) == 4


def test_names_that_are_not_utf8(tree: Path, tmp_path: Path) -> None:
    good, bad = (os.fsdecode(name) for name in (b"0/\xe9t\xe9.png", b"0/\xff.png"))
    try:
        (tree / "0/00.png").rename(tree / good)
    except OSError:
        pytest.skip("the system has only names in UTF-8")
    (tree / bad).write_bytes(b"nothing")
    with pytest.warns(UserWarning, match="1 of 13 images failed"):
        copy = prepare(tree, tmp_path / "copy")
    assert good in copy.names
    assert list(copy.failures) == [bad]
    assert np.array_equal(copy.image(good)[0], np.asarray(Image.open(tree / good)))
    with (tmp_path / "copy" / preparation.FAILURES).open(encoding="utf-8", newline="") as file:
        assert list(csv.reader(file))[1][0] == r"0/\udcff.png"
    stamp = (tmp_path / "copy" / copies.MANIFEST).read_text().count("\n")
    with pytest.warns(UserWarning, match="1 of 13 images failed"):
        prepare(tree, tmp_path / "copy")
    assert (tmp_path / "copy" / copies.MANIFEST).read_text().count("\n") == stamp + 1  # the failure, tried again


def test_names_in_an_archive_that_are_not_utf8_though_marked_so(tree: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        for name in ("é.png", "ü.png"):
            archive.write(tree / "0/00.png", name)
    content = (tmp_path / "all.zip").read_bytes()
    assert content.count("é".encode()) == 2  # beside the file and in the directory
    (tmp_path / "all.zip").write_bytes(content.replace("é".encode(), b"\xe9\xe9"))
    copy = prepare(tmp_path / "all.zip", tmp_path / "copy")
    assert len(copy) == 2
    assert copy.failures == {}


@pytest.mark.parametrize("kind", ["pipe", "device", "link to nothing", "folder"])
def test_files_that_never_end_are_failures(kind: str, tree: Path, tmp_path: Path) -> None:
    odd = tree / "0" / "odd.png"
    if kind == "pipe":
        os.mkfifo(odd)
    elif kind == "folder":
        odd.symlink_to(tree / "1")
    else:
        odd.symlink_to("/dev/zero" if kind == "device" else tree / "nothing")
    with pytest.warns(UserWarning, match=r"1 of 13 images failed.*odd\.png"):
        copy = prepare(tree, tmp_path / "copy")
    assert ("FileNotFoundError" if kind == "link to nothing" else "a regular file is wanted") in copy.failures[
        "0/odd.png"
    ]
    odd.rename(tree / "odd.zip")
    with pytest.raises((ValueError, FileNotFoundError), match=r"odd\.zip"):
        listed([tree])


def test_a_name_is_no_chain_of_urls(tree: Path, tmp_path: Path) -> None:
    (tree / "0/00.png").rename(tree / "0" / "a::file:b.png")
    assert "0/a::file:b.png" in prepare(tree, tmp_path / "copy").names
    with pytest.raises(ValueError, match="'::'"):
        Stored("a.png", "memory://a::file:///etc/hostname", None, 1, "").open()


def bomb(path: Path, method: int, megabytes: int, declared: int | None = None) -> str:
    """An archive of a member of zeros, which may promise less than it holds; its URL."""
    with zipfile.ZipFile(path, "w", method) as archive, archive.open("a.png", "w") as member:
        for _ in range(megabytes):
            member.write(bytes(2**20))
    if declared is not None:
        content, size = path.read_bytes(), (megabytes * 2**20).to_bytes(4, "little")
        assert size in content
        path.write_bytes(content.replace(size, declared.to_bytes(4, "little")))
    return f"file://{path}"


@pytest.mark.parametrize(
    ("method", "declared", "message"),
    [
        (zipfile.ZIP_DEFLATED, None, r"a member of \d+ bytes that promises 73400320"),
        (zipfile.ZIP_DEFLATED, 5000, "Bad CRC-32"),
        (zipfile.ZIP_BZIP2, 5000, "neither stored nor deflated"),
        (zipfile.ZIP_LZMA, 5000, "neither stored nor deflated"),
    ],
)
def test_members_inflate_to_no_more_than_they_promise(
    method: int, declared: int | None, message: str, tmp_path: Path
) -> None:
    url = bomb(tmp_path / "a.zip", method, 70, declared)
    tracemalloc.start()
    try:
        with pytest.raises((ValueError, zipfile.BadZipFile), match=message):
            Stored("a.png", url, "a.png", 0, "").open()
        assert tracemalloc.get_traced_memory()[1] < 2**24
    finally:
        tracemalloc.stop()


def test_members_that_pack_well_are_read(tmp_path: Path) -> None:
    url = bomb(tmp_path / "all.zip", zipfile.ZIP_DEFLATED, 32)  # a blank image of a large detector
    assert Stored("a.png", url, "a.png", 0, "").open().getvalue() == bytes(2**25)
