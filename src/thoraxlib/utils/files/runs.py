"""Long work in a folder: one process at a time, and nothing goes on that was begun otherwise."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_LOCK = ".lock"


@contextmanager
def alone(folder: Path, *, wait: bool = False) -> Iterator[None]:
    """Hold the folder, so that no second process does. Its file ``.lock`` is empty.

    Raises
    ------
    ValueError
        Another process holds it, and we don't `wait`; or ``.lock`` is a link or has content, so it is not ours.
    """
    from filelock import FileLock, Timeout

    folder.mkdir(parents=True, exist_ok=True)
    path = folder / _LOCK
    if os.path.lexists(path) and (not stat.S_ISREG((found := path.lstat()).st_mode) or found.st_size):
        raise ValueError(f"{path} was not written by thoraxlib, which locks {folder} by an empty file of that name")
    lock = FileLock(path)  # opens no link
    try:
        lock.acquire(timeout=-1 if wait else 0)
    except Timeout as error:
        raise ValueError(f"another process is writing to {folder}") from error
    try:
        yield
    finally:
        lock.release()


def goes_on(
    path: Path,
    begun: Mapping[str, Any],
    now: Mapping[str, Any],
    what: str,
    why: Mapping[str, str] | None = None,
    *,
    remedy: str = "choose another folder, or delete this one",
) -> None:
    """Raise ValueError where what was `begun` so cannot go on as it is asked for `now`.

    Parameters
    ----------
    path : Path
        Where it is, for the message.
    begun, now : mapping
        Settings; all of `now` must be equal.
    what : str
        What it is: "a run".
    why : mapping of str to str, optional
        Words for the settings of which the values say nothing.
    remedy : str
        What to do.
    """
    wanted = json.loads(json.dumps(dict(now)))
    values = {
        key: f"{key}={begun.get(key)!r} before, {value!r} now"
        for key, value in wanted.items()
        if begun.get(key) != value
    }
    if values:
        listed = "; ".join((why or {}).get(key, told) for key, told in values.items())
        raise ValueError(f"{path} holds {what} with other settings ({listed}): {remedy}")
