"""Read files of ``torch.save`` that hold more than tensors, without running or changing anything."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from functools import cache
from importlib.util import find_spec, module_from_spec
from typing import Any, BinaryIO

import torch


class _Inert:
    """A stand-in for an object beside the weights, of which nothing is kept.

    NumPy's own would trust the file: a data type of its state may hold pointers.
    """

    def __new__(cls, *_: Any) -> _Inert:
        return super().__new__(cls)

    def __setstate__(self, state: Any) -> None:
        pass


def _new_dict(*_: Any) -> dict[Any, Any]:
    return {}


_CORES = ("numpy.core", "numpy._core")  # of NumPy 1, and of NumPy 2
_NAMES = (
    *(f"{core}.{name}" for core in _CORES for name in ("multiarray.scalar", "multiarray._reconstruct")),
    *(f"{core}.numeric._frombuffer" for core in _CORES),
    *("numpy.dtype", "numpy.ndarray", "argparse.Namespace", "types.SimpleNamespace"),
    *(f"{module}.{system}Path" for module in ("pathlib", "pathlib._local") for system in ("", "Posix", "Windows")),
    *("datetime.date", "datetime.datetime", "datetime.timedelta"),
    *(f"builtins.{name}" for name in ("bool", "dict", "float", "int", "list", "str")),
)
_STAND_INS: Mapping[str, Any] = {
    **dict.fromkeys(_NAMES, _Inert),
    "collections.defaultdict": _new_dict,
    # filled item by item, as a dict
    **dict.fromkeys(
        (
            f"{module}.AttributeDict"
            for module in ("lightning.fabric.utilities.data", "lightning_fabric.utilities.data")
        ),
        dict,
    ),
    "pytorch_lightning.utilities.parsing.AttributeDict": dict,
    "lightning.pytorch.utilities.parsing.AttributeDict": dict,
}


def unpickled(file: BinaryIO) -> Any:
    """What a file of ``torch.save`` holds, on the CPU; NumPy's values, namespaces and paths are inert stand-ins.

    torch's list of what its users allow is left as it is, and honoured.

    Raises
    ------
    pickle.UnpicklingError
        The file holds something else, or is damaged.
    """
    try:
        return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        file.seek(0)
        return torch.load(file, map_location="cpu", weights_only=False, pickle_module=_unpickler())


@cache
def _unpickler() -> Any:
    """A second copy of torch's restricted unpickler, whose list of allowed names is not that of the whole process."""
    shared: Any = torch._weights_only_unpickler  # type: ignore[attr-defined]
    spec = find_spec(shared.__name__)
    assert spec is not None
    assert spec.loader is not None
    copy: Any = module_from_spec(spec)
    spec.loader.exec_module(copy)
    copy._get_user_allowed_globals = lambda: {**shared._get_user_allowed_globals(), **_STAND_INS}
    return copy
