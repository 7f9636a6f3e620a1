"""Faster R-CNN with one box for each region, built from torchvision's parts, on any backbone."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.ops import MultiScaleRoIAlign
from torchvision.ops.poolers import LevelMapper

from thoraxlib import backbones
from thoraxlib.detection import register
from thoraxlib.detection.base import SIDE, RegionDetector, checked_boxes, default_spec
from thoraxlib.input_spec import InputSpec
from thoraxlib.registry import Spec

#: Names of the losses of :meth:`FasterRCNN.losses`: two of the proposals, then two of the final boxes.
LOSSES = ("objectness", "proposal", "region", "box")

_RATIOS = (0.5, 1.0, 2.0)
_RESOLUTION = 7
_CANONICAL = 224  # side of the box that is pooled from the map of stride 16, for an input of 800 pixels
_FINEST = 4  # smallest stride of a pyramid's map: finer maps cost much and help little
_SMALLEST = 1e-2  # pixels; torchvision drops boxes with a shorter side


class FasterRCNN(RegionDetector):
    """Faster R-CNN with one box for each region.

    Boxes and features come from one pass of the backbone: the best box of every region is pooled from the same maps,
    and passes the box head again. The original runs the backbone twice, the second time at the image's own size. The
    number of proposals depends on the image: ``torch.compile`` breaks the graph there, and ``torch.export`` fails.

    Parameters
    ----------
    pyramid : nn.Module
        Backbone from images to an ordered dict of maps with ``out_channels`` channels each, finest first.
    strides : sequence of int
        Strides of the maps. The last map is torchvision's additional pooled one; no region is pooled from it.
    regions, input_spec, score_threshold
        See :class:`RegionDetector`.
    anchor_sizes : sequence of sequence of float
        For each map, the sides of its anchors in pixels.
    box_head : nn.Module
        From pooled boxes (P, out_channels, 7, 7) to features (P, D).
    feature_dim : int
        D.
    rois : int
        Boxes of an image that train the box head.
    proposals : int
        Proposals of an image that are kept; twice as many in training, as in torchvision.
    rpn_depth : int
        Number of 3x3 convolutions in the head that makes the proposals.
    proposal_threshold : float
        Smallest objectness of a proposal.
    freeze_norm : bool
        Keep the batch norms in eval mode, also in training.
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
        counts = anchors.num_anchors_per_location()
        if len(set(counts)) > 1:
            raise ValueError(f"anchor_sizes={anchor_sizes}: all maps need the same number of sides")
        channels: Any = pyramid.out_channels
        whole = detection.FasterRCNN(
            pyramid,
            rpn_anchor_generator=anchors,
            rpn_head=RPNHead(channels, counts[0], conv_depth=rpn_depth),
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
        # torchvision's own transform is left out: it would resize and normalise the input a second time
        self.backbone, self.rpn, self.roi_heads = whole.backbone, whole.rpn, whole.roi_heads
        self.freeze_norm = freeze_norm
        self.train()

    def train(self, mode: bool = True) -> FasterRCNN:
        """Set the mode; frozen norms stay in eval mode."""
        super().train(mode)
        for module in self.modules() if self.freeze_norm else ():
            if isinstance(module, nn.BatchNorm2d):
                module.eval()
        return self

    def maps(self, x: Tensor) -> dict[str, Tensor]:
        """Return the pyramid's maps."""
        maps: dict[str, Tensor] = self.backbone(x)
        return maps

    @torch.no_grad()
    def locate(self, maps: dict[str, Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the most likely box of each region, and its probability."""
        from torchvision.ops import clip_boxes_to_image

        proposals = self._select(*self._propose(maps, x), x)
        logits, codes = self._predict(maps, proposals, x)
        boxes = self.roi_heads.box_coder.decode_single(codes, torch.cat(proposals)).view(*logits.shape, 4)
        boxes = clip_boxes_to_image(boxes[:, 1:], _sizes(x)[0])
        return best_boxes(boxes, logits.softmax(dim=-1)[:, 1:], [len(part) for part in proposals])

    def pool(self, maps: dict[str, Tensor], boxes: Tensor, x: Tensor) -> Tensor:
        """Return the box head's features of boxes."""
        return self._features(maps, list(boxes), x).view(*boxes.shape[:2], -1)

    def losses(self, x: Tensor, regions: Tensor, present: Tensor | None = None) -> dict[str, Tensor]:
        """Faster R-CNN's four losses, by the names in :data:`LOSSES`; see :class:`RegionDetector`."""
        from torchvision.models.detection.roi_heads import fastrcnn_loss

        boxes, present = checked_boxes(self, x, regions, present)
        classes = torch.arange(1, 1 + len(self.region_names), device=x.device)  # 0 is the background
        targets = [{"boxes": b[p], "labels": classes[p]} for b, p in zip(boxes, present, strict=True)]
        maps = self.maps(x)
        objectness, codes, anchors, per_level = self._propose(maps, x)
        labels, matched = self.rpn.assign_targets_to_anchors(anchors, targets)
        first = self.rpn.compute_loss(objectness, codes, labels, self.rpn.box_coder.encode(matched, anchors))
        proposals = self._select(objectness, codes, anchors, per_level, x)
        proposals, _, labels, wanted = self.roi_heads.select_training_samples(proposals, targets)
        second = fastrcnn_loss(*self._predict(maps, proposals, x), labels, wanted)
        return dict(zip(LOSSES, (*first, *second), strict=True))

    def _propose(self, maps: dict[str, Tensor], x: Tensor) -> tuple[Tensor, Tensor, list[Tensor], list[int]]:
        """Score the A anchors of each image.

        Returns float32 logits (N * A, 1) and box codes relative to the anchors (N * A, 4), then for each image the
        anchors (A, 4), and the number of anchors of each map.
        """
        from torchvision.models.detection.image_list import ImageList
        from torchvision.models.detection.rpn import concat_box_prediction_layers

        levels = list(maps.values())
        objectness, codes = self.rpn.head(levels)
        per_level = [one[0].numel() for one in objectness]
        objectness, codes = concat_box_prediction_layers(objectness, codes)
        # positions in pixels need float32, in whatever precision the maps are computed
        anchors = self.rpn.anchor_generator(ImageList(x, _sizes(x)), [level.float() for level in levels])
        return objectness.float(), codes.float(), anchors, per_level

    @torch.no_grad()
    def _select(
        self, objectness: Tensor, codes: Tensor, anchors: list[Tensor], per_level: list[int], x: Tensor
    ) -> list[Tensor]:
        """Select the proposals of each image."""
        boxes = self.rpn.box_coder.decode(codes, anchors).view(len(x), -1, 4)
        proposals: list[Tensor] = self.rpn.filter_proposals(boxes, objectness, _sizes(x), per_level)[0]
        return proposals

    def _features(self, maps: dict[str, Tensor], boxes: list[Tensor], x: Tensor) -> Tensor:
        """Return the box head's features (P, D) of the boxes of all images."""
        features: Tensor = self.roi_heads.box_head(self.roi_heads.box_roi_pool(maps, boxes, _sizes(x)))
        return features

    def _predict(self, maps: dict[str, Tensor], boxes: list[Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
        """Return float32 logits (P, 1 + R), the background first, and box codes (P, 4 * (1 + R))."""
        logits, codes = self.roi_heads.box_predictor(self._features(maps, boxes, x))
        return logits.float(), codes.float()


class Pyramid(nn.Module):
    """A backbone with torchvision's feature pyramid: images to maps "0", "1", ..., "pool" of one width, finest first.

    It uses the backbone's maps of stride 4 and more; if several have one stride, the deepest of them.

    Parameters
    ----------
    backbone : Backbone
        From :mod:`thoraxlib.backbones`.
    out_channels : int
        Width of the maps.

    Attributes
    ----------
    strides : tuple of int
        Strides of the maps, including that of "pool".

    Raises
    ------
    ValueError
        The backbone has no map of stride 4 or more.
    """

    def __init__(self, backbone: backbones.Backbone, out_channels: int) -> None:
        from torchvision.ops.feature_pyramid_network import FeaturePyramidNetwork, LastLevelMaxPool

        super().__init__()
        backbones.check_backbone(backbone)
        deepest = {stride: level for level, stride in enumerate(backbone.strides) if stride >= _FINEST}
        if not deepest:
            raise ValueError(
                f"backbone {type(backbone).__name__} has no map of stride 4 or more, only {backbone.strides}"
            )
        self.used = tuple(deepest.values())
        self.strides = (*deepest, 2 * max(deepest))
        self.body, self.out_channels = backbone, out_channels
        self.fpn = FeaturePyramidNetwork([backbone.channels[k] for k in self.used], out_channels, LastLevelMaxPool())

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        """Return the maps, by name."""
        maps = self.body(x)
        found: dict[str, Tensor] = self.fpn(OrderedDict((str(name), maps[k]) for name, k in enumerate(self.used)))
        return found


@register("fasterrcnn_fpn")
def fasterrcnn_fpn(
    *,
    regions: str | Sequence[str] = "regions18",
    backbone: Spec | backbones.Backbone = "resnet18",
    pretrained: bool = False,
    freeze_norm: bool = False,
    width: int = 256,
    feature_dim: int = 1024,
    score_threshold: float = 0.7,
    anchor_sizes: Sequence[Sequence[float]] | None = None,
    rois: int = 512,
    proposals: int = 1000,
    in_chans: int = 3,
    input_spec: Mapping[str, Any] | InputSpec | None = None,
) -> FasterRCNN:
    """Faster R-CNN on any backbone of :mod:`thoraxlib.backbones`, with a feature pyramid.

    Parameters
    ----------
    backbone : str, mapping or Backbone
        From :mod:`thoraxlib.backbones`: any with maps of several strides.
    pretrained : bool
        ImageNet weights for the backbone.
    width : int
        Channels of the pyramid's maps.
    feature_dim : int
        Features of a region.
    regions, freeze_norm, score_threshold, anchor_sizes, rois, proposals, in_chans, input_spec
        See ``fasterrcnn_resnet50_fpn``; anchors are by default 8 strides wide for an input of 800 pixels.

    Raises
    ------
    ValueError
        An option is out of its range, or the backbone has no map of stride 4 or more.
    """
    from torchvision.models.detection.faster_rcnn import TwoMLPHead

    if width < 1 or feature_dim < 1:
        raise ValueError(f"width={width}, feature_dim={feature_dim}: at least 1 of each is needed")
    spec = default_spec(in_chans, input_spec)
    pyramid = Pyramid(backbones.for_input(backbone, spec, pretrained=pretrained), width)
    return FasterRCNN(
        pyramid,
        pyramid.strides,
        regions=regions,
        input_spec=spec,
        anchor_sizes=anchor_sizes or scaled([[8 * stride] for stride in pyramid.strides], spec),
        box_head=TwoMLPHead(width * 49, feature_dim),
        feature_dim=feature_dim,
        score_threshold=score_threshold,
        rois=rois,
        proposals=proposals,
        freeze_norm=freeze_norm,
    )


def scaled(sizes: Sequence[Sequence[float]], spec: InputSpec) -> list[list[float]]:
    """Scale anchor sizes for an input of 800 pixels to the input of `spec`."""
    return [[side * min(spec.size) / SIDE for side in of_map] for of_map in sizes]


def best_boxes(boxes: Tensor, scores: Tensor, counts: Sequence[int]) -> tuple[Tensor, Tensor]:
    """Select the candidate with the highest score for each image and region.

    Non-maximum suppression is not needed: it never removes the box with the highest score.

    Parameters
    ----------
    boxes, scores : Tensor
        (P, R, 4) and (P, R): the candidates of all images, one image after the other.
    counts : sequence of int
        The number of candidates of each of the N images; their sum is P.

    Returns
    -------
    tuple of Tensor
        Boxes (N, R, 4) and scores (N, R); zeros where an image has no candidate with sides of at least 0.01 pixels.

    Examples
    --------
    >>> boxes = torch.tensor([[[0.0, 0.0, 2.0, 2.0]], [[1.0, 1.0, 4.0, 4.0]]])
    >>> best_boxes(boxes, torch.tensor([[0.2], [0.6]]), [2, 0])[0].tolist()
    [[[1.0, 1.0, 4.0, 4.0]], [[0.0, 0.0, 0.0, 0.0]]]
    """
    usable = ((boxes[..., 2:] - boxes[..., :2]) >= _SMALLEST).all(dim=-1)
    scores = torch.where(usable, scores, -1.0)
    count = torch.tensor(counts, device=scores.device)
    starts = count.cumsum(0) - count
    image = torch.repeat_interleave(count, output_size=len(scores))
    row = torch.arange(len(scores), device=scores.device) - starts[image]
    # an additional row for each image, so that none is without candidates
    table = scores.new_full((len(counts), max(counts, default=0) + 1, scores.shape[1]), -1.0)
    table[image, row] = scores
    best, winner = table.max(dim=1)
    row = torch.where(best >= 0, winner + starts[:, None], len(boxes))
    boxes = torch.cat([boxes, boxes.new_zeros(1, *boxes.shape[1:])])
    return boxes[row, torch.arange(boxes.shape[1], device=boxes.device)], best.clamp(min=0)


class _Levels(LevelMapper):  # type: ignore[misc]
    """Choose the map from which a box is pooled: torchvision's rule, for maps with any strides.

    A box of side `canonical` is pooled from the map of stride 16, a box of half that side from the map of stride 8, and
    so on. If there is no such map, the next finer one is used, and the finest one if no map is finer.
    """

    def __init__(self, strides: Sequence[int], canonical: float) -> None:
        octaves = [int(math.log2(stride)) for stride in strides]
        super().__init__(octaves[0], octaves[-1], canonical)
        known = [max(o for o in octaves if o <= octave) for octave in range(octaves[0], octaves[-1] + 1)]
        self.levels = [octaves.index(octave) for octave in known]

    def __call__(self, boxlists: list[Tensor]) -> Tensor:
        octave: Tensor = super().__call__(boxlists)
        return torch.tensor(self.levels, device=octave.device)[octave]


def _pool(strides: Sequence[int], canonical: float) -> nn.Module:
    """Pool boxes from the maps "0", "1", ... of these strides."""
    names = [str(level) for level in range(len(strides))]
    pool: Any = MultiScaleRoIAlign(names, output_size=_RESOLUTION, sampling_ratio=2, canonical_scale=canonical)
    # otherwise torchvision derives them from the first images
    pool.scales, pool.map_levels = [1 / stride for stride in strides], _Levels(strides, canonical)
    return pool  # type: ignore[no-any-return]


def _sizes(x: Tensor) -> list[tuple[int, int]]:
    """Return the size of each image, as torchvision takes it."""
    return [(x.shape[-2], x.shape[-1])] * len(x)
