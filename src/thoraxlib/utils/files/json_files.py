"""JSON: written whole, and said to be broken where it is."""

from __future__ import annotations

import json
import os
from typing import Any

from thoraxlib.utils.files.opening import read_regular
from thoraxlib.utils.files.whole import replacing


def write_json(path: str | os.PathLike[str], content: Any, *, indent: int | None = None) -> None:
    """Write `content` as a JSON file, whole or not at all; its folder is made if need be.

    Parameters
    ----------
    path : path
        The file.
    content : Any
        Plain values.
    indent : int, optional
        Blanks of each level, for people; by default all is on one line.

    Raises
    ------
    TypeError, ValueError
        Content that JSON does not have.
    """
    text = json.dumps(content, indent=indent) + "\n"
    with replacing(path) as scratch:
        scratch.write_text(text, encoding="utf-8")


def read_json(path: str | os.PathLike[str]) -> Any:
    """What a JSON file holds.

    Raises
    ------
    FileNotFoundError
        No such file.
    ValueError
        Naming the file: it is not UTF-8, no JSON, nested too deeply to be read, of more than 2 GiB, or no regular file.
    """
    return parse_json(read_regular(path), path)


def parse_json(content: bytes | str, source: object) -> Any:
    """What JSON text says; `source` is where it comes from, for the message of the ValueError."""
    try:
        return json.loads(content.decode("utf-8-sig") if isinstance(content, bytes) else content)
    except ValueError as error:
        raise ValueError(f"{source} is no JSON file: {error}") from error
    except RecursionError as error:
        raise ValueError(f"{source} is no JSON file that can be read: it is nested too deeply") from error
