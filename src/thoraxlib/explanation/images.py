"""Explain images: probabilities, heat maps and boxes in each file's own pixels."""

from __future__ import annotations

import os
import re
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from thoraxlib.explanation.findings import MapExplainer, RegionExplainer, explainer_for
from thoraxlib.explanation.organs import find_lungs, segmenter_for, share_inside
from thoraxlib.explanation.result import Explanation, Finding
from thoraxlib.explanation.view import ViewCheck
from thoraxlib.images import read, transform_for
from thoraxlib.input_spec import InputSpec
from thoraxlib.localization.boxes import area, in_originals
from thoraxlib.localization.frames import in_original
from thoraxlib.registry import Spec
from thoraxlib.segmentation import Segmenter
from thoraxlib.utils.modes import device_of
from thoraxlib.utils.workers import in_batches, read_batches


def explain(
    model: Any,
    images: Any,
    *,
    method: Spec | None = None,
    rule: Spec | Any | None = None,
    threshold: float | Sequence[float] | Mapping[str, float] = 0.5,
    segmenter: Spec | nn.Module | None = None,
    check: bool = False,
    batch_size: int = 16,
) -> list[Explanation]:
    """Compute probabilities, heat maps and boxes of images.

    Parameters
    ----------
    model : Classifier
        With ``input_spec`` and ``labels``.
    images : source or sequence of sources
        Files, Pillow images, arrays or tensors, as :func:`thoraxlib.preprocess_for` takes them.
    method : str or mapping, optional
        From :mod:`thoraxlib.cams`; default "pcam" for PCAM pooling, "cam" for other heads with per-location logits,
        otherwise "gradcam". For a model of anatomical regions, "regions": the heat map is a finding's probability in
        each region, the highest where regions overlap.
    rule : str, mapping or callable, optional
        From :mod:`thoraxlib.localization`; default at most three boxes, around the regions with a probability above 0.5
        ("pcam"), or above 180 of 255 (other maps). For a model of anatomical regions, "all" returns the regions whose
        probability is at least the threshold; "specific" drops those that contain a smaller such region.
    threshold : float, sequence of float or mapping of str to float
        Lowest probability of a finding: one for all labels, K in the model's order, or by name (0.5 for the others).
        :func:`thoraxlib.metrics.best_thresholds` chooses them.
    segmenter : str, mapping or Segmenter, optional
        Segmenter with the class "lungs", such as "lungs-small": outlines the lungs, and gives each finding the share of
        its heat map that lies inside them, ``in_lungs``. A low share says that the model may look at something other
        than the lungs, such as a marker or a device. It does not say that the finding is wrong: an enlarged heart's
        or a pleural effusion's heat may lie outside.
    check : bool
        Estimate each image's view, orientation and inversion by the weights "view-small" (``view`` of the explanation),
        and warn of turned and inverted images. The images are not changed.
    batch_size : int
        Images per forward pass.

    Returns
    -------
    list of Explanation
        One for each image. Use :func:`thoraxlib.explanation.explain_each` to get them one by one.

    Raises
    ------
    TypeError, ValueError
        A model without ``input_spec`` or ``labels``; a threshold of another length, outside [0, 1], NaN, or for an
        unknown label; a source that cannot be read; a segmenter without lungs.

    Warns
    -----
    UserWarning
        The segmenter found no lungs in an image; ``in_lungs`` is then None. Or, with `check`, an image seems to be
        turned or inverted.

    Examples
    --------
    >>> import thoraxlib
    >>> model = thoraxlib.build("chexnet", backbone="resnet10t", labels=["Mass", "Edema"], input_spec={"size": 64})
    >>> (image,) = thoraxlib.explain(model, torch.zeros(1, 80, 60, dtype=torch.uint8), threshold=0)
    >>> sorted(finding.label for finding in image.findings), image.size
    (['Edema', 'Mass'], (80, 60))
    """
    return list(
        explain_each(
            model,
            images,
            method=method,
            rule=rule,
            threshold=threshold,
            segmenter=segmenter,
            check=check,
            batch_size=batch_size,
        )
    )


def explain_each(
    model: Any,
    images: Any,
    *,
    method: Spec | None = None,
    rule: Spec | Any | None = None,
    threshold: float | Sequence[float] | Mapping[str, float] = 0.5,
    segmenter: Spec | nn.Module | None = None,
    check: bool = False,
    batch_size: int = 16,
) -> Iterator[Explanation]:
    """Explain images one by one, as :func:`explain`; of an iterator `images`, one batch is in memory at a time."""
    check_model(model)
    if batch_size < 1:
        raise ValueError(f"batch_size={batch_size}: at least 1 is needed")
    limits, explainer = thresholds(threshold, tuple(model.labels)), explainer_for(model, method, rule)
    device = device_of(model)
    net, views = segmenter_for(segmenter, device), ViewCheck(device) if check else None
    return _explanations(model, _listed(images), explainer, limits, net, views, batch_size)


def check_model(model: Any) -> None:
    """Raise TypeError unless a model has an ``input_spec`` and ``labels``."""
    if not isinstance(getattr(model, "input_spec", None), InputSpec) or not getattr(model, "labels", ()):
        raise TypeError(
            f"{type(model).__name__} has no input_spec or no labels: a model of thoraxlib that takes images "
            "is needed; thoraxlib.wrap makes one of any network"
        )


def _explanations(
    model: Any,
    images: Iterable[Any],
    explainer: MapExplainer | RegionExplainer,
    limits: Tensor,
    segmenter: Segmenter | None,
    check: ViewCheck | None,
    batch_size: int,
) -> Iterator[Explanation]:
    spec: InputSpec = model.input_spec
    transform, device, names = transform_for(spec), device_of(model), _Names()

    def read_one(numbered: tuple[int, Any]) -> tuple[str, Tensor, Tensor]:
        image = read(numbered[1])
        return names.of(numbered[1], numbered[0]), image.as_subclass(Tensor), transform.place(image)

    for batch in read_batches(read_one, in_batches(enumerate(images), batch_size), list):
        x = transform.normalize.batch([placed for _, _, placed in batch]).to(device)
        found = explainer(x, limits)
        boxes, sizes = found.boxes, [(int(image.shape[-2]), int(image.shape[-1])) for _, image, _ in batch]
        corners = in_originals(boxes.xyxy, boxes.image, spec, sizes)
        titles, originals = [name for name, _, _ in batch], [image for _, image, _ in batch]
        organs = None if segmenter is None else find_lungs(segmenter, originals, titles)
        views = None if check is None else check(originals)
        for name, view in zip(titles, views or (), strict=views is not None):
            if view.faults:
                warnings.warn(f"{name} {' and '.join(view.faults)}", stacklevel=3)
        shown = area(corners) > 0  # False for boxes in the padding
        for n, (name, image, _) in enumerate(batch):
            here = (found.image == n).nonzero().flatten()
            probabilities = dict(zip(model.labels, found.probabilities[n].tolist(), strict=True))
            lungs = None if organs is None else organs[n]
            findings = []
            for k, heat in zip(found.label[here].tolist(), in_original(found.maps[here], spec, sizes[n]), strict=True):
                rows = (shown & (boxes.image == n) & (boxes.label == k)).nonzero().flatten()
                rows = rows[boxes.score[rows].argsort(descending=True)]
                label, regions = model.labels[k], found.regions[rows].tolist() if explainer.regions else ()
                finding = Finding(
                    label,
                    probabilities[label],
                    tuple((x1, y1, x2, y2) for x1, y1, x2, y2 in corners[rows].tolist()),
                    tuple(boxes.score[rows].tolist()),
                    heat,
                    tuple(explainer.regions[r] for r in regions),
                    None if lungs is None else share_inside(heat, lungs),
                )
                findings.append(finding)
            findings.sort(key=lambda finding: -finding.probability)
            how = explainer.method, explainer.rule
            yield Explanation(
                name, image, probabilities, tuple(findings), *how, lungs, None if views is None else views[n]
            )


def thresholds(threshold: float | Sequence[float] | Mapping[str, float], labels: tuple[str, ...]) -> Tensor:
    """Convert the `threshold` of :func:`explain` to K numbers, float64.

    Raises
    ------
    ValueError
        An unknown label; another count of numbers; a number that is NaN or outside [0, 1].
    """
    if isinstance(threshold, Mapping):
        unknown = [label for label in threshold if label not in labels]
        if unknown:
            raise ValueError(f"threshold names {unknown}, which the model does not have; it has {list(labels)}")
        threshold = [float(threshold.get(label, 0.5)) for label in labels]
    values = torch.as_tensor(threshold, dtype=torch.float64, device="cpu")
    if values.ndim and values.shape != (len(labels),):
        raise ValueError(f"threshold must be one number or {len(labels)}, got shape {tuple(values.shape)}")
    if not ((values >= 0) & (values <= 1)).all():
        raise ValueError(f"threshold={threshold}: probabilities from 0 to 1 are needed, not NaN")
    return values.expand(len(labels))


def _listed(images: Any) -> Iterable[Any]:
    if hasattr(images, "ndim"):  # an array or tensor: one image, or a batch
        return list(images) if images.ndim == 4 else [images]
    single = isinstance(images, (str, os.PathLike, Image.Image)) or not isinstance(images, Iterable)
    return [images] if single else images


class _Names:
    """Unique names of images, also on file systems that ignore case."""

    def __init__(self) -> None:
        self.given: set[str] = set()
        self.repeats: Counter[str] = Counter()  # of each stem

    def of(self, source: Any, position: int) -> str:
        stem = Path(source).stem if isinstance(source, (str, os.PathLike)) else ""
        name = stem = re.sub(r"[^\w.\-]+", "_", stem) or f"image-{position + 1:04d}"
        while name.casefold() in self.given:
            self.repeats[stem.casefold()] += 1
            name = f"{stem}-{self.repeats[stem.casefold()] + 1}"
        self.given.add(name.casefold())
        return name
