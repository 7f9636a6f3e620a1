"""The synthetic data set: repeatable, labelled as NIH is, true to its own boxes, masks and regions."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from thoraxlib import datasets
from thoraxlib.datasets.synthetic import SyntheticDataset
from thoraxlib.datasets.synthetic.anatomy import draw_image, draw_patient
from thoraxlib.datasets.synthetic.body import Body
from thoraxlib.datasets.synthetic.canvas import Canvas
from thoraxlib.datasets.synthetic.findings import FOCAL, SIGNS, Box
from thoraxlib.datasets.synthetic.image import develop
from thoraxlib.datasets.synthetic.labels import joint_table, tilt
from thoraxlib.datasets.synthetic.regions import MASKS, REGIONS, region_boxes, region_findings
from thoraxlib.labels import resolve
from thoraxlib.localization import box_iou

# images of each finding in NIH ChestX-ray14, over its 112,120 (Wang et al., 2017, in its published count)
NIH_COUNTS = {"Infiltration": 19894, "Effusion": 13317, "Atelectasis": 11559, "Nodule": 6331, "Hernia": 227}


def image(name: str | None, seed: int, size: int = 128) -> tuple[Body, list[Box], np.ndarray[Any, Any]]:
    """One image of patient `seed`, with one finding or none; all else equal."""
    thorax = draw_patient(np.random.default_rng(seed))
    draw_image(thorax, np.random.default_rng([seed, 1]), ap=bool(seed % 2))
    thorax.marker, thorax.collimation, thorax.electrodes, thorax.line = None, None, 0, False
    sign = SIGNS[name](np.random.default_rng([seed, 2]), thorax) if name is not None else None
    body = Body(thorax, Canvas(size, size, thorax))
    boxes = sign.draw(body) if sign is not None else []
    return body, boxes, develop(body, np.random.default_rng([seed, 3])).astype(np.float32)


def same(a: dict[str, Any], b: dict[str, Any]) -> bool:
    return a.keys() == b.keys() and all(
        torch.equal(a[key], b[key]) if isinstance(a[key], Tensor) else a[key] == b[key] for key in a
    )


def test_the_same_in_any_order_and_length() -> None:
    long, short = SyntheticDataset(size=48, length=40, balance=0.5), SyntheticDataset(size=48, length=7, balance=0.5)
    assert torch.equal(long.targets[:7], short.targets)
    assert long.patient_ids[:7] == short.patient_ids
    assert same(long[6], short[6])
    assert same(long[-1], long[39])
    assert not torch.equal(long[0]["image"], SyntheticDataset(size=48, length=1, balance=0.5, seed=1)[0]["image"])
    with pytest.raises(IndexError):
        short[7]


def test_sample() -> None:
    dataset = SyntheticDataset(size=96, length=30, balance=1.0)
    assert isinstance(dataset, datasets.ChestDataset)
    for index in range(len(dataset)):
        sample = dataset[index]
        assert sample["image"].shape == (1, 96, 96)
        assert sample["image"].dtype == torch.uint8
        assert sample["image"].float().std() > 20
        assert torch.equal(sample["labels"], dataset.targets[index])
        assert sample["masks"].shape == (len(MASKS), 96, 96)
        assert set(sample["masks"].unique().tolist()) == {0, 1}
        assert sample["regions"].shape == (18, 4)
        assert sample["present"].all()
        assert set(sample["region_labels"].unique().tolist()) <= {0, 1}
        for boxes in (sample["boxes"], sample["regions"]):
            assert boxes.canvas_size == (96, 96)
            assert ((boxes >= 0) & (boxes <= 96)).all()
            assert (boxes[:, 2:] > boxes[:, :2]).all()
        assert all(sample["labels"][label] == 1 for label in sample["box_labels"])
    batch = datasets.collate([dataset[0], dataset[1]])
    assert batch["image"].shape == (2, 1, 96, 96)


def test_labels_follow_nih() -> None:
    vectors, counts = joint_table()
    assert counts.sum() == 112_120
    for name, count in NIH_COUNTS.items():
        assert counts[vectors[:, resolve("nih14").index(name)]].sum() == pytest.approx(count, rel=0.01)
    targets = SyntheticDataset(length=40_000).targets.numpy()
    expected = (counts / counts.sum()) @ vectors
    assert np.abs(targets.mean(axis=0) - expected).max() < 0.006
    joint = vectors.T @ (vectors * (counts / counts.sum())[:, None])
    assert np.abs(targets.T @ targets / len(targets) - joint).max() < 0.006


@pytest.mark.parametrize("balance", [0.3, 1.0])
def test_balance_moves_prevalence_and_keeps_odds_ratios(balance: float) -> None:
    vectors, counts = joint_table()
    p = counts / counts.sum()
    q = tilt(balance)
    assert q.sum() == pytest.approx(1)
    assert q @ vectors == pytest.approx((1 - balance) * (p @ vectors) + balance * 0.15, abs=1e-6)
    # the change of each vector's log-probability is a sum over its findings, so every odds ratio stays
    change = np.log(q / p)
    design = np.column_stack([np.ones(len(vectors)), vectors])
    residual = change - design @ np.linalg.lstsq(design, change, rcond=None)[0]
    assert np.abs(residual).max() < 1e-6


def test_patients_have_follow_up_images_of_one_anatomy() -> None:
    dataset = SyntheticDataset(length=400)
    images = len(dataset) / len(set(dataset.patient_ids))
    assert 2 < images < 3
    parts = datasets.split_by_patient(dataset, {"train": 0.7, "rest": 0.3})
    assert not set(parts["train"].patient_ids) & set(parts["rest"].patient_ids)


def test_views_and_labels() -> None:
    assert set(SyntheticDataset(length=50, view="AP").views) == {"AP"}
    free = SyntheticDataset(length=4000)
    assert 0.3 < np.mean([view == "AP" for view in free.views]) < 0.5
    some = SyntheticDataset(length=200, labels=["No Finding", "Cardiomegaly", "Fracture"], balance=1.0)
    everything = SyntheticDataset(length=200, balance=1.0)
    assert torch.equal(some.targets[:, 0] == 1, everything.targets.sum(dim=1) == 0)
    assert torch.equal(some.targets[:, 1], everything.targets[:, 1])
    assert some.targets[:, 2].isnan().all()


def test_a_mask_is_where_the_organ_is() -> None:
    dataset = SyntheticDataset(size=128, length=40)
    lungs, heart = [], []
    for index in np.flatnonzero(dataset.targets.sum(dim=1) == 0):
        sample = dataset[int(index)]
        image, masks = sample["image"][0].float(), sample["masks"].bool()
        organ = dict(zip(dataset.mask_names, masks, strict=True))
        lungs.append(float(image[(organ["right lung"] | organ["left lung"]) & ~organ["heart"]].mean()))
        heart.append(float(image[organ["heart"]].mean()))
        columns = torch.arange(128.0)
        assert (organ["right lung"] * columns).sum() / organ["right lung"].sum() < 64  # the patient's right
        assert not (organ["right lung"] & organ["left lung"]).any()
    assert np.mean(heart) > np.mean(lungs) + 50


def test_regions_are_where_their_names_say() -> None:
    assert len(REGIONS) == 18
    for seed in range(20):
        body, _, _ = image(None, seed)
        x1, y1, x2, y2 = (dict(zip(REGIONS, column.tolist(), strict=True)) for column in region_boxes(body).T)
        for side in ("right", "left"):
            zones = [
                f"{side} {zone}" for zone in ("apical zone", "upper lung zone", "mid lung zone", "lower lung zone")
            ]
            for above, below in combinations(zones, 2):
                assert y1[above] < y1[below]
                assert y2[above] < y2[below]
            for zone in zones:
                assert y1[zone] >= y1[f"{side} lung"] - 1
                assert y2[zone] <= y2[f"{side} lung"] + 1
            lung = body.lung * (body.left == (side == "left")) > 0.5
            rows, columns = np.flatnonzero(lung.any(axis=1)), np.flatnonzero(lung.any(axis=0))
            name = f"{side} lung"
            shared = (min(x2[name], columns[-1]) - max(x1[name], columns[0])) * (
                min(y2[name], rows[-1]) - max(y1[name], rows[0])
            )
            area = (x2[name] - x1[name]) * (y2[name] - y1[name])
            assert shared / (area + (columns[-1] - columns[0]) * (rows[-1] - rows[0]) - shared) > 0.6
        assert x2["right hilar structures"] < x1["left hilar structures"]
        assert y2["upper mediastinum"] <= y2["mediastinum"]
        assert x1["trachea"] < x2["mediastinum"]


@pytest.mark.parametrize("name", SIGNS)
def test_a_finding_changes_the_image_and_where_focal_in_its_box(name: str) -> None:
    found = 0
    for seed in range(8):
        _, none, plain = image(None, seed)
        _, boxes, shown = image(name, seed)
        assert none == []
        change = np.abs(shown - plain)
        assert change.max() > 20
        assert bool(boxes) <= (name in FOCAL)
        if not boxes:
            continue
        found += 1
        inside = np.zeros_like(change, bool)
        for x1, y1, x2, y2 in boxes:
            assert 0 <= x1 < x2 <= 128
            assert 0 <= y1 < y2 <= 128
            inside[int(y1) : int(np.ceil(y2)), int(x1) : int(np.ceil(x2))] = True
        assert change[inside].mean() > 1.2 * change[~inside].mean()
    assert found >= 7 if name in FOCAL else found == 0


def test_signs_are_the_nih_findings() -> None:
    assert tuple(SIGNS) == resolve("nih14")
    assert set(FOCAL) == set(SIGNS) - {"Edema", "Emphysema", "Fibrosis"}


def test_cardiothoracic_ratio() -> None:
    for seed in range(20):
        large = image("Cardiomegaly", seed)[0].thorax
        normal = image(None, seed)[0].thorax
        assert (
            sum(normal.heart_half_widths()) / sum(normal.width)
            < 0.5
            < sum(large.heart_half_widths()) / sum(large.width)
        )


@pytest.mark.parametrize("name", [None, "Cardiomegaly"])
def test_the_heart_s_box_is_that_of_its_silhouette(name: str | None) -> None:
    for seed in range(20):
        body, _, _ = image(name, seed)
        rows, columns = np.flatnonzero((body.heart > 0).any(axis=1)), np.flatnonzero((body.heart > 0).any(axis=0))
        mask = torch.tensor([[columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]]).float()
        assert box_iou(mask, torch.tensor([body.heart_box()])) > 0.75


def test_boxed_says_which_images_have_boxes() -> None:
    dataset = SyntheticDataset(size=64, length=60, balance=1.0, labels=["Mass", "Edema", "Effusion"])
    assert dataset.boxed.tolist() == [len(dataset[index]["boxes"]) > 0 for index in range(60)]


def test_emphysema_is_darker_and_longer() -> None:
    for seed in range(5):
        sick, _, _ = image("Emphysema", seed)
        well, _, _ = image(None, seed)
        assert sick.lung.sum() > well.lung.sum()
        assert (sick.attenuation() * sick.lung).sum() / sick.lung.sum() < (
            well.attenuation() * well.lung
        ).sum() / well.lung.sum()


@pytest.mark.parametrize("size", [32, 97, 300])
def test_sizes_show_the_same_anatomy(size: int) -> None:
    small, large = SyntheticDataset(size=size, length=3)[2], SyntheticDataset(size=224, length=3)[2]
    assert small["image"].shape == (1, size, size)
    assert (small["regions"] / size).numpy() == pytest.approx((large["regions"] / 224).numpy(), abs=1e-4)
    area = small["masks"].float().mean(dim=(1, 2)) - large["masks"].float().mean(dim=(1, 2))
    assert area.abs().max() < 0.02


def test_without_masks_and_with_transform() -> None:
    sample = SyntheticDataset(size=32, length=1, masks=False)[0]
    assert "masks" not in sample
    assert same(sample, {key: value for key, value in SyntheticDataset(size=32, length=1)[0].items() if key != "masks"})
    assert SyntheticDataset(size=32, length=1, transform=lambda sample: {"id": sample["id"]})[0] == {
        "id": "synthetic-0-000000"
    }


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 31}, "size=31.*32"),
        ({"length": 0}, "length=0"),
        ({"seed": -1}, "seed=-1"),
        ({"balance": 1.5}, "balance=1.5.*0.*1"),
        ({"view": "LL"}, "view='LL'.*'PA'.*'AP'"),
    ],
)
def test_errors(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        datasets.build("synthetic", **options)


# -- which region shows which finding ----------------------------------------------------------------------------------

ROW = {name: row for row, name in enumerate(REGIONS)}
K = {name: k for k, name in enumerate(SIGNS)}
GRID = np.zeros((18, 4), np.float32)
for _side, _x in ((0, 0), (1, 60)):
    GRID[7 * _side] = _x, 0, _x + 40, 80
    for _zone in range(4):
        GRID[7 * _side + 1 + _zone] = _x, 20 * _zone, _x + 40, 20 * _zone + 20
    GRID[7 * _side + 5] = _x + 10, 30, _x + 30, 50
    GRID[7 * _side + 6] = _x, 70, _x + 10, 80
GRID[14], GRID[15], GRID[16], GRID[17] = (40, 0, 60, 80), (40, 0, 60, 40), (30, 50, 80, 80), (45, 0, 55, 30)


def shown(name: str, *boxes: Box) -> set[str]:
    found = region_findings([(name, list(boxes))], GRID)
    assert not found[:, [k for other, k in K.items() if other != name]].any()
    return {REGIONS[row] for row in np.flatnonzero(found[:, K[name]])}


def test_a_focal_finding_is_where_half_of_it_is() -> None:
    right = {"right lung", "right mid lung zone"}
    assert shown("Nodule", (2, 45, 8, 55)) == right
    assert shown("Nodule", (2, 51, 8, 61)) == right  # 9 of 10 rows in the zone, the rest below it
    assert shown("Nodule", (2, 50, 8, 70)) == right | {"right lower lung zone"}
    assert shown("Nodule", (2, 53, 8, 72)) == {"right lung", "right lower lung zone"}
    assert shown("Nodule", (2, 45, 8, 55), (62, 5, 68, 15)) == right | {"left lung", "left apical zone"}
    # a large one is in the regions that it covers, whatever share of it each has
    assert shown("Effusion", (0, 55, 40, 80)) == {
        "right lung",
        "right lower lung zone",
        "right costophrenic angle",
    }
    assert shown("Consolidation", (0, 20, 40, 60)) == {
        "right lung",
        "right upper lung zone",
        "right mid lung zone",
        "right hilar structures",
    }
    # nowhere by half: in the lung that has most of it
    assert shown("Mass", (36, 12, 56, 30)) == {"right lung"}
    assert shown("Mass", (42, 12, 58, 30)) == set()  # between the lungs


def test_findings_stay_in_their_organs() -> None:
    assert shown("Cardiomegaly", (30, 50, 80, 80)) == {"cardiac silhouette"}
    assert shown("Hernia", (42, 60, 58, 75)) == {"mediastinum"}
    assert shown("Nodule", (62, 60, 70, 68)) == {"left lung", "left lower lung zone"}  # behind the heart
    assert "right hilar structures" not in shown("Pneumothorax", (0, 0, 40, 60))
    both = {f"{side} {part}" for side in ("right", "left") for part in ("lung", "mid lung zone", "lower lung zone")}
    assert shown("Fibrosis") == both | {"right costophrenic angle", "left costophrenic angle"}
    upper = {f"{side} upper lung zone" for side in ("right", "left")}
    assert shown("Edema") == both | upper | {"right hilar structures", "left hilar structures"}
    assert shown("Emphysema") == both | upper | {"right apical zone", "left apical zone"}


def test_what_is_not_in_the_picture_is_not_known() -> None:
    found = region_findings([("Mass", [])], GRID)
    assert {REGIONS[row] for row in np.flatnonzero(np.isnan(found[:, K["Mass"]]))} == set(REGIONS[:14])
    assert np.isnan(found).sum() == 14
    cut = GRID.copy()
    cut[ROW["right apical zone"]] = 0
    found = region_findings([("Edema", [])], cut)
    assert np.isnan(found).any(axis=1).tolist() == [row == 1 for row in range(18)]


def test_a_region_beside_the_image_is_absent() -> None:
    thorax = draw_patient(np.random.default_rng(0))
    draw_image(thorax, np.random.default_rng(1), ap=False)
    thorax.offset = (0.0, -1.4)
    boxes = region_boxes(Body(thorax, Canvas(64, 64, thorax)))
    gone = {REGIONS[row] for row in np.flatnonzero(~boxes.any(axis=1))}
    assert {"trachea", "right apical zone", "left apical zone"} <= gone < set(REGIONS)
    kept = boxes[boxes.any(axis=1)]
    assert (kept[:, 2:] > kept[:, :2]).all()


def test_regions_and_images_agree() -> None:
    dataset = SyntheticDataset(size=64, length=80, balance=1.0, masks=False)
    for index in range(len(dataset)):
        sample = dataset[index]
        assert torch.equal(sample["region_labels"].amax(dim=0), sample["labels"])
        # a box lies in a region of its finding
        for box, label in zip(sample["boxes"], sample["box_labels"], strict=True):
            regions = sample["regions"][sample["region_labels"][:, label] == 1]
            low, high = torch.maximum(regions[:, :2], box[:2]), torch.minimum(regions[:, 2:], box[2:])
            assert (high - low).clamp(min=0).prod(dim=1).max() > 0


def test_labels_in_other_spellings() -> None:
    names = resolve("imagenome9")
    dataset = SyntheticDataset(size=64, length=60, balance=1.0, labels=names, masks=False)
    nih = SyntheticDataset(size=64, length=60, balance=1.0, masks=False)
    known = {"pleural effusion": "Effusion", "enlarged cardiac silhouette": "Cardiomegaly",
             "pulmonary edema/hazy opacity": "Edema", "atelectasis": "Atelectasis", "pneumothorax": "Pneumothorax",
             "consolidation": "Consolidation", "pneumonia": "Pneumonia"}  # fmt: skip
    columns = {name: nih.labels.index(other) for name, other in known.items()}
    boxed = [columns[name] for name in names if known.get(name) in FOCAL]
    assert torch.equal(dataset.boxed, nih.targets[:, boxed].any(dim=1))
    for k, name in enumerate(names):
        if name not in known:
            assert dataset.targets[:, k].isnan().all()
            assert dataset[0]["region_labels"][:, k].isnan().all()
            continue
        assert torch.equal(dataset.targets[:, k], nih.targets[:, columns[name]])
        for index in range(20):
            one, other = dataset[index], nih[index]
            assert torch.equal(one["region_labels"][:, k], other["region_labels"][:, columns[name]])
            boxes = [sample["boxes"][sample["box_labels"] == column]
                     for sample, column in ((one, k), (other, columns[name]))]  # fmt: skip
            assert torch.equal(*boxes)
    abnormal = SyntheticDataset(size=64, length=3, labels=["No Finding", "Abnormal", "Mass"], masks=False)[0][
        "region_labels"
    ]
    assert abnormal.isnan().all(dim=0).tolist() == [True, True, False]
