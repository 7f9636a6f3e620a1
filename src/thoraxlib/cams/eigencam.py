"""Eigen-CAM: the strongest direction of the features, whatever the label."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from thoraxlib.cams import register
from thoraxlib.cams.base import ClassActivationMap
from thoraxlib.cams.split import Split


@register("eigencam")
class EigenCAM(ClassActivationMap):
    """The features' first principal component (Muhammad and Yeasin 2020, arXiv 2008.00299): ``O V1``, O (h w, C).

    The same map for every label. A component has no sign of its own: here places with large features are positive (its
    product with their sum over channels is not negative).

    Parameters
    ----------
    model, target
        See :class:`ClassActivationMap`.
    center : bool
        Subtract each channel's mean before the decomposition, as pytorch-grad-cam does; the paper does not.
    relu : bool
        Cut off at 0, as the other methods.
    """

    def __init__(
        self, model: nn.Module | Split, target: str | int | None = None, *, center: bool = False, relu: bool = True
    ) -> None:
        super().__init__(model, target)
        self.center, self.relu = center, relu

    def maps(self, features: Tensor, x: Tensor, labels: list[int] | None) -> Tensor:
        """See :meth:`ClassActivationMap.maps`."""
        spatial = self.spatial(features, x).float()
        places = spatial.flatten(2).transpose(1, 2)  # (N, h w, C)
        if self.center:
            places = places - places.mean(dim=1, keepdim=True)
        if places.shape[1] <= places.shape[2]:  # of the smaller of the two products
            values, vectors = torch.linalg.eigh(places @ places.transpose(1, 2))
            component = vectors[..., -1] * values[..., -1:].clamp(min=0).sqrt()
        else:
            direction = torch.linalg.eigh(places.transpose(1, 2) @ places).eigenvectors[..., -1:]
            component = (places @ direction)[..., 0]
        sign = (component * spatial.sum(dim=1).flatten(1)).sum(dim=1, keepdim=True)
        component = torch.where(sign < 0, -component, component)
        maps: Tensor = component.reshape(len(x), 1, *spatial.shape[2:]).expand(
            -1, self.logits(features).shape[1], -1, -1
        )
        maps = maps.relu() if self.relu else maps
        return maps if labels is None else maps[:, labels]
