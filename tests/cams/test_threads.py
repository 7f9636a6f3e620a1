"""Heat maps, explanations and predictions from several threads, on one model, in whatever mode it is."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import timm
import torch
from together import together
from torch import Tensor, nn

import thoraxlib
from thoraxlib import cams, datasets, detection, segmentation

SPEC = {"input_spec": {"size": [64, 64]}, "labels": ("a", "b", "c"), "backbone": "resnet10t"}
THREADS = 8


def classifier(**options: Any) -> nn.Module:
    torch.manual_seed(0)
    model = thoraxlib.build("classifier", **SPEC, head={"name": "linear", "dropout": 0.5}, **options)
    with torch.no_grad():
        model(torch.rand(4, 3, 64, 64) * 3)  # so that the statistics are not those of a batch
    return model


def state(model: nn.Module) -> list[Any]:
    tensors = [value.clone() for value in model.state_dict().values()]
    return [*tensors, *(module.training for module in model.modules()), *map(id, model.modules())]


def same(one: list[Any], other: list[Any]) -> bool:
    return all(torch.equal(a, b) if isinstance(a, Tensor) else a == b for a, b in zip(one, other, strict=True))


def images(number: int) -> Tensor:
    return torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(number))


def fitted() -> nn.Module:
    torch.manual_seed(0)
    finder: Any = detection.build("template", backbone="resnet10t", input_spec={"size": [64, 64]})
    return finder.fit(datasets.build("synthetic", size=64, length=4))  # type: ignore[no-any-return]


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("target", [None, "backbone.net.layer3"])
@pytest.mark.parametrize("name", ["cam", "gradcam", "eigencam"])
def test_one_heat_map_object_for_all_threads(name: str, target: str | None, training: bool) -> None:
    if name == "cam" and target:
        pytest.skip("CAM is of the map that the head sees")
    model = classifier()
    cam = cams.build(name, model, target)
    expected = [cams.build(name, model.eval(), target).with_logits(images(k)) for k in range(8)]
    before = state(model.train(training))
    found = together(lambda k: [cam.with_logits(images(k)) for _ in range(2)], THREADS)
    assert same(state(model), before)
    for pairs, (logits, maps) in zip(found, expected, strict=True):
        for pair in pairs:
            assert torch.equal(pair[0], logits)
            assert torch.equal(pair[1], maps)


@pytest.mark.parametrize("target", [None, 0])
@pytest.mark.parametrize("name", ["cam", "gradcam"])
def test_a_model_of_several_maps(name: str, target: int | None) -> None:
    torch.manual_seed(0)
    model = thoraxlib.build("ag_cnn", backbone="resnet10t", labels=("a", "b"), input_spec={"size": [64, 64]})
    cam = cams.build(name, model, target)
    expected = [cams.build(name, model.eval(), target)(images(k)) for k in range(4)]
    before = state(model.train())
    found = together(lambda k: cam(images(k)), 4)
    assert same(state(model), before)
    assert all(map(torch.equal, found, expected))


@pytest.mark.parametrize(
    "name", [name for name in cams.names() if name not in ("cam", "pcam") and not name.startswith("x_ray_")]
)
def test_a_layer_of_any_network(name: str) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.Dropout2d(0.5), nn.Conv2d(4, 4, 3)
    )
    net.extend([nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)])
    cam, of_eval = (cams.build(name, net, target="2") for _ in range(2))
    net.eval()
    expected = [of_eval(images(k)) for k in range(THREADS)]
    before = state(net.train())
    found = together(lambda k: cam(images(k)), THREADS)
    assert same(state(net), before)
    assert not any(module._forward_hooks for module in net.modules())
    assert all(map(torch.equal, found, expected))


def test_different_layers_of_one_network_of_timm() -> None:
    torch.manual_seed(0)
    net = timm.create_model("resnet10t", num_classes=3).eval()
    layers = [f"layer{1 + k % 4}" for k in range(THREADS)]
    expected = [cams.build("gradcam", net, layer)(images(0)) for layer in layers]
    found = together(lambda k: [cams.build("gradcam", net, layers[k])(images(0)) for _ in range(3)], THREADS)
    assert all(torch.equal(maps, expected[k]) for k, several in enumerate(found) for maps in several)


def test_a_heat_map_while_the_model_trains_elsewhere() -> None:
    """A step of another thread neither sees another mode nor loses its statistics."""
    model = classifier()
    cam = cams.build("gradcam", model, "backbone.net.layer3")

    def work(number: int) -> None:
        for step in range(4):
            if number == 0:
                assert all(module.training for module in model.modules())
                with torch.no_grad():
                    model(images(step).expand(2, -1, -1, -1))
            else:
                cam(images(step))

    count = model.backbone.net.bn1.num_batches_tracked.item()
    together(work, 4)
    assert model.backbone.net.bn1.num_batches_tracked.item() == count + 4


@pytest.mark.parametrize("pool", ["avg", "pcam"])
def test_explain(pool: str) -> None:
    model = classifier(pool=pool)
    pictures = [np.random.default_rng(k).integers(0, 255, (70, 60), dtype=np.uint8) for k in range(THREADS)]
    expected = [thoraxlib.explain(model.eval(), image, threshold=0)[0] for image in pictures]
    before = state(model.train())
    found = together(lambda k: thoraxlib.explain(model, pictures[k], threshold=0)[0], THREADS)
    assert same(state(model), before)
    for one, other in zip(found, expected, strict=True):
        assert one.to_json() == other.to_json()
        for finding, of_other in zip(one.findings, other.findings, strict=True):
            torch.testing.assert_close(finding.map, of_other.map, rtol=0, atol=0, equal_nan=True)


def test_explain_of_regions() -> None:
    torch.manual_seed(0)
    model = thoraxlib.build("anaxnet", labels=("a", "b"), detector=fitted(), train_detector=True)
    image = np.random.default_rng(0).integers(0, 255, (64, 64), dtype=np.uint8)
    (expected,) = thoraxlib.explain(model.eval(), image, threshold=0)
    before = state(model.train())
    found = together(lambda k: thoraxlib.explain(model, image, threshold=0)[0].to_json(), 4)
    assert same(state(model), before)
    assert found == [expected.to_json()] * 4


def test_predict() -> None:
    training = pytest.importorskip("thoraxlib.training", reason="needs the extra train")
    model = classifier()
    pictures = datasets.build("synthetic", size=64, length=4, labels=("Mass", "Edema", "Nodule"))
    model.labels = pictures.labels
    options = {"batch_size": 2, "progress": False, "device": "cpu"}
    expected = training.predict(model.eval(), pictures, **options).logits
    before = state(model.train())
    found = together(lambda k: training.predict(model, pictures, **options).logits, 4)
    assert same(state(model), before)
    assert all(torch.equal(logits, expected) for logits in found)


def test_evaluation_of_segmenters_and_detectors() -> None:
    torch.manual_seed(0)
    pictures = datasets.build("synthetic", size=64, length=4, masks=True)
    unet, finder = segmentation.build("unet", width=4, norm=True, depth=2), fitted()
    organs = segmentation.evaluate(unet.eval(), pictures)
    regions = detection.evaluate(finder.eval(), pictures, progress=False)
    before = state(unet.train()), state(finder.train())

    def work(number: int) -> list[Tensor]:
        return [segmentation.evaluate(unet, pictures).dice, detection.evaluate(finder, pictures, progress=False).scores]

    found = together(work, 4)
    assert same(state(unet), before[0])
    assert same(state(finder), before[1])
    for dice, scores in found:
        assert torch.equal(dice, organs.dice)
        assert torch.equal(scores, regions.scores)
