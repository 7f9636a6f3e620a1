"""Gradients of the logits for the features, all labels in one pass."""

from __future__ import annotations

import abc
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from thoraxlib.cams.base import ClassActivationMap
from thoraxlib.cams.split import Split
from thoraxlib.utils.arguments import one_of

# Elements of the gradients that are held at once: little enough to stay in a CPU's caches (3 to 5 times faster than all
# labels of a ResNet-50 at once), enough to keep an accelerator busy.
_ON_CPU, _ELSEWHERE = 2**21, 2**25


class GradientMap(ClassActivationMap):
    """A heat map from the features and a label's gradients for them.

    The head runs once, and its backward pass for many labels at once, so every operation in it must allow
    ``torch.vmap``.

    Parameters
    ----------
    model : nn.Module or Split
        See :class:`ClassActivationMap`.
    target : str, optional
        See :class:`ClassActivationMap`.
    relu : bool
        Cut off at 0: only what speaks for the label.
    score : {"logit", "probability"}
        What is differentiated; the probability's gradient is the logit's times p (1 - p), which vanishes where the
        model is sure.

    Raises
    ------
    ValueError
        An unknown `score`. When called: the logits have no gradient; a transformer whose head reads the
        class token alone.
    """

    def __init__(
        self,
        model: nn.Module | Split,
        target: str | int | None = None,
        *,
        relu: bool = True,
        score: str = "logit",
    ) -> None:
        super().__init__(model, target)
        one_of("score", score, ("logit", "probability"))
        self.relu, self.score = relu, score

    def maps(self, features: Tensor, x: Tensor, labels: list[int] | None) -> Tensor:
        """See :meth:`ClassActivationMap.maps`."""
        spatial, parts = self.spatial(features, x), []
        for gradients in self._gradients(features, labels):
            by_place = self.spatial(gradients.flatten(0, 1), x)
            if features.ndim == 3 and not by_place.any():
                raise ValueError(
                    f"{type(self).__name__}: no patch token of {self._name} has a gradient: its head reads only a "
                    "class token, or its weights are 0; build it with global_pool='avg', or name an earlier layer: "
                    "target='blocks.10'"
                )
            parts.append(self.combine(by_place.reshape(-1, *spatial.shape), spatial))
        maps = torch.cat(parts).transpose(0, 1)
        return maps.relu() if self.relu else maps

    @abc.abstractmethod
    def combine(self, gradients: Tensor, features: Tensor) -> Tensor:
        """Maps (k, N, h, w) of the gradients of k scores, (k, N, C, h, w), and the features (N, C, h, w).

        Gradients may be a view and are not to be written to; see :func:`one_place`.
        """

    def _gradients(self, features: Tensor, labels: list[int] | None) -> Iterator[Tensor]:
        """Gradients (k, N, ...) of the next k labels' scores."""
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


def one_place(gradients: Tensor) -> Tensor:
    """Gradients (k, N, C, h, w), or one place of them, (k, N, C, 1, 1), where all are views of one.

    So they are behind an average over places: what follows costs h w times less.
    """
    return gradients[..., :1, :1] if gradients.stride()[3:] == (0, 0) else gradients


def weighted(weights: Tensor, features: Tensor) -> Tensor:
    """``sum_c w[k, c] features[c]``, (k, N, h, w), of weights for each place or for all, (k, N, C, 1, 1)."""
    if weights.shape[3:] == (1, 1):
        return torch.einsum("knc,nchw->knhw", weights[..., 0, 0], features)
    return (weights * features).sum(dim=2)  # einsum would be one small matrix product for each place
