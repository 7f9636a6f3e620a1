"""Compare regions in one pass with torchvision's detection followed by a second pass of the backbone."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import clip_boxes_to_image

from benchmarks.timing import Row, compare
from thoraxlib import detection
from thoraxlib.detection.faster_rcnn import best_boxes

PACKAGES = ("torchvision", "timm")
BATCH, SIDE, PROPOSALS = 4, 256, 200


def best_of_each(found: list[dict[str, Tensor]], regions: int) -> Tensor:
    """Select the best box of each region from torchvision's lists, image by image."""
    boxes = torch.zeros(len(found), regions, 4)
    for image, listed in enumerate(found):
        for region in range(regions):
            mine = listed["labels"] == region + 1
            if mine.any():
                boxes[image, region] = listed["boxes"][mine][listed["scores"][mine].argmax()]
    return boxes


@torch.inference_mode()
def run(device: torch.device) -> Iterator[Row]:
    torch.manual_seed(0)
    x = torch.randn(BATCH, 3, SIDE, SIDE)
    sizes = [(SIDE, SIDE)] * BATCH
    conditions = f"{BATCH} images of {SIDE} px, {PROPOSALS} proposals, 18 regions"
    for name in ("fasterrcnn_resnet50_fpn", "fasterrcnn_fpn"):
        net = detection.build(name, proposals=PROPOSALS, score_threshold=0.0, input_spec={"size": SIDE}).eval()
        net.roi_heads.score_thresh, net.roi_heads.detections_per_img = 0.0, 18 * PROPOSALS

        def two_passes(net: detection.RegionDetector = net) -> tuple[Tensor, Tensor]:
            """Detect, then run the backbone again for the boxes, as the original does; here at the same scale."""
            maps = net.backbone(x)
            proposals, _ = net.rpn(ImageList(x, sizes), maps)
            found, _ = net.roi_heads(maps, proposals, sizes)
            boxes = best_of_each(found, 18)
            return boxes, net.pool(net.backbone(x), boxes, x)

        ours, (boxes, features) = net(x), two_passes()
        if not torch.equal(ours.boxes, boxes) or not torch.allclose(ours.features, features, atol=1e-5):
            raise RuntimeError("the outputs of the two implementations differ")
        row, peer = f"regions: {name}", "detect, postprocess, second pass"
        yield compare(row, peer, lambda net=net: net(x), two_passes, target=0.8, conditions=conditions, pairs=5)

    heads, sizes, counts = net.roi_heads, [(SIDE, SIDE)] * 16, [1000] * 16
    heads.score_thresh, heads.detections_per_img = 0.05, 100  # torchvision's defaults
    corners = torch.rand(16_000, 2) * SIDE
    proposals = list(torch.cat([corners, corners + 20 + torch.rand(16_000, 2) * 60], dim=1).split(1000))
    logits, codes = 3 * torch.randn(16_000, 19), torch.randn(16_000, 76)

    def best() -> tuple[Tensor, Tensor]:
        boxes = heads.box_coder.decode_single(codes, torch.cat(proposals)).view(-1, 19, 4)[:, 1:]
        return best_boxes(clip_boxes_to_image(boxes, sizes[0]), logits.softmax(dim=-1)[:, 1:], counts)

    row, peer = "regions: the best box of each", "torchvision's postprocessing"
    theirs = lambda: heads.postprocess_detections(logits, codes, proposals, sizes)  # noqa: E731
    yield compare(row, peer, best, theirs, target=0.3, conditions="16 images, 1000 proposals", pairs=5)
