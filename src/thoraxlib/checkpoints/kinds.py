"""Say what a file is that is no checkpoint."""

from __future__ import annotations

import re
import struct
import zipfile
from pathlib import Path

_PACKED = {
    b"\x1f\x8b": "a gzip file",
    b"BZh": "a bzip2 file",
    b"\xfd7zXZ\0": "an xz file",
    b"\x28\xb5\x2f\xfd": "a zstd file",
    b"7z\xbc\xaf\x27\x1c": "a 7z archive",
    b"Rar!": "a RAR archive",
}
_OTHERS = {
    b"\x89HDF": "an HDF5 file, as Keras writes",
    b"\x93NUMPY": "a NumPy array",
    b"version https://git-lfs": "a Git LFS pointer and not the file that it stands for: git lfs pull fetches that",
}
_UNPACK = "; unpack it and give the file inside"
_PAGE = re.compile(rb"\s*<(!doctype|html|head|body|\?xml|error)", re.IGNORECASE)
_CONTROL = re.compile(r"[^\S\t\n\r\f ]|[\0-\x08\x0e-\x1f\x7f]")
_SHOWN = 40


def is_safetensors(path: Path) -> bool:
    """Whether a file begins as a safetensors file does, whatever its name is."""
    with path.open("rb") as file:
        head = file.read(9)
    return head[8:] == b"{" and struct.unpack("<Q", head[:8])[0] <= path.stat().st_size - 8


def not_a_checkpoint(path: Path) -> str | None:
    """What a file is, if that is known and no checkpoint: a packed file, a web page, a pointer, text, nothing."""
    with path.open("rb") as file:
        head = file.read(512)
    if not head:
        return "an empty file: was it truncated, or its download interrupted?"
    for magic, kind in _PACKED.items():
        if head.startswith(magic):
            return f"{kind}{_UNPACK}"
    for magic, kind in _OTHERS.items():
        if head.startswith(magic):
            return kind
    if head[257:262] == b"ustar":
        return f"a tar archive{_UNPACK}"
    if zipfile.is_zipfile(path):
        return _kind_of_zip(path)
    if _PAGE.match(head):
        return "a web page and not a file of weights: did the download need a login, or fail?"
    return _kind_of_text(head)


def _kind_of_zip(path: Path) -> str | None:
    """torch.save writes a zip archive, too."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except Exception:  # of a damaged one; torch says more
        return None
    return None if any(name.endswith("data.pkl") for name in names) else f"a zip archive{_UNPACK}"


def _kind_of_text(head: bytes) -> str | None:
    try:
        text = head.decode("utf-8")
    except UnicodeDecodeError as error:
        if error.start < len(head) - 3:  # not a character that is cut off
            return None
        text = head[: error.start].decode("utf-8")
    if not text or _CONTROL.search(text):
        return None
    return f"text, which begins with {text[:_SHOWN]!r}"
