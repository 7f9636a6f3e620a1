"""The registry of documented models: presets, cards, and a record of how a model was built."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import resources
from typing import Any, cast

from thoraxlib import labels as label_sets
from thoraxlib.input_spec import InputSpec
from thoraxlib.models.base import ChestModel
from thoraxlib.registry import Card, F, Registry, UnknownNameError, as_json
from thoraxlib.utils.files import parse_json


@dataclass(frozen=True)
class Preset:
    """Named options of a model.

    Attributes
    ----------
    summary : str
        What the preset changes against the default, and why.
    options : Mapping[str, Any]
        Options that it sets; those given to ``build`` beside it win.
    """

    summary: str
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class ModelCard(Card):
    """What ``describe`` tells about a documented model.

    Attributes
    ----------
    paper : str
        Authors, title, venue, arXiv number.
    label_sets : tuple of str
        Names in :mod:`thoraxlib.labels` for which the model is documented.
    input_spec : InputSpec or None
        The default input; None where there is none (features of regions), or where it depends on the options.
    presets : Mapping[str, Preset]
        Accepted by ``build(name, preset=...)``.
    published : Mapping[str, Mapping[str, float]]
        Published per-label AUROC: title of the table -> label -> value.
    parity : Mapping[str, str]
        Parity record -> what agrees and how closely.
    notes : tuple of str
        Where the default departs from the paper or code, and why.
    """

    paper: str = ""
    label_sets: tuple[str, ...] = ()
    input_spec: InputSpec | None = None
    presets: Mapping[str, Preset] = field(default_factory=dict)
    published: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    parity: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @classmethod
    def read(cls, name: str, *, input_spec: InputSpec | None = None) -> ModelCard:
        """Read the card of a documented model, ``cards/<name>.json``.

        A published table is a mapping of labels to values, or ``{"labels": <label set>, "auroc": [...]}``.
        """
        file = resources.files("thoraxlib.models").joinpath("cards").joinpath(f"{name}.json")
        known = parse_json(file.read_bytes(), file)
        tables = {title: _by_label(table) for title, table in known.pop("published", {}).items()}
        presets = {key: Preset(**preset) for key, preset in known.pop("presets", {}).items()}
        known.update({key: tuple(known.get(key, ())) for key in ("label_sets", "notes")})
        return cls(**known, presets=presets, published=tables, input_spec=input_spec)

    def __str__(self) -> str:
        lines = [super().__str__(), f"  paper: {self.paper}"]
        lines += [f"  label sets: {', '.join(self.label_sets)}"] if self.label_sets else []
        if self.input_spec is not None:
            height, width = self.input_spec.size
            lines.append(f"  input: {height} x {width} pixels, {self.input_spec.resize}")
        lines += [f"  preset {name!r}: {preset.summary}" for name, preset in self.presets.items()]
        for title, table in self.published.items():
            lines.append(f"  published AUROC, {title}: mean {sum(table.values()) / len(table):.4f}")
        lines += [f"  parity with {record}: {status}" for record, status in self.parity.items()]
        lines += [f"  note: {note}" for note in self.notes]
        return "\n".join(lines)


def _by_label(table: Mapping[str, Any]) -> Mapping[str, float]:
    if "auroc" not in table:
        return table
    return dict(zip(label_sets.build(table["labels"]), table["auroc"], strict=True))


class ModelRegistry(Registry[ChestModel]):
    """A registry whose ``build`` knows presets, and whose factories leave a record on the model."""

    card_type = ModelCard

    def register(self, name: str, *, card: Card | None = None, override: bool = False) -> Callable[[F], F]:
        """See :meth:`thoraxlib.registry.Registry.register`; a function then records its options on the model."""
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
            One of ``describe(name).presets``; options given beside it win over the preset's, `input_spec` field by
            field.
        **options
            See ``describe(name).options``. A part is a name, ``{"name": ..., **options}``, or the part itself. Of a
            part's options, ``path`` is not recorded: it must be one that None leaves to the weights.

        Returns
        -------
        ChestModel
            With ``model.config``, the plain JSON that rebuilds it: ``{"name": ..., "options": {...}}``.

        Raises
        ------
        UnknownNameError, OptionError, ImportError
            As in every subpackage; also for an unknown preset.
        TypeError
            What a plug-in builds is no :class:`thoraxlib.models.ChestModel`.
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
        """Leave the record ``config`` on a model; the outermost factory is the last to do so, and its record stays.

        Raises
        ------
        TypeError
            It is no model.
        """
        if not isinstance(part, ChestModel):
            raise TypeError(f"models: {name!r} must build a thoraxlib.models.ChestModel, got {type(part).__name__}")
        part.config, part.unrecorded = {"name": name, "options": {}}, {}
        for key, value in options.items():
            try:
                part.config["options"][key] = as_json(value)
            except TypeError as error:
                part.unrecorded[key] = str(error)
        return part
