"""Grad-CAM and its relatives: heat maps from gradients of the logits, for all labels in one backward pass."""

from __future__ import annotations

import abc
import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from thoraxlib.cams import register
from thoraxlib.cams.base import ClassActivationMap
from thoraxlib.cams.split import Split
from thoraxlib.utils.arguments import one_of

# Elements of the gradients in memory at once: few enough to stay in a CPU's caches (3 to 5 times faster than all labels
# of a ResNet-50 at once), enough to keep an accelerator busy.
_ON_CPU, _ELSEWHERE = 2**21, 2**25


class GradientMap(ClassActivationMap):
    """Base class of heat maps computed from the features and the gradients of a label's score.

    The head runs once, and its backward pass for many labels at once, so every operation in it must support
    ``torch.vmap``.

    Parameters
    ----------
    model : nn.Module or Split
        See :class:`ClassActivationMap`.
    target : str, optional
        See :class:`ClassActivationMap`.
    relu : bool
        Set negative values to 0, to keep only evidence for the label.
    score : {"logit", "probability"}
        Score that is differentiated. The probability's gradient is the logit's times p (1 - p), which vanishes if the
        model is certain.

    Raises
    ------
    ValueError
        An unknown `score`. When called: the logits have no gradient; a transformer whose head uses only the class
        token.
    """

    def __init__(
        self, model: nn.Module | Split, target: str | int | None = None, *, relu: bool = True, score: str = "logit"
    ) -> None:
        super().__init__(model, target)
        one_of("score", score, ("logit", "probability"))
        self.relu, self.score = relu, score

    def maps(self, features: Tensor, x: Tensor, labels: list[int] | None) -> Tensor:
        """See :meth:`ClassActivationMap.maps`."""
        spatial, parts = self.spatial(features, x), []
        for gradients in self._gradients(features, labels):
            by_location = self.spatial(gradients.flatten(0, 1), x)
            if features.ndim == 3 and not by_location.any():
                raise ValueError(
                    f"{type(self).__name__}: no patch token of {self._name} has a gradient: its head uses only a "
                    "class token, or its weights are 0; build it with global_pool='avg', or name an earlier layer: "
                    "target='blocks.10'"
                )
            parts.append(self.combine(by_location.reshape(-1, *spatial.shape), spatial))
        maps = torch.cat(parts).transpose(0, 1)
        return maps.relu() if self.relu else maps

    @abc.abstractmethod
    def combine(self, gradients: Tensor, features: Tensor) -> Tensor:
        """Combine gradients of k scores (k, N, C, h, w) and features (N, C, h, w) to maps (k, N, h, w).

        Gradients may be a view and must not be changed in place; see :func:`collapse`.
        """

    def _gradients(self, features: Tensor, labels: list[int] | None) -> Iterator[Tensor]:
        """Gradients (k, N, ...) of the scores of the next k labels."""
        leaf, logits = self.differentiable(features)
        with torch.enable_grad():
            scores = logits.sigmoid() if self.score == "probability" else logits
        n, k = scores.shape
        one_hot = torch.eye(k, dtype=scores.dtype, device=scores.device)
        if labels is not None:
            one_hot = one_hot[labels]
        largest = _ON_CPU if leaf.device.type == "cpu" else _ELSEWHERE
        for part in torch.split(one_hot, max(1, largest // max(leaf.numel(), 1))):
            directions = part[:, None].expand(len(part), n, k)
            (gradients,) = torch.autograd.grad(
                scores, leaf, directions, retain_graph=True, is_grads_batched=True, allow_unused=True
            )
            if gradients is None:
                raise ValueError(f"{type(self).__name__}: the logits of {self._name} do not depend on these features")
            yield gradients.to(features.dtype)


def collapse(gradients: Tensor) -> Tensor:
    """Collapse gradients (k, N, C, h, w) that are constant over space to (k, N, C, 1, 1); return others unchanged.

    Behind average pooling they are an expanded view; the following steps then cost h * w times less.
    """
    return gradients[..., :1, :1] if gradients.stride()[3:] == (0, 0) else gradients


def weighted(weights: Tensor, features: Tensor) -> Tensor:
    """``sum_c w[k, c] features[c]``, (k, N, h, w), with weights for each location, or (k, N, C, 1, 1) for all."""
    if weights.shape[3:] == (1, 1):
        return torch.einsum("knc,nchw->knhw", weights[..., 0, 0], features)
    return (weights * features).sum(dim=2)  # einsum would compute one small matrix product for each location


@register("gradcam")
class GradCAM(GradientMap):
    """``relu(sum_c a[k, c] features[c])``, a the mean gradient over locations (Selvaraju et al. 2017, eq. 1 and 2).

    For a head of average pooling and a linear layer it is CAM divided by the number of locations, cut off at 0.

    Parameters and errors: see :class:`GradientMap`.
    """

    def combine(self, gradients: Tensor, features: Tensor) -> Tensor:
        """See :meth:`GradientMap.combine`."""
        return weighted(self.weights(collapse(gradients), features)[..., None, None], features)

    def weights(self, gradients: Tensor, features: Tensor) -> Tensor:
        """Weights of the channels, (k, N, C).

        Parameters
        ----------
        gradients : Tensor
            Gradients of k scores, (k, N, C, h, w); or (k, N, C, 1, 1) if they are the same at all locations.
        features : Tensor
            (N, C, h, w).
        """
        return gradients.mean(dim=(3, 4))


@register("xgradcam")
class XGradCAM(GradCAM):
    """Grad-CAM with gradients weighted by the features: ``a = sum(A g) / sum(A)`` (Fu et al. 2020, arXiv 2008.02312).

    A channel whose features sum to 0 has weight 0 (pytorch-grad-cam adds 1e-7 to the sum instead).

    Parameters and errors: see :class:`GradientMap`.
    """

    def weights(self, gradients: Tensor, features: Tensor) -> Tensor:
        """See :meth:`GradCAM.weights`."""
        total = features.sum(dim=(2, 3))
        weighted = torch.einsum("knchw,nchw->knc", gradients, features)
        return torch.where(total != 0, weighted / torch.where(total != 0, total, 1), 0)


@register("hirescam")
class HiResCAM(GradientMap):
    """``relu(sum_c g[k, c] features[c])`` at each location (Draelos and Carin 2020, arXiv 2011.08891).

    This is each location's contribution to the score, to first order. For a piecewise linear head without bias, the
    mean over locations is the score divided by their number.

    Parameters and errors: see :class:`GradientMap`.
    """

    def combine(self, gradients: Tensor, features: Tensor) -> Tensor:
        """See :meth:`GradientMap.combine`."""
        return weighted(collapse(gradients), features)


@register("layercam")
class LayerCAM(GradientMap):
    """``relu(sum_c relu(g[k, c]) features[c])`` at each location (Jiang et al. 2021, IEEE TIP 30, equation 4 and 5).

    Made for early layers: name one by `target`.

    Parameters and errors: see :class:`GradientMap`.
    """

    def combine(self, gradients: Tensor, features: Tensor) -> Tensor:
        """See :meth:`GradientMap.combine`."""
        return weighted(collapse(gradients).relu(), features)


@register("gradcam++")
class GradCAMPlusPlus(GradCAM):
    """``relu(sum_c a[k, c] A[c])``, a the sum of ``alpha relu(g)`` (Chattopadhay et al. 2018, arXiv 1710.11063).

    In the paper's closed form ``alpha = g^2 / (2 g^2 + sum(A) g^3)``: g is the gradient of the logit S, A a channel of
    the features. The paper's score is exp(S): alpha does not depend on that, and the factor exp(S), which may overflow
    and scales the whole map, is left out. A channel's sum is at least 0, as behind a ReLU: signed features could make
    the denominator vanish.

    For a head of average pooling and a linear layer, alpha is the same at all locations of a channel.

    Implementations differ. pytorch-grad-cam is ``eps=1e-6``; torchcam 0.5 is ``denominator="one"`` (its division acts
    on a copy); alinstein/X_RAY is "x_ray_gradcam++".

    Parameters
    ----------
    model, target, relu, score
        See :class:`GradientMap`.
    denominator : {"paper", "product", "one"}
        "product": ``2 g^2 + sum(A g^3)``, with the cube inside the sum over locations; 0 is replaced by 1. "one": no
        denominator, so that ``a`` is proportional to ``sum(relu(g)^3)``.
    eps : float
        Added to alpha's denominator. With 0, the formula is exact: it never divides by less than 2, and does not depend
        on the size of the gradients. pytorch-grad-cam uses 1e-6, which is not small compared with the squared gradients
        of large maps.

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
        positive = gradients.relu()
        total = features.sum(dim=(2, 3), keepdim=True).clamp(min=0)
        if self.denominator == "one":
            # scaled to 1 first: cubes of small gradients underflow
            scale = positive.amax(dim=(2, 3, 4), keepdim=True).clamp(min=torch.finfo(positive.dtype).tiny)
            terms = (positive / scale).pow(3) * scale
        elif self.denominator == "product":
            square = gradients.square()
            cubes = torch.einsum("knchw,nchw->knc", square * gradients, features)[..., None, None]
            bottom = 2 * square + cubes
            terms = square * positive / (torch.where(bottom == 0, 1, bottom) + self.eps)
        elif self.eps == 0:  # g^2 cancelled: faster, and small gradients do not underflow
            terms = positive.div_(torch.addcmul(positive.new_tensor(2), total, positive))
        else:
            square = positive.square()
            terms = square * positive / (2 * square + total * square * positive + self.eps)
        return terms.mean(dim=(3, 4)) * (features.shape[2] * features.shape[3])
