"""Grad-CAM++: the map weighted by its positive gradients, each place by how much it matters."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from thoraxlib.cams import register
from thoraxlib.cams.gradcam import GradCAM
from thoraxlib.cams.split import Split
from thoraxlib.utils.arguments import one_of


@register("gradcam++")
class GradCAMPlusPlus(GradCAM):
    """``relu(sum_c a[k, c] A[c])``, a the sum of ``alpha relu(g)`` (Chattopadhay et al. 2018, arXiv 1710.11063).

    In the paper's closed form ``alpha = g^2 / (2 g^2 + sum(A) g^3)``: g the gradient of the logit S, A a channel of the
    features. Its score is exp(S): alpha does not depend on that, and the factor exp(S) that it gives to a whole map,
    which may overflow, is left out. The sum of a channel counts as at least 0, as it is behind a ReLU: signed features
    could make the denominator vanish.

    For a head of average pooling and a linear layer, alpha is the same at all places of a channel.

    Codes disagree. pytorch-grad-cam is ``eps=1e-6``; torchcam 0.5 is ``denominator="one"`` (its division acts on a
    copy); alinstein/X_RAY is "x_ray_gradcam++".

    Parameters
    ----------
    model, target, relu, score
        See :class:`thoraxlib.cams.gradients.GradientMap`.
    denominator : {"paper", "product", "one"}
        "product": ``2 g^2 + sum(A g^3)``, the cube inside the sum over places; where it is 0 it counts as 1. "one": no
        denominator, so that ``a`` is proportional to ``sum(relu(g)^3)``.
    eps : float
        Added to alpha's denominator. 0 is the formula itself: it never divides by less than 2, and does not depend on
        how small the gradients are. pytorch-grad-cam has 1e-6, which is not small beside the squared gradients of large
        maps.

    Raises
    ------
    ValueError
        `eps` is negative or not finite; an unknown option; when called, as all gradient maps.
    """

    def __init__(
        self,
        model: nn.Module | Split,
        target: str | int | None = None,
        *,
        relu: bool = True,
        score: str = "logit",
        denominator: str = "paper",
        eps: float = 0.0,
    ) -> None:
        super().__init__(model, target, relu=relu, score=score)
        if not (math.isfinite(eps) and eps >= 0):
            raise ValueError(f"eps={eps}: a finite number of at least 0 is needed")
        one_of("denominator", denominator, ("paper", "product", "one"))
        self.denominator, self.eps = denominator, eps

    def weights(self, gradients: Tensor, features: Tensor) -> Tensor:
        """See :meth:`GradCAM.weights`."""
        places = features.shape[2] * features.shape[3]
        return self._of_place(gradients, features).mean(dim=(3, 4)) * places

    def _of_place(self, gradients: Tensor, features: Tensor) -> Tensor:
        """``alpha relu(g)`` of gradients (k, N, C, h, w), or of one place for all."""
        positive = gradients.relu()  # the only places that count
        if self.denominator == "one":
            # to the size of 1 first: cubes of small gradients underflow
            scale = positive.amax(dim=(2, 3, 4), keepdim=True).clamp(min=torch.finfo(positive.dtype).tiny)
            return (positive / scale).pow(3) * scale
        if self.denominator == "product":
            square = gradients.square()
            cubes = torch.einsum("knchw,nchw->knc", square * gradients, features)[..., None, None]
            bottom = 2 * square + cubes
            return square * positive / (torch.where(bottom == 0, 1, bottom) + self.eps)
        total = features.sum(dim=(2, 3), keepdim=True).clamp(min=0)
        if self.eps == 0:  # g^2 cancelled: cheaper, and small gradients do not underflow
            return positive.div_(torch.addcmul(positive.new_tensor(2), total, positive))
        square = positive.square()
        return square * positive / (2 * square + total * square * positive + self.eps)
