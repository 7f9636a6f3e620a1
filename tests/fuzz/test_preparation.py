"""Preparation of made-up archives into made-up folders: it ends, tells, and changes nothing that it did not write."""

from __future__ import annotations

import io
import json
import os
import stat
import sys
import tempfile
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))

from damage import FEW, ODD_TEXTS, damaged
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image

import thoraxlib
from thoraxlib import images
from thoraxlib.archives import preparation
from thoraxlib.images import copies
from thoraxlib.input_spec import InputSpec

_FILE = io.BytesIO()
Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 8), np.uint8)).save(_FILE, "png")
PNG = _FILE.getvalue()

NAMES = st.one_of(
    st.sampled_from(("a.png", "x/a.png", "x/./a.png", "x//a.png", "X/A.PNG", "a.png/b.png", "x\\a.png", "con.png")),
    st.lists(ODD_TEXTS.filter(lambda text: len(text) < 300), min_size=1, max_size=3).map(
        lambda p: "/".join(p) + ".png"
    ),
)
METHODS = st.sampled_from((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA))


def prepare(source: Path, folder: Path) -> images.TrainingCopy | None:
    """The copy; None where the call was refused as is documented."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return thoraxlib.prepare(
                source,
                folder,
                spec=InputSpec(size=8, resize="pad"),
                num_workers=0,
                progress=False,
            )
    except (ValueError, FileNotFoundError, IsADirectoryError):
        return None


def seen(folder: Path) -> dict[str, Any]:
    """All below a folder but locks: kind, and content or target."""
    found: dict[str, Any] = {}
    for path in folder.rglob("*"):
        mode = path.lstat().st_mode
        content: Any = path.read_bytes() if stat.S_ISREG(mode) else None
        found[path.relative_to(folder).as_posix()] = mode, os.readlink(path) if stat.S_ISLNK(mode) else content
    found.pop(".lock", None)
    return found


def archive(path: Path, names: list[str], method: int = zipfile.ZIP_STORED) -> bytes:
    with warnings.catch_warnings(), zipfile.ZipFile(path, "w", method) as file:
        warnings.simplefilter("ignore")
        for name in names:
            try:
                file.writestr(name, PNG)
            except (UnicodeEncodeError, ValueError):  # a name that no archive has
                file.writestr("fallback.png", PNG)
    return path.read_bytes()


@FEW
@given(st.lists(NAMES, min_size=1, max_size=5), METHODS, st.data())
def test_archives_of_odd_names_that_are_damaged(names: list[str], method: int, data: Any) -> None:
    with tempfile.TemporaryDirectory() as place:
        top = Path(place)
        content = archive(top / "all.zip", names, method)
        if data.draw(st.booleans()):
            (top / "all.zip").write_bytes(data.draw(damaged(content)))
        for _ in range(2):  # the second call goes on
            copy = prepare(top / "all.zip", top / "copy")
            assert {path.name for path in top.iterdir()} <= {"all.zip", "copy"}
            if copy is not None:
                assert json.loads((top / "copy" / copies.COPY).read_text())["complete"]
                assert len(copy) >= 1
                assert all(copy.image(name).shape == (1, 8, 8) for name in copy.names)
                (top / "copy" / preparation.FAILURES).read_text(encoding="utf-8")


PLANTED = st.dictionaries(
    st.sampled_from(
        (copies.MANIFEST, copies.PIXELS, copies.COPY, preparation.FAILURES, "a.png", "x", "x/a.png", ".lock")
    ),
    st.sampled_from(("file", "empty", "line", "link", "dangling link", "link to a folder", "pipe", "folder")),
    max_size=3,
)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs links and pipes")
@FEW
@given(PLANTED, st.booleans())
@example({copies.MANIFEST: "link", copies.PIXELS: "link"}, True)
def test_whatever_lies_in_the_destination(planted: dict[str, str], begun: bool) -> None:
    with tempfile.TemporaryDirectory() as place:
        top = Path(place)
        folder, theirs = top / "copy", top / "theirs"
        archive(top / "all.zip", ["a.png", "x/a.png"])
        (theirs / "folder").mkdir(parents=True)
        (theirs / "file").write_text("theirs, without an end of line")
        folder.mkdir()
        if begun:
            prepare(top / "all.zip", folder)
            for name in planted:  # an attack on a copy that is there
                path = folder / name
                if path.is_file():
                    path.unlink()
        for name, kind in planted.items():
            path = folder / name
            try:
                path.parent.mkdir(exist_ok=True)
                if kind in ("file", "empty", "line"):
                    path.write_text({"file": "theirs", "empty": "", "line": '{"name": "theirs"}\n'}[kind])
                elif kind == "pipe":
                    os.mkfifo(path)
                elif kind == "folder":
                    path.mkdir()
                else:
                    goal = {"link": "file", "dangling link": "nothing", "link to a folder": "folder"}[kind]
                    path.symlink_to(theirs / goal)
            except OSError:  # something is there
                continue
        before, outside = seen(folder), seen(theirs)
        prepare(top / "all.zip", folder)
        assert seen(theirs) == outside
        if not begun:
            after = seen(folder)
            assert {name: after.get(name) for name in before} == before
