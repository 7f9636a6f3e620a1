"""CAM: the linear layer's weights over the map."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from thoraxlib.cams import register
from thoraxlib.cams.base import ClassActivationMap


@register("cam")
class CAM(ClassActivationMap):
    """``sum_c w[k, c] features[c]`` at every location, without the bias (Zhou et al. 2016, arXiv 1512.04150, eq. 2).

    CheXNet's heat map, and for the Unified DCNN the prediction-weighted transition activation (Wang et al. 2017,
    section 3.2). With average pooling its mean over locations is the logit less the bias. May be negative.

    Parameters
    ----------
    model : nn.Module
        With ``logit_maps`` (the library's models), or of timm with average pooling and one linear layer.
    target : None
        The map that the head sees; another layer has no such weights.

    Raises
    ------
    TypeError
        When called: the head has no per-location logits.
    """

    name = "cam"
    bias = False  #: Whether the maps hold the head's bias.

    def maps(self, features: Tensor, x: Tensor, labels: list[int] | None) -> Tensor:
        """See :meth:`ClassActivationMap.maps`."""
        with torch.no_grad():
            maps = self.logit_maps(features, x, bias=self.bias)
        return maps if labels is None else maps[:, labels]

    def logit_maps(self, features: Tensor, x: Tensor, *, bias: bool) -> Tensor:
        """Per-location logits (N, K, h, w) of the model's raw features.

        Raises
        ------
        TypeError
            The head is not such that its logits are a mean of those of places.
        """
        if not hasattr(self.model, "logit_maps"):
            return self._of_linear(features, x, bias)
        try:
            maps: Tensor = self.model.logit_maps(features, bias=bias)
            return maps
        except NotImplementedError as error:
            raise TypeError(f"{self.name}: {error}") from error

    def _of_linear(self, features: Tensor, x: Tensor, bias: bool) -> Tensor:
        """The weights of a linear layer over the map, if the head is average pooling and that layer."""
        layer = self.model.get_classifier() if hasattr(self.model, "get_classifier") else None
        spatial = self.spatial(features, x)
        if isinstance(layer, nn.Linear) and layer.in_features == spatial.shape[1]:
            maps: Tensor = torch.einsum("kc,nchw->nkhw", layer.weight, spatial)
            shift = layer.bias[:, None, None] if layer.bias is not None else torch.zeros_like(maps[:1, :, :1, :1])
            logits = self.model.forward_head(features)
            off = ((maps + shift).mean(dim=(2, 3)) - logits).abs().max()
            if off <= max(1e-3, 8 * torch.finfo(logits.dtype).eps) * logits.abs().max():
                return maps + shift if bias else maps
        raise TypeError(
            f"{self.name}: the head of {self._name} is not average pooling and one linear layer; use 'gradcam'"
        )
