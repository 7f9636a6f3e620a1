"""Grad-CAM and its relatives that weigh channels or places by gradients alone."""

from __future__ import annotations

import torch
from torch import Tensor

from thoraxlib.cams import register
from thoraxlib.cams.gradients import GradientMap, one_place, weighted


@register("gradcam")
class GradCAM(GradientMap):
    """``relu(sum_c a[k, c] features[c])``, a the mean gradient over locations (Selvaraju et al. 2017, eq. 1 and 2).

    For a head of average pooling and a linear layer it is CAM divided by the number of locations, cut off at 0.

    Parameters and errors: see :class:`thoraxlib.cams.gradients.GradientMap`.
    """

    def combine(self, gradients: Tensor, features: Tensor) -> Tensor:
        """See :meth:`GradientMap.combine`."""
        return weighted(self.weights(one_place(gradients), features)[..., None, None], features)

    def weights(self, gradients: Tensor, features: Tensor) -> Tensor:
        """How much each channel counts, (k, N, C).

        Parameters
        ----------
        gradients : Tensor
            Of k scores, (k, N, C, h, w); or (k, N, C, 1, 1) where they are the same at all places.
        features : Tensor
            (N, C, h, w).
        """
        return gradients.mean(dim=(3, 4))


@register("xgradcam")
class XGradCAM(GradCAM):
    """Grad-CAM with gradients weighted by the features: ``a = sum(A g) / sum(A)`` (Fu et al. 2020, arXiv 2008.02312).

    A channel whose features add up to 0 counts as 0 (pytorch-grad-cam adds 1e-7 to the sum instead).

    Parameters and errors: see :class:`thoraxlib.cams.gradients.GradientMap`.
    """

    def weights(self, gradients: Tensor, features: Tensor) -> Tensor:
        """See :meth:`GradCAM.weights`."""
        total = features.sum(dim=(2, 3))
        weighted = torch.einsum("knchw,nchw->knc", gradients, features)
        return torch.where(total != 0, weighted / torch.where(total != 0, total, 1), 0)


@register("hirescam")
class HiResCAM(GradientMap):
    """``relu(sum_c g[k, c] features[c])`` place by place (Draelos and Carin 2020, arXiv 2011.08891).

    What the label's score owes to each place, to first order; for a piecewise linear head without bias, its mean over
    places is the score itself over their number.

    Parameters and errors: see :class:`thoraxlib.cams.gradients.GradientMap`.
    """

    def combine(self, gradients: Tensor, features: Tensor) -> Tensor:
        """See :meth:`GradientMap.combine`."""
        return weighted(one_place(gradients), features)


@register("layercam")
class LayerCAM(GradientMap):
    """``relu(sum_c relu(g[k, c]) features[c])`` place by place (Jiang et al. 2021, IEEE TIP 30, equation 4 and 5).

    Made for early layers: name one by `target`.

    Parameters and errors: see :class:`thoraxlib.cams.gradients.GradientMap`.
    """

    def combine(self, gradients: Tensor, features: Tensor) -> Tensor:
        """See :meth:`GradientMap.combine`."""
        return weighted(one_place(gradients).relu(), features)
