"""Faster R-CNN as a detector of regions: torchvision's parts, put together for one box a region."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torchvision.ops import MultiScaleRoIAlign
from torchvision.ops.poolers import LevelMapper

from thoraxlib.detection.base import SIDE, RegionDetector, is_there
from thoraxlib.detection.select import best_boxes
from thoraxlib.input_spec import InputSpec

#: What :meth:`FasterRCNN.losses` gives: two of the stage that proposes boxes, two of the one that names them.
LOSSES = ("objectness", "proposal", "region", "box")

_RATIOS = (0.5, 1.0, 2.0)
_RESOLUTION = 7
_CANONICAL = 224  # side of the box that is pooled from the map of stride 16, in an input of 800 pixels


class FasterRCNN(RegionDetector):
    """Faster R-CNN with one box for each region.

    Detection and features come from one pass of the backbone: the best box of every region is pooled from the maps that
    it was found in, and goes through the box head again (the original runs the backbone twice, the second time at the
    image's own size). How many boxes are looked at depends on the image: ``torch.compile`` breaks the graph there, and
    ``torch.export`` refuses.

    Parameters
    ----------
    pyramid : nn.Module
        Images to an ordered dict of maps with ``out_channels`` channels each, finest first.
    strides : sequence of int
        Of the maps; the last is that of torchvision's additional pooled map, no region is pooled from it.
    regions, input_spec, score_threshold
        See :class:`RegionDetector`.
    anchor_sizes : sequence of sequence of float
        For each map, sides of its anchors in pixels.
    box_head : nn.Module
        Of pooled boxes (P, out_channels, 7, 7) to features (P, D).
    feature_dim : int
        D.
    rpn_depth : int
        3x3 convolutions in the head that proposes boxes.
    rois : int
        Boxes that the box head is trained on in each image.
    proposals : int
        Boxes of an image that are looked at; twice as many in training, as in torchvision.
    proposal_threshold : float
        Smallest objectness of a proposal.
    freeze_norm : bool
        Keep batch norms as they are, in training too.
    """

    def __init__(
        self,
        pyramid: nn.Module,
        strides: Sequence[int],
        *,
        regions: str | Sequence[str],
        input_spec: InputSpec,
        anchor_sizes: Sequence[Sequence[float]],
        box_head: nn.Module,
        feature_dim: int,
        score_threshold: float,
        rois: int,
        proposals: int,
        rpn_depth: int = 1,
        proposal_threshold: float = 0.0,
        freeze_norm: bool = False,
    ) -> None:
        from torchvision.models import detection
        from torchvision.models.detection.faster_rcnn import FastRCNNPredictor
        from torchvision.models.detection.rpn import AnchorGenerator, RPNHead

        super().__init__(regions, input_spec, feature_dim, score_threshold)
        if rois < 1 or proposals < 1:
            raise ValueError(f"rois={rois}, proposals={proposals}: at least 1 of each is needed")
        sizes = tuple(tuple(float(side) for side in of_map) for of_map in anchor_sizes)
        if len(sizes) != len(strides) or not all(sizes) or min(map(min, sizes)) <= 0:
            raise ValueError(
                f"anchor_sizes={anchor_sizes}: positive sides in pixels are needed for each of {len(strides)} maps, "
                f"of strides {tuple(strides)}"
            )
        anchors = AnchorGenerator(sizes, (_RATIOS,) * len(sizes))
        per_place = anchors.num_anchors_per_location()
        if len(set(per_place)) > 1:
            raise ValueError(f"anchor_sizes={anchor_sizes}: as many for one map as for another")
        channels: Any = pyramid.out_channels
        whole = detection.FasterRCNN(
            pyramid,
            rpn_anchor_generator=anchors,
            rpn_head=RPNHead(channels, per_place[0], conv_depth=rpn_depth),
            rpn_pre_nms_top_n_train=2 * proposals,
            rpn_pre_nms_top_n_test=proposals,
            rpn_post_nms_top_n_train=2 * proposals,
            rpn_post_nms_top_n_test=proposals,
            rpn_score_thresh=proposal_threshold,
            box_roi_pool=_pool(strides[:-1], _CANONICAL * min(input_spec.size) / SIDE),
            box_head=box_head,
            box_predictor=FastRCNNPredictor(feature_dim, 1 + len(self.region_names)),
            box_batch_size_per_image=rois,
        )
        # its own transform would resize and normalise what already is
        self.backbone, self.rpn, self.roi_heads = whole.backbone, whole.rpn, whole.roi_heads
        self.freeze_norm = freeze_norm
        self.train()

    def train(self, mode: bool = True) -> FasterRCNN:
        """Training mode, for norms only if they are not frozen."""
        super().train(mode)
        for module in self.modules() if self.freeze_norm else ():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
        return self

    def maps(self, x: Tensor) -> dict[str, Tensor]:
        """The pyramid."""
        maps: dict[str, Tensor] = self.backbone(x)
        return maps

    @torch.no_grad()
    def locate(self, maps: dict[str, Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
        """The most likely box of each region, with its probability."""
        from torchvision.ops import clip_boxes_to_image

        chosen = self._chosen(self._proposed(maps, x), x)
        logits, codes = self._predicted(maps, chosen, x)
        boxes = self.roi_heads.box_coder.decode_single(codes, torch.cat(chosen)).view(*logits.shape, 4)
        boxes = clip_boxes_to_image(boxes[:, 1:], _sizes(x)[0])
        return best_boxes(boxes, logits.softmax(dim=-1)[:, 1:], [len(part) for part in chosen])

    def pool(self, maps: dict[str, Tensor], boxes: Tensor, x: Tensor) -> Tensor:
        """What the box head makes of boxes."""
        return self._features(maps, list(boxes), x).view(*boxes.shape[:2], -1)

    def losses(self, x: Tensor, regions: Tensor, present: Tensor | None = None) -> dict[str, Tensor]:
        """Faster R-CNN's four losses, by the names in :data:`LOSSES`; see :class:`RegionDetector`."""
        from torchvision.models.detection.roi_heads import fastrcnn_loss

        boxes, there = is_there(self, x, regions, present)
        names = torch.arange(1, 1 + len(self.region_names), device=x.device)  # 0 is the background
        targets = [{"boxes": b[t], "labels": names[t]} for b, t in zip(boxes, there, strict=True)]
        maps = self.maps(x)
        proposed = self._proposed(maps, x)
        of_anchors, matched = self.rpn.assign_targets_to_anchors(proposed.anchors, targets)
        wanted = self.rpn.box_coder.encode(matched, proposed.anchors)
        first = self.rpn.compute_loss(proposed.objectness, proposed.codes, of_anchors, wanted)
        chosen, _, classes, wanted = self.roi_heads.select_training_samples(self._chosen(proposed, x), targets)
        second = fastrcnn_loss(*self._predicted(maps, chosen, x), classes, wanted)
        return dict(zip(LOSSES, (*first, *second), strict=True))

    def _proposed(self, maps: dict[str, Tensor], x: Tensor) -> _Proposed:
        from torchvision.models.detection.image_list import ImageList
        from torchvision.models.detection.rpn import concat_box_prediction_layers

        levels = list(maps.values())
        objectness, codes = self.rpn.head(levels)
        per_level = [one[0].numel() for one in objectness]
        objectness, codes = concat_box_prediction_layers(objectness, codes)
        # places in pixels need float32, whatever the maps are computed in
        anchors = self.rpn.anchor_generator(ImageList(x, _sizes(x)), [level.float() for level in levels])
        return _Proposed(objectness.float(), codes.float(), anchors, per_level)

    @torch.no_grad()
    def _chosen(self, proposed: _Proposed, x: Tensor) -> list[Tensor]:
        """The boxes of each image that are worth a look."""
        boxes = self.rpn.box_coder.decode(proposed.codes, proposed.anchors).view(len(x), -1, 4)
        chosen: list[Tensor] = self.rpn.filter_proposals(boxes, proposed.objectness, _sizes(x), proposed.per_level)[0]
        return chosen

    def _features(self, maps: dict[str, Tensor], boxes: list[Tensor], x: Tensor) -> Tensor:
        """What the box head makes of the boxes of each image: (P, D)."""
        features: Tensor = self.roi_heads.box_head(self.roi_heads.box_roi_pool(maps, boxes, _sizes(x)))
        return features

    def _predicted(self, maps: dict[str, Tensor], boxes: list[Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (P, 1 + R), the background first, and box codes (P, 4 * (1 + R)), float32."""
        logits, codes = self.roi_heads.box_predictor(self._features(maps, boxes, x))
        return logits.float(), codes.float()


def scaled(sizes: Sequence[Sequence[float]], spec: InputSpec) -> list[list[float]]:
    """Anchors for inputs of 800 pixels, for those of `spec`."""
    return [[side * min(spec.size) / SIDE for side in of_map] for of_map in sizes]


class _Proposed(NamedTuple):
    """What the first stage says of all anchors of all images.

    Attributes
    ----------
    objectness, codes : Tensor
        Logits (N * A, 1) and boxes as changes of the anchors, (N * A, 4), float32.
    anchors : list of Tensor
        N of (A, 4).
    per_level : list of int
        How many of the A belong to each map.
    """

    objectness: Tensor
    codes: Tensor
    anchors: list[Tensor]
    per_level: list[int]


class _Levels(LevelMapper):  # type: ignore[misc]
    """From which map a box is pooled: torchvision's rule, for maps with any strides.

    A box of the `canonical` side is pooled from the map of stride 16, one of half that side from the map of stride 8,
    and so on; where there is no such map, from the next finer one, and from the finest if there is none.
    """

    def __init__(self, strides: Sequence[int], canonical: float) -> None:
        octaves = [int(math.log2(stride)) for stride in strides]
        super().__init__(octaves[0], octaves[-1], canonical)
        known = [max(o for o in octaves if o <= octave) for octave in range(octaves[0], octaves[-1] + 1)]
        self.places = [octaves.index(octave) for octave in known]

    def __call__(self, boxlists: list[Tensor]) -> Tensor:
        octave: Tensor = super().__call__(boxlists)
        return torch.tensor(self.places, device=octave.device)[octave]


def _pool(strides: Sequence[int], canonical: float) -> nn.Module:
    """Pools boxes from the maps "0", "1", ... of these strides."""
    names = [str(level) for level in range(len(strides))]
    pool: Any = MultiScaleRoIAlign(names, output_size=_RESOLUTION, sampling_ratio=2, canonical_scale=canonical)
    # otherwise it would guess them from the first images
    pool.scales, pool.map_levels = [1 / stride for stride in strides], _Levels(strides, canonical)
    return pool  # type: ignore[no-any-return]


def _sizes(x: Tensor) -> list[tuple[int, int]]:
    """The size of each image, as torchvision asks for it."""
    return [(x.shape[-2], x.shape[-1])] * len(x)
