"""Folders of images and masks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import tv_tensors

from thoraxlib import InputSpec, datasets, images
from thoraxlib.datasets.image_mask import ImageMask

LABEL = np.zeros((12, 16), np.uint8)
LABEL[2:8, 1:5], LABEL[5:9, 8:12] = 1, 2
ORGANS = ("lungs", "heart")


def folder(root: Path, count: int = 3, suffix: str = "", label: np.ndarray = LABEL) -> Path:
    """Images 0, 1, ... of one grey each, and their label images, which are shifted by as many rows."""
    (root / "image").mkdir(parents=True)
    (root / "label").mkdir()
    for k in range(count):
        Image.fromarray(np.full((12, 16), 10 * k, np.uint8)).save(root / "image" / f"image{k}.jpg", quality=100)
        Image.fromarray(np.roll(label, k, axis=0)).save(root / "label" / f"image{k}{suffix}.png")
    return root


def test_images_and_masks(tmp_path: Path) -> None:
    pictures = datasets.build("image_mask", root=folder(tmp_path), classes=ORGANS)
    assert isinstance(pictures, datasets.ChestDataset)
    assert pictures.mask_names == ORGANS
    assert pictures.ids == pictures.patient_ids == ["image0", "image1", "image2"]
    assert (pictures.labels, pictures.targets.shape) == ((), (3, 0))
    for k in range(3):
        sample = pictures[k]
        assert sample["image"].float().mean().item() == pytest.approx(10 * k, abs=1)
        assert isinstance(sample["masks"], tv_tensors.Mask)
        assert sample["masks"].dtype == torch.uint8
        shifted = np.roll(LABEL, k, axis=0)
        np.testing.assert_array_equal(sample["masks"], np.stack([shifted == 1, shifted == 2]))
    batch = datasets.collate([pictures[0], pictures[1]])
    assert batch["masks"].shape == (2, 2, 12, 16)
    assert batch["labels"].shape == (2, 0)


def test_classes_by_value_and_background(tmp_path: Path) -> None:
    root = folder(tmp_path, label=np.array([0, 255, 128], np.uint8)[LABEL])
    names = {"heart": 128, "background": 0, "lungs": 255}
    pictures = ImageMask(root=root, classes=names)
    assert pictures.mask_names == ("heart", "background", "lungs")
    masks = pictures[0]["masks"]
    np.testing.assert_array_equal(masks, np.stack([LABEL == 2, LABEL == 0, LABEL == 1]))
    assert (masks.sum(dim=0) == 1).all()


@pytest.mark.parametrize("kind", ["L", "P", "RGB", "LA", "16 bit", "bits"])
def test_kinds_of_label_images(tmp_path: Path, kind: str) -> None:
    root = folder(tmp_path, count=1)
    label = Image.fromarray(LABEL)
    if kind == "P":  # the entries count, whatever their colours
        label.putpalette([200, 0, 0, 0, 200, 0, 0, 0, 200])
    elif kind == "16 bit":
        label = Image.fromarray(LABEL.astype(np.uint16))
    elif kind == "bits":
        label = Image.fromarray(LABEL == 1)
    else:
        label = label.convert(kind)
    label.save(root / "label/image0.png")
    masks = ImageMask(root=root, classes=ORGANS)[0]["masks"]
    np.testing.assert_array_equal(masks[0], LABEL == 1)
    np.testing.assert_array_equal(masks[1], (LABEL == 2) & (kind != "bits"))


def test_pairs_by_order(tmp_path: Path) -> None:
    root = folder(tmp_path)
    for k, name in enumerate(("c", "b", "a")):  # image2's label is now the first
        (root / f"label/image{k}.png").rename(root / f"label/{name}.png")
    pictures = ImageMask(root=root, classes=ORGANS, pair="order")
    np.testing.assert_array_equal(pictures[0]["masks"][0], np.roll(LABEL, 2, axis=0) == 1)
    with pytest.raises(
        ValueError, match=r"3 images without mask \(image0, image1, image2\); 3 masks without image \(a, b, c\)"
    ):
        ImageMask(root=root, classes=ORGANS)
    (root / "label/a.png").unlink()
    with pytest.raises(ValueError, match="pair='order': 3 images in .*image, but 2 masks in .*label"):
        ImageMask(root=root, classes=ORGANS, pair="order")
    for options in ({"suffix": "_mask"}, {"masks": "image"}):
        with pytest.raises(ValueError, match="two folders and no suffix"):
            ImageMask(root=root, classes=ORGANS, pair="order", **options)


def test_suffixes_and_one_folder(tmp_path: Path) -> None:
    root = folder(tmp_path, suffix="_mask")
    (root / "label/image0_ribs.png").touch()
    pictures = ImageMask(root=root, classes=ORGANS, suffix="_mask")
    apart = pictures[1]["masks"]
    np.testing.assert_array_equal(apart[0], np.roll(LABEL, 1, axis=0) == 1)
    for path in [*root.glob("label/*_mask.png"), *root.glob("image/*")]:
        path.rename(root / path.name)
    together = ImageMask(root=root, classes=ORGANS, suffix="_mask", images=".", masks=".")
    assert together.ids == pictures.ids
    assert torch.equal(together[1]["masks"], apart)
    with pytest.raises(ValueError, match="suffix is needed"):
        ImageMask(root=root, classes=ORGANS, images=".", masks=".")
    with pytest.raises(ValueError, match=r"suffix='_msk': 6 images without mask \(image0, image0_mask, .*, \.\.\."):
        ImageMask(root=root, classes=ORGANS, images=".", masks=".", suffix="_msk")


def test_masks_follow_the_images_size_to_nearest_neighbours(tmp_path: Path) -> None:
    root = folder(tmp_path, count=2)
    Image.fromarray(LABEL.repeat(3, axis=0).repeat(3, axis=1)).save(root / "label/image0.png")
    pictures = ImageMask(root=root, classes=ORGANS)
    np.testing.assert_array_equal(pictures[0]["masks"], np.stack([LABEL == 1, LABEL == 2]))
    Image.fromarray(np.zeros((12, 12), np.uint8)).save(root / "label/image1.png")
    with pytest.raises(ValueError, match=r"image1\.png has 12 x 12 pixels, its image .*image1\.jpg 16 x 12"):
        pictures[1]

    for train in (None, "cxr_lka", "light"):
        transform = images.transform_for(InputSpec(size=37), train=train)
        sample = ImageMask(root=root, classes=ORGANS, transform=transform)[0]
        assert sample["image"].shape == (3, 37, 37)
        assert sample["masks"].shape == (2, 37, 37)
        assert sample["masks"].unique().tolist() == [0, 1]


@pytest.mark.parametrize("value", [3, 255])
def test_a_value_of_no_class(tmp_path: Path, value: int) -> None:
    root = folder(tmp_path)
    odd = LABEL.copy()
    odd[0, 0] = value
    Image.fromarray(odd).save(root / "label/image1.png")
    pictures = ImageMask(root=root, classes=ORGANS)
    assert pictures[0]["masks"].shape == (2, 12, 16)
    with pytest.raises(
        ValueError, match=rf"image1\.png: the values {value} belong to no class; known: 0 background, 1 lungs, 2 heart"
    ):
        pictures[1]


def test_coloured_and_damaged_masks(tmp_path: Path) -> None:
    root = folder(tmp_path)
    coloured = np.zeros((12, 16, 3), np.uint8)
    coloured[0, 0] = 0, 1, 0
    Image.fromarray(coloured).save(root / "label/image0.png")
    path = root / "label/image1.png"
    path.write_bytes(path.read_bytes()[:60])
    pictures = ImageMask(root=root, classes=ORGANS)
    with pytest.raises(ValueError, match=r"image0\.png: a label image must be grey"):
        pictures[0]
    with pytest.raises(ValueError, match=r"image1\.png is truncated or corrupt"):
        pictures[1]


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"root": "nowhere"}, FileNotFoundError, "root: no such folder"),
        ({"images": "images"}, FileNotFoundError, "images: no such folder"),
        ({"masks": "empty"}, FileNotFoundError, "no image .*in .*empty"),
        ({"masks": "image/image0.jpg"}, NotADirectoryError, "masks must be a folder"),
        ({"pair": "names"}, ValueError, "pair='names': allowed"),
        ({"classes": []}, ValueError, r"classes must be names.*got \[\]"),
        ({"classes": "lungs"}, ValueError, "classes must be names.*'lungs'"),
        ({"classes": ["lungs", "lungs"]}, ValueError, "none of them twice"),
        ({"classes": {"lungs": 1, "heart": 1}}, ValueError, "none of them twice"),
        ({"classes": {"lungs": -1}}, ValueError, "from 0 to 65535"),
        ({"classes": {"lungs": 0.5}}, ValueError, "from 0 to 65535"),
    ],
)
def test_errors(tmp_path: Path, options: dict[str, Any], error: type[Exception], message: str) -> None:
    root = folder(tmp_path)
    (root / "empty").mkdir()
    with pytest.raises(error, match=message):
        ImageMask(**{"root": root, "classes": ORGANS, **options})


def test_two_files_of_one_name(tmp_path: Path) -> None:
    root = folder(tmp_path)
    Image.fromarray(LABEL).save(root / "image/image0.png")
    with pytest.raises(ValueError, match=r"image0\.jpg and image0\.png have one name"):
        ImageMask(root=root, classes=ORGANS)


def test_real_lung_masks(real_data: Path) -> None:
    root = real_data / "samples/lung_masks"
    pictures = ImageMask(root=root, classes={"lungs": 255}, images=".", masks=".", suffix="-mask")
    assert pictures.ids == ["1", "2", "3", "4"]
    for sample in pictures:
        assert sample["masks"].shape == (1, *sample["image"].shape[-2:])
        inside = sample["masks"][0].bool()
        assert 0.1 < inside.float().mean() < 0.5
        image = sample["image"][0].float()
        assert image[inside].mean() < image[~inside][image[~inside] > 20].mean()  # lungs are dark
