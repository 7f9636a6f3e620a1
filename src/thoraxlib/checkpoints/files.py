"""Reading checkpoint files without ever running code from them."""

from __future__ import annotations

import os
import pickle
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from thoraxlib.checkpoints.layout import bare
from thoraxlib.files import check_stored, open_regular

__all__ = ["read", "read_ag_cnn", "state_dict_of"]

# Where the sources keep the weights inside what they saved.
_WRAPPERS = ("state_dict", "model_state_dict", "model")
_DEPTH = 8  # of wrappers: a damaged file can hold itself


def read(path: str | os.PathLike[str], *, allow_pickle: bool = False) -> dict[str, Tensor]:
    """The state dict in a checkpoint file, on the CPU.

    Parameters
    ----------
    path : path
        ``.safetensors``, or anything that ``torch.save`` wrote: a bare state dict, or one wrapped under
        ``state_dict``, ``model_state_dict`` or ``model``.
    allow_pickle : bool
        Unpickle whole objects, which can run any code: for files that you trust only. Without it, files are read with
        ``weights_only=True``.

    Raises
    ------
    FileNotFoundError
        No such file.
    ValueError
        The file is truncated, is no checkpoint, holds no state dict, or needs `allow_pickle`; or it is an archive that
        promises more than it holds; or it is no regular file.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such checkpoint file")
    open_regular(path).close()  # neither reader below would refuse a pipe or a device
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return dict(load_file(path))
        except SafetensorError as error:
            raise ValueError(f"{path}: no readable safetensors file ({error})") from error
    check_stored(path)
    try:
        with torch.serialization.safe_globals(_numpy_scalars()):
            content = torch.load(path, map_location="cpu", weights_only=not allow_pickle)
    except pickle.UnpicklingError as error:
        if _is_tar(path):
            raise ValueError(f"{path}: this is an archive; unpack it and give the file inside") from error
        if "weights only" not in str(error).lower() and "weights_only" not in str(error):
            raise ValueError(f"{path}: no readable checkpoint; is it truncated? ({error})") from error
        raise ValueError(
            f"{path}: holds more than tensors (a whole pickled module, as jrzech/reproduce-chexnet saves it?), and "
            "unpickling that can run any code. If you trust the file, pass allow_pickle=True once, then "
            "thoraxlib.save_pretrained(model, folder) to have it as safetensors"
        ) from error
    except Exception as error:  # the unpickler of a damaged file raises many kinds
        raise ValueError(
            f"{path}: no readable checkpoint; is it truncated? ({type(error).__name__}: {error})"
        ) from error
    try:
        return state_dict_of(content)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def _is_tar(path: Path) -> bool:
    try:
        return tarfile.is_tarfile(path)
    except Exception:  # it looks into packed files, which may be damaged
        return False


def _numpy_scalars() -> list[Any]:
    """What a file needs to hold scores as NumPy's numbers beside the weights (AnaXNet's do): plain data, no code."""
    scalar: Any = np.float64(0).__reduce__()[0]
    kinds = {type(np.dtype(kind)) for kind in (np.float64, np.float32, np.int64)}
    # the name in files of NumPy 1, and of NumPy 2
    return [(scalar, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")] + [np.dtype, *kinds]


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


def state_dict_of(content: Any) -> dict[str, Tensor]:
    """The state dict inside a checkpoint's content: bare, wrapped, or a whole module's.

    Raises
    ------
    ValueError
        There is none, or an entry that no model could take: sparse, quantised, complex, or without values.
    """
    for _ in range(_DEPTH):
        if isinstance(content, nn.Module):
            content = content.state_dict()
        if not isinstance(content, Mapping):
            raise ValueError(f"expected a state dict, found {type(content).__name__}")
        wrapped = (content.get(wrapper) for wrapper in _WRAPPERS)
        inner = next((value for value in wrapped if isinstance(value, (Mapping, nn.Module))), None)
        if inner is None:
            break
        content = inner
    other = [key for key, value in content.items() if not (isinstance(key, str) and isinstance(value, Tensor))]
    if not content or other:
        raise ValueError(f"expected a state dict (name -> tensor) or one under {_WRAPPERS}; other entries: {other[:5]}")
    odd = [key for key, value in content.items() if not _plain(value)]
    if odd:
        raise ValueError(f"entries that are no plain tensors of real numbers: {odd[:5]}")
    return dict(content)


def _plain(value: Tensor) -> bool:
    return value.layout == torch.strided and not (value.is_quantized or value.is_complex() or value.is_meta)
