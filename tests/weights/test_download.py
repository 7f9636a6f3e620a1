"""Downloads from a local server: resumed, verified, once for all processes."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from thoraxlib import weights
from thoraxlib.weights import DigestError, WeightsCard, cards, download

CONTENT = bytes(range(256)) * 2000
SHA256 = hashlib.sha256(CONTENT).hexdigest()
BLOB = hashlib.sha1(b"blob %d\0" % len(CONTENT) + CONTENT).hexdigest()


class Server(ThreadingHTTPServer):
    """Serves CONTENT at any address; remembers the ranges that it was asked for."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.content, self.status, self.ranges, self.breaks = CONTENT, 200, True, 0
        self.asked: list[str | None] = []
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/weights.pth"


class _Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        it = self.server
        wanted = self.headers.get("Range")
        it.asked.append(wanted)
        start = int(re.findall(r"\d+", wanted)[0]) if wanted and it.ranges else 0
        if it.status != 200 or start >= len(it.content):
            self.send_error(it.status if it.status != 200 else 416)
            return
        body = it.content[start:]
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(body)))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(it.content) - 1}/{len(it.content)}")
        self.end_headers()
        if it.breaks:  # the connection ends after a third
            it.breaks -= 1
            body = body[: len(body) // 3]
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as it:
        yield it
        it.shutdown()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv(download.FOLDER, raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)  # the server is on this machine
    monkeypatch.setattr("time.sleep", lambda _: None)  # between attempts
    return tmp_path / "thoraxlib" / "weights"


@pytest.fixture
def card(server: Server, monkeypatch: pytest.MonkeyPatch) -> WeightsCard:
    return listed(
        monkeypatch,
        WeightsCard(
            "it", "A file.", "model", "https://example.org", url=server.address, size=len(CONTENT), sha256=SHA256
        ),
    )


def listed(monkeypatch: pytest.MonkeyPatch, card: WeightsCard) -> WeightsCard:
    """Make `card` the catalogue."""
    monkeypatch.setattr(cards, "_catalogue", lambda: {card.name: card})
    return card


def left(cache: Path) -> list[str]:
    """Files in the cache, without locks."""
    return sorted(path.name for path in cache.rglob("*") if path.is_file() and "lock" not in path.name)


def test_downloaded_once(card: WeightsCard, server: Server, cache: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = weights.fetch("it", progress=False)
    assert path == cache / "it" / "weights.pth"
    assert path.read_bytes() == CONTENT
    assert "licence of the code: none stated" in capsys.readouterr().out
    assert weights.fetch("it") == path
    assert len(server.asked) == 1
    assert left(cache) == ["weights.pth"]
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("ranges", [True, False])
def test_an_interrupted_download_is_resumed(card: WeightsCard, server: Server, cache: Path, ranges: bool) -> None:
    (cache / "it").mkdir(parents=True)
    (cache / "it" / "weights.pth.part").write_bytes(CONTENT[:1000])
    server.ranges = ranges
    assert weights.fetch("it", progress=False).read_bytes() == CONTENT
    assert server.asked == ["bytes=1000-"]


def test_a_connection_that_breaks_goes_on(
    card: WeightsCard, server: Server, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 1000)
    server.breaks = 2
    assert weights.fetch("it", progress=False).read_bytes() == CONTENT
    assert len(server.asked) == 3
    assert str(server.asked[1]).startswith("bytes=170")  # a third, in whole chunks


@pytest.mark.parametrize("size", [None, len(CONTENT)])
@pytest.mark.parametrize("digest", [{"sha256": SHA256}, {"sha256": None, "git_blob": BLOB}])
def test_another_file_is_refused_and_leaves_nothing(
    card: WeightsCard,
    server: Server,
    cache: Path,
    monkeypatch: pytest.MonkeyPatch,
    size: int | None,
    digest: dict[str, Any],
) -> None:
    listed(monkeypatch, replace(card, size=size, **digest))
    server.content = CONTENT[:-1] + b"!"
    with pytest.raises(DigestError, match=r"it: .*weights\.pth.*the published file has"):
        weights.fetch("it", progress=False)
    assert left(cache) == []
    server.content = CONTENT
    path = weights.fetch("it", progress=False)
    path.write_bytes(CONTENT + b"more")  # damaged later
    with pytest.raises(DigestError, match="Delete it"):
        weights.fetch("it")


def test_a_longer_file_does_not_stay(card: WeightsCard, server: Server, cache: Path) -> None:
    server.content = CONTENT * 2
    with pytest.raises(OSError, match="could not be downloaded"):
        weights.fetch("it", progress=False)
    assert left(cache) == []


@pytest.mark.parametrize("status", [404, 403, 500])
def test_answers_that_are_no_file(card: WeightsCard, server: Server, cache: Path, status: int) -> None:
    server.status = status
    with pytest.raises(
        ConnectionError, match=rf"{server.address} could not be downloaded.*{status}.*THORAXLIB_WEIGHTS"
    ):
        weights.fetch("it", progress=False)
    assert left(cache) == []


def test_a_web_page_is_no_file(card: WeightsCard, server: Server, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listed(monkeypatch, replace(card, size=None, sha256=None))
    server.content = b"\n<!DOCTYPE html><html>Sign in</html>"
    with pytest.raises(DigestError, match="gave a web page"):
        weights.fetch("it", progress=False)
    assert left(cache) == []


def test_offline_says_what_to_put_where(card: WeightsCard, server: Server, cache: Path) -> None:
    server.shutdown()
    server.server_close()
    with pytest.raises(ConnectionError, match=rf"fetch the file elsewhere, and put it at {cache}/it/weights\.pth"):
        weights.fetch("it", progress=False)


def test_without_a_digest_the_first_download_counts(
    card: WeightsCard, server: Server, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    card = listed(monkeypatch, replace(card, size=None, sha256=None))
    assert not card.verified
    assert "digest: unverified" in str(card)
    path = weights.fetch("it", progress=False)
    path.unlink()
    server.content = CONTENT[::-1]
    with pytest.raises(DigestError, match=SHA256):
        weights.fetch("it", progress=False)
    server.content = CONTENT
    assert weights.fetch("it", progress=False).read_bytes() == CONTENT


def test_a_folder_of_files_that_are_there(
    card: WeightsCard, server: Server, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = tmp_path / "own"
    (own / "it").mkdir(parents=True)
    monkeypatch.setenv(download.FOLDER, str(own))
    (own / "weights.pth").write_bytes(CONTENT)
    assert weights.fetch("it") == own / "weights.pth"
    (own / "it" / "weights.pth").write_bytes(CONTENT + b" ")
    with pytest.raises(DigestError):
        weights.fetch("it")
    assert (own / "it" / "weights.pth").exists()  # the user's own file stays
    assert server.asked == []


def test_a_cache_that_cannot_be_written(card: WeightsCard, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(PermissionError, match=".* cannot be written.*XDG_CACHE_HOME"):
        weights.fetch("it", progress=False)


_FETCH = """
import sys
from dataclasses import replace
from thoraxlib.weights import WeightsCard, cards, fetch
card = WeightsCard("it", "A file.", "model", "-", url=sys.argv[1], sha256=sys.argv[2])
cards._catalogue = lambda: {"it": card}
print(fetch("it", progress=False))
assert "torch" not in sys.modules
"""


def test_two_processes_at_once(server: Server, cache: Path) -> None:
    command = [sys.executable, "-c", _FETCH, server.address, SHA256]
    own = {**os.environ, "XDG_CACHE_HOME": str(cache.parents[1]), "HF_HUB_OFFLINE": "0"}
    both = [subprocess.Popen(command, env=own) for _ in range(2)]
    assert [process.wait(60) for process in both] == [0, 0]
    assert (cache / "it" / "weights.pth").read_bytes() == CONTENT
    assert len(server.asked) == 1


def test_weights_got_by_hand() -> None:
    with pytest.raises(FileNotFoundError, match=r"rgrg: these weights are got by hand from https://drive\.google\.com"):
        weights.fetch("rgrg")
