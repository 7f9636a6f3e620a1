"""The checkpoints of Ien001/AG-CNN and its copies: one file for each of three networks."""

from __future__ import annotations

from thoraxlib.checkpoints import register
from thoraxlib.checkpoints.layout import LOGITS, OLD_DENSENET, Layout, having, renaming


@register("ag_cnn")
def ag_cnn() -> Layout:
    """Ien001/AG-CNN: its three state dicts as one, with the prefixes ``global_branch``, ``local_branch``, ``fusion``.

    :func:`thoraxlib.checkpoints.read_ag_cnn` makes it of the three files.
    """
    rules = {r"^(\w+_branch)\.classifier\.": rf"\1.{LOGITS}.", r"^fusion\.fc\.": f"{LOGITS}."}
    return Layout(having(r"fusion\.fc\.weight$"), renaming({**OLD_DENSENET, **rules}), names={"labels": ("nih14",)})
