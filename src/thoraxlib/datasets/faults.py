"""Faults of a user's data: raised when a data set is built, collected when it is checked."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

from thoraxlib.utils.arguments import few


class Faults:
    """Receive the faults that are found while a table or folder is read.

    Parameters
    ----------
    collect : bool
        Keep the faults in `errors` and `warnings`, instead of raising and warning.

    Attributes
    ----------
    errors, warnings : dict of str to list of str
        Kind of fault -> its cases.
    """

    def __init__(self, *, collect: bool = False) -> None:
        self.collect = collect
        self.errors: dict[str, list[str]] = {}
        self.warnings: dict[str, list[str]] = {}

    def error(self, kind: str, cases: Sequence[str], message: str = "") -> None:
        """Raise ValueError with `message` (by default: number and kind) if there are cases; or keep the cases."""
        if self.collect and cases:
            self.errors.setdefault(kind, []).extend(cases)
        elif cases:
            raise ValueError(f"{message or counted(kind, cases)}: {few(cases, 5)}")

    def warn(self, kind: str, cases: Sequence[str], message: str = "") -> None:
        """Warn with `message` (by default: number and kind) if there are cases; or keep the cases."""
        if self.collect and cases:
            self.warnings.setdefault(kind, []).extend(cases)
        elif cases:
            warnings.warn(f"{message or counted(kind, cases)}: {few(cases, 5)}", stacklevel=6)


def counted(kind: str, cases: Sequence[str]) -> str:
    """Return number and kind of faults, for a message.

    >>> counted("missing files", ["a.png", "b.png"])
    '2 missing files'
    """
    return f"{len(cases)} {kind}"
