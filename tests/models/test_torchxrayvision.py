"""Models and the segmenter against torchxrayvision itself, which loads weights files that the tests write for it."""

from __future__ import annotations

import math
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision import models

import thoraxlib
from thoraxlib import cams, segmentation
from thoraxlib.segmentation import foreground

CLASSIFIERS = ("xrv_densenet121", "xrv_resnet50")

with warnings.catch_warnings():  # its import silences them all
    xrv: Any = pytest.importorskip("torchxrayvision", reason="they need the extra [xrv]")

from thoraxlib.models.torchxrayvision import OperatingPointHead  # noqa: E402
from thoraxlib.segmentation.torchxrayvision import STRUCTURES  # noqa: E402

DENSENETS = sorted(
    name.removeprefix("densenet121-res224-") for name in xrv.models.model_urls if name.startswith("densenet121-")
)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where torchxrayvision keeps its files; nothing is downloaded into it."""

    def offline(url: str, path: str) -> None:
        raise ConnectionError(f"no route to {url}")

    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    monkeypatch.setattr(xrv.utils, "download", offline)
    folder = Path(xrv.utils.get_cache_dir())
    assert folder.is_relative_to(tmp_path)
    folder.mkdir(parents=True)
    return folder


def as_trained(net: nn.Module, last: nn.Linear, points: Tensor) -> nn.Module:
    """`net` with statistics of grey noise, and with probabilities around its operating points."""
    norms = [module for module in net.modules() if isinstance(module, nn.BatchNorm2d)]
    with torch.no_grad():
        for norm in norms:
            norm.momentum = 1.0
        net.train()(torch.rand(4, 1, 64, 64) * 2048 - 1024)
        nn.init.normal_(last.weight, std=0.1)
        last.bias.copy_(points.logit())
    for norm in norms:
        norm.momentum = 0.1
    return net.eval()


def write(home: Path, weights: str) -> None:
    """A file as the released one is: a pickled DenseNet, or the state dict of torchvision's ResNet."""
    facts = xrv.models.model_urls[weights]
    points = torch.tensor(facts["op_threshs"]).nan_to_num(0.5)
    content: Any
    if weights.startswith("densenet"):
        net = xrv.models.DenseNet(num_classes=18)
        content = as_trained(net, net.classifier, points)
    else:
        net = models.resnet50(num_classes=18)
        net.conv1 = nn.Conv2d(1, 64, 7, stride=2, padding=3, bias=False)
        content = as_trained(net, net.fc, points).state_dict()
    torch.save(content, home / facts["weights_url"].rpartition("/")[2])


@pytest.mark.parametrize("weights", DENSENETS)
def test_labels_are_those_of_the_weights(weights: str) -> None:
    model = thoraxlib.build("xrv_densenet121", weights=weights)
    facts = xrv.models.model_urls[f"densenet121-res224-{weights}"]
    assert model.labels == tuple(label for label in facts["labels"] if label)
    assert model(torch.zeros(1, 1, 64, 64)).shape == (1, len(model.labels))
    points = [point for point in facts["op_threshs"] if not math.isnan(point)]
    assert model.head.thresholds.tolist() == pytest.approx(points)


@pytest.mark.parametrize(
    ("name", "weights", "whole"),
    [
        ("xrv_densenet121", "all", "densenet121-res224-all"),
        ("xrv_densenet121", "rsna", "densenet121-res224-rsna"),
        ("xrv_resnet50", "all", "resnet50-res512-all"),
    ],
)
def test_pretrained_is_what_torchxrayvision_gives(
    name: str, weights: str, whole: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(home, whole)
    assert (
        thoraxlib.build(name, weights=weights).input_spec.size
        == (xrv.models.model_urls[whole]["input_resolution"],) * 2
    )
    model: Any = thoraxlib.build(name, weights=weights, pretrained=True, input_spec={"size": 96}).eval()
    theirs = xrv.models.get_model(whole)
    monkeypatch.setattr(xrv.utils, "fix_resolution", lambda x, *_: x)  # both see 96 pixels: quicker
    image = np.random.default_rng(0).integers(0, 256, (112, 96), np.uint8)
    cropped = xrv.datasets.XRayCenterCrop()(xrv.datasets.normalize(image, 255, reshape=True))
    x = thoraxlib.preprocess_for(model)(image)
    torch.testing.assert_close(x, torch.from_numpy(cropped)[None], rtol=0, atol=1e-3)

    with torch.no_grad():
        expected, logits = theirs(x)[0], model(x)[0]
    at = [theirs.targets.index(label) for label in model.labels]
    lost = [label for label in theirs.targets if label and label not in model.labels]
    assert all(expected[theirs.targets.index(label)] == 0.5 for label in lost)  # whatever the image
    assert lost == (["Lung Lesion", "Enlarged Cardiomediastinum"] if name == "xrv_resnet50" else [])
    torch.testing.assert_close(logits.sigmoid(), expected[at], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(model.predict_proba(x)[0], expected[at], rtol=1e-4, atol=1e-5)
    if weights == "all":
        assert (expected[at] < 0.5).any()
        assert (expected[at] > 0.5).any()

    plain: Any = thoraxlib.build(
        name, weights=weights, pretrained=True, calibrated=False, input_spec=model.input_spec
    ).eval()
    theirs.op_threshs = None
    with torch.no_grad():
        torch.testing.assert_close(plain(x)[0], theirs(x)[0, at], rtol=1e-4, atol=1e-4)


def test_operating_points() -> None:
    head = OperatingPointHead(1, torch.tensor([0.01, 0.5, 0.9]))
    linear = torch.linspace(-40, 40, 161)
    with torch.no_grad():
        head.fc.weight.fill_(1.0)
        head.fc.bias.zero_()
    features = linear.reshape(-1, 1, 1, 1).requires_grad_()
    logits = head(features)
    expected = xrv.models.op_norm(linear.sigmoid()[:, None].expand(-1, 3), head.thresholds[None])
    torch.testing.assert_close(logits.sigmoid(), expected)
    torch.testing.assert_close(logits[:, 1], linear)  # a threshold of 1/2 changes nothing
    assert (logits.diff(dim=0) > 0).all()
    logits.sum().backward()
    assert features.grad is not None
    assert ((features.grad > 0) & features.grad.isfinite()).all()
    at = torch.tensor([0.01, 0.5, 0.9]).logit()
    with torch.no_grad():
        torch.testing.assert_close(head(at.reshape(-1, 1, 1, 1)).diagonal(), torch.zeros(3), rtol=0, atol=1e-5)
    assert head.double()(features.detach().double()).dtype == torch.float64
    halved = head.to(torch.bfloat16)(features.detach().bfloat16())
    assert halved.dtype == torch.float32
    assert halved.isfinite().all()


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_as_any_model(name: str, tmp_path: Path) -> None:
    model: Any = thoraxlib.build(name, input_spec={"size": 64}).eval()
    as_trained(model, model.head.fc, model.head.thresholds)
    assert (model.input_spec.channels, model.input_spec.size) == (1, (64, 64))
    images = [np.random.default_rng(seed).integers(0, 256, (80, 64), np.uint8) for seed in range(2)]
    x = thoraxlib.preprocess_for(model)(images)
    assert -1024 <= x.min() < -900
    assert 900 < x.max() <= 1024
    for method in ("cam", "gradcam", "gradcam++"):
        maps = cams.build(method, model)(x, labels=["Effusion", "Mass"])
        assert maps.shape == (2, 2, 2, 2)
    plain = thoraxlib.build(name, input_spec={"size": 64}, calibrated=False).eval()
    plain.load_state_dict({key: value for key, value in model.state_dict().items() if key != "head.thresholds"})
    torch.testing.assert_close(cams.build("cam", model)(x), cams.build("cam", plain)(x))
    found = thoraxlib.explain(model, images)
    probabilities = model.predict_proba(x)
    for image, row in zip(found, probabilities, strict=True):
        assert list(image.probabilities) == list(model.labels)
        assert list(image.probabilities.values()) == pytest.approx(row.tolist(), abs=1e-5)
        # above 0.5, that is above its operating point
        assert {finding.label for finding in image.findings} == {
            label for label, p in zip(model.labels, row.tolist(), strict=True) if p > 0.5
        }
    thoraxlib.save_pretrained(model, tmp_path)
    loaded = thoraxlib.load_pretrained(tmp_path)
    assert torch.equal(loaded(x), model(x))
    assert loaded.input_spec == model.input_spec
    torch.testing.assert_close(thoraxlib.optimize_for_inference(model)(x), model(x), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("build", [*CLASSIFIERS, "xrv_pspnet"])
def test_weights_that_cannot_be_had(build: str, home: Path) -> None:
    room = segmentation if build == "xrv_pspnet" else thoraxlib
    with pytest.raises(RuntimeError, match=r"could not load its weights.*ConnectionError.*pretrained=False"):
        room.build(build, pretrained=True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weights": "nihh"}, "weights='nihh': allowed are 'all', 'nih', 'pc', 'chex', 'rsna', 'mimic_nb', 'mimic_ch'"),
        ({"input_spec": {"channels": 3, "mean": 0.5, "std": 0.5}}, "take 1 channel, got channels=3"),
    ],
)
def test_bad_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        thoraxlib.build("xrv_densenet121", **options)


def with_organs(net: nn.Module) -> None:
    """Make some pixels of grey noise belong to every structure."""
    with torch.no_grad():
        net.classification.weight.mul_(20)
        found = net.eval()(torch.rand(1, 1, 64, 64).expand(-1, 3, -1, -1) * 4 - 2)
        net.classification.bias.sub_(found.mean(dim=(0, 2, 3)) + 1.5 * found.std(dim=(0, 2, 3)))


def test_pspnet_is_torchxrayvision_s(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    theirs_of = xrv.baseline_models.chestx_det
    assert tuple(name.lower() for name in theirs_of.PSPNet.targets) == STRUCTURES
    net = theirs_of.ptsemseg.pspnet.pspnet(14)
    with_organs(net)
    path = home / "pspnet_chestxray_best_model_4.pth"
    torch.save({f"module.{key}": value.half() for key, value in net.state_dict().items()}, path)
    everything = ("background", *STRUCTURES)
    ours = segmentation.build("xrv_pspnet", classes=everything, size=64, in_chans=1, pretrained=True).eval()
    theirs = theirs_of.PSPNet()
    path.unlink()  # 140 MB
    monkeypatch.setattr(xrv.utils, "fix_resolution", lambda x, *_: x)  # 512 pixels take a CPU a minute

    image = np.random.default_rng(0).integers(0, 256, (64, 64), np.uint8)
    pixels = thoraxlib.preprocess_for(ours)(image)
    assert pixels.shape == (1, 1, 64, 64)
    assert (pixels.min(), pixels.max()) == (0, 1)
    with torch.no_grad():
        expected = theirs(torch.from_numpy(xrv.datasets.normalize(image, 255, reshape=True))[None])
        logits = ours(pixels)
        torch.testing.assert_close(logits[:, 1:], expected, rtol=1e-4, atol=1e-4)
        assert (logits[:, 0] == 0).all()
        some = (expected.sigmoid() > 0.5).any(dim=1, keepdim=True)
        assert 0 < some.float().mean() < 1
        assert torch.equal(foreground(logits), some.float())

        # another size goes there and back
        wide = F.interpolate(pixels, (96, 128), mode="bilinear")
        assert ours(wide).shape == (1, 15, 96, 128)

    chosen = segmentation.build("xrv_pspnet", classes=("none", "lungs", "heart"), size=64).eval()
    chosen.load_state_dict(ours.state_dict())
    with torch.no_grad():
        lungs, heart = expected[:, 4:6].amax(dim=1), expected[:, STRUCTURES.index("heart")]
        found = chosen(pixels.expand(-1, 3, -1, -1))
        torch.testing.assert_close(found[:, 1:], torch.stack([lungs, heart], dim=1), rtol=1e-4, atol=1e-4)


def test_pspnet_makes_the_masks_of_a_model(tmp_path: Path) -> None:
    """Whatever the model does to its pixels, the segmenter sees the image."""
    common = {"backbone": "resnet10t", "fusion": "seg_pyramid", "labels": ["Edema"]}
    organs = {"name": "xrv_pspnet", "size": 64, "classes": ["background", "lungs"]}
    wild = {"size": 64, "mean": [0.5], "std": [1 / 2048]}
    model: Any = thoraxlib.build("classifier", **common, segmenter=organs, input_spec={"size": 64}).eval()
    grey: Any = thoraxlib.build("classifier", **common, segmenter=organs, input_spec=wild, in_chans=1).eval()
    with_organs(model.segmenter.net)
    grey.segmenter.load_state_dict(model.segmenter.state_dict())
    image = np.random.default_rng(0).integers(0, 256, (64, 64), np.uint8)
    masks = [one.organ_masks(thoraxlib.preprocess_for(one)(image)) for one in (model, grey)]
    assert 0 < masks[0].mean() < 1
    assert (masks[0] == masks[1]).float().mean() > 0.99
    thoraxlib.save_pretrained(model, tmp_path)
    x = thoraxlib.preprocess_for(model)(image)
    assert torch.equal(thoraxlib.load_pretrained(tmp_path)(x), model(x))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"classes": ("background", "liver")}, "'liver' is unknown to PSPNet; it has 'lungs', 'left clavicle'"),
        ({"in_chans": 2}, "in_chans=2: allowed are 1, 3"),
        ({"size": 32}, "size=32: at least 48"),
    ],
)
def test_bad_options_of_pspnet(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        segmentation.build("xrv_pspnet", **options)


def test_warnings_are_not_silenced(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchxrayvision"]:
        monkeypatch.delitem(sys.modules, name)
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        thoraxlib.build("xrv_densenet121")
        assert "torchxrayvision" in sys.modules
        warnings.warn("still heard", UserWarning)
    assert "still heard" in [str(warning.message) for warning in heard]
