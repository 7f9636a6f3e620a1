"""Arguments that are refused with one message everywhere: name, value, and what is allowed; names in messages."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Hashable, Iterable, Sequence
from itertools import islice
from numbers import Integral
from typing import Any, TypeVar

Name = TypeVar("Name", bound=Hashable)


def one_of(name: str, value: object, allowed: Iterable[object], more: str = "") -> None:
    """Raise unless the argument `name` has one of the values that are allowed.

    Parameters
    ----------
    name : str
        Of the argument.
    value : object
        What it was given.
    allowed : iterable
        Values.
    more : str
        What else is allowed, in words, which the caller has seen to.

    Raises
    ------
    ValueError
        It has another value.

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
    """(H, W) of the argument `size`: both, or a single side.

    Raises
    ------
    ValueError
        Something else, or a side below 1.
    """
    sides = (size, size) if isinstance(size, Integral) else size
    whole = isinstance(sides, Sequence) and all(isinstance(side, Integral) and int(side) > 0 for side in sides)
    if not whole or len(sides) != 2:  # type: ignore[arg-type]
        raise ValueError(f"size={size!r}: one side or (H, W), in whole pixels, at least 1")
    return int(sides[0]), int(sides[1])  # type: ignore[index]


def positions(name: str, asked: Iterable[Any], count: int | None) -> list[int]:
    """Return the positions that the argument `name` asks for: whole numbers as they are, or where a mask is true.

    Parameters
    ----------
    name : str
        Of the argument.
    asked : iterable
        Whole numbers, from ``-count`` to ``count - 1``; or `count` booleans. Also a tensor or an array of them.
    count : int, optional
        How many there are; None where that is not known, so that a mask cannot be checked, and is refused.

    Raises
    ------
    TypeError
        Something else, as floating-point numbers are.
    ValueError
        A mask of another length, or mixed with numbers.
    IndexError
        A number that is too large or too small.

    Examples
    --------
    >>> positions("labels", [True, False, True], 3), positions("labels", [2, -1, 2], 3)
    ([0, 2], [2, -1, 2])
    """
    parts = asked.tolist() if hasattr(asked, "tolist") else asked
    found = [part.tolist() if hasattr(part, "tolist") else part for part in parts]
    masked = sum(isinstance(part, bool) for part in found)
    if masked:
        if masked != len(found) or masked != count:
            needed = "whole numbers are needed" if count is None else f"a mask of {count}, or whole numbers, is needed"
            raise ValueError(f"{name}: {masked} booleans among {len(found)} values; {needed}")
        return [position for position, part in enumerate(found) if part]
    for part in found:
        if not isinstance(part, int):
            raise TypeError(f"{name}: {part!r} is no whole number")
        if count is not None and not -count <= part < count:
            raise IndexError(f"{name}: {part} of {count}, counted from 0")
    return found


def repeated(names: Iterable[Name]) -> list[Name]:
    """List the names that come more than once, each once, in their first order.

    >>> repeated(["b", "a", "c", "a", "b", "a"])
    ['b', 'a']
    """
    return [name for name, count in Counter(names).items() if count > 1]


def few(names: Collection[object], most: int = 40) -> str:
    """Join the first names for a message; how many there are is said where some are left out.

    >>> few("abc"), few(range(10**6), most=2)
    ('a, b, c', '0, 1, ... (1000000 in all)')
    """
    more = f", ... ({len(names)} in all)" if len(names) > most else ""
    return ", ".join(map(str, islice(names, most))) + more
