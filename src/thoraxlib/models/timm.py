"""A whole timm classifier: its own backbone, norms, pooling and linear layer."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

from torch import Tensor

from thoraxlib import labels as label_sets
from thoraxlib import models
from thoraxlib.backbones import remote
from thoraxlib.backbones.timm import filtered, published_input
from thoraxlib.checkpoints import load_checkpoint
from thoraxlib.checkpoints.layout import LOGITS
from thoraxlib.input_spec import InputSpec
from thoraxlib.models import ModelCard, register
from thoraxlib.models.base import ChestModel, check_images
from thoraxlib.registry import OptionError, Spec


class TimmOutput(NamedTuple):
    """Everything a :class:`TimmModel` computes."""

    logits: Tensor
    features: Tensor


class TimmModel(ChestModel):
    """A whole classifier of timm: images (N, C, H, W) -> logits (N, K).

    Its features are what timm's ``forward_features`` returns: a map (N, C, h, w), of some families (N, h, w, C), or
    tokens (N, T, C). :mod:`thoraxlib.cams` takes them all.

    Parameters
    ----------
    net : nn.Module
        A model of timm with K outputs.
    labels : str or sequence of str
        A label set, or K names.
    input_spec : InputSpec
        Description of the images.

    Attributes
    ----------
    cam_target : str or None
        Layer that heat maps explain by default; None for the features.
    """

    def __init__(self, net: Any, *, labels: str | Sequence[str], input_spec: InputSpec) -> None:
        super().__init__()
        self.net = net
        self.labels = label_sets.resolve(labels)
        self.input_spec = input_spec
        self.num_prefix_tokens = int(getattr(net, "num_prefix_tokens", 0))
        self.output_fmt = str(getattr(net, "output_fmt", ""))
        self.cam_target = cam_target(net)

    @property
    def patch_embed(self) -> Any:
        """The layer that makes tokens of patches; None for convolutional networks."""
        return getattr(self.net, "patch_embed", None)

    def get_classifier(self) -> Any:
        """Return the linear layer, as timm's models do."""
        return self.net.get_classifier()

    def forward_features(self, x: Tensor) -> Tensor:
        """Return the features of images (N, C, H, W), after timm's last norm if it comes before the pooling."""
        check_images(x, channels=self.input_spec.channels, stride=1, net=self.net)
        features: Tensor = self.net.forward_features(x)
        return features

    def forward_head(self, features: Tensor) -> Tensor:
        """Return the logits (N, K) of features."""
        logits: Tensor = self.net.forward_head(features)
        return logits

    def forward_all(self, x: Tensor) -> TimmOutput:
        """Return logits and features."""
        features = self.forward_features(x)
        return TimmOutput(self.forward_head(features), features)

    def checkpoint_filter(self, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Bring a file's entries to timm's current names and to this model's size; see :func:`filtered`."""
        return filtered(self.net, state)

    def backbone_keys(self) -> set[str]:
        """Return the names of all entries but the linear layer's."""
        return {key for key in self.state_dict() if not key.removeprefix("net.").startswith(f"{self._classifier}.")}

    @property
    def _classifier(self) -> str:
        """Name of the linear layer, with K rows."""
        last = self.net.pretrained_cfg.get("classifier", "")
        return str(last if isinstance(last, str) else last[0])

    def checkpoint_keys(self, keys: Collection[str]) -> dict[str, str]:
        """Return the file's name of each own entry."""
        last, found = self._classifier, {}
        for own in self.state_dict():
            name = own.removeprefix("net.")
            logits = name.replace(f"{last}.", f"{LOGITS}.", 1) if name.startswith(f"{last}.") else name
            theirs = logits if logits in keys else name
            if theirs in keys:
                found[own] = theirs
        return found


def cam_target(net: Any) -> str | None:
    """Return the layer to explain of a network of timm inside a model's ``net``; None for its features.

    A head that reads the class token alone has no gradient for the patches' tokens behind the last block.
    """
    if getattr(net, "global_pool", "") != "token" or not hasattr(net, "blocks"):
        return None
    return f"net.blocks.{len(net.blocks) - (1 if hasattr(net, 'cls_attn_blocks') else 2)}"


@register("timm", card=ModelCard.read("timm", input_spec=None))
def timm_model(
    *,
    backbone: Spec = "resnet50",
    labels: str | Sequence[str] = "nih14",
    in_chans: int = 3,
    pretrained: bool = False,
    input_spec: Mapping[str, Any] | InputSpec | None = None,
    **options: Any,
) -> TimmModel:
    """Whole classifier of timm, of any family, with timm's own norms, pooling and linear layer.

    It holds a checkpoint that was fine-tuned with timm, with equal logits. The model "classifier" puts the library's
    heads on a timm backbone instead.

    Parameters
    ----------
    backbone : str or mapping
        Name of a model of timm, with or without the tag of its weights; ``"hf_hub:owner/repository[@revision]"`` or
        ``"local-dir:/path"`` for one in timm's format, of which only ``model.safetensors`` is read; or
        ``{"name": ..., **options}``.
    labels : str or sequence of str
        A label set, or names.
    in_chans : int
        Channels of the images.
    pretrained : bool
        Load timm's weights; the linear layer stays new.
    input_spec : mapping or InputSpec, optional
        Changes to timm's input: size, mean and standard deviation of the weights.
    **options
        Further options of ``timm.create_model``, e.g. ``drop_path_rate``, ``global_pool``, ``img_size``.

    Raises
    ------
    ValueError
        timm has no such model.
    OptionError
        The model does not accept one of the options.
    RuntimeError
        Pretrained weights cannot be loaded.
    """
    import timm

    names = label_sets.resolve(labels)
    name, own = models.registry.split_spec(backbone)
    options = {**own, **options}
    if "checkpoint_path" in options:  # timm may unpickle it
        raise OptionError("models: checkpoint_path is not accepted; thoraxlib.load_checkpoint loads files")
    described, given = remote.described(name), name
    if described is not None:
        name, options = described.architecture, {**described.options, **options}
        if options.get("img_size") == described.options.get("img_size"):
            options.pop("img_size", None)  # that of the input, which may be changed
    config = timm.models.get_pretrained_cfg(name, allow_unregistered=True)
    if not timm.is_model(name) or config is None:
        close = ", ".join(map(repr, difflib.get_close_matches(name, timm.list_models(), n=5)))
        raise ValueError(f"backbone={name!r}: timm has no such model; it has {close or 'others'}")
    spec = published_input(name) if described is None else described.input_spec
    spec = spec.with_channels(in_chans).updated(input_spec)
    if config.fixed_input_size and spec.size != tuple(config.input_size[1:]):
        options.setdefault("img_size", spec.size)
    try:
        own_weights = pretrained and described is None
        net = timm.create_model(name, pretrained=own_weights, num_classes=len(names), in_chans=in_chans, **options)
    except TypeError as error:
        if "unexpected keyword argument" not in str(error):
            raise
        raise OptionError(f"models: timm model {name!r}: {error}") from error
    except Exception as error:
        if not pretrained:
            raise
        raise RuntimeError(
            f"models: pretrained weights of timm model {name!r} could not be loaded ({type(error).__name__}: "
            f"{error}); build with pretrained=False to do without"
        ) from error
    model = TimmModel(net, labels=names, input_spec=spec)
    if pretrained and described is not None:
        load_checkpoint(model, remote.weights(given), backbone_only=True)
    return model
