"""Read checkpoint files without running code from them."""

from __future__ import annotations

import os
import pickle
import re
import struct
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from thoraxlib.checkpoints.layout import views
from thoraxlib.checkpoints.unpickling import unpickled
from thoraxlib.utils.files import check_stored, open_regular

# keys under which training scripts save the weights
_WRAPPERS = ("state_dict", "model_state_dict", "model", "net", "network", "module")
#: Keys of a copy of the weights that is averaged over the steps of training.
AVERAGED = (
    *("state_dict_ema", "model_ema", "ema_state_dict", "model_state_dict_ema", "model_ema_state_dict"),
    *("ema", "ema_model", "averaged_model"),
)
_DEPTH = 8  # of wrappers: a damaged file can hold itself

_UNPACK = "; unpack it and give the file inside"
_KINDS = {  # by the first bytes
    b"\x1f\x8b": f"a gzip file{_UNPACK}",
    b"BZh": f"a bzip2 file{_UNPACK}",
    b"\xfd7zXZ\0": f"an xz file{_UNPACK}",
    b"\x28\xb5\x2f\xfd": f"a zstd file{_UNPACK}",
    b"7z\xbc\xaf\x27\x1c": f"a 7z archive{_UNPACK}",
    b"Rar!": f"a RAR archive{_UNPACK}",
    b"\x89HDF": "an HDF5 file, as Keras writes",
    b"\x93NUMPY": "a NumPy array",
    b"version https://git-lfs": "a Git LFS pointer and not the file that it stands for: git lfs pull fetches that",
}
_PAGE = re.compile(rb"\s*<(!doctype|html|head|body|\?xml|error)", re.IGNORECASE)
_CONTROL = re.compile(r"[^\S\t\n\r\f ]|[\0-\x08\x0e-\x1f\x7f]")


def read(
    path: str | os.PathLike[str], *, key: str | None = None, ema: bool = False, allow_pickle: bool = False
) -> dict[str, Tensor]:
    """Read the state dict in a checkpoint file, on the CPU.

    NumPy's numbers and arrays, namespaces and paths may stand beside the weights; they are not read.

    Parameters
    ----------
    path : path
        A safetensors file, or anything that ``torch.save`` wrote: a bare state dict, or one wrapped under
        ``state_dict``, ``model_state_dict``, ``model``, ``net``, ``network`` or ``module``.
    key : str, optional
        Name of the weights in the file, such as ``"state_dict_ema"``, or the start of their names. By default, the
        first of the wrappers above. An averaged copy (EMA) is read if it is the only one; otherwise a warning names it.
    ema : bool
        Read the averaged copy.
    allow_pickle : bool
        Unpickle whole objects, which can run any code: only for files that you trust.

    Raises
    ------
    FileNotFoundError
        The file does not exist.
    ValueError
        The file is truncated, is no checkpoint, holds no state dict (or none under `key`, or no averaged copy), or
        needs `allow_pickle`; or it is an archive that promises more than it holds, or no regular file.

    Warns
    -----
    UserWarning
        The file also has an averaged copy of the weights, which is not read.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such checkpoint file")
    open_regular(path).close()  # none of the readers below would refuse a pipe or a device
    with path.open("rb") as file:
        start = file.read(512)
    stored = start[8:9] == b"{" and struct.unpack("<Q", start[:8])[0] <= path.stat().st_size - 8
    named = path.suffix == ".safetensors"
    if not stored and (kind := _other_kind(path, start)):
        raise ValueError(f"{path}: no readable {'safetensors file' if named else 'checkpoint'}: it is {kind}")
    try:
        content: Any = load_file(path) if named or stored else _torch_save(path, allow_pickle)
    except SafetensorError as error:
        raise ValueError(f"{path}: no readable safetensors file ({error})") from error
    try:
        return state_dict_of(content, key, ema)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _other_kind(path: Path, start: bytes) -> str | None:
    """Name the kind of a file that begins with `start`, if it is known and no checkpoint."""
    if not start:
        return "an empty file: was it truncated, or its download interrupted?"
    kind = next((kind for magic, kind in _KINDS.items() if start.startswith(magic)), None)
    if kind is not None:
        return kind
    if start[257:262] == b"ustar":
        return f"a tar archive{_UNPACK}"
    if zipfile.is_zipfile(path):  # as torch.save writes, too
        try:
            with zipfile.ZipFile(path) as archive:
                names = archive.namelist()
        except Exception:  # of a damaged one; torch says more
            return None
        return None if any(name.endswith("data.pkl") for name in names) else f"a zip archive{_UNPACK}"
    if _PAGE.match(start):
        return "a web page and not a file of weights: did the download need a login, or fail?"
    try:
        text = start.decode("utf-8")
    except UnicodeDecodeError as error:
        if error.start < len(start) - 3:  # not a character that is cut off
            return None
        text = start[: error.start].decode("utf-8")
    return f"text, which begins with {text[:40]!r}" if text and not _CONTROL.search(text) else None


def _torch_save(path: Path, allow_pickle: bool) -> Any:
    check_stored(path)
    try:
        if allow_pickle:
            return torch.load(path, map_location="cpu", weights_only=False)
        with path.open("rb") as file:
            return unpickled(file)
    except Exception as error:  # the unpickler of a damaged file raises many kinds
        words = ("GLOBAL", "global", "reduce", "create new object", "build")
        if isinstance(error, pickle.UnpicklingError) and any(word in str(error) for word in words):
            first = str(error).partition(". ")[0].partition("\n")[0][:200]
            raise ValueError(
                f"{path}: holds more than tensors (a whole pickled module, as jrzech/reproduce-chexnet saves it?), and "
                "unpickling that can run any code. If you trust the file, pass allow_pickle=True once, then "
                f"thoraxlib.save_pretrained(model, folder) to have it as safetensors ({first})"
            ) from error
        why = f"is it truncated, or not written by torch.save? ({type(error).__name__}: {error})"
        raise ValueError(f"{path}: no readable checkpoint; {why}") from error


def read_ag_cnn(
    global_branch: str | os.PathLike[str], local_branch: str | os.PathLike[str], fusion: str | os.PathLike[str]
) -> dict[str, Tensor]:
    """Read the three files of Ien001/AG-CNN (``AG_CNN_Global_epoch_1.pkl``, ...) as one state dict.

    ``thoraxlib.load_checkpoint(model, read_ag_cnn(...))`` loads it, into a model of preset "ien001".

    Raises
    ------
    FileNotFoundError, ValueError
        A file does not exist or cannot be read, see :func:`thoraxlib.checkpoints.read`.
    ValueError
        Files in another order: a branch's file has ``classifier.weight``, the fusion's ``fc.weight``.
    """
    files = {"global_branch": global_branch, "local_branch": local_branch, "fusion": fusion}
    joined: dict[str, Tensor] = {}
    for name, path in files.items():
        state = next(views(read(path)))
        wanted = "fc.weight" if name == "fusion" else "classifier.weight"
        if wanted not in state:
            raise ValueError(f"{name}={str(Path(path))!r} has no entry {wanted!r}: is it the file of another network?")
        joined |= {f"{name}.{key}": value for key, value in state.items()}
    return joined


def state_dict_of(content: Any, key: str | None = None, ema: bool = False) -> dict[str, Tensor]:
    """Return the state dict inside a checkpoint's content: bare, wrapped, or a whole module's.

    Parameters
    ----------
    content : Any
        Content of a file.
    key, ema
        See :func:`read`.

    Raises
    ------
    ValueError
        There is none, or none under `key`, or no averaged copy; or an entry fits no model: sparse, quantised, complex,
        or without values.

    Warns
    -----
    UserWarning
        See :func:`read`.
    """
    start = None
    if ema and key is None:
        key = _averaged(content)
    if key is not None:
        if isinstance(content, Mapping) and isinstance(content.get(key), (Mapping, nn.Module)):
            content = content[key]
        else:
            start = f"{key}."
    for _ in range(_DEPTH):
        if isinstance(content, nn.Module):
            content = content.state_dict()
        if not isinstance(content, Mapping):
            raise ValueError(f"expected a state dict, found {type(content).__name__.removeprefix('_')}")
        kept = [name for name in (*_WRAPPERS, *AVERAGED) if isinstance(content.get(name), (Mapping, nn.Module))]
        if not kept:
            break
        averaged = [name for name in kept[1:] if name in AVERAGED]
        if averaged:
            warnings.warn(
                f"the checkpoint has the weights as {kept[0]!r}, which is read, and averaged over the training as "
                f"{averaged[0]!r}: ema=True reads that",
                stacklevel=2,
            )
        content = content[kept[0]]
    other = [name for name, value in content.items() if not (isinstance(name, str) and isinstance(value, Tensor))]
    if not content or other:
        raise ValueError(f"expected a state dict (name -> tensor) or one under {_WRAPPERS}; other entries: {other[:5]}")
    if start is not None:
        begun = {name.removeprefix(start): value for name, value in content.items() if name.startswith(start)}
        if not begun:
            raise ValueError(f"key={key!r}: no weights under that name, and none whose names begin with {start!r}")
        content = begun
    odd = [
        name
        for name, value in content.items()
        if value.layout != torch.strided or value.is_quantized or value.is_complex() or value.is_meta
    ]
    if odd:
        raise ValueError(f"entries that are no plain tensors of real numbers: {odd[:5]}")
    return dict(content)


def _averaged(content: Any) -> str:
    """Return the key, or the start of the names, of the averaged copy of the weights in a checkpoint's content.

    Raises
    ------
    ValueError
        There is none.
    """
    names = set[str]()
    for _ in range(_DEPTH):
        if not isinstance(content, Mapping):
            break
        names |= {str(name).partition(".")[0] for name in content}
        content = next((content[name] for name in _WRAPPERS if isinstance(content.get(name), Mapping)), None)
    key = next((name for name in AVERAGED if name in names), None)
    if key is None:
        raise ValueError(
            f"ema=True: no averaged copy of the weights, such as {AVERAGED[0]!r}; found {sorted(names)[:8]}"
        )
    return key
