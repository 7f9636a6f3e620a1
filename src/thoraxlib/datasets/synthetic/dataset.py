"""The data set of synthetic_images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset
from torchvision import tv_tensors

from thoraxlib import labels as label_sets
from thoraxlib.datasets.synthetic.anatomy import draw_image, draw_patient
from thoraxlib.datasets.synthetic.body import Body
from thoraxlib.datasets.synthetic.canvas import Canvas
from thoraxlib.datasets.synthetic.findings import FOCAL, SIGNS, Box
from thoraxlib.datasets.synthetic.image import develop
from thoraxlib.datasets.synthetic.labels import FINDINGS, LABELS, draw_findings, draw_patients, draw_views
from thoraxlib.datasets.synthetic.positions import region_findings
from thoraxlib.datasets.synthetic.regions import MASKS, REGIONS, organ_masks, region_boxes
from thoraxlib.utils.arguments import one_of

_SMALLEST = 32


class SyntheticDataset(Dataset[dict[str, Any]]):
    """Procedural frontal chest images with findings, their boxes, organ masks and anatomical regions; needs no files.

    Each image is computed when it is asked for, from `seed` and its index alone: equal arguments give equal pixels, in
    any order and in any process. Patients have one or several images of one anatomy. The labels are drawn from the
    joint distribution of the 14 labels over the 112,120 images of NIH ChestX-ray14; each finding is shown by its
    radiological sign. It is made to try out, teach and test models of chest images, not to train one for patients.

    Parameters
    ----------
    size : int
        Side of the square image in pixels, at least 32.
    length : int
        Number of images. A longer data set begins with the images of a shorter one.
    seed : int
        0 or more. Data sets of different seeds have different patients.
    labels : str or sequence of str
        A label set, or names of findings in any data set's spelling, ``"No Finding"`` or ``"Abnormal"``. A label that
        is no NIH finding is NaN throughout. Findings that are not asked for are shown all the same.
    balance : float
        0: prevalence as in NIH (Hernia 0.2 %). 1: every finding has prevalence 0.15; in between, in between. The odds
        ratios between findings stay as they are in NIH.
    view : {"PA", "AP"}, optional
        All images are of this view. By default the view depends on the findings.
    masks : bool
        Give ``masks``; without, rendering is a little faster.
    transform : callable, optional
        From sample to sample, e.g. :func:`thoraxlib.images.transform_for`.

    Attributes
    ----------
    labels, targets, patient_ids, ids
        See :class:`~thoraxlib.datasets.ChestDataset`; all known without rendering.
    boxed : Tensor
        bool (N,): whether an image shows a focal finding of `labels`.
    views : list of str
        ``"PA"`` or ``"AP"`` for each image.
    mask_names : tuple of str
        Organs of ``masks``, uint8 (7, H, W).
    region_names : tuple of str
        The 18 regions of ``regions``, in Chest ImaGenome's order as AnaXNet has it. ``present`` (bool (18,)) says which
        are in the picture, ``region_labels`` (float32 (18, K)) which findings each shows, by the rules of
        :func:`~thoraxlib.datasets.synthetic.positions.region_findings`; NaN for labels that are no NIH finding, "No
        Finding" and "Abnormal" among them. They follow from the drawing, so they are not known beforehand.
    focal : tuple of str
        Findings that come with ``boxes`` (one or several); the others are diffuse. Where an image is cut off so that
        nothing of a finding is in the picture, the box is lacking too.

    Raises
    ------
    ValueError
        An argument out of its range.

    Examples
    --------
    >>> from thoraxlib.datasets import build
    >>> sample = build("synthetic", size=64, length=4)[0]
    >>> {key: tuple(sample[key].shape) for key in ("image", "labels", "regions", "masks")}
    {'image': (1, 64, 64), 'labels': (14,), 'regions': (18, 4), 'masks': (7, 64, 64)}
    >>> sample["present"].shape, sample["region_labels"].shape
    (torch.Size([18]), torch.Size([18, 14]))

    References
    ----------
    X. Wang et al., "ChestX-ray8: hospital-scale chest X-ray database and benchmarks on weakly-supervised
    classification and localization of common thorax diseases", CVPR 2017.
    """

    mask_names = MASKS
    region_names = REGIONS
    focal = FOCAL

    def __init__(
        self,
        *,
        size: int = 224,
        length: int = 1000,
        seed: int = 0,
        labels: str | Sequence[str] = "nih14",
        balance: float = 0.0,
        view: str | None = None,
        masks: bool = True,
        transform: Callable[[dict[str, Any]], dict[str, Any]] | None = None,
    ) -> None:
        if size < _SMALLEST:
            raise ValueError(f"size={size}: a synthetic data set has at least {_SMALLEST} pixels a side")
        if length < 1:
            raise ValueError(f"length={length}: at least 1 image is needed")
        if seed < 0:
            raise ValueError(f"seed={seed}: 0 or more is accepted")
        if not 0 <= balance <= 1:
            raise ValueError(f"balance={balance}: from 0 (prevalence as in NIH) to 1 (0.15 for every finding)")
        one_of("view", view, (None, "PA", "AP"))
        self.size, self.seed, self.masks, self.transform = size, seed, masks, transform
        self.labels = label_sets.resolve(labels)
        self._findings = draw_findings(_stream(seed, 0), length, balance)
        self._patients = draw_patients(_stream(seed, 1), length)
        drawn = draw_views(_stream(seed, 2), self._findings)
        self._ap = drawn if view is None else np.full(length, view == "AP")
        self.views = ["AP" if ap else "PA" for ap in self._ap.tolist()]
        self.ids = [f"synthetic-{seed}-{index:06d}" for index in range(length)]
        self.patient_ids = [f"synthetic-{seed}-p{patient:06d}" for patient in self._patients.tolist()]
        some = self._findings.any(axis=1, keepdims=True)
        known = np.concatenate([self._findings, ~some, some], axis=1).astype(np.float32)
        self._asked = label_sets.align((*LABELS, "Abnormal"), self.labels)
        self.boxed = torch.from_numpy(
            self._findings[:, [k for k, name in enumerate(FINDINGS) if name in FOCAL and k in self._asked]].any(axis=1)
        )
        self.targets = torch.from_numpy(_columns(known, self._asked))

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> dict[str, Any]:
        index = range(len(self))[index]
        rng = _stream(self.seed, 3, index)
        thorax = draw_patient(_stream(self.seed, 4, int(self._patients[index])))
        draw_image(thorax, rng, bool(self._ap[index]))
        present = [name for name, has in zip(FINDINGS, self._findings[index], strict=True) if has]
        signs = [(name, SIGNS[name](_stream(self.seed, 5, index, FINDINGS.index(name)), thorax)) for name in present]
        body = Body(thorax, Canvas(self.size, self.size, thorax))
        shown = [(name, sign.draw(body)) for name, sign in signs]
        return self._sample(index, body, shown, rng)

    def _sample(
        self, index: int, body: Body, shown: list[tuple[str, list[Box]]], rng: np.random.Generator
    ) -> dict[str, Any]:
        found = [(FINDINGS.index(name), box) for name, boxes in shown for box in boxes]
        asked = [(self._asked.index(k), box) for k, box in found if k in self._asked]
        regions = region_boxes(body)
        sample: dict[str, Any] = {
            "image": tv_tensors.Image(torch.from_numpy(develop(body, rng))[None]),
            "labels": self.targets[index].clone(),
            "boxes": self._boxes(torch.tensor([box for _, box in asked], dtype=torch.float32).reshape(-1, 4)),
            "box_labels": torch.tensor([label for label, _ in asked], dtype=torch.long),
            "regions": self._boxes(torch.from_numpy(regions)),
            "present": torch.from_numpy((regions[:, 2:] > regions[:, :2]).all(axis=1)),
            "region_labels": torch.from_numpy(_columns(region_findings(shown, regions), self._asked)),
            "id": self.ids[index],
        }
        if self.masks:
            sample["masks"] = tv_tensors.Mask(torch.from_numpy(organ_masks(body)))
        return sample if self.transform is None else self.transform(sample)

    def _boxes(self, xyxy: torch.Tensor) -> tv_tensors.BoundingBoxes:
        side = (self.size, self.size)
        return tv_tensors.BoundingBoxes(xyxy, format="XYXY", canvas_size=side)  # type: ignore[call-overload, no-any-return]


def _columns(known: NDArray[np.float32], asked: list[int | None]) -> NDArray[np.float32]:
    """The columns that are asked for; NaN for those beyond `known`."""
    unknown = np.full((len(known), 1), np.nan, np.float32)
    width = known.shape[1]
    return np.concatenate([known, unknown], axis=1)[:, [width if k is None else min(k, width) for k in asked]]


def _stream(*keys: int) -> np.random.Generator:
    """An own stream of random numbers for each tuple of keys."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(keys)))
