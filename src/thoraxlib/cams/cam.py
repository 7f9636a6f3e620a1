"""CAM: the linear layer's weights over the map."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from thoraxlib.cams import register
from thoraxlib.cams.base import ClassActivationMap

__all__ = ["CAM"]


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
        The map that the head sees.

    Raises
    ------
    TypeError
        When called: the head has no per-location logits.
    """

    def maps(self, features: Tensor, x: Tensor, labels: list[int] | None) -> Tensor:
        """See :meth:`ClassActivationMap.maps`."""
        with torch.no_grad():
            maps = self._of_logit_maps(features) if hasattr(self.model, "logit_maps") else self._of_linear(features, x)
        return maps if labels is None else maps[:, labels]

    def _of_logit_maps(self, features: Tensor) -> Tensor:
        try:
            maps: Tensor = self.model.logit_maps(features, bias=False)
            return maps
        except NotImplementedError as error:
            raise TypeError(f"cam: {error}") from error

    def _of_linear(self, features: Tensor, x: Tensor) -> Tensor:
        layer = self.model.get_classifier() if hasattr(self.model, "get_classifier") else None
        spatial = self.spatial(features, x)
        if isinstance(layer, nn.Linear) and layer.in_features == spatial.shape[1]:
            maps: Tensor = torch.einsum("kc,nchw->nkhw", layer.weight, spatial)
            bias = layer.bias if layer.bias is not None else 0.0
            logits = self.model.forward_head(features)
            off = (maps.mean(dim=(2, 3)) + bias - logits).abs().max()
            if off <= max(1e-3, 8 * torch.finfo(logits.dtype).eps) * logits.abs().max():
                return maps
        raise TypeError(
            f"cam: the head of {type(self.model).__name__} is not average pooling and one linear layer; use 'gradcam'"
        )
