"""Segmenters: classes of masks, training, evaluation, saving, masks as files and their use in a classifier."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import thoraxlib
from thoraxlib import datasets, segmentation
from thoraxlib.datasets.organs import mask_path
from thoraxlib.images import transform_for

NAMES = ("right lung", "left lung", "heart", "trachea")


def synthetic(length: int = 8, seed: int = 0, **options: Any) -> Any:
    return datasets.build("synthetic", size=64, length=length, seed=seed, **options)


def small_unet() -> segmentation.Segmenter:
    torch.manual_seed(0)
    unet = segmentation.build("unet", width=4, norm=True, depth=3)
    unet.input_spec = unet.input_spec.updated({"size": [64, 64]})
    return unet


def test_classes_of_masks() -> None:
    masks = torch.rand(2, 4, 5, 6) > 0.6
    classes = ("background", "lungs", "heart")
    found = segmentation.organ_masks(masks, NAMES, classes)
    assert found.shape == (2, 3, 5, 6)
    assert torch.equal(found.sum(dim=1), torch.ones(2, 5, 6, dtype=found.sum().dtype))
    heart = masks[:, 2]
    assert torch.equal(found[:, 2].bool(), heart)  # the later class counts
    assert torch.equal(found[:, 1].bool(), (masks[:, 0] | masks[:, 1]) & ~heart)
    own = segmentation.organ_masks(masks, NAMES, ("none", "airway"), {"airway": ["trachea"]})
    assert torch.equal(own[:, 1].bool(), masks[:, 3])
    with pytest.raises(ValueError, match="no mask for the class 'spine'.*right lung"):
        segmentation.organ_masks(masks, NAMES, ("background", "spine"))
    with pytest.raises(ValueError, match="masks are 4 and mask_names 2"):
        segmentation.organ_masks(masks, NAMES[:2], classes)


def test_evaluate() -> None:
    class Perfect(segmentation.Segmenter):
        """Returns the true masks, which it is given."""

        def __init__(self, images: Any) -> None:
            super().__init__(segmentation.ORGANS, 3)
            self.input_spec = self.input_spec.updated({"size": [64, 64]})
            self.weight = nn.Parameter(torch.zeros(()))
            masks = torch.stack([image["masks"] for image in images])
            self.truth = segmentation.organ_masks(masks, images.mask_names, self.classes).float()

        def forward(self, x: Tensor) -> Tensor:
            done, self.truth = self.truth[: len(x)], self.truth[len(x) :]
            return done

    images = synthetic(5)
    report = segmentation.evaluate(Perfect(images), images, batch_size=2)
    assert report.organs == ("lungs", "heart")
    assert torch.equal(report.dice, torch.ones(5, 2))
    assert torch.equal(report.iou, torch.ones(5, 2))
    assert report.mean_dice() == 1
    assert "heart" in str(report)
    assert "1.000 (1.000 to 1.000)" in str(report)
    with pytest.raises(ValueError, match="samples of .* have no masks"):
        segmentation.evaluate(small_unet(), synthetic(2, masks=False))


def test_training(tmp_path: Path) -> None:
    pytest.importorskip("lightning")
    from functools import partial

    from thoraxlib import training

    unet = small_unet()
    before = segmentation.evaluate(unet, synthetic(8, 2)).mean_dice()
    transform = transform_for(unet.input_spec)
    data = training.DataModule(
        synthetic(24),
        synthetic(8, 1),
        batch_size=8,
        train_transform=transform,
        eval_transform=transform,
        cache=True,
        masks=True,
    )
    result = training.fit(
        unet,
        data,
        output=tmp_path,
        epochs=8,
        optimizer=partial(torch.optim.Adam, lr=0.02),
        accelerator="cpu",
        progress=False,
    )
    assert result.score > before
    assert segmentation.evaluate(unet, synthetic(8, 2)).mean_dice() > before + 0.05
    assert "val/dice_heart" in (tmp_path / "logs" / "metrics.csv").read_text()
    loaded = thoraxlib.load_pretrained(tmp_path / "model", segmentation.Segmenter)
    x = torch.rand(2, 3, 64, 64)
    assert torch.equal(loaded(x), unet.eval()(x))
    assert loaded.classes == unet.classes
    assert loaded.input_spec == unet.input_spec


def test_another_segmenter_or_size_does_not_go_on_from_a_run(tmp_path: Path) -> None:
    pytest.importorskip("lightning")
    from thoraxlib import training

    def run(width: int, side: int) -> None:
        unet = segmentation.build("unet", width=width, depth=2)
        unet.input_spec = unet.input_spec.updated({"size": [side, side]})
        transform = transform_for(unet.input_spec)
        images = {"train": synthetic(4), "val": synthetic(4, 1)}
        data = training.DataModule(
            **images, batch_size=4, train_transform=transform, eval_transform=transform, masks=True
        )
        training.fit(unet, data, output=tmp_path, epochs=1, accelerator="cpu", progress=False)

    run(2, 64)
    for other in ((3, 64), (2, 32)):
        with pytest.raises(ValueError, match="holds a run with other settings .model"):
            run(*other)


def test_masks_as_files(tmp_path: Path) -> None:
    images, unet = synthetic(5), small_unet()
    paths = segmentation.predict_masks(unet, images, output=tmp_path, batch_size=2, num_workers=1, progress=False)
    assert [path.name for path in paths] == [f"{name}.png" for name in images.ids]
    with torch.inference_mode():
        x = torch.stack([transform_for(unet.input_spec)({"image": image["image"]})["image"] for image in images])
        expected = unet.eval()(x).argmax(dim=1)
    written = torch.stack([torch.from_numpy(np.array(Image.open(path))) for path in paths])
    assert torch.equal(written.long(), expected)
    paths[0].unlink()
    stamp = paths[1].stat().st_mtime_ns
    segmentation.predict_masks(unet, images, tmp_path)
    assert paths[0].exists()
    assert paths[1].stat().st_mtime_ns == stamp  # kept
    torch.nn.init.constant_(unet.final_conv.bias[1:], 100.0)
    segmentation.predict_masks(unet, images, tmp_path, overwrite=True)
    assert not torch.equal(torch.from_numpy(np.array(Image.open(paths[1]))).long(), expected[1])
    segmentation.predict_masks(small_unet(), images, tmp_path, overwrite=True)

    masked = datasets.WithOrganMasks(images, tmp_path)
    sample = masked[3]
    assert torch.equal(sample["organ_mask"][0].long(), (expected[3] > 0).long())
    assert masked.targets is images.targets
    assert torch.equal(masked.boxed, images.boxed)
    paths[2].unlink()
    with pytest.raises(FileNotFoundError, match="1 of 5 images have no mask.*synthetic-0-000002.*predict_masks"):
        datasets.WithOrganMasks(images, tmp_path)
    with pytest.raises(FileNotFoundError, match="folder"):
        datasets.WithOrganMasks(images, tmp_path / "none")


@pytest.mark.parametrize("resize", ["stretch", "pad", "crop", "pad_end"])
def test_masks_are_in_the_image_s_frame(resize: str, tmp_path: Path) -> None:
    class Bright(segmentation.Segmenter):
        """The heart is bright."""

        def __init__(self) -> None:
            super().__init__(("background", "heart"), 1)
            self.input_spec = self.input_spec.updated({"size": [64, 64], "resize": resize})
            self.weight = nn.Parameter(torch.zeros(()))

        def forward(self, x: Tensor) -> Tensor:
            return torch.cat([0.5 - x, x - 0.5], dim=1)

    class One(torch.utils.data.Dataset[Any]):
        ids = ("a/image.png",)

        def __len__(self) -> int:
            return 1

        def __getitem__(self, index: int) -> dict[str, Any]:
            image = torch.zeros(1, 120, 90, dtype=torch.uint8)
            image[:, 45:75, 30:60] = 255
            return {"image": thoraxlib.images.read(image), "id": self.ids[index]}

    (path,) = segmentation.predict_masks(Bright(), One(), tmp_path)
    assert path.name == "a_image.png"
    mask = np.array(Image.open(path))
    assert mask.shape == (120, 90)
    truth = np.zeros_like(mask)
    truth[45:75, 30:60] = 1
    assert (mask != truth).mean() < 0.03


def test_names_of_mask_files() -> None:
    assert mask_path("m", "p1/s2/view1.frontal.jpg").endswith("p1_s2_view1.frontal.png")
    assert mask_path("m", "00000001_000.png").endswith("00000001_000.png")
    assert mask_path("m", "1.2.840").endswith("1.2.840.png")


def test_a_classifier_trains_on_masks_from_files(tmp_path: Path) -> None:
    """The segmenter does not run; masks follow the image through the augmentation."""
    pytest.importorskip("lightning")
    from thoraxlib import training

    unet = small_unet()
    model = thoraxlib.build(
        "segfusion_van",
        backbone="resnet10t",
        segmenter=unet,
        input_spec={"size": [64, 64]},
        labels=("Mass", "Effusion"),
    )
    runs = []
    unet.register_forward_hook(lambda *args: runs.append(1))
    masks_used: list[Tensor] = []
    model.fusion.register_forward_pre_hook(lambda module, args: masks_used.append(args[1]))
    parts = {}
    for name, seed in (("train", 0), ("val", 1)):
        images = synthetic(16, seed, labels=("Mass", "Effusion"), balance=1.0)
        for image in images:  # the right half is the mask
            mask = np.zeros((64, 64), np.uint8)
            mask[:, 32:] = 2
            (tmp_path / name).mkdir(exist_ok=True)
            Image.fromarray(mask).save(mask_path(tmp_path / name, image["id"]))
        parts[name] = datasets.WithOrganMasks(images, tmp_path / name)
    transform = transform_for(model.input_spec, train={"name": "cxr_lka", "translate": 0.0, "degrees": 0.0})
    data = training.DataModule(
        parts["train"],
        parts["val"],
        batch_size=8,
        train_transform=transform,
        eval_transform=transform_for(model.input_spec),
        cache=True,
    )
    training.fit(model, data, output=tmp_path / "run", epochs=1, monitor="val/loss", accelerator="cpu", progress=False)
    found = training.predict(model, parts["val"], progress=False)
    assert not runs
    assert all(masks[:, :, :, :24].max() == 0 and masks[:, :, 8:-8, 40:-8].min() == 1 for masks in masks_used)
    assert found.logits.shape == (16, 2)
    saved = thoraxlib.load_pretrained(tmp_path / "run" / "model")
    x = torch.rand(1, 3, 64, 64)
    torch.testing.assert_close(saved(x), model(x))
