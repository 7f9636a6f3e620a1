"""Long work in a folder: one process at a time, and nothing goes on that was begun otherwise."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

__all__ = ["alone", "goes_on"]

_LOCK = ".lock"


@contextmanager
def alone(folder: Path, *, wait: bool = False) -> Iterator[None]:
    """Hold the folder, so that no second process does; where the system has such locks.

    Raises
    ------
    ValueError
        Another process holds it, and we don't `wait`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        import fcntl
    except ImportError:  # Windows
        yield
        return
    with (folder / _LOCK).open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except OSError as error:
            raise ValueError(f"another process is writing to {folder}") from error
        yield


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
