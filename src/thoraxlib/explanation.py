"""What a model finds on films, and where: probabilities, heat maps and boxes in each file's own pixels."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from thoraxlib import cams, localization, viz
from thoraxlib.files import replacing
from thoraxlib.images import preprocess_for, read
from thoraxlib.input_spec import InputSpec
from thoraxlib.localization import Boxes, to_original
from thoraxlib.pooling.base import expansion, per_label
from thoraxlib.registry import Spec

__all__ = ["Explanation", "Finding", "explain", "explain_each"]


@dataclass(frozen=True)
class Finding:
    """A label above its threshold.

    Attributes
    ----------
    label : str
        Its name.
    probability : float
        0 to 1.
    boxes : tuple of (float, float, float, float)
        x1, y1, x2, y2 in the file's pixels, the highest score first.
    scores : tuple of float
        Of the boxes: the probability times the mean of the stretched map in it.
        Where the boxes are anatomical regions, the finding's probability in each.
    map : Tensor
        float32 (H, W): the heat map in the film's own frame; what the model did not see is NaN.
    regions : tuple of str
        Names of the boxes, where they are anatomical regions; otherwise empty.
    """

    label: str
    probability: float
    boxes: tuple[tuple[float, float, float, float], ...]
    scores: tuple[float, ...]
    map: Tensor
    regions: tuple[str, ...] = ()

    def __str__(self) -> str:
        names = [f"{region} " for region in self.regions] or [""] * len(self.boxes)
        corners = [" ".join(f"{value:.0f}" for value in box) for box in self.boxes]
        places = "; ".join(name + box for name, box in zip(names, corners, strict=True))
        return f"{self.label:<28}{self.probability:>7.3f}  {places}"


@dataclass(frozen=True)
class Explanation:
    """What a model says about one film; ``print`` it, or :meth:`save` it.

    Attributes
    ----------
    name : str
        Of the film: the file's stem, or its position; unique among those explained together.
    image : Tensor
        uint8, or floating point in [0, 1]: (1, H, W), the film as it was read.
    probabilities : Mapping[str, float]
        Of every label; NaN where it could not be assessed, as no anatomical region was found.
    findings : tuple of Finding
        Labels above their threshold, the likeliest first.
    method, rule : str
        How maps and boxes were made.
    """

    name: str
    image: Tensor
    probabilities: Mapping[str, float]
    findings: tuple[Finding, ...]
    method: str
    rule: str

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) of the film."""
        return int(self.image.shape[-2]), int(self.image.shape[-1])

    def __str__(self) -> str:
        lines = [
            f"{self.name} ({self.size[1]} x {self.size[0]} pixels)",
            f"{'finding':<28}{'p':>7}  boxes (x1 y1 x2 y2)",
        ]
        lines += [str(finding) for finding in self.findings]
        if not self.findings:
            known = {label: value for label, value in self.probabilities.items() if value == value}
            highest = max(known, key=known.__getitem__, default=None)
            lines.append(
                "no region found: not assessed"
                if highest is None
                else f"nothing above its threshold; highest: {highest} {known[highest]:.3f}"
            )
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        """Everything but pixels and maps, as plain JSON."""
        return {
            "image": self.name,
            "size": list(self.size),
            "method": self.method,
            "rule": self.rule,
            "probabilities": {label: value if value == value else None for label, value in self.probabilities.items()},
            "findings": [
                {
                    "label": finding.label,
                    "probability": finding.probability,
                    "boxes": [list(box) for box in finding.boxes],
                    "scores": list(finding.scores),
                    **({"regions": list(finding.regions)} if finding.regions else {}),
                }
                for finding in self.findings
            ],
        }

    def panel(self, *, side: int = 512, most: int = 5, truth: Mapping[str, Sequence[Any]] | None = None) -> Image.Image:
        """The film, and beside it the likeliest findings, each with its heat map and boxes.

        Parameters
        ----------
        side : int
            Longer side of a picture in the panel, in pixels.
        most : int
            Findings at most.
        truth : mapping of str to sequence, optional
            True boxes (x1, y1, x2, y2) of labels, in the film's pixels: drawn dashed, in another colour, with a legend.
        """
        film = viz.fit(self.image, side)  # first, so that lines and letters are those of a picture of this size
        scale = torch.tensor([film.width / self.size[1], film.height / self.size[0]] * 2)
        true = {label: torch.as_tensor(boxes).float().reshape(-1, 4) * scale for label, boxes in (truth or {}).items()}
        names = [label for label, boxes in true.items() for _ in range(len(boxes))]
        everything = torch.cat([torch.zeros(0, 4), *true.values()])
        cells, titles = [viz.draw_boxes(film, everything, names, truth=True)], [self.name]
        for finding in self.findings[:most]:
            lowest = float(finding.map.nan_to_num(torch.inf).min())
            cell = viz.overlay(film, finding.map.nan_to_num(lowest))
            cell = viz.draw_boxes(cell, true.get(finding.label, []), truth=True)
            boxes = torch.tensor(finding.boxes).reshape(-1, 4) * scale
            names = [f"{region} " for region in finding.regions] or [""] * len(boxes)
            texts = [f"{name}{score:.2f}" for name, score in zip(names, finding.scores, strict=True)]
            cells.append(viz.draw_boxes(cell, boxes, texts))
            titles.append(f"{finding.label} {finding.probability:.2f}")
        return viz.panel(cells, titles, columns=min(len(cells), 3), side=side, legend=truth is not None)

    def save(self, folder: str | os.PathLike[str], **options: Any) -> None:
        """Write ``<name>.png``, the panel, and ``<name>.json`` into `folder`, each whole or not at all.

        `options` are those of :meth:`panel`.
        """
        viz.save(self.panel(**options), Path(folder) / f"{self.name}.png")
        with replacing(Path(folder) / f"{self.name}.json") as scratch:
            scratch.write_text(json.dumps(self.to_json(), indent=2) + "\n", encoding="utf-8")


def explain(
    model: Any,
    images: Any,
    *,
    method: Spec | None = None,
    rule: Spec | Any | None = None,
    threshold: float | Sequence[float] | Mapping[str, float] = 0.5,
    batch_size: int = 16,
) -> list[Explanation]:
    """Probabilities, heat maps and boxes of films.

    Parameters
    ----------
    model : Classifier
        With ``input_spec`` and ``labels``.
    images : source or sequence of sources
        Files, Pillow images, arrays or tensors, as :func:`thoraxlib.preprocess_for` takes them.
    method : str or mapping, optional
        From :mod:`thoraxlib.cams`; default "pcam" for PCAM pooling, "cam" where the head has per-location logits,
        "gradcam" elsewhere. For a model of anatomical regions, "regions": the heat map is a finding's probability in
        each region, the highest where regions overlap.
    rule : str, mapping or callable, optional
        From :mod:`thoraxlib.localization`; default, at most three boxes of what is above half of "pcam"'s probability,
        or above 180 of 255 of another map. For a model of anatomical regions, "all" those in which the probability is
        above the threshold, or "specific": without those that hold a smaller such region.
    threshold : float, sequence of float or mapping of str to float
        Above which probability a label is a finding: one for all, K in the model's order, or by name (0.5 for the
        others). :func:`thoraxlib.metrics.best_thresholds` chooses them.
    batch_size : int
        Films at a time.

    Returns
    -------
    list of Explanation
        One for each film. :func:`thoraxlib.explanation.explain_each` gives them one by one instead.

    Raises
    ------
    TypeError, ValueError
        A model without ``input_spec`` or ``labels``; a threshold of another length, outside [0, 1] or for an unknown
        label; a source that cannot be read.

    Examples
    --------
    >>> import thoraxlib
    >>> model = thoraxlib.build("chexnet", backbone="resnet10t", labels=["Mass", "Edema"], input_spec={"size": 64})
    >>> (film,) = thoraxlib.explain(model, torch.zeros(1, 80, 60, dtype=torch.uint8), threshold=0)
    >>> sorted(finding.label for finding in film.findings), film.size
    (['Edema', 'Mass'], (80, 60))
    """
    each = explain_each(model, images, method=method, rule=rule, threshold=threshold, batch_size=batch_size)
    return list(each)


def explain_each(
    model: Any,
    images: Any,
    *,
    method: Spec | None = None,
    rule: Spec | Any | None = None,
    threshold: float | Sequence[float] | Mapping[str, float] = 0.5,
    batch_size: int = 16,
) -> Iterator[Explanation]:
    """As :func:`explain`, one by one; `images` may be an iterator, of which only a batch is held at a time."""
    check_model(model)
    if batch_size < 1:
        raise ValueError(f"batch_size={batch_size}: at least 1 is needed")
    limits = thresholds(threshold, tuple(model.labels))
    return _explanations(model, _listed(images), look_of(model, method, rule), limits, batch_size)


def check_model(model: Any) -> None:
    """Raise TypeError unless a model says what its input is and what its logits mean."""
    if not isinstance(getattr(model, "input_spec", None), InputSpec) or not getattr(model, "labels", ()):
        raise TypeError(
            f"{type(model).__name__} has no input_spec or no labels: a model of thoraxlib that takes images is needed"
        )


class Seen(NamedTuple):
    """What a model sees in a batch of N films.

    Attributes
    ----------
    probabilities : Tensor
        (N, K).
    image, label : Tensor
        int64 (M,): of each finding, a label above its threshold.
    maps : Tensor
        (M, h, w): of each finding.
    boxes : Boxes
        In pixels of the input; ``image`` is the position among the findings, ``label`` that in the look's `regions`.
    """

    probabilities: Tensor
    image: Tensor
    label: Tensor
    maps: Tensor
    boxes: Boxes


class Look(Protocol):
    """A way to see findings: ``look(x, limits)`` of a batch (N, C, h, w) and thresholds (K,), on the CPU."""

    method: str
    rule: str
    regions: tuple[str, ...]

    def __call__(self, x: Tensor, limits: Tensor) -> Seen:
        """What is seen."""
        ...


def look_of(model: Any, method: Spec | None = None, rule: Spec | Any | None = None) -> Look:
    """The way to see a model's findings; `method` and `rule` as in :func:`explain`."""
    if not hasattr(model, "region_names"):
        return ByMaps(model, method, rule)
    from thoraxlib.region_explanation import ByRegions

    return ByRegions(model, method, rule)


class ByMaps:
    """Findings on heat maps, and boxes by a rule."""

    regions: tuple[str, ...] = ()

    def __init__(self, model: Any, method: Spec | None, rule: Spec | Any | None) -> None:
        self.method, options = cams.registry.split_spec(_default_method(model) if method is None else method)
        self.cam = cams.build(self.method, model, **options)
        if rule is None:
            level = {"name": "level", "keep": 3}
            rule = level if self.method == "pcam" else {"name": "threshold", "levels": (180,), "keep": 3}
        self.boxes_of = localization.registry.resolve(rule)
        if not callable(self.boxes_of):
            raise TypeError(f"rule={rule!r}: a name, a mapping or a callable is needed")
        named = rule["name"] if isinstance(rule, Mapping) else rule
        self.rule = named if isinstance(named, str) else type(rule).__name__
        self.size = model.input_spec.size

    def __call__(self, x: Tensor, limits: Tensor) -> Seen:
        """What is seen."""
        logits, maps = (each.cpu() for each in self.cam.with_logits(x))
        probabilities = logits.sigmoid()
        image, label = (probabilities > limits).nonzero(as_tuple=True)
        chosen = maps[image, label]
        boxes: Boxes = self.boxes_of(chosen[:, None], self.size, probabilities[image, label][:, None])
        return Seen(probabilities, image, label, chosen, boxes)


def _explanations(
    model: Any, images: Iterable[Any], look: Look, limits: Tensor, batch_size: int
) -> Iterator[Explanation]:
    preprocess, device = preprocess_for(model), next(model.parameters()).device
    names, position, sources = _Names(), 0, iter(images)
    while batch := list(islice(sources, batch_size)):
        films = [read(source) for source in batch]
        x = torch.stack([preprocess.transform(film).as_subclass(Tensor) for film in films]).to(device)
        seen = look(x, limits)
        sizes = [(int(film.shape[-2]), int(film.shape[-1])) for film in films]
        found = to_original(seen.boxes, model.input_spec, [sizes[n] for n in seen.image.tolist()])
        for n, film in enumerate(films):
            here = (seen.image == n).nonzero().flatten().tolist()
            findings = [
                _finding(
                    model.labels[int(seen.label[m])],
                    float(seen.probabilities[n, seen.label[m]]),
                    found.where(found.image == m),
                    _to_film(seen.maps[m], model.input_spec, sizes[n]),
                    look.regions,
                )
                for m in here
            ]
            yield Explanation(
                name=names.of(batch[n], position + n),
                image=film.as_subclass(Tensor),
                probabilities=dict(zip(model.labels, seen.probabilities[n].tolist(), strict=True)),
                findings=tuple(sorted(findings, key=lambda finding: -finding.probability)),
                method=look.method,
                rule=look.rule,
            )
        position += len(batch)


def _finding(label: str, probability: float, boxes: Boxes, heat: Tensor, regions: tuple[str, ...]) -> Finding:
    boxes = boxes.where(boxes.score.argsort(descending=True))
    corners = tuple((x1, y1, x2, y2) for x1, y1, x2, y2 in boxes.xyxy.tolist())
    names = tuple(regions[r] for r in boxes.label.tolist()) if regions else ()
    return Finding(label, probability, corners, tuple(boxes.score.tolist()), heat, names)


def _to_film(heat: Tensor, spec: InputSpec, size: tuple[int, int]) -> Tensor:
    """A map (h, w) of the model's input in the frame of the film, (H, W); NaN where the model saw nothing."""
    from thoraxlib.images import placement

    place = placement(spec, *size)
    seen = cams.upsample(heat[None, None], spec.size)[0, 0]
    resized, of_input = place.shared(spec.size)
    values = torch.full((place.height, place.width), float(seen.min()))
    known = torch.zeros(place.height, place.width)
    values[resized] = seen[of_input]
    known[resized] = 1
    whole = cams.upsample(values[None, None], size)[0, 0]
    known = functional.interpolate(known[None, None], size=size, mode="nearest-exact")[0, 0]
    return torch.where(known > 0, whole, torch.nan)


def thresholds(threshold: float | Sequence[float] | Mapping[str, float], labels: tuple[str, ...]) -> Tensor:
    """K thresholds, of what :func:`explain` takes."""
    if isinstance(threshold, Mapping):
        unknown = [label for label in threshold if label not in labels]
        if unknown:
            raise ValueError(f"threshold names {unknown}, which the model does not have; it has {list(labels)}")
        values = torch.tensor([float(threshold.get(label, 0.5)) for label in labels])
    else:
        values = torch.as_tensor(threshold, dtype=torch.float32)
        if values.ndim and values.shape != (len(labels),):
            raise ValueError(f"threshold must be one number or {len(labels)}, got shape {tuple(values.shape)}")
        values = values.expand(len(labels))
    if not ((values >= 0) & (values <= 1)).all():
        raise ValueError(f"threshold={threshold}: probabilities from 0 to 1")
    return values


def _default_method(model: Any) -> str:
    head = getattr(model, "head", None)
    pool = getattr(head, "pool", None)
    if pool is None or expansion(pool) != 1 or not hasattr(model, "logit_maps"):
        return "gradcam"
    return "pcam" if per_label(pool) else "cam"


def _listed(images: Any) -> Iterable[Any]:
    if isinstance(images, (str, os.PathLike, Image.Image)):
        return [images]
    if hasattr(images, "ndim"):  # an array or tensor: one film, or a batch of them
        return list(images) if images.ndim == 4 else [images]
    return images if isinstance(images, Iterable) else [images]


class _Names:
    """Names of films, each given once, also where a file system does not tell A from a."""

    def __init__(self) -> None:
        self.given: dict[str, int] = {}

    def of(self, source: Any, position: int) -> str:
        stem = Path(source).stem if isinstance(source, (str, os.PathLike)) else f"image-{position + 1:04d}"
        stem = re.sub(r"[^\w.\-]+", "_", stem) or f"image-{position + 1:04d}"
        name, count = stem, self.given.get(stem.casefold(), 0) + 1
        while name.casefold() in self.given:
            count = max(count, 2)
            name, count = f"{stem}-{count}", count + 1
        self.given[stem.casefold()] = max(count - 1, 1)
        self.given.setdefault(name.casefold(), 1)
        return name
