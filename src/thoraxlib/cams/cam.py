"""CAM and PCAM: heat maps of heads with per-location logits, without gradients."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from thoraxlib.cams import register
from thoraxlib.cams.base import ClassActivationMap


@register("cam")
class CAM(ClassActivationMap):
    """``sum_c w[k, c] features[c]`` at every location, without the bias (Zhou et al. 2016, arXiv 1512.04150, eq. 2).

    CheXNet's heat map, and for the Unified DCNN the prediction-weighted transition activation (Wang et al. 2017,
    section 3.2). With average pooling, its mean over locations is the logit minus the bias. Values may be negative.

    Parameters
    ----------
    model : nn.Module
        With ``logit_maps`` (the library's models), or a timm model with average pooling and one linear layer.
    target : None
        Only the map that the head gets; other layers have no such weights.

    Raises
    ------
    TypeError
        When called: the head has no per-location logits.
    """

    bias = False  #: True if the maps include the head's bias.

    @torch.no_grad()
    def maps(self, features: Tensor, x: Tensor, labels: list[int] | None) -> Tensor:
        """See :meth:`ClassActivationMap.maps`."""
        if hasattr(self.model, "logit_maps"):
            try:
                maps: Tensor = self.model.logit_maps(features, bias=self.bias)
            except NotImplementedError as error:
                raise TypeError(f"{type(self).__name__}: {error}") from error
        else:
            maps = self._of_linear(features, x)
        return maps if labels is None else maps[:, labels]

    def _of_linear(self, features: Tensor, x: Tensor) -> Tensor:
        """Maps of a head that is average pooling and a linear layer, which is checked by its logits."""
        layer = self.model.get_classifier() if hasattr(self.model, "get_classifier") else None
        spatial = self.spatial(features, x)
        if isinstance(layer, nn.Linear) and layer.in_features == spatial.shape[1]:
            maps = torch.einsum("kc,nchw->nkhw", layer.weight, spatial)
            biased = maps if layer.bias is None else maps + layer.bias[:, None, None]
            logits = self.model.forward_head(features)
            off = (biased.mean(dim=(2, 3)) - logits).abs().max()
            if off <= max(1e-3, 8 * torch.finfo(logits.dtype).eps) * logits.abs().max():
                return biased if self.bias else maps
        raise TypeError(
            f"{type(self).__name__}: the head of {self._name} is not average pooling and one linear layer; use "
            "'gradcam'"
        )


@register("pcam")
class ProbabilityMap(CAM):
    """Probability of a label at every location, in [0, 1] (Ye et al. 2020, arXiv 2005.14480): no backward pass.

    PCAM pooling computes its logit from these maps; they are defined for every head with per-location logits.

    Parameters
    ----------
    model, target
        See :class:`CAM`.

    Raises
    ------
    TypeError
        When called: the head has no per-location logits.
    """

    bias = True

    def maps(self, features: Tensor, x: Tensor, labels: list[int] | None) -> Tensor:
        """See :meth:`ClassActivationMap.maps`."""
        return super().maps(features, x, labels).sigmoid()
