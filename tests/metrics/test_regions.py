from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from thoraxlib.metrics import RegionScores, auroc, evaluate_regions

REGIONS, FINDINGS = ("left", "right", "middle"), ("x", "y")


def cases(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    y = (rng.random((60, 3, 2)) < 0.3).astype(np.float32)
    return y, rng.random((60, 3, 2)) + 0.5 * y


def scored(y: Any, s: Any, **options: Any) -> RegionScores:
    return evaluate_regions(y, s, regions=REGIONS, labels=FINDINGS, n_bootstrap=5, **options)


def test_an_image_s_labels_do_not_depend_on_the_detector() -> None:
    y, s = cases()
    y[:10] = [[1, 1], [0, 0], [0, 0]]  # positive in the region that is missed alone
    present = np.ones((60, 3), bool)
    present[:10, 0] = present[20:25] = False
    report = scored(y, s, present=present)
    seen = np.r_[0:20, 25:60]  # without the images in which nothing was found
    assert [row.positives for row in report.images.rows] == y[seen].max(axis=1).sum(axis=0).tolist()
    highest = np.where(present[..., None], s, -np.inf)[seen].max(axis=1)
    np.testing.assert_allclose([row.auroc for row in report.images.rows], auroc(y[seen].max(axis=1), highest))
    # of regions, those that were found alone
    assert report.positives.tolist() == np.where(present[..., None], y, 0).sum(axis=0).T.astype(int).tolist()


def test_scores_of_absent_regions_do_not_matter() -> None:
    y, s = cases()
    present = np.random.default_rng(1).random((60, 3)) < 0.7
    other = np.where(present[..., None], s, np.nan)
    one, two = scored(y, s, present=present), scored(y, other, present=present)
    np.testing.assert_array_equal(one.auroc, two.auroc)
    assert (one.to_csv(), str(one)) == (two.to_csv(), str(two))


def test_a_minimum_of_positives() -> None:
    y, s = cases()
    y[:, 2, 0] = 0
    y[:2, 2, 0] = 1
    every, some = scored(y, s), scored(y, s, minimum=3)
    np.testing.assert_allclose(every.per_finding[0], every.auroc[0].mean())
    np.testing.assert_allclose(some.per_finding[0], every.auroc[0, :2].mean())
    assert np.isnan(scored(y, s, minimum=61).mean)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"minimum": 0}, "minimum=0: at least 1"),
        ({"present": torch.ones(60, 3)}, r"present must be bool \(60, 3\)"),
        ({"present": torch.ones(60, 2, dtype=torch.bool)}, r"present must be bool \(60, 3\), got .*\(60, 2\)"),
        ({"patient_ids": ["a"]}, "patient_ids has 1 entries, targets have 60 images"),
    ],
)
def test_arguments_that_cannot_be(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        scored(*cases(), **options)


def test_shapes_that_do_not_fit() -> None:
    y, s = cases()
    with pytest.raises(ValueError, match=r"targets and scores must be \(N, 3, 2\)"):
        scored(y[:, :2], s[:, :2])
    with pytest.raises(ValueError, match=r"must be \(N, 3, 2\), got .*\(59, 3, 2\)"):
        scored(y, s[:59])
