"""The registry of documented models: presets, cards, and the record of a model's options."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import resources
from typing import Any, cast

from thoraxlib import labels as label_sets
from thoraxlib.backbones import remote
from thoraxlib.input_spec import InputSpec
from thoraxlib.models.base import ChestModel
from thoraxlib.registry import Card, F, OptionError, Registry, UnknownNameError, as_json
from thoraxlib.utils.arguments import one_of
from thoraxlib.utils.files import parse_json

#: Abilities that a test tries on every documented model.
ABILITIES = (
    "save, load",
    "an image alone",
    "bfloat16",
    "channels_last",
    "optimize_for_inference",
    "torch.compile",
    "torch.export",
    "ONNX Runtime",
    "heat maps",
)


@dataclass(frozen=True)
class Preset:
    """Named options of a model.

    Attributes
    ----------
    summary : str
        Differences from the default, and their reason.
    options : Mapping[str, Any]
        Options that it sets; options of ``build`` override them.
    """

    summary: str
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class ModelCard(Card):
    """Description of a documented model, as ``describe`` returns it.

    Attributes
    ----------
    paper : str
        Authors, title, venue, arXiv number.
    label_sets : tuple of str
        Names in :mod:`thoraxlib.labels` for which the model is documented.
    input_spec : InputSpec or None
        The default input; None if there is none (features of regions), or if it depends on the options.
    presets : Mapping[str, Preset]
        Accepted by ``build(name, preset=...)``.
    published : Mapping[str, Mapping[str, float]]
        Published per-label AUROC: title of the table -> label -> value.
    parity : Mapping[str, str]
        Record of the original code's numbers -> outputs that agree with it.
    notes : tuple of str
        Differences from the paper or code, and their reasons.
    limits : Mapping[str, str]
        Those of :data:`ABILITIES` that the model does not have, or has in part -> what holds instead.
    """

    paper: str = ""
    label_sets: tuple[str, ...] = ()
    input_spec: InputSpec | None = None
    presets: Mapping[str, Preset] = field(default_factory=dict)
    published: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    parity: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    limits: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, name: str, *, input_spec: InputSpec | None = InputSpec()) -> ModelCard:  # noqa: B008  (immutable)
        """Read the card of a documented model, ``cards/<name>.json``.

        A published table is a mapping of labels to values, or ``{"labels": <label set>, "auroc": [...]}``.

        Raises
        ------
        ValueError
            A limit of an unknown ability.
        """
        file = resources.files("thoraxlib.models").joinpath("cards").joinpath(f"{name}.json")
        known = parse_json(file.read_bytes(), file)
        tables = {title: _by_label(table) for title, table in known.pop("published", {}).items()}
        presets = {key: Preset(**preset) for key, preset in known.pop("presets", {}).items()}
        known.update({key: tuple(known.get(key, ())) for key in ("label_sets", "notes")})
        for ability in known.get("limits", ()):
            one_of(f"{file}: limits", ability, ABILITIES)
        return cls(**known, presets=presets, published=tables, input_spec=input_spec)

    @property
    def abilities(self) -> dict[str, str]:
        """Each of :data:`ABILITIES` with "yes", or with what holds instead."""
        return {ability: self.limits.get(ability, "yes") for ability in ABILITIES}

    def __str__(self) -> str:
        lines = [super().__str__(), f"  paper: {self.paper}"]
        lines += [f"  label sets: {', '.join(self.label_sets)}"] if self.label_sets else []
        if self.input_spec is not None:
            height, width = self.input_spec.size
            lines.append(f"  input: {height} x {width} pixels, {self.input_spec.resize}")
        lines += [f"  preset {name!r}: {preset.summary}" for name, preset in self.presets.items()]
        for title, table in self.published.items():
            lines.append(f"  published AUROC, {title}: mean {sum(table.values()) / len(table):.4f}")
        lines += [f"  agrees with {record}: {status}" for record, status in self.parity.items()]
        lines += [f"  note: {note}" for note in self.notes]
        lines += [f"  {ability}: {limit}" for ability, limit in self.limits.items()]
        return "\n".join(lines)


def _by_label(table: Mapping[str, Any]) -> Mapping[str, float]:
    if "auroc" not in table:
        return table
    return dict(zip(label_sets.build(table["labels"]), table["auroc"], strict=True))


class ModelRegistry(Registry[ChestModel]):
    """Registry whose ``build`` knows presets, and whose factories record their options on the model."""

    card_type = ModelCard

    def register(self, name: str, *, card: Card | None = None, override: bool = False) -> Callable[[F], F]:
        """See :meth:`thoraxlib.registry.Registry.register`; a function also records its options on the model."""
        put = super().register(name, card=card, override=override)

        def decorate(factory: F) -> F:
            @functools.wraps(factory)
            def recording(*args: Any, **options: Any) -> Any:
                given = dict(zip(inspect.signature(factory).parameters, args, strict=False))
                return self.recorded(factory(*args, **options), name, {**given, **options})

            return put(factory if isinstance(factory, type) else cast("F", recording))

        return decorate

    def describe(self, name: str) -> ModelCard:
        """The card of the model called `name`."""
        return cast("ModelCard", super().describe(name))

    def build(self, name: str, *, preset: str | None = None, **options: Any) -> ChestModel:
        """Build the model called `name`.

        Parameters
        ----------
        name : str
            One of :meth:`names`.
        preset : str, optional
            One of ``describe(name).presets``. Other options override the preset's, `input_spec` field by field.
        **options
            See ``describe(name).options``. A component is a name, ``{"name": ..., **options}``, or the object itself.
            Its option ``path`` is not recorded: the saved weights contain what was read from that file.

        Returns
        -------
        ChestModel
            With ``model.config``, the plain JSON that rebuilds it: ``{"name": ..., "options": {...}}``.

        Raises
        ------
        UnknownNameError, OptionError, ImportError
            See :meth:`thoraxlib.registry.Registry.build`; also for an unknown preset.
        TypeError
            A plug-in builds something else than a :class:`thoraxlib.models.ChestModel`.
        """
        if preset is not None:
            presets = self.describe(name).presets
            if preset not in presets:
                raise UnknownNameError(f"models: presets of {name!r}", preset, presets)
            given, options = options, {**presets[preset].options, **options}
            spec, default = given.get("input_spec"), presets[preset].options.get("input_spec")
            if isinstance(spec, Mapping) and default:  # field by field
                options["input_spec"] = {**default, **spec}
        return super().build(name, **options)

    def recorded(self, part: ChestModel, name: str, options: Mapping[str, Any]) -> ChestModel:
        """Set ``config`` of a model. The outermost factory is the last to do so, and its record stays.

        Raises
        ------
        TypeError
            `part` is no model.
        """
        if not isinstance(part, ChestModel):
            raise TypeError(f"models: {name!r} must build a thoraxlib.models.ChestModel, got {type(part).__name__}")
        part.config, part.unrecorded = {"name": name, "options": {}}, {}
        for key, value in options.items():
            try:
                # a saved model needs neither the Hub nor the folder that it is from
                part.config["options"][key] = remote.as_architecture(as_json(value))
            except TypeError as error:
                part.unrecorded[key] = str(error)
        return part


def with_options(registry: Registry[Any], head: Any, **options: Any) -> Any:
    """Spec of a head with those options of its model that are not None; options in the spec itself stay.

    Raises
    ------
    OptionError
        There are options, and the head is a ready object.
    """
    given = {key: value for key, value in options.items() if value is not None}
    if not given:
        return head
    if not isinstance(head, (str, Mapping)):
        kind = type(head).__name__
        raise OptionError(f"models: the head is a {kind} that is made already: {sorted(given)} cannot be set")
    name, own = registry.split_spec(head)
    return {"name": name, **given, **own}
