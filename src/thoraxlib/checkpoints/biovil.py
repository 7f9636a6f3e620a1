"""The image encoder of BioViL."""

from __future__ import annotations

import re

from thoraxlib.checkpoints import register
from thoraxlib.checkpoints.layout import Layout, having, renaming


@register("biovil")
def biovil() -> Layout:
    """BioViL's image model: torchvision's ResNet-50 in ``encoder.encoder``, and a ``projector``, which is not read."""
    recognises = having(r"encoder\.encoder\.conv1\.weight$")
    return Layout(recognises, renaming({r"^encoder\.encoder\.": ""}), spare=re.compile(r"(projector|fc)\.").match)
