"""The checkpoints of jfhealthcare/Chexpert."""

from __future__ import annotations

from torch import Tensor

from thoraxlib.checkpoints import register
from thoraxlib.checkpoints.layout import Layout, StateDict, bare, modern_densenet_keys, stack_heads


@register("jfhealthcare")
def jfhealthcare() -> Layout:
    """jfhealthcare/Chexpert ``pre_train.pth``, ``best1.ckpt``, ``train.ckpt``, and torchxrayvision's copy of the first.

    Every file holds all three attention blocks and the labels' norms, whether the network used them or not; nothing in
    it tells. ``pre_train.pth`` is of :func:`thoraxlib.build("jf_top1") <thoraxlib.build>`.
    """
    return Layout(recognises=_recognises, translate=_translate, spare=_spare)


def _recognises(state: StateDict) -> bool:
    keys = bare(state)
    return "fc_0.weight" in keys and "bn_0.weight" in keys and any(key.startswith("backbone.") for key in keys)


def _translate(state: StateDict) -> dict[str, Tensor]:
    entries = bare(state)
    backbone = {_backbone_key(key): value for key, value in entries.items() if _in_backbone(key)}
    others = {key: value for key, value in entries.items() if not key.startswith("backbone.")}
    rest = {key.removeprefix("attention_map."): value for key, value in others.items()}
    return {**modern_densenet_keys(backbone), **stack_heads(rest, "fc_", "bn_")}


def _backbone_key(key: str) -> str:
    name = key.removeprefix("backbone.")
    # its Inception has "norm" where torchvision and timm have "bn"
    return name if name.startswith("features.") else name.replace(".norm.", ".bn.")


def _in_backbone(key: str) -> bool:
    """Whether an entry is of the backbone's own layers, and not of ImageNet's classifiers, which never run."""
    return key.startswith("backbone.") and not key.startswith(("backbone.classifier.", "backbone.fc.", "backbone.Aux"))


def _spare(key: str) -> bool:
    return key.startswith(("head.norm.", "channel_attention.", "spatial_attention.", "pyramid_attention."))
