"""AG-CNN: a network for the image, another for a crop that the first one attends to, and a layer over both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from thoraxlib import heads
from thoraxlib.backbones import Backbone
from thoraxlib.heads.linear import LinearHead
from thoraxlib.input_spec import CENTRE_CROP, InputSpec
from thoraxlib.localization import crops
from thoraxlib.localization.crops import Crop, CropRule
from thoraxlib.models import register
from thoraxlib.models.base import ChestModel, Classifier
from thoraxlib.models.classifier import classifier
from thoraxlib.models.registry import ModelCard
from thoraxlib.registry import Spec


class AGCNNFeatures(NamedTuple):
    """Features that an :class:`AGCNN` computes from N images, before its heads.

    Attributes
    ----------
    maps : list of Tensor
        Feature maps of the whole image (N, C, h, w) and of the crop (N, C', h', w').
    attention : Crop
        Heat map, box and crop.
    """

    maps: list[Tensor]
    attention: Crop


class AGCNNOutput(NamedTuple):
    """All outputs of an :class:`AGCNN` for N images.

    Attributes
    ----------
    logits, global_logits, local_logits : Tensor
        (N, K) of the fusion, of the whole image, and of the crop.
    maps, attention
        See :class:`AGCNNFeatures`.
    """

    logits: Tensor
    global_logits: Tensor
    local_logits: Tensor
    maps: list[Tensor]
    attention: Crop


class AGCNN(ChestModel):
    """Two classifiers, of the whole image and of a crop around its attention, and a layer over their pooled features.

    Each branch is a classifier by itself: ``model.global_branch(x)``, ``thoraxlib.load_checkpoint(model.local_branch,
    "chexnet.pth.tar")``. ``model(x)`` returns the logits of the fusion, :meth:`forward_all` those of all three. Heat
    maps (:mod:`thoraxlib.cams`) come from the local branch, pasted into the frame of the whole image; with ``target=0``
    from the global branch.

    Parameters
    ----------
    global_branch, local_branch : Classifier
        Classifiers of the same labels.
    crop : CropRule
        Images and the global branch's feature map -> box and crop; the box has no gradient.
    detach_branches : bool
        Stop the gradient of the fusion's logits before the branches.
    """

    several_maps = True

    def __init__(
        self, global_branch: Classifier, local_branch: Classifier, crop: CropRule, *, detach_branches: bool = True
    ) -> None:
        super().__init__()
        self.global_branch, self.local_branch, self.crop = global_branch, local_branch, crop
        self.labels, self.input_spec = global_branch.labels, global_branch.input_spec
        self.detach_branches = detach_branches
        self.channels = tuple(branch.backbone.channels[branch.stage] for branch in (global_branch, local_branch))
        pool = getattr(global_branch.head, "pool", "avg")
        self.head: LinearHead = heads.build("linear", in_channels=self.channels, num_labels=len(self.labels), pool=pool)  # type: ignore[assignment]

    def forward(self, x: Tensor) -> Tensor:
        """The fusion's logits (N, K) of images (N, C, H, W).

        Raises
        ------
        TypeError, ValueError
            Images of the wrong kind; see :func:`thoraxlib.models.base.check_images`.
        """
        return self._fused(self.forward_features(x))

    def forward_features(self, x: Tensor) -> AGCNNFeatures:
        """Feature maps of image and crop, and the crop."""
        whole = self.global_branch.forward_features(x)
        attention = self.crop(x, whole)
        return AGCNNFeatures([whole, self.local_branch.forward_features(attention.crop)], attention)

    def forward_head(self, features: AGCNNFeatures) -> Tensor:
        """The fusion's logits (N, K)."""
        logits: Tensor = self.head(features.maps)
        return logits

    def forward_all(self, x: Tensor) -> AGCNNOutput:
        """Logits of fusion and branches, both feature maps, heat map, box and crop."""
        features = self.forward_features(x)
        whole, crop = features.maps
        return AGCNNOutput(
            self._fused(features),
            self.global_branch.forward_head(whole),
            self.local_branch.forward_head(crop),
            *features,
        )

    def global_logits(self, x: Tensor) -> Tensor:
        """Logits (N, K) of the whole images (N, C, H, W), without crop and local branch."""
        logits: Tensor = self.global_branch(x)
        return logits

    def local_logits(self, x: Tensor) -> Tensor:
        """Logits (N, K) of the crops of the images (N, C, H, W)."""
        logits: Tensor = self.local_branch(self.crop(x, self.global_branch.forward_features(x)).crop)
        return logits

    def logit_maps(self, features: AGCNNFeatures, *, bias: bool = True, stage: int = -1) -> Tensor:
        """Contribution of each location of a branch's map to the fusion's logits, (N, K, h, w).

        `bias` adds the constant term. `stage` -1 is the local branch, in the crop's frame, which
        :func:`thoraxlib.localization.crops.paste` transforms to the image's.

        Raises
        ------
        NotImplementedError
            The pooling returns more features than channels ("avg_max").
        """
        weight, constant = self.head.classifier()
        if weight.shape[1] != sum(self.channels):
            raise NotImplementedError("this pooling leaves no per-location logits; use a gradient-based CAM")
        columns = torch.split(weight[:, :, None, None], list(self.channels), dim=1)
        maps = F.conv2d(features.maps[stage], columns[stage])
        return maps + constant[:, None, None] if bias and constant is not None else maps

    def window(self, features: AGCNNFeatures, stage: int) -> Tensor | None:
        """Edges (N, 4) of the image region under a map, for :func:`thoraxlib.localization.crops.paste`; None: all."""
        return None if stage in (0, -2) else features.attention.window

    def _fused(self, features: AGCNNFeatures) -> Tensor:
        if self.detach_branches:
            # torch 2.6 does not compile _replace
            features = AGCNNFeatures([maps.detach() for maps in features.maps], features.attention)
        return self.forward_head(features)


_INPUT = InputSpec(**CENTRE_CROP)


@register("ag_cnn", card=ModelCard.read("ag_cnn", input_spec=_INPUT))
def ag_cnn(
    *,
    labels: str | Sequence[str] = "nih15",
    backbone: Spec | Backbone = "resnet50",
    local_backbone: Spec | Backbone | None = None,
    share: bool = False,
    head: Spec = "linear",
    pool: Spec | nn.Module = "max",
    crop: Spec | CropRule = "fixed",
    detach_branches: bool = True,
    in_chans: int = 3,
    pretrained: bool = False,
    input_spec: Mapping[str, Any] | InputSpec | None = None,
) -> AGCNN:
    """AG-CNN: global branch, attention-guided crop, local branch, fusion.

    Guan et al. 2018, arXiv 1801.09927v1. 47,138,989 parameters with ResNet-50 and 15 labels.

    Parameters
    ----------
    labels : str or sequence of str
        A label set's name, or the labels; the paper's are the 14 findings and No Finding.
    backbone : str, mapping or Backbone
        Backbone of the global branch, from :mod:`thoraxlib.backbones`.
    local_backbone : str, mapping or Backbone, optional
        Backbone of the local branch; default the same kind, with its own weights.
    share : bool
        Use one backbone, with one set of weights, for both branches; each has its own linear layer.
    head : str or mapping
        Head of each branch, from :mod:`thoraxlib.heads`; the fusion's is linear.
    pool : str, mapping or module
        Pooling of branches and fusion, from :mod:`thoraxlib.layers.pooling`.
    crop : str, mapping or CropRule
        From :mod:`thoraxlib.localization.crops`; ``{"name": "fixed", "tau": 0.5, "statistic": "l1"}``.
    detach_branches : bool
        Stop the gradient of the fusion's logits before the branches.
    in_chans, pretrained, input_spec
        See :func:`~thoraxlib.models.classifier.classifier`. The default input is the middle 224 x 224 pixels of images
        with a shorter side of 256; the paper trains from ImageNet weights.

    Raises
    ------
    ValueError
        Both `share` and `local_backbone` are given.
    """
    if share and local_backbone is not None:
        raise ValueError(f"share=True is one backbone for both branches, but local_backbone={local_backbone!r}")
    spec = _INPUT.with_channels(in_chans).updated(input_spec)
    branch = partial(
        classifier,
        labels=labels,
        head=head,
        pool=pool,
        in_chans=spec.channels,
        pretrained=pretrained,
        input_spec=spec,
    )
    whole = branch(backbone=backbone)
    if share:
        local_backbone = whole.backbone
    elif local_backbone is None:
        local_backbone = deepcopy(backbone)  # a ready module must not share its weights
    rule = crops.registry.resolve(crop)
    return AGCNN(whole, branch(backbone=local_backbone), rule, detach_branches=detach_branches)
