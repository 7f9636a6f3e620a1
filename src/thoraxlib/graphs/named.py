"""The base class of graphs and counts: tables of numbers whose rows and columns have names."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, fields, replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor
from typing_extensions import Self

from thoraxlib import labels as label_sets
from thoraxlib.utils.files import read_json, write_json


@dataclass(frozen=True, eq=False)
class Named:
    """Base class of dataclasses of names and tensors (..., K, K); the first field names rows and columns.

    They are chosen by name, kept in files, and written into the config of a model that is built with them.
    """

    _kind: ClassVar[str]
    _lost: ClassVar[str]  # the message of names that are not there

    def select(self, names: str | Sequence[str]) -> Self:
        """Choose rows and columns `names`, in this order, found by :func:`thoraxlib.labels.canonical` name.

        Raises
        ------
        ValueError
            A name that is not there.
        """
        wanted, first = label_sets.resolve(names), fields(self)[0].name
        at = torch.tensor(label_sets.positions(getattr(self, first), wanted, self._lost), device="cpu")
        tables = {name: table[..., at, :][..., at] for name, table in self._fields() if isinstance(table, Tensor)}
        return replace(self, **{first: wanted}, **tables)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write everything as JSON."""
        write_json(path, self._to_json())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read what :meth:`save` wrote.

        Raises
        ------
        ValueError
            The file has no such content, or one that cannot be.
        """
        try:
            return cls._from_json(cls._read(Path(path)))
        except (KeyError, TypeError, ValueError, RuntimeError) as error:  # the last of numbers too large for torch
            needed = tuple(field.name for field in fields(cls) if field.default is MISSING)
            raise ValueError(f"{path} holds no {cls._kind} {needed}: {error!r}") from error

    @property
    def registry_spec(self) -> dict[str, Any]:
        """How a model records this: it is rebuilt from its config."""
        return {"name": "given", **self._to_json()}

    @classmethod
    def _read(cls, path: Path) -> Any:
        return read_json(path)

    @classmethod
    def _from_json(cls, content: Mapping[str, Any]) -> Self:
        return cls(**{field.name: content[field.name] for field in fields(cls) if field.name in content})

    def _to_json(self) -> dict[str, Any]:
        return {name: value.tolist() if isinstance(value, Tensor) else list(value) for name, value in self._fields()}

    def _fields(self) -> list[tuple[str, Any]]:
        return [(field.name, getattr(self, field.name)) for field in fields(self)]

    def _keep_counts(self, name: str, shape: tuple[int, ...]) -> None:
        """Keep the field `name` as integers of one shape, on the CPU; raise ValueError where it is none."""
        value = torch.as_tensor(getattr(self, name), device="cpu")
        object.__setattr__(self, name, value)
        if value.shape != shape or value.is_floating_point():
            raise ValueError(f"{name} must be integers {shape}, got {value.dtype} {tuple(value.shape)}")
