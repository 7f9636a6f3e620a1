"""What a model finds on images, and where: probabilities, heat maps and boxes in each file's own pixels."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from thoraxlib.explanation.by_maps import ByMaps
from thoraxlib.explanation.by_regions import ByRegions
from thoraxlib.explanation.result import Explanation, Finding
from thoraxlib.images import placement, read, transform_for
from thoraxlib.input_spec import InputSpec
from thoraxlib.localization import Boxes, to_original
from thoraxlib.localization.maps import upsample
from thoraxlib.registry import Spec
from thoraxlib.utils.modes import device_of
from thoraxlib.utils.workers import in_batches, read_batches


def explain(
    model: Any,
    images: Any,
    *,
    method: Spec | None = None,
    rule: Spec | Any | None = None,
    threshold: float | Sequence[float] | Mapping[str, float] = 0.5,
    batch_size: int = 16,
) -> list[Explanation]:
    """Probabilities, heat maps and boxes of images.

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
        at least the threshold, or "specific": without those that hold a smaller such region.
    threshold : float, sequence of float or mapping of str to float
        From which probability on a label is a finding: one for all, K in the model's order, or by name (0.5 for the
        others). :func:`thoraxlib.metrics.best_thresholds` chooses them.
    batch_size : int
        Images at a time.

    Returns
    -------
    list of Explanation
        One for each image. :func:`thoraxlib.explanation.explain_each` gives them one by one instead.

    Raises
    ------
    TypeError, ValueError
        A model without ``input_spec`` or ``labels``; a threshold of another length, outside [0, 1], NaN, or for an
        unknown label; a source that cannot be read.

    Examples
    --------
    >>> import thoraxlib
    >>> model = thoraxlib.build("chexnet", backbone="resnet10t", labels=["Mass", "Edema"], input_spec={"size": 64})
    >>> (image,) = thoraxlib.explain(model, torch.zeros(1, 80, 60, dtype=torch.uint8), threshold=0)
    >>> sorted(finding.label for finding in image.findings), image.size
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


def look_of(model: Any, method: Spec | None = None, rule: Spec | Any | None = None) -> ByMaps | ByRegions:
    """The way to see a model's findings; `method` and `rule` as in :func:`explain`."""
    return ByRegions(model, method, rule) if hasattr(model, "region_names") else ByMaps(model, method, rule)


def _explanations(
    model: Any, images: Iterable[Any], look: ByMaps | ByRegions, limits: Tensor, batch_size: int
) -> Iterator[Explanation]:
    transform, device, names = transform_for(model.input_spec), device_of(model), _Names()

    def read_one(numbered: tuple[int, Any]) -> tuple[str, Tensor, Tensor]:
        image = read(numbered[1])
        return names.of(numbered[1], numbered[0]), image.as_subclass(Tensor), transform.place(image)

    for batch in read_batches(read_one, in_batches(enumerate(images), batch_size), list):
        x = transform.normalize.batch([placed for _, _, placed in batch]).to(device)
        seen = look(x, limits)
        sizes = [(int(image.shape[-2]), int(image.shape[-1])) for _, image, _ in batch]
        found = to_original(seen.boxes, model.input_spec, [sizes[n] for n in seen.image.tolist()])
        for n, (name, image, _) in enumerate(batch):
            here = (seen.image == n).nonzero().flatten()
            heat = _to_image(seen.maps[here], model.input_spec, sizes[n])
            findings = [
                _finding(
                    model.labels[int(seen.label[m])],
                    float(seen.probabilities[n, seen.label[m]]),
                    found.where(found.image == m),
                    of_label,
                    look.regions,
                )
                for m, of_label in zip(here.tolist(), heat, strict=True)
            ]
            yield Explanation(
                name=name,
                image=image,
                probabilities=dict(zip(model.labels, seen.probabilities[n].tolist(), strict=True)),
                findings=tuple(sorted(findings, key=lambda finding: -finding.probability)),
                method=look.method,
                rule=look.rule,
            )


def _finding(label: str, probability: float, boxes: Boxes, heat: Tensor, regions: tuple[str, ...]) -> Finding:
    boxes = boxes.where(boxes.score.argsort(descending=True))
    corners = tuple((x1, y1, x2, y2) for x1, y1, x2, y2 in boxes.xyxy.tolist())
    names = tuple(regions[r] for r in boxes.label.tolist()) if regions else ()
    return Finding(label, probability, corners, tuple(boxes.score.tolist()), heat, names)


def _to_image(maps: Tensor, spec: InputSpec, size: tuple[int, int]) -> Tensor:
    """Maps (M, h, w) of an image's input in the frame of the image, (M, H, W); NaN where the model saw nothing."""
    place = placement(spec, *size)
    seen = upsample(maps[:, None], spec.size)
    (rows, columns), (y, x) = place.shared(spec.size)
    values = seen.amin(dim=(2, 3), keepdim=True).repeat(1, 1, place.height, place.width)
    values[..., rows, columns] = seen[..., y, x]
    unknown = torch.ones(1, 1, place.height, place.width)
    unknown[..., rows, columns] = 0
    unknown = functional.interpolate(unknown, size=size, mode="nearest-exact")
    return upsample(values, size).masked_fill_(unknown > 0, torch.nan)[:, 0]


def thresholds(threshold: float | Sequence[float] | Mapping[str, float], labels: tuple[str, ...]) -> Tensor:
    """Return the K thresholds, float64, of what :func:`explain` takes.

    Raises
    ------
    ValueError
        A label that the model does not have; another count of numbers; one that is NaN or outside of [0, 1].
    """
    if isinstance(threshold, Mapping):
        unknown = [label for label in threshold if label not in labels]
        if unknown:
            raise ValueError(f"threshold names {unknown}, which the model does not have; it has {list(labels)}")
        values = torch.tensor([float(threshold.get(label, 0.5)) for label in labels], dtype=torch.float64)
    else:
        values = torch.as_tensor(threshold, dtype=torch.float64, device="cpu")
        if values.ndim and values.shape != (len(labels),):
            raise ValueError(f"threshold must be one number or {len(labels)}, got shape {tuple(values.shape)}")
        values = values.expand(len(labels))
    if not ((values >= 0) & (values <= 1)).all():
        raise ValueError(f"threshold={threshold}: probabilities from 0 to 1 are needed, not NaN")
    return values


def _listed(images: Any) -> Iterable[Any]:
    if isinstance(images, (str, os.PathLike, Image.Image)):
        return [images]
    if hasattr(images, "ndim"):  # an array or tensor: one image, or a batch of them
        return list(images) if images.ndim == 4 else [images]
    return images if isinstance(images, Iterable) else [images]


class _Names:
    """Names of images, each given once, also where a file system does not tell A from a."""

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
