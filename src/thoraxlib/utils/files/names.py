"""Names that files give, and that must stay below a folder."""

from __future__ import annotations

import os
import re

_DRIVE = re.compile(r"[A-Za-z]:")


def below(name: str, source: object) -> str:
    r"""`name`, which a table, manifest or archive gave, if it is a path below whatever folder it is joined to.

    Every reader and writer that joins such a name to a folder asks here. The rules of all systems hold on each, so that
    a copy of the data is no more dangerous than the data: ``C:x`` and ``..\x`` are refused on Linux too.

    Parameters
    ----------
    name : str
        With slashes; "" is the folder itself.
    source : object
        What holds the name, for the message.

    Raises
    ------
    ValueError
        The name is absolute, begins with a drive's letter, has a part ``..``, or is none that a file can have.

    Examples
    --------
    >>> below("images/a..b.png", "labels.csv")
    'images/a..b.png'
    >>> below("images/../../x.png", "labels.csv")
    Traceback (most recent call last):
    ValueError: labels.csv: 'images/../../x.png' is no path below its folder, it points out of it
    """
    parts = name.replace("\\", "/").split("/")
    if ".." in parts or (len(parts) > 1 and not parts[0]) or _DRIVE.match(name):
        raise ValueError(f"{source}: {name!r} is no path below its folder, it points out of it")
    try:
        possible = b"\0" not in os.fsencode(name)
    except UnicodeEncodeError:
        possible = False
    if not possible:
        raise ValueError(f"{source}: {name!r} is no name that a file can have")
    return name


def printable(name: str) -> str:
    r"""Replace what UTF-8 and tables don't hold by its code, for a name of which the bytes are no text.

    >>> printable("a\udcff.png")
    'a\\udcff.png'
    """
    return name.encode(errors="backslashreplace").decode().replace("\0", "\\x00")
