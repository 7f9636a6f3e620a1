"""Classifiers of several feature maps and organ masks: backbone -> fusion -> head."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from thoraxlib import backbones, heads
from thoraxlib.input_spec import InputSpec
from thoraxlib.layers.fusion import Fusion
from thoraxlib.models.base import Classifier, check_images
from thoraxlib.segmentation.base import RULES, foreground
from thoraxlib.utils.arguments import one_of


class FusionFeatures(NamedTuple):
    """Output of a :class:`FusionClassifier`'s backbone and segmenter, before fusion and head.

    Attributes
    ----------
    maps : list of Tensor
        The backbone's, finest first, (N, C_i, h_i, w_i).
    masks : Tensor or None
        (N, 1, H, W) in [0, 1].
    """

    maps: list[Tensor]
    masks: Tensor | None


class FusionOutput(NamedTuple):
    """All outputs of a :class:`FusionClassifier`: logits, the backbone's maps, the masks, the fused maps."""

    logits: Tensor
    maps: list[Tensor]
    masks: Tensor | None
    fused: list[Tensor]


class FusionClassifier(Classifier):
    """``forward(x) = forward_head(forward_features(x))`` with several feature maps and a mask in between.

    A segmenter makes the mask from the same images, or it is given: ``model(x, masks)``.

    Parameters
    ----------
    backbone : Backbone
        Image -> feature maps; all of them are used.
    fusion : Fusion
        Feature maps and mask -> the head's maps.
    head : Head
        Maps -> logits.
    labels : str or sequence of str
        Names of the K logits.
    input_spec : InputSpec
        Description of the images.
    segmenter : Segmenter, optional
        It gets the images as pixels in [0, 1]: the normalisation of `input_spec` is undone.
    mask : {"hard", "soft"}
        See :func:`thoraxlib.segmentation.base.foreground`.
    train_segmenter : bool
        Train it, too; otherwise it is frozen: no gradient, always in eval mode.

    Raises
    ------
    ValueError
        A segmenter for a fusion without masks; ``train_segmenter=True`` with hard or rounded masks, which have no
        gradient.
    """

    several_maps = True
    _mean: Tensor
    _std: Tensor

    def __init__(
        self,
        backbone: backbones.Backbone,
        fusion: Fusion,
        head: heads.Head,
        *,
        labels: str | Sequence[str],
        input_spec: InputSpec,
        segmenter: nn.Module | None = None,
        mask: str = "hard",
        train_segmenter: bool = False,
    ) -> None:
        super().__init__(backbone, head, labels=labels, input_spec=input_spec)
        one_of("mask", mask, RULES)
        if segmenter is not None and not fusion.uses_masks:
            raise ValueError(f"the fusion {type(fusion).__name__} uses no masks: build the model without a segmenter")
        if train_segmenter and (mask == "hard" or getattr(fusion, "round_masks", False)):
            raise ValueError(
                "a hard or rounded mask has no gradient: train_segmenter=True needs mask='soft', and a fusion with "
                "round_masks=False"
            )
        self.fusion = fusion
        self.mask, self.train_segmenter = mask, train_segmenter
        self.segmenter = segmenter
        if segmenter is not None and not train_segmenter:
            segmenter.requires_grad_(False).eval()
        shape = (1, -1, 1, 1)
        self.register_buffer("_mean", torch.tensor(input_spec.mean).view(shape), persistent=False)
        self.register_buffer("_std", torch.tensor(input_spec.std).view(shape), persistent=False)

    def train(self, mode: bool = True) -> FusionClassifier:
        """Training or eval mode; a frozen segmenter stays in eval mode."""
        super().train(mode)
        if self.segmenter is not None and not self.train_segmenter:
            self.segmenter.eval()
        return self

    def forward(self, x: Tensor, masks: Tensor | None = None) -> Tensor:
        """Logits (N, K) of images (N, C, H, W), and of masks (N, 1, H, W) in [0, 1] that replace the segmenter's.

        Raises
        ------
        TypeError, ValueError
            Images or masks of the wrong kind; no masks and no segmenter, but a fusion that needs them.
        """
        return self.forward_head(self.forward_features(x, masks))

    def forward_features(self, x: Tensor, masks: Tensor | None = None) -> FusionFeatures:  # type: ignore[override]
        """Feature maps of the backbone, and the masks.

        Raises
        ------
        ValueError
            The backbone returns another number of maps than its attribute ``channels`` has.
        """
        check_images(x, channels=self.input_spec.channels, stride=max(self.backbone.strides), net=self.backbone)
        if masks is not None:
            _check_masks(masks, x)
            masks = masks.to(x.dtype)
        elif self.fusion.uses_masks:
            masks = self.organ_masks(x)
        maps = list(self.backbone(self.fusion.image(x, masks)))
        if len(maps) != len(self.backbone.channels):
            raise ValueError(f"the backbone gives {len(maps)} maps and says that it has {len(self.backbone.channels)}")
        return FusionFeatures(maps, masks)

    def forward_head(self, features: FusionFeatures) -> Tensor:  # type: ignore[override]
        """Logits (N, K)."""
        logits: Tensor = self.head(_alone(self.fusion(*features)))
        return logits

    def forward_all(self, x: Tensor, masks: Tensor | None = None) -> FusionOutput:  # type: ignore[override]
        """Logits, feature maps, masks and fused maps."""
        features = self.forward_features(x, masks)
        fused = self.fusion(*features)
        return FusionOutput(self.head(_alone(fused)), *features, fused)

    def logit_maps(self, features: FusionFeatures, *, bias: bool = True) -> Tensor:  # type: ignore[override]
        """Per-location logits (N, K, h, w) on the finest map's grid: the sum of all maps' contributions."""
        return self.head.logit_maps(_alone(self.fusion(*features)), bias=bias)

    def organ_masks(self, x: Tensor) -> Tensor:
        """Masks (N, 1, H, W) of normalised images, by the segmenter.

        Raises
        ------
        TypeError, ValueError
            The model has no segmenter, or its output is not logits (N, M, H, W) at the images' size.
        """
        if self.segmenter is None:
            raise ValueError(
                "this model needs organ masks: give them, model(x, masks) with masks (N, 1, H, W) in [0, 1], or build "
                "it with a segmenter (segmenter='unet')"
            )
        with torch.set_grad_enabled(self.train_segmenter and torch.is_grad_enabled()):
            pixels = x * self._std + self._mean
            masks = foreground(self.segmenter(pixels), self.mask)
        if masks.shape[-2:] != x.shape[-2:]:
            raise ValueError(
                f"the segmenter's logits are {tuple(masks.shape[-2:])} for images of {tuple(x.shape[-2:])}: they must "
                "have the images' size, as those of the UNet with fit='pad'"
            )
        _warn_of_empty(masks)
        return masks


def _alone(maps: list[Tensor]) -> list[Tensor] | Tensor:
    """Return a single map without its list, for heads of one map."""
    return maps if len(maps) > 1 else maps[0]


def _check_masks(masks: Tensor, x: Tensor) -> None:
    """Raise unless `masks` fit the images `x`; values are checked on a CPU only."""
    if not isinstance(masks, Tensor):
        raise TypeError(f"masks must be a tensor (N, 1, H, W), got {type(masks).__name__}")
    wanted = (x.shape[0], 1, *x.shape[-2:])  # len(x) would fix it for torch.export
    if tuple(masks.shape) != wanted:
        raise ValueError(f"masks must be (N, 1, H, W) at the images' size, {wanted}, got {tuple(masks.shape)}")
    if masks.device.type == "cpu" and not torch.compiler.is_compiling() and masks.numel():
        low, high = float(masks.min()), float(masks.max())
        if not (low >= 0 and high <= 1):
            raise ValueError(f"masks must lie in [0, 1], got values from {low:g} to {high:g}")
        _warn_of_empty(masks)


def _warn_of_empty(masks: Tensor) -> None:
    if masks.device.type != "cpu" or torch.compiler.is_compiling():
        return
    empty = (masks.flatten(1).amax(dim=1) == 0).nonzero().flatten().tolist() if len(masks) else []
    if empty:
        warnings.warn(
            f"the organ masks of {len(empty)} of {len(masks)} images are empty (batch positions {empty[:10]}): "
            "masked maps are zero there",
            stacklevel=3,
        )
