"""Build tables of the documented models from their cards, the models themselves and ``tests/parity/manifest.json``.

The directives ``presets``, ``published``, ``agreement`` and ``notes`` take names of models. ``models`` and
``checkpoints`` list all models and all checkpoint layouts.
"""

from __future__ import annotations

import importlib
import inspect
import json
import string
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from published import FILES
from rst import Rendered, plain, table
from sphinx.application import Sphinx

import thoraxlib
from thoraxlib import checkpoints
from thoraxlib.models.registry import ABILITIES, ModelCard

PARITY = Path(__file__).parents[2] / "tests" / "parity"


@cache
def size_and_input(name: str, preset: str | None = None) -> tuple[str, str]:
    """Return the number of parameters of a model and its input, as text."""
    model = thoraxlib.build(name, preset=preset)
    count = sum(parameter.numel() for parameter in model.parameters())
    frozen = sum(parameter.numel() for parameter in model.parameters() if not parameter.requires_grad)
    spec = getattr(model, "input_spec", None)
    image = (
        f"{spec.size[1]} x {spec.size[0]}, {spec.resize}" if spec else "features of regions, or images with a detector"
    )
    return f"{count:,}" + (f" ({frozen:,} frozen)" if frozen else ""), image


def manifest() -> list[dict[str, Any]]:
    return json.loads((PARITY / "manifest.json").read_text(encoding="utf-8"))  # type: ignore[no-any-return]


def _card(name: str) -> ModelCard:
    card = thoraxlib.describe(name)
    assert isinstance(card, ModelCard)
    return card


class Presets(Rendered):
    """Table of the presets of models: description, options, number of parameters, input."""

    def lines(self) -> list[str]:
        rows = [row for name in self.arguments for row in self._rows(name, several=len(self.arguments) > 1)]
        return table(["Preset", "Description and options", "Parameters", "Input"], rows, [16, 50, 18, 16])

    def _rows(self, name: str, several: bool) -> Iterator[list[str]]:
        first = f"``{name}``: " if several else ""
        card = _card(name)
        yield [f"{first}(default)", thoraxlib.describe(name).summary, *size_and_input(name)]
        for preset, card_preset in card.presets.items():
            options = ", ".join(f"``{key}={value!r}``" for key, value in card_preset.options.items())
            text = plain(card_preset.summary) + (f"\n\n{options}" if options else "")
            yield [f"{first}``{preset}``", text, *size_and_input(name, preset)]


class Notes(Rendered):
    """List of the differences between a default and the paper or the original code."""

    def lines(self) -> list[str]:
        return [f"- {plain(note)}" for name in self.arguments for note in _card(name).notes]


class Published(Rendered):
    """Tables of the published scores, one for each set of labels, with their mean."""

    def lines(self) -> list[str]:
        published = {title: scores for name in self.arguments for title, scores in _card(name).published.items()}
        if not published:
            raise self.error(f"no scores are published for {', '.join(self.arguments)}")
        groups: dict[tuple[str, ...], dict[str, Any]] = {}
        for scores in sorted(published.values(), key=len, reverse=True):
            if not any(set(scores) <= set(labels) for labels in groups):
                groups[tuple(scores)] = {}
        for title, scores in published.items():  # a table of fewer labels goes into the group of one with more
            groups[next(labels for labels in groups if set(scores) <= set(labels))][title] = scores
        return [line for labels, tables in groups.items() for line in self._table(labels, tables)]

    def _table(self, labels: tuple[str, ...], tables: dict[str, Any]) -> list[str]:
        rows = [[label, *(_number(scores.get(label)) for scores in tables.values())] for label in labels]
        if len(labels) > 1:
            rows.append(["**mean**", *(_number(sum(s.values()) / len(s)) for s in tables.values())])
        if len(tables) <= 5:
            return [*table(["AUROC", *map(plain, tables)], rows), ""]
        letters = string.ascii_uppercase[: len(tables)]
        legend = ", ".join(f"**{letter}** {plain(title)}" for letter, title in zip(letters, tables, strict=True))
        return [*table(["AUROC", *letters], rows), "", f"{legend}.", ""]


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}".removeprefix("0")


class Agreement(Rendered):
    """Table of the records that a model is compared with, and of the quantities that agree."""

    def lines(self) -> list[str]:
        compared: dict[str, list[dict[str, Any]]] = {}
        for row in manifest():
            compared.setdefault(Path(row["record"]).stem, []).append(row)
        records: dict[str, str] = {}
        for name in self.arguments:
            records |= {record: text for record, text in _card(name).parity.items() if record not in records}
        rows = [[f"``{record}``", plain(text), _whole(compared.get(record, []))] for record, text in records.items()]
        return [
            *table(["Record", "Compared", "Whole model, weights by ``load_checkpoint``"], rows, [28, 32, 40]),
            "",
            f"The error is at most {_tolerance():g} of the largest value of each output, unless stated otherwise."
            " The default test suite makes all comparisons (``tests/parity``), with weights and images from formulas.",
        ]


def _whole(rows: list[dict[str, Any]]) -> str:
    if not rows:
        return "(a component, compared by itself)"
    outputs = sum(len(row["outputs"]) for row in rows)
    parameters = json.loads((PARITY / "records" / rows[0]["record"]).read_text(encoding="utf-8"))["parameters"]
    layouts = ", ".join(f"``{layout}``" for layout in dict.fromkeys(row["layout"] for row in rows))
    builds = f", {len(rows)} configurations" if len(rows) > 1 else ""
    return f"layout {layouts}: {outputs} outputs{builds}; the original has {parameters:,} parameters"


def _tolerance() -> float:
    sys.path.insert(0, str(PARITY))
    try:
        return inspect.signature(importlib.import_module("formulas").assert_matches).parameters["rtol"].default  # type: ignore[no-any-return]
    finally:
        sys.path.remove(str(PARITY))


class Models(Rendered):
    """Table of all documented models: training data, size, input, published weights."""

    def lines(self) -> list[str]:
        rows = [
            [f"``{name}``", thoraxlib.describe(name).summary, _needs(name), *size_and_input(name), _files(name)]
            for name in thoraxlib.models.registry.registered()
        ]
        header = ["Model", "Description", "Trained on", "Parameters", "Input", "Published weights"]
        return table(header, rows, [20, 25, 13, 14, 11, 17])


def _needs(name: str) -> str:
    options = thoraxlib.describe(name).options
    if "regions" in options:
        return "regions: boxes and labels"
    return "labels of images, organ masks" if options.get("segmenter") is not None else "labels of images"


def _files(name: str) -> str:
    layouts = [f"``{layout}``" for layout, source in FILES.items() if source.published and name in source.models]
    return ", ".join(layouts) or "none"


class Abilities(Rendered):
    """Table of what each documented model can do, as its card declares it."""

    def lines(self) -> list[str]:
        names = thoraxlib.models.registry.registered()
        rows = [[f"``{name}``", *map(plain, _card(name).abilities.values())] for name in names]
        return table(["Model", *ABILITIES], rows)


class Checkpoints(Rendered):
    """Table of all checkpoint layouts: source, published files, models that load them."""

    def lines(self) -> list[str]:
        known = set(checkpoints.registry.registered())
        if known != set(FILES):
            raise self.error(f"docs/_ext/published.py and thoraxlib.checkpoints differ: {sorted(known ^ set(FILES))}")
        used: dict[str, set[str]] = {}
        for row in manifest():
            used.setdefault(row["layout"], set()).add(row["build"][0])
        rows = []
        for layout, source in FILES.items():
            models = dict.fromkeys([*source.models, *sorted(used.get(layout, ()))])
            rows.append(
                [
                    f"``{layout}``",
                    checkpoints.describe(layout).summary,
                    source.published or "(none; weights that you trained)",
                    ", ".join(f"``{name}``" for name in models) or source.other,
                ]
            )
        return table(["Layout", "Source and contents", "Published files", "Loads into"], rows, [18, 40, 24, 18])


def setup(app: Sphinx) -> dict[str, Any]:
    for directive in (Presets, Notes, Published, Agreement, Models, Abilities, Checkpoints):
        app.add_directive(directive.__name__.lower(), directive)
    return {"parallel_read_safe": True, "version": "1"}
