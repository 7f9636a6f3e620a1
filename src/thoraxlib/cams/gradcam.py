"""Grad-CAM: the map weighted by its mean gradients."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from thoraxlib.cams import register
from thoraxlib.cams.base import ClassActivationMap

__all__ = ["GradCAM", "head_gradients"]

# Elements of the gradients that are held at once: little enough to stay in a CPU's caches (3 to 5 times faster than all
# labels of a ResNet-50 at once), enough to keep an accelerator busy.
_ON_CPU, _ELSEWHERE = 2**21, 2**25


def head_gradients(model: nn.Module, features: Tensor, labels: list[int] | None) -> Iterator[Tensor]:
    """Gradients of logits with respect to the features, a few labels at a time.

    The head runs once; its backward pass runs for all labels of a chunk at once.

    Parameters
    ----------
    model : nn.Module
        With ``forward_head``, in eval mode.
    features : Tensor
        (N, ...), detached.
    labels : list of int, optional
        Positions; None: all.

    Yields
    ------
    Tensor
        (k, N, ...) for the next k labels.
    """
    with torch.enable_grad():
        features = features.detach().requires_grad_()
        logits: Tensor = model.forward_head(features)  # type: ignore[operator]
    n, k = logits.shape
    one_hot = torch.eye(k, dtype=logits.dtype, device=logits.device)
    if labels is not None:
        one_hot = one_hot[labels]
    largest = _ON_CPU if features.device.type == "cpu" else _ELSEWHERE
    for part in torch.split(one_hot, max(1, largest // max(features.numel(), 1))):
        directions = part[:, None].expand(len(part), n, k)
        (gradients,) = torch.autograd.grad(logits, features, directions, retain_graph=True, is_grads_batched=True)
        yield gradients


@register("gradcam")
class GradCAM(ClassActivationMap):
    """``relu(sum_c a[k, c] features[c])``, a the mean gradient over locations (Selvaraju et al. 2017, eq. 1 and 2).

    For a head of average pooling and a linear layer it is CAM divided by the number of locations, cut off at 0.
    The head's backward pass runs for many labels at once, so every operation in it must allow ``torch.vmap``.

    Parameters
    ----------
    model : nn.Module
        Any with ``forward_features`` and ``forward_head``.
    target : None
        The map that the head sees.
    relu : bool
        Cut off at 0: only what speaks for the label.

    Raises
    ------
    ValueError
        When called: a transformer whose head reads the class token alone.
    """

    def __init__(self, model: nn.Module, target: None = None, *, relu: bool = True) -> None:
        super().__init__(model, target)
        self.relu = relu

    def maps(self, features: Tensor, x: Tensor, labels: list[int] | None) -> Tensor:
        """See :meth:`ClassActivationMap.maps`."""
        spatial = self.spatial(features, x)
        weights = []
        for gradients in head_gradients(self.model, features, labels):
            by_place = self.spatial(gradients.flatten(0, 1), x)
            if features.ndim == 3 and not by_place.any():
                raise ValueError(
                    f"{type(self).__name__}: the head of {type(self.model).__name__} does not read its patch tokens "
                    "(only a class token, say), so no place has a gradient; build it with global_pool='avg'"
                )
            weights.append(self.weights(by_place.reshape(-1, *spatial.shape), spatial))
        maps = torch.einsum("knc,nchw->nkhw", torch.cat(weights), spatial)
        return maps.relu() if self.relu else maps

    def weights(self, gradients: Tensor, features: Tensor) -> Tensor:
        """How much each channel counts, (k, N, C).

        Parameters
        ----------
        gradients : Tensor
            Of k logits, (k, N, C, h, w).
        features : Tensor
            (N, C, h, w).
        """
        return gradients.mean(dim=(3, 4))
