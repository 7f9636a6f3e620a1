"""Named pipes, devices, sockets and folders where a file is wanted: refused at once by every reader, and named."""

from __future__ import annotations

import os
import socket
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from thoraxlib import checkpoints, graphs, images
from thoraxlib.datasets.files import image_size
from thoraxlib.datasets.openi.reports import read_report
from thoraxlib.datasets.padchest.terms import TermTree
from thoraxlib.datasets.tables import Table, read_list
from thoraxlib.graphs.embeddings import read_vectors
from thoraxlib.images.dicom import read_dicom
from thoraxlib.utils.files import check_stored, open_regular, read_json, read_regular

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such files")

READERS: dict[str, tuple[str, Callable[[Path], Any]]] = {
    "any": ("x", open_regular),
    "image": ("x.png", images.read),
    "DICOM": ("x.dcm", images.read),
    "DICOM alone": ("x.dcm", read_dicom),
    "DICOM header": ("x.dcm", images.read_geometry),
    "size": ("x.png", image_size),
    "JSON": ("x.json", read_json),
    "table": ("x.csv", Table),
    "packed table": ("x.csv.gz", Table),
    "list": ("x.txt", lambda path: read_list(path, ["Mass"])),
    "terms": ("x.txt", TermTree.read),
    "report": ("x.xml", read_report),
    "graph": ("x.json", graphs.Graph.load),
    "graph table": ("x.csv", graphs.Graph.load),
    "graph archive": ("x.npz", graphs.Graph.load),
    "vectors": ("x.vec", lambda path: read_vectors(path, ["Mass"])),
    "archive": ("x.pt", check_stored),
    "checkpoint": ("x.pth", checkpoints.read),
    "safetensors": ("x.safetensors", checkpoints.read),
}


def pipe(path: Path) -> None:
    os.mkfifo(path)


def listening(path: Path) -> None:
    here = os.getcwd()
    os.chdir(path.parent)  # a socket's whole path has 108 bytes at most
    try:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(path.name)
    finally:
        os.chdir(here)


KINDS: dict[str, tuple[str, Callable[[Path], None]]] = {
    "pipe": ("a named pipe", pipe),
    "socket": ("a socket", listening),
    "device": ("a device", lambda path: path.symlink_to("/dev/zero")),
    "folder": ("a folder", Path.mkdir),
}


def finished(call: Callable[[], Any]) -> BaseException | None:
    """The error that `call` raised; it must raise or return within a minute."""
    raised: list[BaseException] = []

    def run() -> None:
        try:
            call()
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(60)
    assert not thread.is_alive(), "it waits for ever"
    return raised[0] if raised else None


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("reader", READERS)
def test_only_regular_files_are_opened(reader: str, kind: str, tmp_path: Path) -> None:
    name, read = READERS[reader]
    told, make = KINDS[kind]
    make(tmp_path / name)
    (tmp_path / "link").mkdir()
    for path in (tmp_path / name, tmp_path / "link" / name):
        if path.parent != tmp_path:
            path.symlink_to(tmp_path / name)
        error = finished(lambda path=path: read(path))
        assert isinstance(error, ValueError)
        assert f"{path} is {told}" in str(error)


def test_links_to_files_are_followed(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x")
    (tmp_path / "b").symlink_to("a")
    with open_regular(tmp_path / "b") as file:
        assert (file.read(), file.name) == (b"x", str(tmp_path / "b"))
    with pytest.raises(FileNotFoundError):
        open_regular(tmp_path / "c")


def test_a_file_that_takes_the_place_of_another_is_looked_at_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was a regular file when it was looked at first is a pipe when it is opened."""
    (tmp_path / "a").write_bytes(b"x")
    pipe(tmp_path / "b")
    before = os.stat(tmp_path / "a")
    monkeypatch.setattr(os, "stat", lambda *args, **options: before)
    opened = len(os.listdir("/dev/fd")) if Path("/dev/fd").exists() else 0
    error = finished(lambda: open_regular(tmp_path / "b"))
    assert isinstance(error, ValueError)
    assert "is a named pipe" in str(error)
    assert not opened or len(os.listdir("/dev/fd")) == opened


def test_files_beyond_a_limit_are_not_read(tmp_path: Path) -> None:
    path = tmp_path / "hole"
    with path.open("wb") as file:
        file.truncate(2**31 + 1)  # a hole: it takes no room
    for read in (read_regular, read_json, Table):
        with pytest.raises(ValueError, match=r"hole has 2147483649 bytes, more than 2147483648"):
            read(path)
    with open_regular(path) as file:
        assert file.read(1) == b"\0"
