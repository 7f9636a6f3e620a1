"""Data set of synthetic chest X-rays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset
from torchvision import tv_tensors

from thoraxlib import labels as label_sets
from thoraxlib.datasets.base import Transform, bounding_boxes
from thoraxlib.datasets.synthetic.anatomy import draw_image, draw_patient
from thoraxlib.datasets.synthetic.body import Body
from thoraxlib.datasets.synthetic.canvas import Canvas
from thoraxlib.datasets.synthetic.findings import FOCAL, SIGNS
from thoraxlib.datasets.synthetic.image import develop
from thoraxlib.datasets.synthetic.labels import FINDINGS, draw_findings, draw_patients, draw_views
from thoraxlib.datasets.synthetic.regions import MASKS, REGIONS, organ_masks, region_boxes, region_findings
from thoraxlib.utils.arguments import one_of

_SMALLEST = 32


class SyntheticDataset(Dataset[dict[str, Any]]):
    """Synthetic frontal chest X-rays with findings, their boxes, organ masks and anatomical regions; needs no files.

    Each image is computed on request, from `seed` and its index only: equal arguments give equal pixels, in any order
    and in any process. A patient has one or more images with the same anatomy. The labels are drawn from the joint
    distribution of the 14 labels over the 112,120 images of NIH ChestX-ray14; each finding is drawn with its
    radiological sign. The data set is made to try, teach and test models of chest X-rays, not to train one for
    patients.

    Parameters
    ----------
    size : int
        Side of the square image in pixels, at least 32.
    length : int
        Number of images. A longer data set begins with the images of a shorter one.
    seed : int
        Random seed, 0 or more. Data sets with different seeds have different patients.
    labels : str or sequence of str
        A label set, or names of findings in any data set's spelling, ``"No Finding"`` or ``"Abnormal"``. Targets of
        other labels are NaN. Images also show findings that are not among the labels.
    view : {"PA", "AP"}, optional
        View of all images. By default the view depends on the findings.
    balance : float
        From 0, prevalence as in NIH (Hernia 0.2 %), to 1, prevalence 0.15 for every finding. The odds ratios between
        findings are those of NIH.
    masks : bool
        Give ``masks``; without them, rendering is a little faster.
    transform : callable, optional
        From sample to sample, e.g. :func:`thoraxlib.images.transform_for`.

    Attributes
    ----------
    labels, targets, patient_ids, ids
        See :class:`~thoraxlib.datasets.ChestDataset`; known without rendering.
    boxed : Tensor
        bool (N,): True if an image shows a focal finding of `labels`.
    views : list of str
        ``"PA"`` or ``"AP"`` for each image, drawn according to its findings.
    mask_names : tuple of str
        Organs of ``masks``, uint8 (7, H, W).
    region_names : tuple of str
        The 18 regions of ``regions``: those of Chest ImaGenome that AnaXNet uses, in its order. ``present`` (bool
        (18,)) is True for regions in the image. ``region_labels`` (float32 (18, K)) are the findings of each region,
        see :func:`~thoraxlib.datasets.synthetic.regions.region_findings`; NaN for other labels, also "No Finding" and
        "Abnormal". They follow from the drawing, so they are not known without rendering.
    focal : tuple of str
        Findings with ``boxes`` (one or more); the others are diffuse. A finding that lies outside the image has no box.

    Raises
    ------
    ValueError
        An argument is out of its range.

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
        transform: Transform | None = None,
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
        self._asked = label_sets.align((*FINDINGS, "No Finding", "Abnormal"), self.labels)
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
        drawn = [(FINDINGS.index(name), box) for name, boxes in shown for box in boxes]
        asked = [(self._asked.index(k), box) for k, box in drawn if k in self._asked]
        xyxy = torch.tensor([box for _, box in asked], dtype=torch.float32).reshape(-1, 4)
        size = (self.size, self.size)
        regions = region_boxes(body)
        sample: dict[str, Any] = {
            "image": tv_tensors.Image(torch.from_numpy(develop(body, rng))[None]),
            "labels": self.targets[index].clone(),
            "boxes": bounding_boxes(xyxy, size),
            "box_labels": torch.tensor([label for label, _ in asked], dtype=torch.long),
            "regions": bounding_boxes(torch.from_numpy(regions), size),
            "present": torch.from_numpy((regions[:, 2:] > regions[:, :2]).all(axis=1)),
            "region_labels": torch.from_numpy(_columns(region_findings(shown, regions), self._asked)),
            "id": self.ids[index],
        }
        if self.masks:
            sample["masks"] = tv_tensors.Mask(torch.from_numpy(organ_masks(body)))
        return sample if self.transform is None else self.transform(sample)


def _columns(known: NDArray[np.float32], asked: list[int | None]) -> NDArray[np.float32]:
    """Return the columns `asked` of `known`; NaN for None, and for columns that it does not have."""
    unknown = np.full((len(known), 1), np.nan, np.float32)
    width = known.shape[1]
    return np.concatenate([known, unknown], axis=1)[:, [width if k is None else min(k, width) for k in asked]]


def _stream(*keys: int) -> np.random.Generator:
    """Return an independent random generator for each tuple of keys."""
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(keys)))
