"""Decoders that end their process, never return, or are killed: one error each, and the next image is read."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("gdcm", reason="needs python-gdcm, of the extra dicom")
sys.path.insert(0, str(Path(__file__).parent))

from dicom_files import DEEP, RAMP, compressed, extended, lossless
from pydicom import uid

import thoraxlib
from thoraxlib import images
from thoraxlib.images import isolated
from thoraxlib.input_spec import InputSpec

LOSSLESS = [uid.JPEGLossless, uid.JPEGLosslessSV1]
GOOD = compressed(DEEP, lossless(DEEP, 12), uid.JPEGLosslessSV1, BitsStored=12).getvalue()
BAD = GOOD.replace(b"\xff\xc4", b"\xff\x00")  # GDCM calls abort() on it


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    isolated._stop()
    yield
    isolated._stop()


def written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def is_good(path: Path) -> bool:
    return np.allclose(images.read(path, window="bits")[0] * 4095, DEEP, atol=0.01)


def refusal(path: Path) -> str:
    with pytest.raises(ValueError) as raised:
        images.read(path)
    return str(raised.value)


def test_a_damaged_image_is_an_error_and_the_next_is_read(tmp_path: Path) -> None:
    good, bad = written(tmp_path / "good.dcm", GOOD), written(tmp_path / "bad.dcm", BAD)
    assert is_good(good)
    first = isolated._process
    assert is_good(good)
    assert isolated._process is first
    assert f"{bad} cannot be read as DICOM: GDCM cannot decode it, and ended" in refusal(bad)
    assert is_good(good)
    assert isolated._process is not first


@pytest.mark.parametrize("syntax", LOSSLESS)
@pytest.mark.parametrize("bits", [2, 5, 6, 7, 8])
def test_fewer_bits_than_a_byte(syntax: str, bits: int) -> None:
    pixels = RAMP >> (8 - bits)
    for precision in (bits, 8):
        file = compressed(pixels, lossless(pixels, precision), syntax, BitsStored=bits)
        seen = images.read(file, window="bits")[0].numpy() * (1 if bits == 8 else 2**bits - 1)
        np.testing.assert_allclose(seen, pixels, atol=1e-4)


def test_signed_values_and_bits_that_are_not_in_use() -> None:
    signed = DEEP.astype(np.int16) - 2000
    file = compressed(signed, lossless(signed & 0xFFF, 12), uid.JPEGLosslessSV1, BitsStored=12)
    np.testing.assert_allclose(images.read(file, window="bits")[0] * 4095, signed + 2048.0, atol=0.01)
    overlay = DEEP | (np.arange(25) % 2 << 13).astype(np.uint16)
    file = compressed(DEEP, lossless(overlay, 14), uid.JPEGLosslessSV1, BitsStored=12)
    np.testing.assert_allclose(images.read(file, window="bits")[0] * 4095, DEEP, atol=0.01)


def test_jpeg_extended_of_12_bits() -> None:
    blocks = np.array([[0, 1000, 4095], [2048, 17, 3000]])
    pixels = blocks.repeat(8, 0).repeat(8, 1).astype(np.uint16)
    file = compressed(pixels, extended(blocks), uid.JPEGExtended12Bit, BitsStored=12)
    np.testing.assert_allclose(images.read(file, window="bits")[0] * 4095, pixels, atol=1)
    wrong = extended(blocks).replace(bytes.fromhex("ffc1000b0c"), bytes.fromhex("ffc1000b10"))
    with pytest.raises(ValueError, match="JPEG Extended is of 8 or 12 bits, the compressed image says 16"):
        images.read(compressed(pixels, wrong, uid.JPEGExtended12Bit, BitsStored=12))


def in_a_worker(good: Path, bad: Path, results: Any) -> None:
    told = refusal(bad)
    results.put((is_good(good), told, isolated._process.pid if isolated._process else 0))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_daemonic_workers_have_their_own(tmp_path: Path) -> None:
    good, bad = written(tmp_path / "good.dcm", GOOD), written(tmp_path / "bad.dcm", BAD)
    assert is_good(good)
    assert isolated._process is not None
    own = isolated._process.pid
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    workers = [context.Process(target=in_a_worker, args=(good, bad, results), daemon=True) for _ in range(2)]
    for worker in workers:
        worker.start()
    found = [results.get(timeout=120) for _ in workers]
    for worker in workers:
        worker.join(60)
    assert all(read and str(bad) in told for read, told, _ in found)
    assert len({own, *(pid for _, _, pid in found)}) == 3
    assert isolated._process.poll() is None
    assert is_good(good)
    assert isolated._process.pid == own


def test_threads_share_one_and_get_their_own_images(tmp_path: Path) -> None:
    pixels = [DEEP // (k + 1) for k in range(6)]
    paths = [
        written(tmp_path / f"{k}.dcm", compressed(p, lossless(p, 12), uid.JPEGLosslessSV1, BitsStored=12).getvalue())
        for k, p in enumerate(pixels)
    ]
    bad = written(tmp_path / "bad.dcm", BAD)

    def read(k: int) -> bool:
        if k % 7 == 6:
            return "bad.dcm" in refusal(bad)
        return np.allclose(images.read(paths[k % 7], window="bits")[0] * 4095, pixels[k % 7], atol=0.01)

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(read, range(28)))


PARENT = """
import sys, types
from pathlib import Path
package = sys.modules["thoraxlib.images"] = types.ModuleType("thoraxlib.images")
package.__path__ = [sys.argv[1]]  # without all that the package itself imports
from thoraxlib.images import isolated
assert len(isolated.decode(Path(sys.argv[2]).read_bytes(), "1.2.840.10008.1.2.4.70", 40, 25, 16)) == 2000
print(isolated._process.pid, flush=True)
sys.stdin.read()
"""


def gone(pid: int, seconds: float = 30) -> bool:
    for _ in range(int(seconds / 0.05)):
        try:
            os.kill(pid, 0)
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True  # nobody is left to ask for its exit status
        except (ProcessLookupError, FileNotFoundError):
            return True
        time.sleep(0.05)
    return False


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
def test_it_ends_with_its_parent(tmp_path: Path) -> None:
    command = [sys.executable, "-c", PARENT, Path(isolated.__file__).parent]
    command.append(written(tmp_path / "stream", lossless(DEEP, 12)))
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert not gone(pid, 0.2)
        parent.send_signal(signal.SIGKILL)
        assert gone(pid)


def pretend(monkeypatch: pytest.MonkeyPatch, folder: Path, source: str) -> None:
    """Have the process import another gdcm."""
    (folder / "gdcm.py").write_text(source)
    monkeypatch.syspath_prepend(str(folder))


ENDLESS = "class Fragment:\n    def __init__(self):\n        while True: pass\n"
KILLED = "import os, signal\nclass Fragment:\n    def __init__(self): os.kill(os.getpid(), signal.SIGKILL)\n"
LOUD = (
    "import os\nclass Fragment:\n    def __init__(self): os.write(1, b'x' * 100); print('y'); raise ValueError('DOE')\n"
)


def test_a_decoder_that_does_not_return(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    good = written(tmp_path / "good.dcm", GOOD)
    with monkeypatch.context() as patched:
        pretend(patched, tmp_path, ENDLESS)
        patched.setattr(isolated, "_SECONDS", 1)
        assert "good.dcm" in refusal(good)
    assert is_good(good)


def test_a_decoder_that_is_killed_is_no_fault_of_the_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    good = written(tmp_path / "good.dcm", GOOD)
    pretend(monkeypatch, tmp_path, KILLED)
    with pytest.raises(ChildProcessError, match="was killed"):
        images.read(good)
    isolated._stop()
    (tmp_path / "gdcm.py").write_text("raise ImportError")
    with pytest.raises(ChildProcessError, match="cannot be started"):
        images.read(good)


def test_what_a_decoder_prints_is_no_answer(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    good = written(tmp_path / "good.dcm", GOOD)
    pretend(monkeypatch, tmp_path, LOUD)
    told = refusal(good)
    assert told.endswith("GDCM cannot decode it: the compressed image is damaged")
    assert "DOE" not in told


def test_an_interrupt_leaves_no_answer_for_the_next(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    good = written(tmp_path / "good.dcm", GOOD)
    assert is_good(good)

    def interrupted(*_: Any) -> bytearray:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(isolated, "_read", interrupted)
        with pytest.raises(KeyboardInterrupt):
            images.read(good)
    other = compressed(RAMP, lossless(RAMP, 8), uid.JPEGLosslessSV1)
    np.testing.assert_array_equal(images.read(other)[0], RAMP)


def test_preparation_goes_on(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    written(tmp_path / "images/b.dcm", BAD)
    for name in ("a", "c"):
        Image.fromarray(RAMP).save(tmp_path / f"images/{name}.png")
    copy = thoraxlib.prepare(
        tmp_path / "images", tmp_path / "copy", spec=InputSpec(size=(16, 16)), num_workers=1, progress=False
    )
    assert sorted(copy.names) == ["a.png", "c.png"]
    assert "b.dcm" in (tmp_path / "copy/failures.csv").read_text()
