"""The checkpoints of jfhealthcare/Chexpert."""

from __future__ import annotations

import re

from thoraxlib.checkpoints import register
from thoraxlib.checkpoints.layout import OLD_DENSENET, Layout, having, renaming, stack_heads

_RULES = {
    **OLD_DENSENET,
    # its Inception has "norm" where torchvision and timm have "bn"
    r"^backbone\.(?!features\.)(.*)\.norm\.": r"backbone.\1.bn.",
    r"^(backbone|attention_map)\.": "",
}
# norms and attention that the network may not use, and ImageNet's classifiers, which never run
_SPARE = re.compile(r"head\.norm\.|(channel|spatial|pyramid)_attention\.|(classifier|fc)\.|Aux")


@register("jfhealthcare")
def jfhealthcare() -> Layout:
    """jfhealthcare/Chexpert ``pre_train.pth``, ``best1.ckpt``, ``train.ckpt``, and torchxrayvision's copy of the first.

    Every file holds all three attention blocks and the labels' norms, and does not say if the network used them.
    ``pre_train.pth`` fits :func:`thoraxlib.build("jf_top1") <thoraxlib.build>`.
    """
    return Layout(
        having(r"fc_0\.weight$", r"bn_0\.weight$", r"backbone\."),
        lambda state: stack_heads(renaming(_RULES)(state), "fc_", "bn_"),
        spare=_SPARE.match,
        names={"labels": ("chexpert5",)},
    )
