"""Training copies: written in parallel and after interruptions, and read by data sets."""

from __future__ import annotations

import csv
import io
import json
import os
import pickle
import random
import shutil
import signal
import time
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader

import thoraxlib
from thoraxlib import datasets, images
from thoraxlib.archives import preparation
from thoraxlib.archives.listing import copy_spec
from thoraxlib.archives.sources import listed
from thoraxlib.cli import main
from thoraxlib.datasets.files import image_size, index_images
from thoraxlib.images import TrainingCopy, copies, transform_for
from thoraxlib.input_spec import InputSpec
from thoraxlib.utils.files import locked

SHAPES = [(48, 40), (40, 64), (33, 33), (70, 20)]


def image(number: int) -> Image.Image:
    """Smooth, so that a resize has something to agree on; every fifth is of 16 bits."""
    height, width = SHAPES[number % len(SHAPES)]
    y, x = np.mgrid[:height, :width]
    wave = 0.5 + 0.4 * np.sin(x / 9 + number) * np.cos(y / 7)
    return Image.fromarray((wave * 65535).astype(np.uint16) if number % 5 == 0 else (wave * 255).astype(np.uint8))


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """24 images in two folders, one of them a JPEG, and one that is none."""
    root = tmp_path / "images"
    for number in range(24):
        path = root / f"images_{number % 2}" / f"{number:02d}{'.jpg' if number == 7 else '.png'}"
        path.parent.mkdir(parents=True, exist_ok=True)
        image(number).save(path)
    (root / "images_0" / "broken.png").write_bytes(b"nothing")
    (root / "notes.txt").write_text("no image")
    (root / "images_1" / "._01.png").write_bytes(b"what a Mac leaves behind")
    return root


def prepare(*args: Any, **options: Any) -> TrainingCopy:
    with pytest.warns(UserWarning, match=r"1 of 25 images failed.*broken\.png"):
        return thoraxlib.prepare(
            *args, **{"num_workers": 0, "progress": False, "spec": InputSpec(size=32, resize="pad"), **options}
        )


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / copies.MANIFEST).read_text().splitlines()]


@pytest.mark.parametrize("rule", ["pad", "stretch", "crop", "pad_end"])
def test_a_copy_holds_what_reading_and_resizing_gives(tree: Path, tmp_path: Path, rule: str) -> None:
    spec = InputSpec(size=(32, 24), resize=rule, fill=0.5, equalize=True)  # type: ignore[arg-type]
    copy = prepare(tree, tmp_path / "copy", spec=spec)
    assert len(copy) == 24
    assert list(copy.names) == sorted(copy.names)
    assert "images_1/07.jpg" in copy.names
    plain = InputSpec(size=(32, 24), channels=1, mean=(0.0,), std=(1.0,), resize=rule, fill=0.5)  # type: ignore[arg-type]
    for name in copy.names:
        expected = images.preprocess_for(plain)(tree / name)[0] * 255
        assert copy.image(name).dtype == torch.uint8
        assert (copy.image(name) - expected).abs().max() <= 1
        assert copy.size(name) == SHAPES[int(name[-6:-4]) % len(SHAPES)]
    assert set(copy.failures) == {"images_0/broken.png"}
    assert "no image that Pillow can read" in copy.failures["images_0/broken.png"]
    with (tmp_path / "copy" / preparation.FAILURES).open(newline="") as file:
        assert list(csv.reader(file)) == [["name", "error"], *map(list, copy.failures.items())]
    for entry in lines(tmp_path / "copy"):
        if "row" in entry:
            assert tuple(entry["place"]) == images.placement(spec, entry["height"], entry["width"])
            assert entry["source"].endswith(f"images/{entry['name']}")
    assert np.load(tmp_path / "copy" / "pixels.npy", mmap_mode="r").shape == (24, 32, 24)
    assert np.array_equal(copy.pixels[copy.row("images_1/07.jpg")], copy.image("images_1/07.jpg")[0])
    again = pickle.loads(pickle.dumps(copy))
    assert "pixels" not in vars(again)
    assert torch.equal(again.image("images_0/02.png"), copy.image("images_0/02.png"))


def slowly(*args: Any, _prepared: Any = preparation._prepared, **options: Any) -> Any:
    time.sleep(0.003)
    return _prepared(*args, **options)


def killed(tree: Path, folder: Path, more: int, after: float) -> bool:
    """Prepare in a process that is killed some images later; whether it was still at work."""
    manifest = folder / copies.MANIFEST

    def count() -> int:
        return manifest.read_text().count("\n") if manifest.exists() else 0

    goal = count() + more
    child = os.fork()
    if child == 0:  # pragma: no cover
        try:
            preparation._prepared = slowly
            thoraxlib.prepare(tree, folder, num_workers=0, progress=False, spec=InputSpec(size=32, resize="pad"))
        finally:
            os._exit(0)
    done, status = 0, 0
    while not done and count() < goal:
        time.sleep(0.0005)
        done, status = os.waitpid(child, os.WNOHANG)
    if not done:
        time.sleep(after)
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_killed_again_and_again_it_neither_repeats_nor_loses_an_image(tree: Path, tmp_path: Path) -> None:
    whole = prepare(tree, tmp_path / "whole")
    folder, rng, kills = tmp_path / "killed", random.Random(0), 0
    while killed(tree, folder, rng.randint(1, 6), rng.uniform(0, 0.005)):
        kills += 1
        if not json.loads((folder / copies.COPY).read_text())["complete"]:
            with pytest.raises(ValueError, match="not finished"):
                TrainingCopy(folder)
    assert kills >= 3
    copy = prepare(tree, folder)
    done = [entry["name"] for entry in lines(folder) if "row" in entry]
    assert len(done) == len(set(done)) == 24
    assert copy.names == whole.names
    for name in copy.names:
        assert torch.equal(copy.image(name), whole.image(name))
        assert copy.row(name) == whole.row(name)
    files = {path.relative_to(folder) for path in folder.rglob("*")}
    assert files == {path.relative_to(tmp_path / "whole") for path in (tmp_path / "whole").rglob("*")}


def test_what_the_disk_lost_is_prepared_again(tree: Path, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    first = prepare(tree, folder)
    expected = first.pixels.copy()
    with (folder / "pixels.npy").open("r+b") as file:
        file.seek(-3 * 32 * 32, os.SEEK_END)
        file.write(bytes(32 * 32))
        file.truncate()
    with (folder / copies.MANIFEST).open("a") as file:
        file.write('{"name": "images_0/02.png", "row')
    before = len(lines_whole(folder))
    copy = prepare(tree, folder)
    assert np.array_equal(copy.pixels, expected)
    assert len(lines(folder)) == before + 3 + 1  # three rows, and the image that always fails


def lines_whole(folder: Path) -> list[str]:
    return [line for line in (folder / copies.MANIFEST).read_text().splitlines(keepends=True) if line.endswith("\n")]


def test_images_without_an_ending_in_folders_with_dots(tmp_path: Path) -> None:
    for number, name in enumerate(("1.2.840/IM1", "1.2.841/IM1", "1.2.841/IM.2")):
        (tmp_path / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (10, 10), 50 * number).save(tmp_path / "images" / name, format="png")
    copy = thoraxlib.prepare(tmp_path / "images", tmp_path / "copy", pattern="IM*", num_workers=0, progress=False)
    assert copy.names == ("1.2.840/IM1", "1.2.841/IM.2", "1.2.841/IM1")
    assert [int(copy.image(name).max()) for name in copy.names] == [0, 100, 50]


def test_sources_that_change_grow_or_go(tree: Path, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    first = prepare(tree, folder)
    rows = {name: first.row(name) for name in first.names}
    Image.new("L", (10, 10), 200).save(tree / "images_0/02.png")
    (tree / "images_0/04.png").unlink()
    image(3).save(tree / "images_0/new.png")
    with pytest.warns(UserWarning, match="1 of 26"):
        copy = thoraxlib.prepare(tree, folder, spec=first.spec, num_workers=0, progress=False)
    assert copy.image("images_0/02.png").unique().tolist() == [200]
    assert copy.size("images_0/02.png") == (10, 10)
    assert copy.row("images_0/new.png") == 24
    assert "images_0/04.png" in copy.names
    assert all(copy.row(name) == row for name, row in rows.items())
    (tree / "images_0/02.png").write_bytes(b"damaged")
    with pytest.warns(UserWarning, match="2 of 26"):
        copy = thoraxlib.prepare(tree, folder, spec=first.spec, num_workers=0, progress=False)
    assert "images_0/02.png" not in copy.names
    assert torch.equal(copy.image("images_0/new.png"), first.image("images_1/03.png"))
    with pytest.raises(KeyError):
        copy.image("images_0/02.png")


@pytest.mark.parametrize("other", [{"spec": InputSpec(size=33)}, {"bits": 12}, {"window": (1.0, 2.0)}])
def test_other_settings_are_refused(tree: Path, tmp_path: Path, other: dict[str, Any]) -> None:
    prepare(tree, tmp_path / "copy", window=(30000.0, 60000.0))
    prepare(tree, tmp_path / "copy", window=(30000.0, 60000.0))
    with pytest.raises(ValueError, match=f"other settings.*{next(iter(other))}="):
        thoraxlib.prepare(
            tree, tmp_path / "copy", **{"spec": InputSpec(size=32, resize="pad"), "window": (30000.0, 60000.0), **other}
        )


def test_wrong_calls(tree: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"num_workers": 0, "progress": False}
    for folder in (tree, tree / "copy", tmp_path):
        with pytest.raises(ValueError, match="overlap"):
            thoraxlib.prepare(tree, folder, **options)
    with pytest.raises(ValueError, match="overlap"):
        thoraxlib.prepare(f"file://{tree}", tree / "copy", **options)
    with pytest.raises(ValueError, match="output must be a local folder, got gs://bucket/copy"):
        thoraxlib.prepare(tree, "gs://bucket/copy", **options)
    for wrong in ({"bits": 0}, {"bits": True}, {"window": "wide"}, {"window": [2000, 400]}):
        with pytest.raises(ValueError, match=f"{next(iter(wrong))} must be"):
            thoraxlib.prepare(tree, tmp_path / "copy", **options, **wrong)
    assert not (tmp_path / "copy").exists()
    with pytest.raises(FileNotFoundError, match="nowhere"):
        thoraxlib.prepare(tmp_path / "nowhere", tmp_path / "copy", **options)
    with pytest.raises(FileNotFoundError, match="no image"):
        thoraxlib.prepare(tree, tmp_path / "copy", pattern="*.bmp", **options)
    with pytest.raises(ValueError, match="workers must be"):
        thoraxlib.prepare(tree, tmp_path / "copy", num_workers=-1)
    with pytest.raises(ValueError, match="none of 1 images could be prepared.*broken"):
        thoraxlib.prepare(tree / "images_0/broken.png", tmp_path / "copy", **options)
    with pytest.raises(FileNotFoundError, match="no training copy"):
        TrainingCopy(tmp_path)


@pytest.mark.parametrize("content", ["", "{", "[1]", "7"])
def test_a_damaged_description_is_named(content: str, tree: Path, tmp_path: Path) -> None:
    prepare(tree, tmp_path / "copy")
    (tmp_path / "copy" / "copy.json").write_text(content)
    message = r"copy\.json is damaged \(.*\): prepare the images in a new folder"
    with pytest.raises(ValueError, match=message):
        TrainingCopy(tmp_path / "copy")
    with pytest.raises(ValueError, match=message):
        thoraxlib.prepare(tree, tmp_path / "copy", num_workers=0, progress=False)


def test_a_copy_of_png_files_as_they_once_were_is_refused(tree: Path, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    prepare(tree, folder)
    (folder / "pixels.npy").unlink()
    text = (folder / copies.COPY).read_text()
    (folder / copies.COPY).write_text(text.replace('"array"', '"png"'))
    before = sorted(folder.rglob("*"))
    for opened in (TrainingCopy, index_images, lambda folder: copy_spec([str(folder)])):
        with pytest.raises(ValueError, match=r"copy: a copy of form 'array' is wanted, got 'png'"):
            opened(folder)
    with pytest.raises(ValueError, match=r"other settings \(form='png' before, 'array' now\): take another output"):
        thoraxlib.prepare(tree, folder, spec=InputSpec(size=32, resize="pad"), num_workers=0, progress=False)
    assert sorted(folder.rglob("*")) == before


def test_one_process_at_a_time(tree: Path, tmp_path: Path) -> None:
    pytest.importorskip("fcntl")
    with locked(tmp_path / "copy"), pytest.raises(ValueError, match="another process is writing"):
        thoraxlib.prepare(tree, tmp_path / "copy", num_workers=0)


# -- sources ------------------------------------------------------------------------------------------


def zipped(tree: Path, path: Path) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(tree.rglob("*")):
            archive.write(file, file.relative_to(tree))
        archive.writestr("__MACOSX/images_0/._00.png", b"")
    return path


def test_zip_archives_folders_of_them_and_buckets(tree: Path, tmp_path: Path) -> None:
    import fsspec

    expected = prepare(tree, tmp_path / "copy")
    archive = zipped(tree, tmp_path / "all.zip")
    (tmp_path / "archives").mkdir()
    shutil.copy(archive, tmp_path / "archives/13.zip")
    bucket = fsspec.filesystem("memory")
    bucket.pipe("/bucket/images/13.zip", archive.read_bytes())
    bucket.pipe("/bucket/images/one.png", (tree / "images_0/02.png").read_bytes())
    sources = {
        "all.zip": (archive, ""),
        "archives": (tmp_path / "archives", "13/"),
        "bucket": ("memory://bucket/images/13.zip", ""),
        "two": ([tree / "images_0", tree / "images_1"], None),
    }
    for name, (source, prefix) in sources.items():
        copy = prepare(source, tmp_path / f"copy of {name}")
        for each in expected.names:
            there = each.rpartition("/")[2] if prefix is None else prefix + each
            assert torch.equal(copy.image(there), expected.image(each))

    names = {stored.name for stored in listed(["memory://bucket/images"])}
    assert {"one.png", "13/images_1/07.jpg"} <= names
    before = {stored.name: stored.stamp for stored in listed([archive])}
    image(9).save(tree / "images_0/02.png")
    zipped(tree, archive)
    after = {stored.name: stored.stamp for stored in listed([archive])}
    assert {name for name in after if after[name] != before[name]} == {"images_0/02.png"}


def test_refused_sources(tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with zipfile.ZipFile(tmp_path / "slip.zip", "w") as archive:
        archive.writestr("../../escape.png", (tree / "images_0/02.png").read_bytes())
    with pytest.raises(ValueError, match="points out of it"):
        listed([tmp_path / "slip.zip"])
    whole = zipped(tree, tmp_path / "all.zip").read_bytes()
    (tmp_path / "cut.zip").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"cut\.zip is no zip archive"):
        listed([tmp_path / "cut.zip"])
    with pytest.raises(ValueError, match=r"two files images_0/00\.png"):
        listed([tree, tmp_path / "all.zip"])
    monkeypatch.setattr("thoraxlib.archives.sources._LARGEST", 10)
    with pytest.raises(ValueError, match="more than 10"):
        listed([tree])[0].open()
    import fsspec

    def lacking(*_: Any, **__: Any) -> None:
        raise ImportError("Please install gcsfs to access Google Storage")

    monkeypatch.setattr(fsspec.core, "url_to_fs", lacking)
    with pytest.raises(ImportError, match=r"thoraxlib\[cloud\]"):
        listed(["gs://bucket/images"])


# -- data sets ----------------------------------------------------------------------------------------


@pytest.fixture
def nih(tmp_path: Path) -> Path:
    root = tmp_path / "nih"
    (root / "images_001" / "images").mkdir(parents=True)
    rows, boxes = [], []
    for number in range(12):
        name = f"{number:08d}_000.png"
        image(number).save(root / "images_001" / "images" / name)
        rows.append([name, "Mass" if number % 3 == 0 else "No Finding", number, "PA"])
        if number % 3 == 0:
            boxes.append([name, "Mass", 100.0 + 10 * number, 300, 250, 400])
    with (root / "Data_Entry_2017.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["Image Index", "Finding Labels", "Patient ID", "View Position"], *rows])
    with (root / "BBox_List_2017.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["Image Index", "Finding Label", "Bbox [x", "y", "w", "h]"], *boxes])
    return root


@pytest.mark.parametrize("rule", ["pad", "stretch", "crop"])
@pytest.mark.parametrize("place", [".", "images_001"])
def test_a_data_set_reads_a_copy_as_it_reads_its_images(nih: Path, tmp_path: Path, rule: str, place: str) -> None:
    spec = InputSpec(size=(36, 30), resize=rule)  # type: ignore[arg-type]
    copied = tmp_path / "copied"
    thoraxlib.prepare(nih / place, copied / place, spec=spec, num_workers=0, progress=False)
    for table in nih.glob("*.csv"):
        shutil.copy(table, copied)
    transform = transform_for(spec)
    options: dict[str, Any] = {"split": "all", "missing": "skip", "transform": transform}
    pictures, copy = datasets.build("nih14", root=nih, **options), datasets.build("nih14", root=copied, **options)
    assert copy.ids == pictures.ids
    assert torch.equal(copy.targets, pictures.targets)
    for ours, theirs in zip(copy, pictures, strict=True):
        assert ours.keys() == theirs.keys()
        assert (ours["image"] - theirs["image"]).abs().max() <= 1.01 / 255 / 0.224
        torch.testing.assert_close(ours["boxes"], theirs["boxes"])
        assert ours["boxes"].canvas_size == theirs["boxes"].canvas_size == (36, 30)
        assert torch.equal(ours["box_labels"], theirs["box_labels"])
    batch = next(iter(DataLoader(copy, batch_size=12, collate_fn=datasets.collate)))
    assert batch["image"].shape == (12, 3, 36, 30)
    assert pickle.loads(pickle.dumps(copy))[3]["id"] == pictures.ids[3]


def with_tables(nih: Path, place: Path) -> Path:
    """A copy of the images, with the tables beside."""
    thoraxlib.prepare(nih, place, spec=InputSpec(size=8), num_workers=0, progress=False)
    for table in nih.glob("*.csv"):
        shutil.copy(table, place)
    return place


@pytest.mark.parametrize("place", ["root", "below", "above"])
def test_a_copy_elsewhere_or_made_later_changes_nothing_of_a_data_set(place: str, nih: Path, tmp_path: Path) -> None:
    copy = with_tables(nih, tmp_path / "copy")
    before = datasets.build("nih14", root=nih, split="all")
    goal = {"root": nih, "below": nih / "images_001", "above": tmp_path}[place]
    text = (copy / copies.MANIFEST).read_text()
    if place == "below":
        text = text.replace('"images_001/', '"')
    elif place == "above":
        text = text.replace('"images_001/', '"nih/images_001/')
    for name in (copies.COPY, copies.PIXELS):
        shutil.copy(copy / name, goal)
    (goal / copies.MANIFEST).write_text(text)
    after = datasets.build("nih14", root=nih, split="all")
    assert before[1]["image"].shape[-2:] == SHAPES[1]
    assert after[1]["image"].shape[-2:] == (SHAPES[1] if place == "above" else (8, 8))


def test_a_data_set_looks_for_copies_when_it_is_made_and_never_again(
    nih: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = list[Path]()
    before = TrainingCopy.__init__

    def counted(copy: TrainingCopy, folder: Path) -> None:
        opened.append(folder)
        before(copy, folder)

    root = with_tables(nih, tmp_path / "copy")
    monkeypatch.setattr(TrainingCopy, "__init__", counted)
    data = datasets.build("nih14", root=root, split="all")
    assert opened == [root]
    (root / copies.COPY).unlink()
    (root / copies.MANIFEST).unlink()
    assert [sample["image"].shape[-2:] for sample in data] == [(8, 8)] * 12
    assert opened == [root]


@pytest.mark.slow
def test_workers_that_are_started_afresh_read_a_copy(nih: Path, tmp_path: Path) -> None:
    data = datasets.build("nih14", root=with_tables(nih, tmp_path / "copy"), split="all")
    loader = DataLoader(
        data, batch_size=12, collate_fn=datasets.collate, num_workers=1, multiprocessing_context="spawn"
    )
    (batch,) = loader
    assert torch.equal(batch["image"], torch.stack([sample["image"] for sample in data]))


def test_sizes_are_those_of_the_images_that_were_copied(nih: Path, tmp_path: Path) -> None:
    found = index_images(with_tables(nih, tmp_path / "copy"))
    assert image_size(found["00000001_000.png"]) == SHAPES[1]
    assert str(found["00000001_000.png"]) == str(tmp_path / "copy/images_001/images/00000001_000.png")


def test_a_copy_that_lacks_images(nih: Path, tmp_path: Path) -> None:
    (nih / "images_001/images/00000003_000.png").write_bytes(b"damaged")
    with pytest.warns(UserWarning, match="1 of 12 images failed"):
        thoraxlib.prepare(nih, tmp_path / "copied", num_workers=0, progress=False)
    for table in nih.glob("*.csv"):
        shutil.copy(table, tmp_path / "copied")
    with pytest.raises(FileNotFoundError, match="1 of 12 images are missing.*00000003"):
        datasets.build("nih14", root=tmp_path / "copied", split="all")
    with pytest.warns(UserWarning, match="1 of 12 images.*skipped"):
        assert len(datasets.build("nih14", root=tmp_path / "copied", split="all", missing="skip")) == 11


def test_a_tree_with_folders_in_its_table(tmp_path: Path) -> None:
    root = tmp_path / "chexpert"
    rows = []
    for number in range(6):
        path = root / f"train/patient{number:05d}/study1/view1_frontal.jpg"
        path.parent.mkdir(parents=True)
        image(number * 4 + 1).convert("L").save(path, quality=95)
        rows.append([f"CheXpert-v1.0/{path.relative_to(root).as_posix()}", "Frontal", "PA", "1.0"])
    with (root / "train.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["Path", "Frontal/Lateral", "AP/PA", "Edema"], *rows])
    for place in (".", "train"):
        copied = tmp_path / f"copied {place}"
        thoraxlib.prepare(root / place, copied / place, spec=InputSpec(size=32), num_workers=0, progress=False)
        shutil.copy(root / "train.csv", copied)
        options: dict[str, Any] = {
            "split": "train_val",
            "labels": ["Edema"],
            "transform": transform_for(InputSpec(size=32)),
        }
        pictures = datasets.build("chexpert", root=root, **options)
        copy = datasets.build("chexpert", root=copied, **options)
        assert copy.ids == pictures.ids
        for ours, theirs in zip(copy, pictures, strict=True):
            assert (ours["image"] - theirs["image"]).abs().max() <= 1.01 / 255 / 0.224


# -- the command --------------------------------------------------------------------------------------


def test_the_command(tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.warns(UserWarning, match="1 of 25 images failed"):
        code = main(
            [
                "prepare",
                str(tree),
                str(tmp_path / "copy"),
                "--size",
                "32",
                "24",
                "--resize",
                "stretch",
                "--window",
                "3e4,5e4",
                "--num-workers",
                "0",
            ]
        )
    assert code == 1
    assert "24 images of (32, 24)" in capsys.readouterr().out
    copy = TrainingCopy(tmp_path / "copy")
    assert (copy.spec.size, copy.spec.resize) == ((32, 24), "stretch")
    about = json.loads((tmp_path / "copy" / copies.COPY).read_text())
    assert about["settings"]["window"] == [3e4, 5e4]
    assert main(["prepare", str(tree), str(tmp_path / "copy"), "--size", "64", "--num-workers", "0"]) == 2
    assert "other settings" in capsys.readouterr().err
    assert main(["prepare", str(tree), str(tmp_path / "copy"), "--size", "64", "32", "32"]) == 2
    assert "--size takes a side, or height and width, got 3 numbers" in capsys.readouterr().err
    (tree / "images_0/broken.png").unlink()
    assert main(["prepare", str(tree), str(tmp_path / "other"), "--window", "minmax", "--num-workers", "0"]) == 0


@pytest.mark.slow
def test_several_processes(tree: Path, tmp_path: Path) -> None:
    whole = prepare(tree, tmp_path / "whole")
    copy = prepare(tree, tmp_path / "copy", num_workers=2)
    assert (tmp_path / "copy/pixels.npy").read_bytes() == (tmp_path / "whole/pixels.npy").read_bytes()
    assert copy.names == whole.names


def test_a_dicom_in_a_tree(tmp_path: Path) -> None:
    pydicom = pytest.importorskip("pydicom", reason="needs the extra dicom")
    from pydicom.uid import ExplicitVRLittleEndian

    data = pydicom.Dataset()
    data.file_meta = pydicom.dataset.FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.file_meta.MediaStorageSOPClassUID = data.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    data.Rows, data.Columns, data.SamplesPerPixel, data.PhotometricInterpretation = 20, 30, 1, "MONOCHROME1"
    data.BitsAllocated, data.BitsStored, data.HighBit, data.PixelRepresentation = 16, 12, 11, 0
    data.PixelData = np.linspace(0, 4095, 600).astype(np.uint16).tobytes()
    file = io.BytesIO()
    data.save_as(file, enforce_file_format=True)
    (tmp_path / "images").mkdir()
    (tmp_path / "images/IM-0001").write_bytes(file.getvalue())
    copy = thoraxlib.prepare(tmp_path / "images", tmp_path / "copy", pattern="IM*", num_workers=0, progress=False)
    spec = InputSpec(size=256, channels=1, mean=(0.0,), std=(1.0,), resize="pad")
    expected = images.preprocess_for(spec)(tmp_path / "images/IM-0001")[0] * 255
    assert (copy.image("IM-0001") - expected).abs().max() <= 1
