"""A class activation map."""

from __future__ import annotations

from torch import Tensor

from thoraxlib.cams.gradcam import GradientMap


class ElementwiseCAM(GradientMap):
    """Sum of the positive products of gradient and feature at each location: ``sum_c relu(g[k, c] A[c])``.

    HiRes-CAM sums the negative products too, which cancel positive ones at the same location.

    Parameters and errors: see :class:`thoraxlib.cams.gradcam.GradientMap`.
    """

    def combine(self, gradients: Tensor, features: Tensor) -> Tensor:
        """See :meth:`GradientMap.combine`."""
        return (gradients * features).relu().sum(dim=2)
