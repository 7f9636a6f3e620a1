"""The registry of documented models: presets, cards, and a record of how a model was built."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import resources
from typing import Any, cast

from torch import nn

from thoraxlib import labels as label_sets
from thoraxlib.files import parse_json
from thoraxlib.input_spec import InputSpec
from thoraxlib.registry import Card, OptionError, Registry, UnknownNameError, as_json, without_pretrained

__all__ = ["ModelCard", "ModelRegistry", "Preset"]


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


class ModelRegistry(Registry[nn.Module]):
    """A registry whose ``build`` knows presets and leaves a record on the model."""

    card_type = ModelCard

    def build(self, name: str, *, preset: str | None = None, **options: Any) -> nn.Module:
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
        nn.Module
            With ``model.config``, the plain JSON that rebuilds it: ``{"name": ..., "options": {...}}``.

        Raises
        ------
        UnknownNameError, OptionError, ImportError
            As in every room; also for an unknown preset.
        TypeError
            What a plug-in builds is no nn.Module.
        """
        if preset is not None:
            presets = getattr(self.describe(name), "presets", {})
            if preset not in presets:
                raise UnknownNameError(f"models: presets of {name!r}", preset, presets)
            given, options = options, {**presets[preset].options, **options}
            spec, default = given.get("input_spec"), presets[preset].options.get("input_spec")
            if isinstance(spec, Mapping) and default:  # field by field
                options["input_spec"] = {**default, **spec}
        model = super().build(name, **options)
        if not isinstance(model, nn.Module):
            raise TypeError(f"models: {name!r} must build an nn.Module, got {type(model).__name__}")
        recorded, unknown = {}, {}
        for key, value in options.items():
            try:
                recorded[key] = as_json(value)
            except TypeError as error:
                unknown[key] = str(error)
        model.config = cast("Any", {"name": name, "options": recorded})
        model.unrecorded = cast("Any", unknown)
        return model

    def rebuild(self, config: Mapping[str, Any]) -> nn.Module:
        """The model of a recorded ``model.config``, without pretrained weights (its own are to be loaded next).

        Raises
        ------
        OptionError
            No config: name or options are lacking.
        """
        if not isinstance(config.get("name"), str) or not isinstance(config.get("options"), Mapping):
            raise OptionError(f"models: a config needs 'name' (str) and 'options' (mapping), got {dict(config)!r}")
        return self.build(config["name"], **without_pretrained(config["options"]))
