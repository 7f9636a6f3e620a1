"""Score-CAM and Ablation-CAM: channels weighted by what masking does to the scores, without gradients."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from thoraxlib.cams import register
from thoraxlib.cams.base import ClassActivationMap
from thoraxlib.cams.split import Split
from thoraxlib.cams.stage import Stage
from thoraxlib.localization.maps import normalize, upsample


class _MaskingMap(ClassActivationMap):
    """``relu(sum_c a[k, c] features[c])``, a from what the network makes of one channel more or less."""

    def __init__(
        self, model: nn.Module | Split, target: str | int | None = None, *, batch_size: int = 32, relu: bool = True
    ) -> None:
        super().__init__(model, target)
        if batch_size < 1:
            raise ValueError(f"batch_size={batch_size}: at least 1 is needed")
        self.batch_size, self.relu = batch_size, relu

    def maps(self, features: Tensor, x: Tensor, labels: list[int] | None) -> Tensor:
        """See :meth:`ClassActivationMap.maps`."""
        spatial = self.spatial(features, x)
        with torch.no_grad():
            weights = self.weights(features, spatial, x)  # (N, C, K)
            weights = weights if labels is None else weights[..., labels]
            maps = torch.einsum("nck,nchw->nkhw", weights.to(spatial.dtype), spatial)
        return maps.relu() if self.relu else maps

    def weights(self, features: Tensor, spatial: Tensor, x: Tensor) -> Tensor:
        """How much each channel counts for each label, (N, C, K)."""
        raise NotImplementedError


@register("scorecam")
class ScoreCAM(_MaskingMap):
    """Channels weighted by the label's score of the image seen through them (Wang et al. 2020, arXiv 1910.01279).

    Each channel, enlarged and stretched to [0, 1], masks the image; the logits of the masked images, less that of the
    whole image's baseline (which cancels), go through a softmax over channels. One pass of the whole network for each
    channel: slow.

    Parameters
    ----------
    model, target
        See :class:`ClassActivationMap`.
    batch_size : int
        Masked images at a time.
    relu : bool
        Cut off at 0.

    Raises
    ------
    ValueError
        `batch_size` below 1.
    """

    def weights(self, features: Tensor, spatial: Tensor, x: Tensor) -> Tensor:
        """See :meth:`_MaskingMap.weights`."""
        n, c = spatial.shape[:2]
        flat, rows = spatial.flatten(0, 1)[:, None], []
        for start in range(0, n * c, self.batch_size):
            part = flat[start : start + self.batch_size]
            image = torch.arange(start, start + len(part), device=x.device) // c
            size = (x.shape[-2], x.shape[-1])
            part = self.model.in_image(part, size, image) if isinstance(self.model, Stage) else part
            masks = normalize(upsample(part.float(), size))
            rows.append(self._logits(x[image] * masks.to(x.dtype)).float())
        logits = torch.cat(rows)
        return logits.reshape(n, c, -1).softmax(dim=1)

    def _logits(self, x: Tensor) -> Tensor:
        if isinstance(self.model, (Split, Stage)):
            return self.model(x)
        logits: Tensor = self.model.forward_head(self.model.forward_features(x))
        return logits


@register("ablationcam")
class AblationCAM(_MaskingMap):
    """Channels weighted by how much a label's logit falls without them (Desai and Ramaswamy 2020, WACV, equation 4).

    ``a = (y - y_c) / |y|``, y the logit and y_c that with channel c set to 0. Only the head runs for each channel; a
    network split at a layer runs whole. (pytorch-grad-cam sets a channel far below its minimum instead where features
    are signed.)

    Parameters
    ----------
    model, target
        See :class:`ClassActivationMap`.
    batch_size : int
        Channels that are left out at a time, each for all images.
    relu : bool
        Cut off at 0.

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
