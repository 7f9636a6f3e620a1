"""The labels, patients and views of the synthetic data set: drawn for all images at once, without rendering any."""

from __future__ import annotations

from functools import cache, lru_cache
from importlib import resources

import numpy as np
from numpy.typing import NDArray

from thoraxlib.labels import resolve

#: The 14 findings, in the order of the table's columns.
FINDINGS = resolve("nih14")
#: Every label that the synthetic data set can give.
LABELS = resolve("nih15")

_BALANCED = 0.15  # prevalence of every finding at balance 1

# Chance of an AP (bedside) image: log-odds of an image without findings, and what each finding adds. Set by hand so
# that about 40 % of the images at NIH prevalence are AP and the findings of the acutely ill are mostly seen on AP
# images.
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
    """All distinct vectors of the 14 NIH labels, (790, 14), and the images that carry each, (790,)."""
    text = resources.files(__package__).joinpath("nih14_joint.csv").read_text(encoding="utf-8")
    rows = [line.split(",") for line in text.splitlines()[2:]]
    vectors = np.array([[bit == "1" for bit in bits] for bits, _ in rows])
    return vectors, np.array([float(count) for _, count in rows])


@lru_cache(maxsize=16)
def tilt(balance: float) -> NDArray[np.float64]:
    """Probability of each vector of :func:`joint_table`.

    With n the counts and p_k the prevalence of finding k in them, the result is
    ``q(v) ~ n(v) exp(sum_k lambda_k v_k)``, with the lambda that give finding k the prevalence
    ``(1 - balance) p_k + balance * 0.15``. Of all distributions with these prevalences it is the nearest to the
    counts in Kullback-Leibler divergence, and it keeps every conditional odds ratio between findings. The lambda come
    from iterative proportional fitting (Deming and Stephan, 1940).
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
    """Independent draws from the joint distribution of the findings: (length, 14)."""
    vectors, _ = joint_table()
    ends = np.cumsum(tilt(balance))
    rows = np.searchsorted(ends, rng.random(length) * ends[-1], side="right")
    return vectors[np.minimum(rows, len(vectors) - 1)]


def draw_views(rng: np.random.Generator, findings: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """True where the image is AP: (N,)."""
    shift = np.array([_AP_SHIFT.get(name, 0.0) for name in FINDINGS])
    chance = 1 / (1 + np.exp(-(_AP_BASE + findings @ shift)))
    return rng.random(len(findings)) < chance


def draw_patients(rng: np.random.Generator, length: int) -> NDArray[np.int64]:
    """Patient of each image, (length,): consecutive images share one; 1, 2, 3, ... images with geometric chance."""
    images = rng.geometric(0.4, size=length)
    return np.repeat(np.arange(length), images)[:length]
