"""The base class of all models, and the image classifier: backbone -> neck -> head."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from thoraxlib import backbones, heads
from thoraxlib import labels as label_sets
from thoraxlib.checkpoints.saving import BY_NAME, Persistent
from thoraxlib.input_spec import InputSpec
from thoraxlib.utils.modes import eval_view


class ChestModel(Persistent):
    """A whole model: ``forward(x) = forward_head(forward_features(x))``, images (N, C, H, W) -> logits.

    A subclass sets `labels` and `input_spec`, and defines the two steps and :meth:`forward_all`.

    Attributes
    ----------
    labels : tuple of str
        Names of the K logits.
    input_spec : InputSpec
        Description of the images, for :func:`thoraxlib.preprocess_for`. Missing in models that take none.
    config : dict
        Name and options that build the model again, as plain JSON; missing until a registered factory returns it.
    unrecorded : dict
        Options that cannot be recorded, and why: the model cannot be saved.
    """

    labels: tuple[str, ...]
    input_spec: InputSpec
    config: dict[str, Any]
    unrecorded: dict[str, str]
    __call__: Callable[..., Tensor]

    def forward(self, x: Tensor) -> Tensor:
        """Logits of images (N, C, H, W).

        Raises
        ------
        TypeError, ValueError
            Images of the wrong kind; see :func:`check_images`.
        """
        return self.forward_head(self.forward_features(x))

    def forward_features(self, x: Tensor) -> Any:
        """Features of images for the head: a feature map, or a named tuple."""
        raise NotImplementedError

    def forward_head(self, features: Any) -> Tensor:
        """Logits of the features."""
        raise NotImplementedError

    def forward_all(self, x: Tensor) -> Any:
        """All outputs for images, as a named tuple."""
        raise NotImplementedError

    def example_inputs(self, batch: int = 1) -> tuple[Tensor, ...]:
        """Return inputs of the right shapes and values, for export and tests: here images (batch, C, H, W) of noise."""
        return (torch.rand(batch, self.input_spec.channels, *self.input_spec.size),)

    @torch.inference_mode()
    def predict_proba(self, x: Tensor) -> Tensor:
        """Probabilities (N, K) in [0, 1]: the sigmoid of the logits in eval mode, without gradients."""
        return eval_view(self)(x).sigmoid()

    def described(self) -> dict[str, Any]:
        """Return the config that builds it again; see :class:`thoraxlib.checkpoints.saving.Persistent`.

        Raises
        ------
        TypeError
            No registered factory made it, or it has a ready component that no registry knows.
        """
        if not hasattr(self, "config"):
            raise TypeError(
                f"this {type(self).__name__} was not built by thoraxlib.build or by a registered factory, so nothing "
                "records how to build it again; register a factory for it (thoraxlib.models.register)"
            )
        if self.unrecorded:
            listed = "; ".join(f"{option}: {why}" for option, why in self.unrecorded.items())
            raise TypeError(f"cannot save {self.config['name']!r}: {listed}. {BY_NAME}")
        spec = {"input_spec": self.input_spec.to_json()} if hasattr(self, "input_spec") else {}
        return {**self.config, "labels": list(self.labels), **spec}


class ClassifierOutput(NamedTuple):
    """All outputs of a :class:`Classifier`."""

    logits: Tensor
    features: Tensor


class Classifier(ChestModel):
    """``forward(x) = forward_head(forward_features(x))``: images (N, C, H, W) -> logits (N, K).

    Parameters
    ----------
    backbone : Backbone
        Image -> feature maps; one of them is used.
    head : Head
        Feature map -> logits.
    labels : str or sequence of str
        Names of the K logits.
    input_spec : InputSpec
        Description of the images, for :func:`thoraxlib.preprocess_for`.
    neck : nn.Module, optional
        Between the backbone's feature map and the head, e.g. a transition layer.
    stage : int
        Index of the backbone's feature map; default the last.
    """

    def __init__(
        self,
        backbone: backbones.Backbone,
        head: heads.Head,
        *,
        labels: str | Sequence[str],
        input_spec: InputSpec,
        neck: nn.Module | None = None,
        stage: int = -1,
    ) -> None:
        super().__init__()
        backbones.check_backbone(backbone)
        self.backbone = backbone
        self.neck = neck if neck is not None else nn.Identity()
        self.head = head
        self.stage = stage
        self.labels = label_sets.resolve(labels)
        self.input_spec = input_spec

    def forward_features(self, x: Tensor) -> Tensor:
        """Feature map (N, D, h, w) for the head."""
        check_images(x, channels=self.input_spec.channels, stride=self.backbone.strides[self.stage], net=self.backbone)
        features: Tensor = self.neck(self.backbone(x)[self.stage])
        return features

    def forward_head(self, features: Tensor) -> Tensor:
        """Logits (N, K) of the feature map (N, D, h, w)."""
        logits: Tensor = self.head(features)
        return logits

    def forward_all(self, x: Tensor) -> ClassifierOutput:
        """Logits and the feature map."""
        features = self.forward_features(x)
        return ClassifierOutput(self.forward_head(features), features)

    def logit_maps(self, features: Tensor, *, bias: bool = True) -> Tensor:
        """Per-location logits (N, K, h, w) of the feature map (N, D, h, w); `bias` adds their constant term."""
        return self.head.logit_maps(features, bias=bias)


def check_images(x: Tensor, *, channels: int, stride: int, net: nn.Module) -> None:
    """Raise unless `x` is a batch of images for the network `net`.

    Shape and kind are always checked, the precision in eager mode and outside autocast. Values (NaN, infinity) are
    checked for eager CPU tensors only: on an accelerator the check would wait for the device, and
    :func:`thoraxlib.preprocess_for` and the training module check there.

    Raises
    ------
    TypeError
        `x` is no floating-point tensor, or of a precision that none of the weights has.
    ValueError
        Wrong number of dimensions or channels, sides below `stride`, or pixels that are not finite.
    """
    if not isinstance(x, Tensor):
        raise TypeError(
            f"images must be a float tensor (N, {channels}, H, W), got {type(x).__name__}; "
            "use thoraxlib.preprocess_for(model) for files and arrays"
        )
    if not x.is_floating_point():
        raise TypeError(
            f"images must be a float tensor, normalised as model.input_spec says, got {x.dtype}; "
            "thoraxlib.preprocess_for(model) converts integer pixels"
        )
    if x.ndim != 4:
        raise ValueError(f"images must have the shape (N, {channels}, H, W), got {tuple(x.shape)}")
    if x.shape[1] != channels:
        raise ValueError(
            f"images have {x.shape[1]} channels, the model takes {channels}; "
            f"repeat grey images (x.expand(-1, {channels}, -1, -1)) or build the model with in_chans={x.shape[1]}"
        )
    if min(x.shape[2:]) < stride:
        raise ValueError(f"images of {x.shape[2]} x {x.shape[3]} pixels are smaller than the network's stride {stride}")
    if torch.compiler.is_compiling():
        return
    weight = next((p for p in net.parameters() if p.is_floating_point()), x)
    differs = weight.dtype != x.dtype and all(p.dtype != x.dtype for p in net.parameters())
    if differs and not torch.is_autocast_enabled(x.device.type):
        raise TypeError(
            f"images are {x.dtype}, the model's weights are {weight.dtype}: convert the images with "
            f"x.to({weight.dtype}), or the model with model.to({x.dtype})"
        )
    if x.device.type == "cpu":
        finite = x.isfinite().flatten(1).all(dim=1)
        if not finite.all():
            bad = (~finite).nonzero().flatten().tolist()
            raise ValueError(f"images hold NaN or infinite pixels (batch positions {bad[:10]}, {len(bad)} in all)")
