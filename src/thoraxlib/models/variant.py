"""Documented models that are another one with other defaults."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from thoraxlib.input_spec import InputSpec

__all__ = ["variant"]

P = ParamSpec("P")
M = TypeVar("M")


def variant(
    base: Callable[P, M], doc: str | None, *, input_spec: InputSpec | None = None, **defaults: Any
) -> Callable[P, M]:
    """Make a factory that builds `base` with other defaults.

    Parameters
    ----------
    base : callable
        The factory of the other model.
    doc : str, optional
        Description, in place of the text of `base` above its parameters: ``__doc__`` of a file that holds one model.
    input_spec : InputSpec, optional
        Default input; the option ``input_spec`` changes it field by field. By default that of `base`.
    **defaults
        Options of `base` that differ.

    Raises
    ------
    TypeError
        `base` has no option of that name.
    """
    signature = inspect.signature(base)
    signature.bind_partial(**defaults)

    @functools.wraps(base)
    def factory(*args: P.args, **options: P.kwargs) -> M:
        given: dict[str, Any] = {**defaults, **options}
        if input_spec is not None:
            spec = input_spec.with_channels(given.get("in_chans", input_spec.channels))
            given["input_spec"] = spec.updated(given.get("input_spec"))
        return base(*args, **given)

    parameters = [p.replace(default=defaults.get(p.name, p.default)) for p in signature.parameters.values()]
    factory.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    shared = (inspect.getdoc(base) or "").partition("\nParameters\n")
    factory.__doc__ = inspect.cleandoc(doc or "") + "\n" + "".join(shared[1:])
    return factory
