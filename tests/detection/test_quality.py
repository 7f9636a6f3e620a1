"""Scores of detected regions, templates, training."""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import thoraxlib
from thoraxlib import datasets, detection
from thoraxlib.detection.base import RegionDetector
from thoraxlib.images import transform_for
from thoraxlib.input_spec import InputSpec
from thoraxlib.localization.metrics import paired_iou

NAN = float("nan")


def synthetic(length: int = 8, seed: int = 0, size: int = 64, **options: Any) -> Any:
    return datasets.build("synthetic", size=size, length=length, seed=seed, masks=False, **options)


class Given(RegionDetector):
    """Returns given boxes, image after image."""

    def __init__(self, boxes: Tensor, scores: Tensor, spec: InputSpec, regions: Any = "regions18") -> None:
        super().__init__(regions, spec, feature_dim=1, score_threshold=0.5)
        self.boxes, self.given, self.next = boxes, scores, 0
        self.weight = nn.Parameter(torch.zeros(()))

    def maps(self, x: Tensor) -> Tensor:
        return x

    def locate(self, maps: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        here = slice(self.next, self.next + len(x))
        self.next += len(x)
        return self.boxes[here], self.given[here]

    def pool(self, maps: Tensor, boxes: Tensor, x: Tensor) -> Tensor:
        return torch.zeros(*boxes.shape[:2], 1)


@pytest.mark.parametrize("resize", ["stretch", "pad", "pad_end"])
def test_true_boxes_score_full(resize: str) -> None:
    """Also through the frame of another size and shape."""
    images = synthetic(6)
    spec = InputSpec(size=(96, 128), resize=resize)  # type: ignore[arg-type]
    transform = transform_for(spec)
    boxes = torch.stack([transform(image)["regions"].as_subclass(Tensor) for image in images])
    net = Given(boxes, torch.full((6, 18), 0.9), spec)
    report = detection.evaluate(net, images, batch_size=4, progress=False)
    assert report.iou.shape == (6, 18)
    assert (report.iou > 0.97).all()  # boxes are rounded by no step
    assert report.map50() == 1.0
    assert (report.detection_rate() == 1).all()
    text = str(report)
    assert "trachea" in text
    assert text.splitlines()[-1].startswith("mean")
    assert report.patient_ids == images.patient_ids


def test_shifted_and_unsure_boxes() -> None:
    images, spec = synthetic(10), InputSpec(size=64)
    true = torch.stack([image["regions"].as_subclass(Tensor) for image in images])
    boxes, scores = true.clone(), torch.rand(10, 18) * 0.4 + 0.6
    boxes[:, 0, [0, 2]] += (true[:, 0, 2] - true[:, 0, 0])[:, None]  # beside the true one
    scores[:5, 1] = 0.1
    report = detection.evaluate(Given(boxes, scores, spec), images, progress=False)
    assert report.mean_iou()[0] < 0.01
    assert report.ap50()[0] == 0
    assert report.detection_rate()[0] == 1
    assert report.detection_rate()[1] == 0.5
    assert report.ap50()[1] == 1  # all boxes are right, whatever their scores
    assert math.isclose(report.map50(), 17 / 18)
    low, high, macro_low, macro_high = report.interval("detection_rate")
    assert low[1] < 0.5 < high[1]
    assert low[2] == high[2] == 1
    assert macro_low < float(report.detection_rate().mean()) < macro_high


def test_regions_that_are_not_there() -> None:
    report = detection.RegionReport(
        ("a", "b", "c"),
        torch.tensor([[0.9, NAN, NAN], [NAN, 0.6, NAN], [0.7, 0.4, NAN]]),
        torch.tensor([[0.9, 0.8, 0.1], [0.6, 0.7, 0.1], [0.5, 0.6, 0.1]]),
        torch.tensor([[True, True, False], [True, True, False], [False, True, False]]),
        ["x", "y", "z"],
        ["p", "p", "q"],
    )
    torch.testing.assert_close(report.mean_iou(), torch.tensor([0.8, 0.5, NAN]), equal_nan=True)
    torch.testing.assert_close(report.detection_rate(), torch.tensor([0.5, 1.0, NAN]), equal_nan=True)
    torch.testing.assert_close(report.false_rate(), torch.tensor([1.0, 1.0, 0.0]))
    # a: right, wrong, right; b: wrong, right, wrong
    expected = torch.tensor([(51 + 50 * 2 / 3) / 101, 51 * 0.5 / 101, NAN]).double()
    torch.testing.assert_close(report.ap50(), expected, equal_nan=True)
    for score in ("iou", "ap50", "detection_rate"):
        low, high, *_ = report.interval(score, n_bootstrap=200)
        assert (low[:2] <= high[:2]).all()
        assert math.isnan(low[2])
    assert "nan" in str(report)
    with pytest.raises(ValueError, match="score='dice': allowed are 'iou', 'ap50', 'detection_rate'"):
        report.interval("dice")


def test_intervals_are_by_patient() -> None:
    """Images of one patient are drawn together, so that intervals are wider than those of images."""
    iou = torch.rand(20, 1).repeat_interleave(10, dim=0)
    patients = [f"p{k // 10}" for k in range(200)]
    parts = (("a",), iou, torch.ones(200, 1), torch.ones(200, 1, dtype=torch.bool), [str(k) for k in range(200)])
    of_patients = detection.RegionReport(*parts, patients).interval()
    of_images = detection.RegionReport(*parts, parts[-1]).interval()
    assert of_patients.high[0] - of_patients.low[0] > 2 * (of_images.high[0] - of_images.low[0])


def test_average_precision_as_coco_s() -> None:
    """Against pycocotools, where it is installed."""
    coco = pytest.importorskip("pycocotools.coco")
    cocoeval = pytest.importorskip("pycocotools.cocoeval")
    images, regions = 40, 3
    true = torch.rand(images, regions, 2).repeat(1, 1, 2) * 50
    true[..., 2:] += 30
    boxes = true + (torch.rand(images, regions, 4) - 0.5) * 24
    scores, there = torch.rand(images, regions), torch.rand(images, regions) > 0.3
    iou = torch.where(there, paired_iou(boxes, true), torch.nan)

    def listed(xyxy: Tensor, f: int, r: int, **more: Any) -> dict[str, Any]:
        x1, y1, x2, y2 = xyxy[f, r].double().tolist()
        box = {"bbox": [x1, y1, x2 - x1, y2 - y1], "area": (x2 - x1) * (y2 - y1), "iscrowd": 0}
        return {"image_id": f, "category_id": r + 1, **box, **more}

    pairs = [(f, r) for f in range(images) for r in range(regions)]
    truth = coco.COCO()
    truth.dataset = {
        "info": {},
        "images": [{"id": f} for f in range(images)],
        "categories": [{"id": r + 1, "name": str(r)} for r in range(regions)],
        "annotations": [listed(true, f, r, id=k + 1) for k, (f, r) in enumerate(pairs) if there[f, r]],
    }
    truth.createIndex()
    found = truth.loadRes([listed(boxes, f, r, score=float(scores[f, r].double())) for f, r in pairs])
    evaluation = cocoeval.COCOeval(truth, found, "bbox")
    evaluation.evaluate()
    evaluation.accumulate()
    expected = torch.from_numpy(evaluation.eval["precision"][0, :, :, 0, 2]).mean(dim=0)
    torch.testing.assert_close(detection.average_precision(iou, scores), expected)


def test_bad_input_of_average_precision() -> None:
    for iou, scores in ((torch.rand(3, 2), torch.rand(3)), (torch.rand(0, 2),) * 2, (torch.rand(1, 1) + NAN,) * 2):
        with pytest.raises(ValueError, match="N > 0, the scores finite"):
            detection.average_precision(iou, scores)


def test_evaluation_needs_regions() -> None:
    net = Given(torch.zeros(1, 1, 4), torch.zeros(1, 1), InputSpec(size=64), ["heart"])
    with pytest.raises(ValueError, match=r"are not the model's \('heart',\): build one with regions="):
        detection.evaluate(net, synthetic(), progress=False)
    with pytest.raises(ValueError, match="holds no image"):
        detection.evaluate(net, datasets.Subset(synthetic(), []), progress=False)


def test_template() -> None:
    spec = {"size": 48, "resize": "stretch"}
    net: Any = detection.build("template", backbone="resnet10t", stage=2, input_spec=spec)
    x = torch.randn(2, 3, 48, 48)
    with pytest.raises(RuntimeError, match=r"not fitted: call fit\(dataset\) with annotated images"):
        net(x)
    images = synthetic(12)
    assert net.fit(images, batch_size=5) is net
    mean = torch.stack([image["regions"].as_subclass(Tensor) for image in images]).mean(dim=0) / 64
    torch.testing.assert_close(net.mean_boxes, mean, rtol=1e-4, atol=1e-4)
    found = net.eval()(x)
    torch.testing.assert_close(found.boxes[1], mean * 48, rtol=1e-4, atol=1e-2)
    assert found.present.all()
    assert found.features.shape == (2, 18, net.feature_dim)
    report = detection.evaluate(net, synthetic(20, seed=1), progress=False)
    assert 0.5 < float(report.mean_iou().nanmean()) < 0.8  # the synthetic_images' anatomy varies


def test_a_region_that_no_image_shows() -> None:
    class Without(torch.utils.data.Dataset[Any]):
        """The trachea is in no image, the right lung in one, where it is larger."""

        def __init__(self) -> None:
            self.images = synthetic(4)
            self.region_names, self.labels = self.images.region_names, self.images.labels

        def __len__(self) -> int:
            return 4

        def __getitem__(self, index: int) -> dict[str, Any]:
            image = self.images[index]
            image["regions"][-1] = 0
            present = torch.ones(18, dtype=torch.bool)
            present[0] = index == 2
            return {**image, "present": present}

    images = Without()
    net: Any = detection.build("template", backbone="resnet10t", input_spec={"size": 64}).fit(images)  # type: ignore[attr-defined]
    assert net.mean_boxes[-1].isnan().all()
    torch.testing.assert_close(net.mean_boxes[0], images[2]["regions"][0].as_subclass(Tensor) / 64)
    found = net.eval()(torch.randn(2, 3, 64, 64))
    assert not found.present[:, -1].any()
    assert (found.features[:, -1] == 0).all()
    assert found.present[:, :-1].all()


def small() -> Any:
    torch.manual_seed(0)
    return detection.build(
        "fasterrcnn_fpn",
        backbone="resnet10t",
        width=16,
        feature_dim=32,
        rois=32,
        proposals=50,
        input_spec={"size": 64},
    )


def module(net: Any, length: int = 16, **options: Any) -> Any:
    from thoraxlib import training

    light = {"name": "light", "degrees": 0.0}
    return training.DataModule(
        synthetic(length),
        synthetic(8, seed=1),
        batch_size=8,
        train_transform=transform_for(net.input_spec, train=light),
        eval_transform=transform_for(net.input_spec),
        **{"regions": True, **options},
    )


@pytest.mark.parametrize("cache", [False, True])
def test_training(cache: bool, tmp_path: Path) -> None:
    training = pytest.importorskip("thoraxlib.training")
    net = small()
    settings = {"output": tmp_path, "accelerator": "cpu", "progress": False, "gradient_clip": 5.0}
    optimizer = partial(torch.optim.AdamW, lr=2e-3)
    result = training.fit(
        net,
        module(net, cache=cache),
        epochs=2,
        optimizer=optimizer,
        scheduler="onecycle",
        loss={"box": 2.0},
        **settings,
    )
    logged = result.trainer.callback_metrics
    assert {"train/loss", "val/iou", "val/ap50", "val/iou_trachea"} <= set(logged)
    report = detection.evaluate(net, synthetic(8, seed=1), progress=False)
    torch.testing.assert_close(float(report.mean_iou().nanmean()), result.score, rtol=1e-4, atol=1e-4)
    first, second = result.trainer.optimizers[0].param_groups
    assert (first["weight_decay"], second["weight_decay"]) == (0.01, 0.0)
    assert len(second["params"]) == sum(isinstance(m, nn.BatchNorm2d) for m in net.modules()) * 2
    loaded = thoraxlib.load_pretrained(tmp_path / "model", detection.RegionDetector)
    assert loaded.fingerprint() == net.fingerprint()
    with pytest.raises(ValueError, match="holds a run with other settings"):
        training.fit(small(), module(net), epochs=2, loss={"box": 3.0}, **settings)


def test_the_losses_fall() -> None:
    """Also with the original's optimizer and warm-up, from random weights at a higher rate."""
    training = pytest.importorskip("thoraxlib.training")
    net = small().train()
    images = [transform_for(net.input_spec)(image) for image in synthetic(8)]
    x = torch.stack([image["image"].as_subclass(Tensor) for image in images])
    boxes = torch.stack([image["regions"].as_subclass(Tensor) for image in images])
    sgd = training.ANAXNET_DETECTOR["optimizer"](net.parameters(), lr=0.01)
    history = []
    for _ in range(25):
        loss = torch.stack(list(net.losses(x, boxes).values())).sum()
        sgd.zero_grad()
        loss.backward()
        sgd.step()
        history.append(float(loss.detach()))
    assert sum(history[-5:]) < 0.6 * sum(history[:5])


def test_warm_up() -> None:
    schedules = pytest.importorskip("thoraxlib.training.schedules")
    sgd = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1e-4)
    plan = schedules.schedule("warmup", sgd, steps=50_000, monitor="val/iou", mode="max")
    rates = []
    for _ in range(1500):
        rates.append(sgd.param_groups[0]["lr"])
        sgd.step()
        plan["scheduler"].step()
    assert plan["interval"] == "step"
    assert math.isclose(rates[0], 1e-7)
    assert math.isclose(rates[500], 1e-4 * (0.001 + 0.999 / 2))
    assert all(math.isclose(rate, 1e-4) for rate in rates[1000:])


@pytest.mark.parametrize(
    ("options", "settings", "message"),
    [
        ({"regions": False}, {}, "build the data module with regions=True"),
        ({}, {"loss": {"boxes": 1.0}}, r"weights of \['boxes'\]: the detector's losses are objectness, proposal"),
        ({}, {"loss": "bce"}, "a detector has its own losses"),
    ],
)
def test_training_that_cannot_be(
    options: dict[str, Any], settings: dict[str, Any], message: str, tmp_path: Path
) -> None:
    training = pytest.importorskip("thoraxlib.training")
    net = small()
    with pytest.raises(ValueError, match=message):
        training.fit(
            net, module(net, **options), output=tmp_path, epochs=1, accelerator="cpu", progress=False, **settings
        )


def test_training_on_other_regions(tmp_path: Path) -> None:
    training = pytest.importorskip("thoraxlib.training")
    torch.manual_seed(0)
    net: Any = detection.build(
        "fasterrcnn_fpn", regions=["heart"], backbone="resnet10t", width=8, input_spec={"size": 64}
    )
    with pytest.raises(ValueError, match="are not the model's"):
        training.fit(net, module(net), output=tmp_path, epochs=1, accelerator="cpu", progress=False)
