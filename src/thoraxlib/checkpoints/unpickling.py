"""Read files of ``torch.save`` that hold more than tensors, without running or changing anything."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from functools import cache
from importlib.util import find_spec, module_from_spec
from typing import Any, BinaryIO

import torch


class _Inert:
    """Stand-in for an object beside the weights; it keeps nothing of it.

    NumPy's own objects would trust the file: a data type in their state may hold pointers.
    """

    def __new__(cls, *_: Any) -> _Inert:
        return super().__new__(cls)

    def __setstate__(self, state: Any) -> None:
        pass


_CORES = ("numpy.core", "numpy._core")  # of NumPy 1, and of NumPy 2
_NAMES = (
    *(f"{core}.{name}" for core in _CORES for name in ("multiarray.scalar", "multiarray._reconstruct")),
    *(f"{core}.numeric._frombuffer" for core in _CORES),
    *("numpy.dtype", "numpy.ndarray", "argparse.Namespace", "types.SimpleNamespace"),
    *(f"{module}.{system}Path" for module in ("pathlib", "pathlib._local") for system in ("", "Posix", "Windows")),
    *("datetime.date", "datetime.datetime", "datetime.timedelta"),
    *(f"builtins.{name}" for name in ("bool", "dict", "float", "int", "list", "str")),
)
_LIGHTNING = (
    *("lightning.fabric.utilities.data", "lightning_fabric.utilities.data"),
    *("lightning.pytorch.utilities.parsing", "pytorch_lightning.utilities.parsing"),
)
_STAND_INS: Mapping[str, Any] = {
    **dict.fromkeys(_NAMES, _Inert),
    "collections.defaultdict": lambda *_: {},
    # filled item by item, as a dict
    **{f"{module}.AttributeDict": dict for module in _LIGHTNING},
}


def unpickled(file: BinaryIO) -> Any:
    """Read a file of ``torch.save``, on the CPU; inert stand-ins replace NumPy's values, namespaces and paths.

    torch's list of the globals that its users allow is honoured, and not changed.

    Raises
    ------
    pickle.UnpicklingError
        The file holds other objects, or is damaged.
    """
    try:
        return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        file.seek(0)
        return torch.load(file, map_location="cpu", weights_only=False, pickle_module=_unpickler())


@cache
def _unpickler() -> Any:
    """Copy of torch's restricted unpickler with its own list of allowed names, apart from that of the process."""
    shared: Any = torch._weights_only_unpickler  # type: ignore[attr-defined]
    spec = find_spec(shared.__name__)
    assert spec is not None
    assert spec.loader is not None
    copy: Any = module_from_spec(spec)
    spec.loader.exec_module(copy)
    copy._get_user_allowed_globals = lambda: {**shared._get_user_allowed_globals(), **_STAND_INS}
    return copy
