"""Eigen-CAM, Score-CAM and Ablation-CAM: heat maps without gradients."""

from __future__ import annotations

import abc

import torch
from torch import Tensor, nn

from thoraxlib.cams import register
from thoraxlib.cams.base import ClassActivationMap
from thoraxlib.cams.split import Split, Stage
from thoraxlib.localization.maps import normalize, upsample


@register("eigencam")
class EigenCAM(ClassActivationMap):
    """First principal component of the features (Muhammad and Yeasin 2020, arXiv 2008.00299): ``O V1``, O (h w, C).

    The map is the same for every label. The sign of a component is undefined; here it is positive where features are
    large (the product of map and channel sum is not negative).

    Parameters
    ----------
    model, target
        See :class:`ClassActivationMap`.
    center : bool
        Subtract each channel's mean before the decomposition, as in pytorch-grad-cam; the paper does not.
    relu : bool
        Set negative values to 0, as the other methods do.
    """

    def __init__(
        self, model: nn.Module | Split, target: str | int | None = None, *, center: bool = False, relu: bool = True
    ) -> None:
        super().__init__(model, target)
        self.center, self.relu = center, relu

    def maps(self, features: Tensor, x: Tensor, labels: list[int] | None) -> Tensor:
        """See :meth:`ClassActivationMap.maps`."""
        spatial = self.spatial(features, x).float()
        rows = spatial.flatten(2).transpose(1, 2)  # (N, h w, C)
        if self.center:
            rows = rows - rows.mean(dim=1, keepdim=True)
        if rows.shape[1] <= rows.shape[2]:  # the smaller of the two products
            values, vectors = torch.linalg.eigh(rows @ rows.transpose(1, 2))
            component = vectors[..., -1] * values[..., -1:].clamp(min=0).sqrt()
        else:
            direction = torch.linalg.eigh(rows.transpose(1, 2) @ rows).eigenvectors[..., -1:]
            component = (rows @ direction)[..., 0]
        sign = (component * spatial.sum(dim=1).flatten(1)).sum(dim=1, keepdim=True)
        component = torch.where(sign < 0, -component, component)
        maps = (component.relu() if self.relu else component).reshape(len(x), 1, *spatial.shape[2:])
        maps = maps.repeat(1, self.logits(features).shape[1], 1, 1)
        return maps if labels is None else maps[:, labels]


class _MaskingMap(ClassActivationMap):
    """``relu(sum_c a[k, c] features[c])``, with the weights a from forward passes in which a channel is masked."""

    def __init__(
        self, model: nn.Module | Split, target: str | int | None = None, *, batch_size: int = 32, relu: bool = True
    ) -> None:
        super().__init__(model, target)
        if batch_size < 1:
            raise ValueError(f"batch_size={batch_size}: at least 1 is needed")
        self.batch_size, self.relu = batch_size, relu

    @torch.no_grad()
    def maps(self, features: Tensor, x: Tensor, labels: list[int] | None) -> Tensor:
        """See :meth:`ClassActivationMap.maps`."""
        spatial = self.spatial(features, x)
        weights = self.weights(features, spatial, x)  # (N, C, K)
        weights = weights if labels is None else weights[..., labels]
        maps = torch.einsum("nck,nchw->nkhw", weights.to(spatial.dtype), spatial)
        return maps.relu() if self.relu else maps

    @abc.abstractmethod
    def weights(self, features: Tensor, spatial: Tensor, x: Tensor) -> Tensor:
        """Weight of each channel for each label, (N, C, K)."""


@register("scorecam")
class ScoreCAM(_MaskingMap):
    """Channels weighted by the label's score of the image masked by them (Wang et al. 2020, arXiv 1910.01279).

    Each channel is resized to the image, stretched to [0, 1] and multiplied with the image. The logits of the masked
    images go through a softmax over channels, in which the paper's baseline cancels. It is slow: one pass of the whole
    network for each channel.

    Parameters
    ----------
    model, target
        See :class:`ClassActivationMap`.
    batch_size : int
        Masked images per forward pass.
    relu : bool
        Set negative values to 0.

    Raises
    ------
    ValueError
        `batch_size` below 1.
    """

    def weights(self, features: Tensor, spatial: Tensor, x: Tensor) -> Tensor:
        """See :meth:`_MaskingMap.weights`."""
        n, c = spatial.shape[:2]
        size, flat, rows = (x.shape[-2], x.shape[-1]), spatial.flatten(0, 1)[:, None], []
        for start in range(0, n * c, self.batch_size):
            part = flat[start : start + self.batch_size]
            image = torch.arange(start, start + len(part), device=x.device) // c
            if isinstance(self.model, Stage):
                part = self.model.in_image(part, size, image)
            masked = x[image] * normalize(upsample(part.float(), size)).to(x.dtype)
            if isinstance(self.model, (Split, Stage)):
                logits = self.model(masked)
            else:
                logits = self.model.forward_head(self.model.forward_features(masked))
            rows.append(logits.float())
        return torch.cat(rows).reshape(n, c, -1).softmax(dim=1)


@register("ablationcam")
class AblationCAM(_MaskingMap):
    """Channels weighted by the drop of a label's logit without them (Desai and Ramaswamy 2020, WACV, equation 4).

    ``a = (y - y_c) / |y|``, where y is the logit and y_c the logit with channel c set to 0. Only the head runs for each
    channel; a network split at a layer runs completely. (pytorch-grad-cam sets a channel far below its minimum instead
    if features are signed.)

    Parameters
    ----------
    model, target
        See :class:`ClassActivationMap`.
    batch_size : int
        Channels that are left out at a time, each for all images.
    relu : bool
        Set negative values to 0.

    Raises
    ------
    ValueError
        `batch_size` below 1.
    """

    def weights(self, features: Tensor, spatial: Tensor, x: Tensor) -> Tensor:
        """See :meth:`_MaskingMap.weights`."""
        n, c = spatial.shape[:2]
        axis = self.channel_axis(features, x)
        whole = self.model.forward_head(features).float()
        rows = []
        for channels in torch.split(torch.arange(c, device=features.device), self.batch_size):
            ablated = features.repeat(len(channels), *[1] * features.ndim)  # (channels, N, ...)
            ablated.movedim(axis + 1, 1)[torch.arange(len(channels)), channels] = 0
            rows.append(self.model.forward_head(ablated.flatten(0, 1)).float().reshape(len(channels), n, -1))
        drop = whole - torch.cat(rows)  # (C, N, K)
        share: Tensor = drop / whole.abs().clamp(min=torch.finfo(whole.dtype).tiny)
        return share.transpose(0, 1)
