"""Images in, findings in the image's own pixels out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import thoraxlib
from thoraxlib import cams, datasets
from thoraxlib.detection import Regions
from thoraxlib.explanation import explain_each
from thoraxlib.input_spec import InputSpec
from thoraxlib.registry import UnknownNameError

LABELS = ("Mass", "Effusion", "Edema")


def small(pool: object = "avg", **spec: object) -> nn.Module:
    torch.manual_seed(0)
    options = {"backbone": "resnet10t", "labels": LABELS, "pool": pool, "input_spec": {"size": [64, 64], **spec}}
    return thoraxlib.build("classifier", **options)


@pytest.fixture
def images(tmp_path: Path) -> list[Path]:
    """The same name in two folders; of different sizes."""
    rng = np.random.default_rng(0)
    paths = [tmp_path / "a" / "image.png", tmp_path / "b" / "image.png", tmp_path / "b" / "other one.png"]
    for path, size in zip(paths, [(100, 80), (64, 64), (90, 200)], strict=True):
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 255, size, dtype=np.uint8)).save(path)
    return paths


def test_files(images: list[Path], tmp_path: Path) -> None:
    model = small().train()
    found = thoraxlib.explain(model, images, threshold=0, batch_size=2)
    assert model.training
    assert [image.name for image in found] == ["image", "image-2", "other_one"]
    assert [image.size for image in found] == [(100, 80), (64, 64), (90, 200)]
    for image, path in zip(found, images, strict=True):
        x = thoraxlib.preprocess_for(model)(path)
        expected = model.eval().predict_proba(x)[0]
        assert list(image.probabilities) == list(LABELS)
        torch.testing.assert_close(torch.tensor(list(image.probabilities.values())), expected, rtol=1e-4, atol=1e-5)
        assert len(image.findings) == 3
        values = [finding.probability for finding in image.findings]
        assert values == sorted(values, reverse=True)
        for finding in image.findings:
            assert finding.map.shape == image.size
            assert finding.map.isfinite().all()
            assert len(finding.boxes) == len(finding.scores) <= 3
            for x1, y1, x2, y2 in finding.boxes:
                assert 0 <= x1 < x2 <= image.size[1]
                assert 0 <= y1 < y2 <= image.size[0]
        image.save(tmp_path / "out")
        content = json.loads((tmp_path / "out" / f"{image.name}.json").read_text())
        assert content["size"] == list(image.size)
        assert [each["label"] for each in content["findings"]] == [finding.label for finding in image.findings]
        assert Image.open(tmp_path / "out" / f"{image.name}.png").width > 1000
        assert image.findings[0].label in str(image)
    assert len(list((tmp_path / "out").iterdir())) == 6


def test_boxes_and_maps_lie_where_the_evidence_is() -> None:
    """A network whose logit is the brightness of a place, on images that are stretched, cropped and padded."""

    class Bright(nn.Module):
        labels = ("spot",)

        def __init__(self, spec: thoraxlib.InputSpec) -> None:
            super().__init__()
            self.input_spec, self.weight = spec, nn.Parameter(torch.ones(1))

        def forward_features(self, x: torch.Tensor) -> torch.Tensor:
            return nn.functional.avg_pool2d(x[:, :1], 4)

        def forward_head(self, features: torch.Tensor) -> torch.Tensor:
            return features.square().mean(dim=(2, 3)) * self.weight + 1

    image = torch.zeros(1, 200, 300, dtype=torch.uint8)
    image[:, 80:120, 130:190] = 255
    for resize in ("stretch", "crop", "pad"):
        spec = thoraxlib.InputSpec(size=(96, 96), channels=1, mean=0.0, std=1.0, resize=resize)
        (found,) = thoraxlib.explain(Bright(spec), image, method="hirescam", rule="otsu")
        (finding,) = found.findings
        (box,) = finding.boxes
        np.testing.assert_allclose(box, (130, 80, 190, 120), atol=14)
        inside, seen = finding.map[90:110, 140:180], finding.map[finding.map.isfinite()]
        assert inside.min() > seen.mean() + seen.std()
        assert bool(finding.map.isnan().any()) == (resize == "crop")


def test_methods_rules_and_thresholds(images: list[Path]) -> None:
    assert thoraxlib.explain(small("pcam"), images[0])[0].method == "pcam"
    assert thoraxlib.explain(small("pcam"), images[0])[0].rule == "level"
    assert thoraxlib.explain(small("lse"), images[0])[0].method == "cam"
    wide = thoraxlib.explain(small("avg_max"), images[0], threshold=0)[0]
    assert wide.method == "gradcam"
    assert len(wide.findings) == 3
    assert thoraxlib.explain(small(), images[0], method={"name": "gradcam++", "eps": 1e-6})[0].method == "gradcam++"
    assert thoraxlib.explain(small(), images[0], threshold=1)[0].findings == ()
    assert "nothing above its threshold" in str(thoraxlib.explain(small(), images[0], threshold=[1, 1, 1])[0])
    by_name = thoraxlib.explain(small(), images[0], threshold={"Mass": 0.0, "Effusion": 1.0, "Edema": 1.0})[0]
    assert [finding.label for finding in by_name.findings] == ["Mass"]


def test_sources() -> None:
    model = small()
    tensor = torch.zeros(1, 40, 50, dtype=torch.uint8)
    for source in (tensor, tensor[0].numpy(), Image.new("L", (50, 40)), [tensor], tensor[None]):
        (image,) = thoraxlib.explain(model, source)
        assert image.size == (40, 50)
        assert image.name == "image-0001"
    assert thoraxlib.explain(model, []) == []
    synthetic = datasets.build("synthetic", size=64, length=3, masks=False)
    assert len(thoraxlib.explain(model, (sample["image"] for sample in synthetic), batch_size=2)) == 3


def test_it_takes_images_as_they_come(images: list[Path]) -> None:
    asked = []

    def sources() -> object:
        for path in images:
            asked.append(path)
            yield path

    each = explain_each(small(), sources(), batch_size=1)
    assert asked == []
    next(each)
    assert len(asked) == 1


def test_every_image_has_a_file_of_its_own() -> None:
    from thoraxlib.explanation.images import _Names

    paths = ["x/a.png", "y/a.png", "a-2.png", "a.dcm", "A.png", "a-2.png", "a-3.png", *["p/view1_frontal.jpg"] * 2000]
    names = _Names()
    given = [names.of(path, position) for position, path in enumerate(paths)]
    assert given[:3] == ["a", "a-2", "a-2-2"]
    assert len({name.casefold() for name in given}) == len(paths)


def test_lines_of_a_panel_do_not_depend_on_the_image() -> None:
    """A box of a large image is as thick in the panel as that of a small one."""
    model, blue = small(), []
    for side in (150, 1500):
        image = torch.zeros(1, side, side, dtype=torch.uint8)
        image[:, side // 3 : side // 2, side // 3 : side // 2] = 255
        (found,) = thoraxlib.explain(model, image, threshold=0, method={"name": "gradcam", "relu": False})
        cells = np.asarray(found.panel(side=300, most=1), int)
        blue.append((cells == [0x56, 0xB4, 0xE9]).all(axis=2).sum())
    assert blue[0] > 50
    assert 0.5 < blue[1] / blue[0] < 2


def test_truth_beside_it(images: list[Path]) -> None:
    (image,) = thoraxlib.explain(small(), images[0], threshold=0)
    plain, with_truth = image.panel(side=200), image.panel(side=200, truth={"Mass": [[10, 10, 40, 50]]})
    assert plain.width == with_truth.width
    assert plain.height < with_truth.height  # a legend
    before, after = (np.asarray(each)[: plain.height] for each in (plain, with_truth))
    assert (before != after).any()
    assert image.panel(side=200, most=1).width < plain.width


def test_errors(images: list[Path], tmp_path: Path) -> None:
    model = small()
    with pytest.raises(TypeError, match="Linear has no input_spec or no labels"):
        thoraxlib.explain(nn.Linear(2, 2), images)
    with pytest.raises(ValueError, match="one number or 3, got shape .2,."):
        thoraxlib.explain(model, images, threshold=[0.5, 0.5])
    with pytest.raises(ValueError, match="threshold=1.5: probabilities"):
        thoraxlib.explain(model, images, threshold=1.5)
    with pytest.raises(ValueError, match=r"threshold names \['mass'\]"):
        thoraxlib.explain(model, images, threshold={"mass": 0.5})
    with pytest.raises(ValueError, match="batch_size=0"):
        thoraxlib.explain(model, images, batch_size=0)
    with pytest.raises(UnknownNameError, match="did you mean 'gradcam'"):
        thoraxlib.explain(model, images, method="grad-cam")
    with pytest.raises(UnknownNameError, match="did you mean 'otsu'"):
        thoraxlib.explain(model, images, rule="otso")
    with pytest.raises(TypeError, match="rule=5: a name, a mapping or a callable"):
        thoraxlib.explain(model, images, rule=5)
    with pytest.raises(ValueError, match="pixels must be finite"):
        thoraxlib.explain(model, torch.full((1, 9, 9), torch.nan))
    (tmp_path / "text.png").write_text("no image")
    with pytest.raises(ValueError, match=r"text.png is no image"):
        thoraxlib.explain(model, [images[0], tmp_path / "text.png"])
    with pytest.raises(FileNotFoundError, match="nowhere"):
        thoraxlib.explain(model, tmp_path / "nowhere.png")
    with pytest.raises(TypeError, match="no per-location logits"):
        thoraxlib.explain(small("avg_max"), images, method="cam")


def test_logits_come_with_the_maps() -> None:
    model, x = small("lse").eval(), torch.randn(2, 3, 64, 64)
    for name in ("cam", "gradcam", "eigencam"):
        cam = cams.build(name, model)
        logits, maps = cam.with_logits(x, labels=[1])
        torch.testing.assert_close(logits, model(x))
        assert maps.shape[1] == 1
    split = cams.build("gradcam", model, target="backbone.net.layer4")
    torch.testing.assert_close(split.with_logits(x)[0], model(x))


@pytest.mark.parametrize("pool", ["avg", "pcam"])
def test_a_probability_at_its_threshold_is_a_finding(pool: str) -> None:
    model, image = small(pool), np.random.default_rng(0).integers(0, 255, (64, 64), dtype=np.uint8)
    (seen,) = thoraxlib.explain(model, image, threshold=1)
    assert not seen.findings
    at = seen.probabilities
    (found,) = thoraxlib.explain(model, image, threshold=at)
    assert {finding.label for finding in found.findings} == set(LABELS)
    (above,) = thoraxlib.explain(model, image, threshold={label: p + 1e-9 for label, p in at.items()})
    assert not above.findings
    # a sure network: 1 is reached
    with torch.no_grad():
        model.head.fc.bias.fill_(200.0)
    (sure,) = thoraxlib.explain(model, image, threshold=1)
    assert len(sure.findings) == 3


def test_regions_at_their_threshold() -> None:
    class Two(nn.Module):
        """Finds the first of two regions."""

        region_names, feature_dim, input_spec = ("left lung", "right lung"), 4, InputSpec(size=(64, 64))
        embed = nn.Identity()

        def forward(self, x: torch.Tensor) -> Regions:
            boxes = torch.tensor([[0.0, 0, 30, 60], [32, 0, 60, 60]]).expand(len(x), 2, 4)
            present = torch.tensor([[True, False]]).expand(len(x), 2)
            return Regions(boxes, present.float(), present, torch.ones(len(x), 2, 4))

    torch.manual_seed(0)
    model = thoraxlib.build("anaxnet", labels=("Mass",), regions=Two.region_names, in_features=4, detector=Two())
    image = np.zeros((64, 64), np.uint8)
    (none,) = thoraxlib.explain(model, image, threshold=1)
    (found,) = thoraxlib.explain(model, image, threshold=none.probabilities["Mass"])
    (all_of_them,) = thoraxlib.explain(model, image, threshold=0)
    assert none.findings == ()
    for seen in (found, all_of_them):  # a region that is not there shows nothing, whatever the threshold
        assert [finding.regions for finding in seen.findings] == [("left lung",)]


@pytest.mark.parametrize("threshold", [float("nan"), [0.5, float("nan"), 0.5], {"Mass": float("nan")}])
def test_no_threshold_is_nan(threshold: Any) -> None:
    with pytest.raises(ValueError, match=r"threshold=.*nan.*not NaN"):
        thoraxlib.explain(small(), np.zeros((64, 64), np.uint8), threshold=threshold)
