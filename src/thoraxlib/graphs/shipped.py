"""The data files of the room: counts of labels and regions, word vectors."""

from __future__ import annotations

from importlib import resources
from typing import Any

from thoraxlib.utils.files import parse_json


def read_shipped(name: str) -> Any:
    """What the JSON file ``data/<name>.json`` holds."""
    file = resources.files("thoraxlib.graphs").joinpath("data").joinpath(f"{name}.json")
    return parse_json(file.read_bytes(), file)
