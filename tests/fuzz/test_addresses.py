"""Strings of tables, folders and buckets that would make fsspec open something else than the image that they name."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent))

from damage import FEW, refused

from thoraxlib.archives import sources
from thoraxlib.archives.listing import images_of
from thoraxlib.utils.files import address

BUCKETS = ("s3", "s3a", "gs", "gcs", "az", "abfs", "abfss")


class Trap(MemoryFileSystem):
    """A file system that no table may reach."""

    protocol = "trap"
    cachable = False
    made = 0

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        type(self).made += 1
        super().__init__(*args, **kwargs)


@pytest.fixture
def trap() -> type[Trap]:
    fsspec.register_implementation("trap", Trap, clobber=True)
    Trap.made = 0
    return Trap


REFUSED = {
    "http://host/x.png": "scheme 'http'",
    "https://169.254.169.254/latest/x.png": "scheme 'https'",
    "trap://x.png": "scheme 'trap'",
    "memory://x.png": "scheme 'memory'",
    "GS://bucket/x.png": "scheme 'GS'",
    "FILE:///etc/passwd": "scheme 'FILE'",
    "a/gs://bucket/x.png": "scheme 'a/gs'",
    "github://owner:repo@/x.png": "scheme 'github'",
    "reference://x.png::http://host/template.json": "'::'",
    "reference://x.png::trap://template.json": "'::'",
    "simplecache::gs://bucket/x.png": "'::'",
    "zip://x.png::file:///etc/x.zip": "'::'",
    "gs://bucket/x.png::trap://y": "'::'",
    "file:///x.zip/a.png::trap://y": "'::'",
    "x.png::trap:": "'::'",
    "a.zip/b.png::trap://y": "'::'",
    "x\0.png": "NUL",
    "~/x.png": "begins with '~'",
    "~root/x.png": "begins with '~'",
    "../x.png": "points out of it",
    "a/../../x.png": "points out of it",
    "a.zip/../../x.png": "points out of it",
    "..\\x.png": "points out of it",
    "C:x.png": "points out of it",
    "c:/x.png": "points out of it",
    "\\\\host\\share\\x.png": "points out of it",
    "//host/share/x.png": "is no file that a table",
    "file:////host/share/x.png": "is no file that a table",
    "file://host/x.png": "is no file that a table",
    "file://../x.png": "is no file that a table",
}
LOCAL = ("/etc/passwd", "file:///etc/passwd", "/images/a.zip/x.png")


@pytest.mark.parametrize("table", ["list.csv", "gs://bucket/lists/list.csv"])
@pytest.mark.parametrize("name", REFUSED)
def test_addresses_that_no_table_may_give(name: str, table: str) -> None:
    with pytest.raises(ValueError, match="list.csv: ") as told:
        address(name, table)
    assert REFUSED[name] in str(told.value)


@pytest.mark.parametrize("name", LOCAL)
def test_files_of_this_machine_are_for_tables_on_it(name: str) -> None:
    for table in ("list.csv", "/data/list.csv", "file:///data/list.csv"):
        assert address(name, table) == name
    for table in ("gs://bucket/list.csv", "memory://list.csv", "simplecache::gs://bucket/list.csv"):
        with pytest.raises(ValueError, match="is no file that a table at that address may name"):
            address(name, table)


@pytest.mark.parametrize(
    ("table", "name", "expected"),
    [
        ("list.csv", "a/x.png", "a/x.png"),
        ("/data/list.csv", "./a//x.png", "/data/a/x.png"),
        ("/data/list.csv", "./~x.png", "/data/~x.png"),
        ("/data/list.csv", "a b [1]*.png", "/data/a b [1]*.png"),
        ("gs://bucket/lists/list.csv", "a/./x.png", "gs://bucket/lists/a/x.png"),
        ("s3://bucket/list.csv", "gs://other/x.png", "gs://other/x.png"),
        ("memory://lists/list.csv", "x.png", "memory://lists/x.png"),
        ("file:///data/list.csv", "x.png", "file:///data/x.png"),
    ],
)
def test_addresses_that_a_table_may_give(table: str, name: str, expected: str) -> None:
    assert address(name, table) == expected


PIECES = st.sampled_from(
    (
        "::",
        ":",
        "/",
        "//",
        "://",
        "..",
        ".",
        "~",
        "\\",
        "C:",
        "file",
        "local",
        "trap",
        "gs",
        "reference",
        "x.png",
        " ",
        "\0",
    )
)


@FEW
@given(st.lists(PIECES, min_size=1, max_size=9).map("".join), st.sampled_from(["t/list.csv", "gs://b/list.csv"]))
def test_what_is_let_through_is_a_file_or_an_object_of_a_bucket(name: str, table: str) -> None:
    found = refused(lambda: address(name, table), table)
    if found is None:
        return
    assert "::" not in found
    scheme, separator, path = found.partition("://")
    if separator:
        assert scheme in BUCKETS or (scheme == "file" and path.startswith("/") and "://" not in table)
    elif not name.startswith("/"):
        assert found.startswith("t/") or found == "t"
        assert ".." not in found.split("/")


def test_no_address_of_a_table_reaches_another_file_system(trap: type[Trap], tmp_path: Path) -> None:
    for name in REFUSED:
        with (tmp_path / "list.csv").open("w", newline="") as file:
            csv.writer(file).writerows([("path",), (name,)])
        with pytest.raises(ValueError, match="list.csv"):
            list(images_of([str(tmp_path / "list.csv")]))
    assert not trap.made


def test_names_in_folders_and_buckets_are_no_chains(trap: type[Trap], tmp_path: Path) -> None:
    """Whoever fills a folder or a bucket chooses the names in it."""
    folder = tmp_path / "images" / "trap::trap:"
    folder.mkdir(parents=True)
    for name in ("a::trap:.png", "[b]*.png", "~.png"):
        Image.new("L", (8, 8)).save(folder / name)
    found = sources.listed([tmp_path / "images"])
    assert sorted(image.open().read()[:4] for image in found) == [b"\x89PNG"] * 3
    assert not trap.made
    bucket = fsspec.filesystem("memory")
    bucket.pipe("/chained/xy::trap:.png", b"pixels")
    (image,) = sources.listed(["memory://chained"])
    with pytest.raises(ValueError, match="a name with '::'"):
        image.open()
    bucket.pipe("/chained/xy::trap:.zip", b"zip")
    with pytest.raises(ValueError, match="a name with '::'"):
        sources.listed(["memory://chained"])
    assert not trap.made
    bucket.rm("/chained", recursive=True)


def test_a_manifest_of_a_copy_opens_nothing(trap: type[Trap], tmp_path: Path) -> None:
    entry = {"name": "x.png", "source": "reference://x::trap://y", "size": 1, "stamp": "", "error": "broken"}
    (tmp_path / "manifest.jsonl").write_text(json.dumps(entry) + "\n")
    settings = {"spec": {"size": [8, 8]}, "form": "array"}
    (tmp_path / "copy.json").write_text(json.dumps({"version": 1, "complete": True, "settings": settings}))
    (image,) = images_of([str(tmp_path)])
    with pytest.raises(ValueError, match="^broken$"):
        image.image()
    assert not trap.made
