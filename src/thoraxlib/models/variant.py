"""Register documented models that are another model with other defaults."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar, cast

from thoraxlib.input_spec import InputSpec
from thoraxlib.models import register
from thoraxlib.models.base import Classifier
from thoraxlib.models.registry import ModelCard

P = ParamSpec("P")
M = TypeVar("M", bound=Classifier)


def variant(
    name: str, doc: str | None, base: Callable[P, M], *, input_spec: InputSpec | None = None, **defaults: Any
) -> Callable[P, M]:
    """Register a documented model that is another model with other defaults.

    Parameters
    ----------
    name : str
        Name of the model, and of its card ``cards/<name>.json``.
    doc : str, optional
        Description that replaces the text of `base` above its parameters, such as the ``__doc__`` of the model's file.
    base : callable
        The factory of the other model.
    input_spec : InputSpec, optional
        Default input, which the option ``input_spec`` changes field by field; by default 224 x 224 pixels with
        ImageNet's statistics.
    **defaults
        Options of `base` that differ.

    Raises
    ------
    TypeError
        `base` has no option of that name.
    """
    default = InputSpec() if input_spec is None else input_spec
    signature = inspect.signature(base)
    signature.bind_partial(**defaults)

    @functools.wraps(base)
    def factory(*args: P.args, **options: P.kwargs) -> M:
        given: dict[str, Any] = {**defaults, **options}
        spec = default.with_channels(given.get("in_chans", default.channels))
        return base(*args, **{**given, "input_spec": spec.updated(given.get("input_spec"))})

    parameters = [p.replace(default=defaults.get(p.name, p.default)) for p in signature.parameters.values()]
    factory.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    shared = (inspect.getdoc(base) or "").partition("\nParameters\n")
    factory.__doc__ = inspect.cleandoc(doc or "") + "\n" + "".join(shared[1:])
    return cast("Callable[P, M]", register(name, card=ModelCard.read(name, input_spec=default))(factory))
