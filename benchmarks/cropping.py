"""Compare the crop from a feature map with the public code, with an OpenCV loop, and with the forward pass."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from PIL import Image
from scipy import ndimage
from torch import Tensor

from benchmarks.timing import Row, Work, compare, optional
from thoraxlib import backbones
from thoraxlib.localization import crops
from thoraxlib.reproduce.fixed_point import upsample_uint8

DEVICES = ("cpu", "cuda")
PACKAGES = ("timm", "numpy", "scipy", "pillow", "opencv-python-headless")
BATCH, SIDE = 32, 224
MEAN, STD = torch.tensor([0.485, 0.456, 0.406])[:, None, None], torch.tensor([0.229, 0.224, 0.225])[:, None, None]


def threshold(levels: np.ndarray) -> int:
    """Compute Otsu's threshold of one image."""
    counts = np.bincount(levels.ravel(), minlength=256)
    below, moment = counts.cumsum(), (counts * np.arange(256)).cumsum()
    weight = below * (below[-1] - below)
    score = (moment * below[-1] - moment[-1] * below).astype(np.float64) ** 2 / np.maximum(weight, 1)
    return int(np.where(weight > 0, score, 0).argmax())


def one_by_one(images: Tensor, features: Tensor) -> tuple[Tensor, list[list[int]]]:
    """Crop image by image in the steps of AG-CNN's public code, without OpenCV and scikit-image.

    SciPy labels the components, which are counted one by one. The box is found by Python's `min` and `max` over all
    pixels.
    """
    patches, boxes = [], []
    for image, feature in zip(images, features, strict=True):
        heat = feature.numpy().sum(axis=0)
        heat = heat - heat.min()
        small = torch.from_numpy((255 * (heat / heat.max())).astype(np.uint8))
        levels = upsample_uint8(small[None], (SIDE, SIDE))[0].numpy().astype(np.uint8)
        labels, number = ndimage.label(levels > threshold(levels), np.ones((3, 3)))
        best, most = 0, 0
        for label in range(1, number + 1):
            count = np.sum(labels == label)
            if count > most:
                best, most = label, count
        ys, xs = np.argwhere(labels == best).T
        box = [min(ys), min(xs), max(ys), max(xs)]
        mosaic = image.numpy().reshape(SIDE, SIDE, 3)[74:149, 74:149]
        tile = torch.from_numpy(mosaic.copy()).permute(2, 0, 1)[None]
        large = torch.nn.functional.interpolate(tile, (SIDE, SIDE), mode="bilinear")[0].permute(1, 2, 0).numpy()
        grey = (large[box[0] : box[2], box[1] : box[3]] * 256).astype(np.int64).astype(np.uint8)
        enlarged = Image.fromarray(grey).resize((256, 256), Image.Resampling.BILINEAR).crop((16, 16, 240, 240))
        patches.append((torch.from_numpy(np.array(enlarged)).permute(2, 0, 1).float() / 255 - MEAN) / STD)
        boxes.append([int(side) for side in box])
    return torch.stack(patches), boxes


def blobs(rng: torch.Generator, channels: int) -> Tensor:
    """Return maps (N, channels, 7, 7) with a few peaks each, as trained networks have them."""
    position = torch.arange(7.0)
    y, x, width = (torch.rand(BATCH, 3, 1, generator=rng) * scale + low for scale, low in ((6, 0), (6, 0), (1, 0.6)))
    down, across = torch.exp(-((position - y) ** 2) / width**2), torch.exp(-((position - x) ** 2) / width**2)
    spots = torch.einsum("nky,nkx->nyx", down, across)[:, None]
    return spots * torch.rand(BATCH, channels, 1, 1, generator=rng) + 0.01 * torch.rand(
        BATCH, channels, 7, 7, generator=rng
    )


_FLOATS = "half of the time is the crop of floats; the reference crops bytes with Pillow"
_WRAP = "grey levels wrap around, so that both have to resize twice and round three times"


@torch.inference_mode()
def run(device: torch.device) -> Iterator[Row]:
    rng = torch.Generator().manual_seed(0)
    images = torch.rand(BATCH, 3, SIDE, SIDE, generator=rng) * 4 - 2
    kinds = {"blobs": blobs(rng, 2048), "noise": torch.rand(BATCH, 2048, 7, 7, generator=rng)}
    backbone = backbones.build("resnet50").eval().to(device)
    paper, ien001 = crops.build("fixed"), crops.build("ien001")
    same = crops.build("ien001_clean")
    conditions = {"conditions": f"{BATCH} images of {SIDE} px, 2048 channels of 7 x 7"}
    there = images.to(device)

    def ours(rule: crops.CropRule, features: Tensor) -> Work:
        features = features.to(device)
        return lambda: rule(there, features)

    for kind, features in kinds.items():
        patches, boxes = one_by_one(images, features)
        found = ien001(images, features)
        if found.yxyx.tolist() != boxes or not ((found.crop - patches).abs() > 1e-3).float().mean() < 1e-3:
            raise RuntimeError("the outputs of the two implementations differ")
        peer = lambda f=features: one_by_one(images, f)  # noqa: E731
        for name, rule, reason in (
            ("ien001's boxes, clean crop", same, _FLOATS),
            ("ien001's boxes and crops", ien001, _WRAP),
            ("the paper's (fixed)", paper, _FLOATS),
        ):
            goal = {"target": 0.2, "reason": reason, "pairs": 7}
            row, works = f"crop, {kind}: {name}", (ours(rule, features), peer)
            yield compare(row, "public code, image by image", *works, **goal, **conditions)
        row = f"crop, {kind}: ien001's boxes, clean crop"
        loop = _against_opencv(row, same, images, features, ours(same, features))
        yield from optional(row, "OpenCV, image by image", loop)
    for name, rule in (("the paper's (fixed)", paper), ("ien001", ien001)):
        forward = lambda: backbone(there)  # noqa: E731
        row = f"crop: {name}"
        work = ours(rule, kinds["blobs"])
        yield compare(row, "ResNet-50, a forward pass", work, forward, pairs=3, warmup=0, **conditions)


def _against_opencv(row: str, rule: crops.CropRule, images: Tensor, features: Tensor, ours: Work) -> Iterator[Row]:
    """Compute the same boxes and a clean crop in a loop with OpenCV's functions."""
    import cv2

    cv2.setNumThreads(1)
    arrays = images.permute(0, 2, 3, 1).contiguous().numpy()

    def peer() -> tuple[Tensor, list[list[int]]]:
        crops, boxes = [], []
        for array, feature in zip(arrays, features.numpy(), strict=True):
            heat = feature.sum(axis=0)
            heat = heat - heat.min()
            levels = cv2.resize((255 * (heat / heat.max())).astype(np.uint8), (SIDE, SIDE))
            _, mask = cv2.threshold(levels, 0, 1, cv2.THRESH_BINARY + cv2.THRESH_OTSU)
            _, _, stats, _ = cv2.connectedComponentsWithStats(mask, connectivity=8)
            x, y, w, h, _ = map(int, stats[1:][stats[1:, cv2.CC_STAT_AREA].argmax()])
            crops.append(cv2.resize(array[y : y + h, x : x + w], (SIDE, SIDE)))
            boxes.append([x, y, x + w, y + h])
        return torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2), boxes

    found, (crops, boxes) = rule(images, features), peer()
    same = torch.tensor(boxes).eq(found.box).all(dim=1)
    difference = (crops[same] - found.crop[same]).abs().max()
    conditions = f"{BATCH} images of {SIDE} px; {int(same.sum())} boxes equal, their crops to {difference:.0e}"
    yield compare(row, "OpenCV, image by image", ours, peer, pairs=7, conditions=conditions)
