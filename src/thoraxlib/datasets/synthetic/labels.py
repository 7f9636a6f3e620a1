"""Labels, patients and views of the synthetic data set, drawn for all images without rendering."""

from __future__ import annotations

from functools import cache, lru_cache
from importlib import resources

import numpy as np
from numpy.typing import NDArray

from thoraxlib.labels import resolve

#: The 14 findings, in the order of the table's columns.
FINDINGS = resolve("nih14")

_BALANCED = 0.15  # prevalence of every finding at balance 1

# Log-odds of an AP (bedside) image without findings, and the increase by each finding. Set by hand: about 40 % of the
# images at NIH prevalence are AP, and findings of the acutely ill are mostly on AP images.
_AP_BASE = -0.72
_AP_SHIFT = {
    "Atelectasis": 0.4,
    "Cardiomegaly": 0.2,
    "Effusion": 0.4,
    "Infiltration": 0.7,
    "Pneumonia": 0.9,
    "Consolidation": 0.9,
    "Edema": 2.0,
    "Mass": -0.3,
    "Nodule": -0.3,
    "Emphysema": -0.2,
    "Fibrosis": -0.7,
    "Pleural_Thickening": -0.5,
    "Hernia": -0.7,
}


@cache
def joint_table() -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    """Return all distinct vectors of the 14 NIH labels (790, 14), and the number of images with each (790,)."""
    text = resources.files(__package__).joinpath("nih14_joint.csv").read_text(encoding="utf-8")
    rows = [line.split(",") for line in text.splitlines()[2:]]
    vectors = np.array([[bit == "1" for bit in bits] for bits, _ in rows])
    return vectors, np.array([float(count) for _, count in rows])


@lru_cache(maxsize=16)
def tilt(balance: float) -> NDArray[np.float64]:
    """Return the probability of each vector of :func:`joint_table`.

    For counts n, in which finding k has prevalence p_k, the result is ``q(v) ~ n(v) exp(sum_k lambda_k v_k)``. The
    lambda_k are such that finding k has the prevalence ``(1 - balance) p_k + balance * 0.15``. This is the distribution
    with these prevalences that is nearest to the counts in Kullback-Leibler divergence, and it keeps all conditional
    odds ratios between findings. It is computed by iterative proportional fitting (Deming and Stephan, 1940).
    """
    vectors, counts = joint_table()
    q = counts / counts.sum()
    target = (1 - balance) * (q @ vectors) + balance * _BALANCED
    for _ in range(200 if balance > 0 else 0):
        for k, wanted in enumerate(target):
            has = vectors[:, k]
            now = q[has].sum()
            q = np.where(has, q * (wanted / now), q * ((1 - wanted) / (1 - now)))
        if np.abs(q @ vectors - target).max() < 1e-9:
            break
    return q


def draw_findings(rng: np.random.Generator, length: int, balance: float) -> NDArray[np.bool_]:
    """Draw findings (length, 14) from their joint distribution."""
    vectors, _ = joint_table()
    ends = np.cumsum(tilt(balance))
    rows = np.searchsorted(ends, rng.random(length) * ends[-1], side="right")
    return vectors[np.minimum(rows, len(vectors) - 1)]


def draw_views(rng: np.random.Generator, findings: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Draw the view of each image (N,): True for AP."""
    shift = np.array([_AP_SHIFT.get(name, 0.0) for name in FINDINGS])
    chance = 1 / (1 + np.exp(-(_AP_BASE + findings @ shift)))
    return rng.random(len(findings)) < chance


def draw_patients(rng: np.random.Generator, length: int) -> NDArray[np.int64]:
    """Draw the patient of each image (length,); a patient has consecutive images, with a geometric number of them."""
    images = rng.geometric(0.4, size=length)
    return np.repeat(np.arange(length), images)[:length]
