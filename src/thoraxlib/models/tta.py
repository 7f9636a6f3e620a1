"""Ten-crop testing."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid

from thoraxlib.utils.arguments import one_of
from thoraxlib.utils.modes import eval_view


class TenCrop(nn.Module):
    """Average a classifier over ten crops: four corners and the centre, and the same of the mirrored image.

    arnoweng/CheXNet and zoogzog/chexnet test so: images of shorter side 256, crops of 224, mean of probabilities.

    Parameters
    ----------
    model : nn.Module
        (N, C, s, s) -> logits (N, K).
    size : int
        Side s of the crops, in pixels.
    reduce : {"prob", "logit"}
        Average probabilities, as the originals do, or logits.
    chunk : int
        Crops in one forward pass; fewer need less memory.

    Raises
    ------
    ValueError
        `size` or `chunk` below 1, or another `reduce`; when called: images smaller than the crops.
    """

    def __init__(
        self, model: nn.Module, size: int = 224, *, reduce: Literal["prob", "logit"] = "prob", chunk: int = 64
    ) -> None:
        super().__init__()
        one_of("reduce", reduce, ("prob", "logit"))
        if size < 1 or chunk < 1:
            raise ValueError(f"size and chunk must be positive, got size={size}, chunk={chunk}")
        self.model, self.size, self.reduce, self.chunk = model, size, reduce, chunk

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, K) of images (N, C, H, W); with ``reduce="prob"``, of the mean probability.

        Raises
        ------
        ValueError
            A side is smaller than `size`.
        """
        from torchvision.transforms.v2.functional import ten_crop

        crops = torch.stack(ten_crop(x, [self.size, self.size]), dim=1)
        chunks: list[Tensor] = [self.model(chunk) for chunk in torch.split(crops.flatten(0, 1), self.chunk)]
        logits = torch.cat(chunks).reshape(*crops.shape[:2], -1)
        if self.reduce == "logit":
            return logits.mean(dim=1)
        # the logit of the mean probability, by logarithms: finite where probabilities are rounded to 0 and 1
        return logsigmoid(logits).logsumexp(dim=1) - logsigmoid(-logits).logsumexp(dim=1)

    @torch.inference_mode()
    def predict_proba(self, x: Tensor) -> Tensor:
        """Probabilities (N, K) of images (N, C, H, W), in eval mode."""
        logits: Tensor = eval_view(self)(x)
        return logits.sigmoid()
