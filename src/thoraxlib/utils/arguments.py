"""Checks of arguments with one form of message (name, value, allowed values), and lists of names for messages."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Hashable, Iterable, Sequence
from itertools import islice
from numbers import Integral
from typing import Any, TypeVar

Name = TypeVar("Name", bound=Hashable)


def one_of(name: str, value: object, allowed: Iterable[object], more: str = "") -> None:
    """Raise ValueError unless an argument has one of the allowed values.

    Parameters
    ----------
    name : str
        Name of the argument.
    value : object
        Its value.
    allowed : iterable
        Allowed values.
    more : str
        Words for other allowed values, which the caller has handled before.

    Raises
    ------
    ValueError
        Another value.

    Examples
    --------
    >>> one_of("mask", "smooth", ("hard", "soft"))
    Traceback (most recent call last):
    ValueError: mask='smooth': allowed are 'hard', 'soft'
    """
    allowed = tuple(allowed)
    if value not in allowed:
        raise ValueError(f"{name}={value!r}: allowed are {', '.join(map(repr, allowed))}{more}")


def height_and_width(size: object) -> tuple[int, int]:
    """Return the argument `size`, which is (H, W) or a single side, as (H, W).

    Raises
    ------
    ValueError
        Another type, or a side below 1.
    """
    sides = (size, size) if isinstance(size, Integral) else size
    whole = isinstance(sides, Sequence) and all(isinstance(side, Integral) and int(side) > 0 for side in sides)
    if not whole or len(sides) != 2:  # type: ignore[arg-type]
        raise ValueError(f"size={size!r}: one side or (H, W), in whole pixels, at least 1")
    return int(sides[0]), int(sides[1])  # type: ignore[index]


def positions(name: str, asked: Iterable[Any], count: int | None) -> list[int]:
    """Return the positions in the argument `name`: whole numbers unchanged, or the positions where a mask is true.

    Parameters
    ----------
    name : str
        Name of the argument, for messages.
    asked : iterable
        Whole numbers from ``-count`` to ``count - 1``, or `count` booleans; also a tensor or an array of them.
    count : int, optional
        Number of positions; None if unknown, and then masks are refused.

    Raises
    ------
    TypeError
        Other values, such as floating-point numbers.
    ValueError
        A mask of another length, or mixed with numbers.
    IndexError
        A number out of range.

    Examples
    --------
    >>> positions("labels", [True, False, True], 3), positions("labels", [2, -1, 2], 3)
    ([0, 2], [2, -1, 2])
    """
    items = asked.tolist() if hasattr(asked, "tolist") else asked
    values = [item.tolist() if hasattr(item, "tolist") else item for item in items]
    masked = sum(isinstance(value, bool) for value in values)
    if masked:
        if masked != len(values) or masked != count:
            needed = "whole numbers are needed" if count is None else f"a mask of {count}, or whole numbers, is needed"
            raise ValueError(f"{name}: {masked} booleans among {len(values)} values; {needed}")
        return [position for position, value in enumerate(values) if value]
    for value in values:
        if not isinstance(value, int):
            raise TypeError(f"{name}: {value!r} is no whole number")
        if count is not None and not -count <= value < count:
            raise IndexError(f"{name}: {value} of {count}, counted from 0")
    return values


def repeated(names: Iterable[Name]) -> list[Name]:
    """List the names that occur more than once, each once, in order of first occurrence.

    >>> repeated(["b", "a", "c", "a", "b", "a"])
    ['b', 'a']
    """
    return [name for name, count in Counter(names).items() if count > 1]


def few(names: Collection[object], most: int = 40) -> str:
    """Join the first names for a message, with their number if some are left out.

    >>> few("abc"), few(range(10**6), most=2)
    ('a, b, c', '0, 1, ... (1000000 in all)')
    """
    more = f", ... ({len(names)} in all)" if len(names) > most else ""
    return ", ".join(map(str, islice(names, most))) + more
