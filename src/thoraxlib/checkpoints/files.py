"""Reading checkpoint files without ever running code from them."""

from __future__ import annotations

import os
import pickle
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from thoraxlib.checkpoints.kinds import is_safetensors, not_a_checkpoint
from thoraxlib.checkpoints.layout import bare
from thoraxlib.checkpoints.unpickling import unpickled
from thoraxlib.utils.files import check_stored, open_regular

# Where the sources keep the weights inside what they saved.
_WRAPPERS = ("state_dict", "model_state_dict", "model", "net", "network", "module")
#: Where they keep a copy that is averaged over the steps of training.
AVERAGED = (
    *("state_dict_ema", "model_ema", "ema_state_dict", "model_state_dict_ema", "model_ema_state_dict"),
    *("ema", "ema_model", "averaged_model"),
)
_DEPTH = 8  # of wrappers: a damaged file can hold itself


def read(path: str | os.PathLike[str], *, key: str | None = None, allow_pickle: bool = False) -> dict[str, Tensor]:
    """The state dict in a checkpoint file, on the CPU.

    NumPy's numbers and arrays, namespaces and paths may lie beside the weights; they are not read.

    Parameters
    ----------
    path : path
        A safetensors file, or anything that ``torch.save`` wrote: a bare state dict, or one wrapped under
        ``state_dict``, ``model_state_dict``, ``model``, ``net``, ``network`` or ``module``.
    key : str, optional
        Under which name the weights are in the file, such as ``"state_dict_ema"``, or with which their names begin. By
        default, the first of the wrappers above; an averaged copy (EMA) is taken if it is the only one, and a warning
        tells of one that is not.
    allow_pickle : bool
        Unpickle whole objects, which can run any code: for files that you trust only.

    Raises
    ------
    FileNotFoundError
        No such file.
    ValueError
        The file is truncated, is no checkpoint, holds no state dict (or none under `key`), or needs `allow_pickle`; or
        it is an archive that promises more than it holds, or no regular file.

    Warns
    -----
    UserWarning
        There is an averaged copy of the weights that is not taken.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such checkpoint file")
    open_regular(path).close()  # none of the readers below would refuse a pipe or a device
    kind = None if is_safetensors(path) else not_a_checkpoint(path)
    named = path.suffix == ".safetensors"
    if kind is not None:
        raise ValueError(f"{path}: no readable {'safetensors file' if named else 'checkpoint'}: it is {kind}")
    content: Any = _safetensors(path) if named or is_safetensors(path) else _torch_save(path, allow_pickle)
    try:
        return state_dict_of(content, key)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return dict(load_file(path))
    except SafetensorError as error:
        raise ValueError(f"{path}: no readable safetensors file ({error})") from error


def _torch_save(path: Path, allow_pickle: bool) -> Any:
    check_stored(path)
    try:
        if allow_pickle:
            return torch.load(path, map_location="cpu", weights_only=False)
        with path.open("rb") as file:
            return unpickled(file)
    except pickle.UnpicklingError as error:
        if not any(word in str(error) for word in ("GLOBAL", "global", "reduce", "create new object", "build")):
            raise _unreadable(path, error) from error
        raise ValueError(
            f"{path}: holds more than tensors (a whole pickled module, as jrzech/reproduce-chexnet saves it?), and "
            "unpickling that can run any code. If you trust the file, pass allow_pickle=True once, then "
            f"thoraxlib.save_pretrained(model, folder) to have it as safetensors ({_first_line(error)})"
        ) from error
    except Exception as error:  # the unpickler of a damaged file raises many kinds
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> ValueError:
    why = f"is it truncated, or not written by torch.save? ({type(error).__name__}: {error})"
    return ValueError(f"{path}: no readable checkpoint; {why}")


def _first_line(error: Exception) -> str:
    return str(error).partition(". ")[0].partition("\n")[0][:200]


def read_ag_cnn(
    global_branch: str | os.PathLike[str], local_branch: str | os.PathLike[str], fusion: str | os.PathLike[str]
) -> dict[str, Tensor]:
    """The three files of Ien001/AG-CNN (``AG_CNN_Global_epoch_1.pkl``, ...) as one state dict.

    ``thoraxlib.load_checkpoint(model, read_ag_cnn(...))`` loads it, into a model of preset "ien001".

    Raises
    ------
    FileNotFoundError, ValueError
        A file that is not there or cannot be read, as :func:`thoraxlib.checkpoints.read` says it.
    ValueError
        Files in another order: a branch's file has ``classifier.weight``, the fusion's ``fc.weight``.
    """
    files = {"global_branch": global_branch, "local_branch": local_branch, "fusion": fusion}
    joined: dict[str, Tensor] = {}
    for part, path in files.items():
        state = bare(read(path))
        wanted = "fc.weight" if part == "fusion" else "classifier.weight"
        if wanted not in state:
            raise ValueError(f"{part}={str(Path(path))!r} has no entry {wanted!r}: is it the file of another part?")
        joined |= {f"{part}.{key}": value for key, value in state.items()}
    return joined


def state_dict_of(content: Any, key: str | None = None) -> dict[str, Tensor]:
    """The state dict inside a checkpoint's content: bare, wrapped, or a whole module's.

    Parameters
    ----------
    content : Any
        What a file holds.
    key : str, optional
        See :func:`read`.

    Raises
    ------
    ValueError
        There is none, or none under `key`; or an entry that no model could take: sparse, quantised, complex, or without
        values.

    Warns
    -----
    UserWarning
        As :func:`read`.
    """
    start = None
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
                f"{averaged[0]!r}: key={averaged[0]!r} reads that",
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
    odd = [name for name, value in content.items() if not _plain(value)]
    if odd:
        raise ValueError(f"entries that are no plain tensors of real numbers: {odd[:5]}")
    return dict(content)


def _plain(value: Tensor) -> bool:
    return value.layout == torch.strided and not (value.is_quantized or value.is_complex() or value.is_meta)
