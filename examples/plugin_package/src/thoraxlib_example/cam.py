"""A class activation map."""

from __future__ import annotations

from torch import Tensor

from thoraxlib.cams.gradcam import GradientMap


class ElementwiseCAM(GradientMap):
    """``sum_c relu(g[k, c] A[c])`` place by place: gradient times feature, of which only what speaks for the label.

    HiRes-CAM without what speaks against the label, which there cancels the rest of a place.

    Parameters and errors: see :class:`thoraxlib.cams.gradcam.GradientMap`.
    """

    def combine(self, gradients: Tensor, features: Tensor) -> Tensor:
        """See :meth:`GradientMap.combine`."""
        return (gradients * features).relu().sum(dim=2)
