"""Folders of scores whose files are damaged, foreign or links, and runs that the machine ends."""

from __future__ import annotations

import errno
import json
import os
import signal
import stat
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parent))

from small import QUICK, Tiny, archive, image, rows

from thoraxlib import localization
from thoraxlib.archives import Scored, listing, output, score, score_archive
from thoraxlib.explanation.findings import Findings

BOXES: dict[str, Any] = {**QUICK, "boxes": True, "threshold": 0.2}


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return archive(tmp_path)


def about(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "manifest.json").read_text())
    return content


# -- damaged ---------------------------------------------------------------------------------------------

DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "emptied": lambda content: b"",
    "cut": lambda content: content[: len(content) // 2],
    "cut within the last number": lambda content: content[:-4],
    "zeroed": lambda content: bytes(len(content)),
    "zeroed in part": lambda content: content[:60] + bytes(40) + content[100:],
    "another digit": lambda content: content[:-4] + bytes([content[-4] ^ 1]) + content[-3:],
}


@pytest.mark.parametrize("form", ["csv", "parquet"])
@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_parts_are_written_again(tree: Path, tmp_path: Path, form: Any, damage: str) -> None:
    if form == "parquet":
        pytest.importorskip("pyarrow")
    folder, options = tmp_path / "out", {**QUICK, "format": form}
    whole = score_archive(Tiny(), tree, folder, **options)
    expected, (first, second, *_) = rows(folder), sorted((folder / "scores").iterdir())
    untouched = first.stat().st_ino
    second.write_bytes(DAMAGE[damage](second.read_bytes()))
    # a process that has no part to write does not call it complete
    assert score_archive(Tiny(), tree, folder, **options, shard=(0, 2)) == Scored(folder, 21, 0, False)
    assert not about(folder)["complete"]
    assert score_archive(Tiny(), tree, folder, **options) == whole
    assert rows(folder) == expected
    assert about(folder)["complete"]
    assert first.stat().st_ino == untouched


@pytest.mark.parametrize("name", ["boxes/000001.json", "boxes.json"])
@pytest.mark.parametrize("damage", ["emptied", "cut", "zeroed"])
def test_damaged_boxes_are_written_again(tree: Path, tmp_path: Path, name: str, damage: str) -> None:
    folder, options = tmp_path / "out", {**BOXES, "format": "csv"}
    score_archive(Tiny(), tree, folder, **options)
    expected = {path: path.read_bytes() for path in folder.rglob("*.*") if path.is_file() and path.stem != "manifest"}
    (folder / name).write_bytes(DAMAGE[damage]((folder / name).read_bytes()))
    assert score_archive(Tiny(), tree, folder, **options).complete
    assert {path: path.read_bytes() for path in expected} == expected
    (folder / name).unlink()
    assert score_archive(Tiny(), tree, folder, **options).complete
    assert {path: path.read_bytes() for path in expected} == expected


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"run": 1}', b'{"run": {}, "parts": []}', b"\0" * 99])
def test_a_manifest_that_is_none(tree: Path, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "manifest.json").write_bytes(content)
    for overwrite in (False, True):
        with pytest.raises(ValueError, match="manifest.json is damaged, or no manifest of scores"):
            score_archive(Tiny(), tree, tmp_path / "out", format="csv", **QUICK, overwrite=overwrite)
    assert (tmp_path / "out" / "manifest.json").read_bytes() == content


# -- foreign ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["scores/000000.csv", "scores/x", "boxes/000003.json", "boxes.json", "listing.jsonl"])
@pytest.mark.parametrize("overwrite", [False, True])
def test_files_of_others_stay_as_they_are(tree: Path, tmp_path: Path, name: str, overwrite: bool) -> None:
    path = tmp_path / "out" / name
    path.parent.mkdir(parents=True)
    path.write_text("as it was")
    with pytest.raises(ValueError, match=rf"out holds {name.partition('/')[0]}, but no manifest.json"):
        score_archive(Tiny(), tree, tmp_path / "out", format="csv", overwrite=overwrite, **BOXES)
    assert path.read_text() == "as it was"
    assert [each.name for each in (tmp_path / "out").rglob("*") if each.is_file() and each.name != ".lock"] == [
        path.name
    ]


@pytest.mark.parametrize("name", ["scores/000001.csv", "boxes/000001.json", "boxes.json"])
def test_files_of_others_in_a_run_that_goes_on(tree: Path, tmp_path: Path, name: str) -> None:
    folder, options = tmp_path / "out", {**BOXES, "format": "csv"}
    score_archive(Tiny(), tree, folder, **options, shard=(0, 2))
    (folder / name).write_text("as it was")
    (folder / "scores" / "notes.txt").write_text("as it was")
    for overwrite in (False, True):
        with pytest.raises(ValueError, match=rf"{name} is no file of this run"):
            score_archive(Tiny(), tree, folder, **options, overwrite=overwrite)
    assert (folder / name).read_text() == "as it was"
    (folder / name).unlink()
    assert score_archive(Tiny(), tree, folder, **options, overwrite=True).complete
    assert (folder / "scores" / "notes.txt").read_text() == "as it was"


def test_links_are_replaced_not_followed(tree: Path, tmp_path: Path) -> None:
    victim, folder = tmp_path / "victim", tmp_path / "out"
    score_archive(Tiny(), tree, tmp_path / "whole", format="csv", **BOXES)
    names = ["manifest.json", "listing.jsonl", "boxes.json", "scores/000002.csv", "boxes/000002.json"]
    victim.write_bytes((tmp_path / "whole" / "manifest.json").read_bytes())
    before = victim.read_bytes()
    for name in names[:3]:
        folder.mkdir(exist_ok=True)
        (folder / name).symlink_to(victim)
    assert score_archive(Tiny(), tree, folder, format="csv", **BOXES, shard=(0, 2)).complete is False
    for name in names[3:]:
        (folder / name).unlink()
        (folder / name).symlink_to(victim)
    assert score_archive(Tiny(), tree, folder, format="csv", **BOXES).complete
    assert rows(folder) == rows(tmp_path / "whole")
    assert victim.read_bytes() == before
    assert not any((folder / name).is_symlink() for name in names)


@pytest.mark.parametrize("name", ["scores", "boxes"])
def test_folders_that_are_links_are_not_written_through(tree: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / name).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match=f"{name} is a link"):
        score_archive(Tiny(), tree, tmp_path / "out", format="csv", **BOXES)
    assert not any((tmp_path / "elsewhere").iterdir())


def test_a_planted_lock(tree: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "victim").write_text("as it was")
    (tmp_path / "out" / ".lock").symlink_to(tmp_path / "victim")
    with pytest.raises(ValueError, match=r"\.lock was not written by thoraxlib"):
        score_archive(Tiny(), tree, tmp_path / "out", format="csv", **QUICK)
    assert (tmp_path / "victim").read_text() == "as it was"


@pytest.mark.skipif(os.name == "nt", reason="needs modes")
def test_modes_are_those_of_new_files(tree: Path, tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        score_archive(Tiny(), tree, tmp_path / "out", format="csv", **BOXES)
    finally:
        os.umask(before)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "out").rglob("*.*") if path.suffix}
    assert set(modes.values()) == {0o640}


# -- errors of the machine -------------------------------------------------------------------------------

ERRORS = (
    OSError(errno.ENOSPC, "No space left on device"),
    OSError(errno.EMFILE, "Too many open files"),
    OSError(errno.EIO, "Input/output error"),
    ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"),
    TimeoutError("the bucket does not answer"),
    MemoryError("no memory"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory"),
)


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: str(error)[:30])
@pytest.mark.parametrize("where", ["reading", "writing", "the network"])
def test_errors_of_the_machine_end_the_run_which_goes_on_later(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, where: str
) -> None:
    left = [10]

    def failing(plain: Callable[..., Any], calls: int) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            left[0] -= calls
            if left[0] <= 0:
                raise error
            return plain(*args, **kwargs)

        return call

    folder, options = tmp_path / "out", {**QUICK, "format": "csv"}
    with monkeypatch.context() as patched:
        if where == "reading":
            patched.setattr(listing.Listed, "image", failing(listing.Listed.image, 1))
        elif where == "writing":
            patched.setattr(output, "write_table", failing(output.write_table, 4))
        else:
            patched.setattr(Tiny, "forward", failing(Tiny.forward, 2))
        with pytest.raises(type(error), match=str(error)[-15:]):
            score_archive(Tiny(), tree, folder, **options)
    assert not about(folder)["complete"]
    done = sorted((folder / "scores").iterdir())
    assert 0 < len(done) < 6
    assert all(row["error"] is None or "Pillow" in row["error"] for row in rows(folder))
    assert score_archive(Tiny(), tree, folder, **options) == Scored(folder, 21, 2, True)
    score_archive(Tiny(), tree, tmp_path / "whole", **options)
    assert rows(folder) == rows(tmp_path / "whole")


@pytest.mark.skipif(not Path("/proc/self/mem").exists(), reason="needs a file that gives an I/O error")
def test_an_error_of_the_disk_in_a_process_that_reads(tmp_path: Path) -> None:
    image(0).save(tmp_path / "a.png")
    (tmp_path / "list.csv").write_text("path\na.png\nnone.png\n/proc/self/mem\n")
    with pytest.raises(OSError, match="Input/output error"):
        score_archive(Tiny(), tmp_path / "list.csv", tmp_path / "out", format="csv", num_workers=1, **QUICK)
    assert not about(tmp_path / "out")["complete"]


# -- names -----------------------------------------------------------------------------------------------

ODD_NAMES = {
    b"caf\xe9.png": "caf\\udce9.png",
    b"new\nline.png": "new\nline.png",
    b"re\rturn.png": "re\rturn.png",
    b'quote",.png': 'quote",.png',
    b"=1+1.png": "=1+1.png",
    "\u2028.png".encode(): "\u2028.png",
    b"ab::c.png": "ab::c.png",
    b"[c]*?.png": "[c]*?.png",
    b"~.png": "~.png",
}


@pytest.mark.skipif(sys.platform != "linux", reason="needs names that are no text")
@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_names_of_all_kinds(tmp_path: Path, form: Any) -> None:
    if form == "parquet":
        pytest.importorskip("pyarrow")
    (tmp_path / "images").mkdir()
    for name in ODD_NAMES:
        with open(os.fsencode(tmp_path / "images") + b"/" + name, "wb") as file:
            image(1).save(file, format="png")
    with open(os.fsencode(tmp_path / "images") + b"/bad\xff.png", "wb") as file:
        file.write(b"none")
    for _ in range(2):
        scored = score_archive(Tiny(), tmp_path / "images", tmp_path / "out", format=form, **BOXES)
        assert scored == Scored(tmp_path / "out", 10, 1, True)
    found = {row["id"]: row for row in rows(tmp_path / "out")}
    assert found.keys() == {*ODD_NAMES.values(), "bad\\udcff.png"}
    assert len({row["Mass"] for row in found.values() if row["error"] is None}) == 1
    assert set(localization.read_coco(tmp_path / "out" / "boxes.json").ids) == set(ODD_NAMES.values())


def test_names_that_are_equal_when_normalised_have_a_row_each(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "images.zip", "w") as packed:
        for number, name in enumerate(("x/a.png", "x/./a.png", "x//a.png")):
            image(number).save(tmp_path / "one.png")
            packed.writestr(zipfile.ZipInfo(name), (tmp_path / "one.png").read_bytes())
    assert zipfile.ZipFile(tmp_path / "images.zip").namelist() == ["x/a.png", "x/./a.png", "x//a.png"]
    score_archive(Tiny(), tmp_path / "images.zip", tmp_path / "out", format="csv", **QUICK)
    found = rows(tmp_path / "out")
    assert {row["id"] for row in found} == {"x/a.png"}
    assert [row["path"].partition(".zip/")[2] for row in found] == ["x/a.png", "x/./a.png", "x//a.png"]
    assert len({row["Mass"] for row in found}) == 3


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_zip_archive_with_two_members_of_one_name_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "images.zip", "w") as packed:
        for number in range(2):
            image(number).save(tmp_path / "one.png")
            packed.write(tmp_path / "one.png", "x/a.png")
    with pytest.raises(ValueError, match=r"images\.zip has several members of one name: x/a\.png"):
        score_archive(Tiny(), tmp_path / "images.zip", tmp_path / "out", format="csv", **QUICK)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"path\na.png\ncaf\xe9.png\n", "list.csv is no table in UTF-8"),
        (b"path\n" + b"x" * 140_000 + b"\n", "list.csv is no table in UTF-8 after row 0: field larger"),
        (b"path\na.png\nhttp://host/x.png\n", "list.csv: 'http://host/x.png' has the scheme 'http'"),
    ],
)
def test_tables_that_are_none(tmp_path: Path, content: bytes, message: str) -> None:
    image(0).save(tmp_path / "a.png")
    (tmp_path / "list.csv").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        score_archive(Tiny(), tmp_path / "list.csv", tmp_path / "out", format="csv", **QUICK)
    assert not (tmp_path / "out" / "scores").exists()


# -- no number -------------------------------------------------------------------------------------------


class Lost(Tiny):
    def forward_head(self, features: Tensor) -> Tensor:
        return super().forward_head(features) * torch.tensor([1.0, float("nan")])


def test_an_output_that_is_nan_is_said(tree: Path, tmp_path: Path) -> None:
    scored = score_archive(Lost(), tree / "p1", tmp_path / "out", format="csv", **QUICK)
    assert scored.failed == scored.images == 7
    for row in rows(tmp_path / "out"):
        assert row["error"] == "the model's output is NaN: is the precision too low?"
        assert row["Mass"] is row["Edema"] is None
    with pytest.raises(ValueError, match="NaN"):
        score_archive(Lost(), tree / "p1", tmp_path / "boxes", format="csv", **BOXES)
    assert not about(tmp_path / "boxes")["complete"]


class Regional(Tiny):
    """As a model of regions whose weights are NaN, or that found no region."""

    region_names = ("lung",)


def test_a_model_of_regions_that_says_nothing_is_said(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def explainer(x: Tensor, limits: Tensor) -> Any:
        nothing = localization.Boxes.from_lists([], [])
        none = torch.zeros(0, dtype=torch.long)
        return Findings(torch.full((len(x), 2), torch.nan), none, none, torch.zeros(0, 4, 4), nothing, none)

    monkeypatch.setattr(score, "explainer_for", lambda *_: explainer)
    scored = score_archive(Regional(), tree / "p1", tmp_path / "out", format="csv", **QUICK)
    assert scored.failed == scored.images == 7
    assert {row["error"] for row in rows(tmp_path / "out")} == {
        "the model found no region in the image, or its output is NaN: is the precision too low?"
    }


# -- processes that read ---------------------------------------------------------------------------------

READER = """
import sys
from pathlib import Path
from thoraxlib.input_spec import InputSpec
from thoraxlib.archives.listing import batches, images_of, write_listing

if __name__ == "__main__":
    images = list(images_of([sys.argv[1]])) * 4000
    listing = Path(sys.argv[2])
    write_listing(iter(images), listing)
    for batch in batches(listing, len(images), [0], InputSpec(size=16), batch_size=2, num_workers=2):
        print("at work", flush=True)
        sys.stdin.readline()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")
def test_processes_that_read_end_with_the_one_that_is_killed(tree: Path, tmp_path: Path) -> None:
    (tmp_path / "reader.py").write_text(READER)
    mark = f"THORAXLIB_TEST_{time.time_ns()}"

    def alive() -> list[int]:
        found = []
        for path in Path("/proc").glob("[0-9]*/environ"):
            try:
                if mark.encode() in path.read_bytes():
                    found.append(int(path.parent.name))
            except OSError:  # it has ended, or is not ours
                continue
        return found

    process = subprocess.Popen(
        [sys.executable, tmp_path / "reader.py", tree / "p0", tmp_path / "listing"],
        env={**os.environ, mark: "1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == b"at work\n"
        assert len(alive()) >= 3
        process.kill()
        process.wait()
        limit = time.monotonic() + 30
        while alive() and time.monotonic() < limit:
            time.sleep(0.05)
        assert alive() == []
    finally:
        for each in alive():
            os.kill(each, signal.SIGKILL)
