"""Fusion: feature maps of the backbone, with organ masks -> feature maps for the head."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from thoraxlib.registry import Registry
from thoraxlib.utils.arguments import one_of

registry: Registry[Fusion] = Registry("layers.fusion")
build, register, names, describe = registry.build, registry.register, registry.names, registry.describe


class Fusion(nn.Module):
    """Base class of fusions, ``forward(maps, masks) -> maps``: a backbone's maps, finest first, to the head's maps.

    Attributes
    ----------
    channels : tuple of int
        Channels of the output maps.
    uses_masks : bool
        True if organ masks are needed: (N, 1, H, W) in [0, 1], at the image's size.
    """

    channels: tuple[int, ...]
    uses_masks: bool = False

    def image(self, x: Tensor, masks: Tensor | None) -> Tensor:
        """Return the backbone's input for images (N, C, H, W): by default the images."""
        return x

    def sizes(self, sizes: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
        """Sizes of the output maps: those of the last `len(channels)` backbone maps, the last repeated if needed."""
        count = len(self.channels)
        return [*sizes, *[sizes[-1]] * (count - len(sizes))][-count:]

    def forward(self, maps: Sequence[Tensor], masks: Tensor | None = None) -> list[Tensor]:
        """Compute the head's maps, (N, C_i, h_i, w_i)."""
        raise NotImplementedError


def _needed(masks: Tensor | None, fusion: Fusion) -> Tensor:
    if masks is None:
        raise ValueError(f"{type(fusion).__name__} needs organ masks (N, 1, H, W)")
    return masks


def _pyramid_channels(channels: Sequence[int]) -> tuple[int, ...]:
    if len(channels) < 2:
        raise ValueError(
            f"a fusion over the stages needs a backbone with two maps or more, got channels={tuple(channels)}; "
            "use fusion='seg_input', or a backbone with more stages"
        )
    return tuple(channels)


@register("pyramid")
class Pyramid(Fusion):
    """All maps of the backbone; the head pools each and concatenates the vectors.

    With ``repeat_last=True``, FusionVAN (QUST-SmartData/CXRClassification): SegFusionVAN without masks.

    Parameters
    ----------
    channels : sequence of int
        Channels of the backbone's maps.
    repeat_last : bool
        Return the last map twice.

    Raises
    ------
    ValueError
        A backbone with a single map.
    """

    def __init__(self, channels: Sequence[int], *, repeat_last: bool = False) -> None:
        super().__init__()
        self.repeat_last = repeat_last
        self.channels = _pyramid_channels(channels)
        if repeat_last:
            self.channels += self.channels[-1:]

    def forward(self, maps: Sequence[Tensor], masks: Tensor | None = None) -> list[Tensor]:
        """Return the maps."""
        return [*maps, maps[-1]] if self.repeat_last else list(maps)


@register("seg_input")
class SegInput(Fusion):
    """Image times mask as the backbone's input; the head gets the last map.

    SegVANGCN (QUST-SmartData/CXRClassification).

    Parameters
    ----------
    channels : sequence of int
        Channels of the backbone's maps.
    """

    uses_masks = True

    def __init__(self, channels: Sequence[int]) -> None:
        super().__init__()
        self.channels = (channels[-1],)

    def image(self, x: Tensor, masks: Tensor | None) -> Tensor:
        """Images (N, C, H, W) times masks (N, 1, H, W)."""
        return x * _needed(masks, self)

    def forward(self, maps: Sequence[Tensor], masks: Tensor | None = None) -> list[Tensor]:
        """Return the last map."""
        return [maps[-1]]


class _BatchStatistics(nn.BatchNorm2d):
    """Batch norm that uses the statistics of the batch in eval mode too."""

    def forward(self, input: Tensor) -> Tensor:
        return F.batch_norm(input, None, None, self.weight, self.bias, True, 0.0, self.eps)


_NORMS: dict[str, type[nn.Module]] = {
    "batch": nn.BatchNorm2d,
    "batch_statistics": _BatchStatistics,
    "none": nn.Identity,
}


class _Stage(nn.Module):
    """Compute ``norm((w m + b) M)`` for one stage."""

    def __init__(self, channels: int, size: tuple[int, int] | None, norm: str, start: str) -> None:
        super().__init__()
        self.weight = self.bias = None
        if size is not None:
            self.weight = nn.Parameter(torch.ones(size) if start == "one" else torch.rand(size))
            self.bias = nn.Parameter(torch.zeros(size) if start == "one" else torch.rand(size))
        self.norm = _NORMS[norm](channels)

    def masked(self, x: Tensor, mask: Tensor) -> Tensor:
        """Compute (w m + b) M."""
        if self.weight is not None and self.bias is not None:
            x = _fitted(self.weight, x) * x + _fitted(self.bias, x)
        return x * mask

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Map (N, C, h, w) and mask (N, 1, h, w) -> (N, C, h, w)."""
        out: Tensor = self.norm(self.masked(x, mask))
        return out


@register("seg_pyramid")
class SegPyramid(Fusion):
    """``z_i = norm_i((w_i m_i + b_i) M_i)`` for every map m_i, and the last map again, unmasked.

    The segmentation fusion of SegFusionVANGCN (QUST-SmartData/CXRClassification; its figure shows only the product with
    the mask). M_i is the mask resized to the map m_i (bilinear, antialiased) and rounded to 0 or 1. A head pools each
    map, so its vector has the channels of all stages, and those of the last stage twice.

    In the original, w, b and the norms do not belong to the network's parameters: they keep their random initial
    values and are not saved, and the norms use the statistics of the current batch. If the batch is a single image, the
    mean of each normalised map is the norm's shift, so nothing of the masked maps remains. ``affine="position",
    start="uniform", norm="batch_statistics", trained=False`` computes the same; here the values are saved.

    Parameters
    ----------
    channels : sequence of int
        Channels of the backbone's maps.
    sizes : sequence of (int, int)
        (h, w) of the maps at the model's input size: the shapes of w and b with ``affine="position"``.
    affine : {"none", "position"}
        "none": w = 1 and b = 0, for any size. "position": one number for each location of a stage, shared by all
        channels, and resized for a map of another size.
    start : {"one", "uniform"}
        Initial values: w = 1 and b = 0, or both from [0, 1).
    norm : {"batch", "batch_statistics", "none"}
        "batch_statistics" is a batch norm that never uses running statistics.
    trained : bool
        Train w, b and the norms.
    mask_mean : bool
        Divide the fused maps by the mean of the mask, so that a pooled mean is over the mask's area.
    round_masks : bool
        Round M_i. Soft masks then get no gradient; models with ``mask="soft"`` set it to False.

    Raises
    ------
    ValueError
        A value that is not allowed, or a backbone with a single map.
    """

    uses_masks = True

    def __init__(
        self,
        channels: Sequence[int],
        sizes: Sequence[tuple[int, int]],
        *,
        affine: str = "none",
        start: str = "one",
        norm: str = "batch",
        trained: bool = True,
        mask_mean: bool = False,
        round_masks: bool = True,
    ) -> None:
        super().__init__()
        one_of("affine", affine, ("none", "position"))
        one_of("start", start, ("one", "uniform"))
        one_of("norm", norm, _NORMS)
        self.channels = (*_pyramid_channels(channels), channels[-1])
        self.mask_mean, self.round_masks = mask_mean, round_masks
        self.stages = nn.ModuleList()
        for width, size in zip(channels, sizes, strict=True):
            self.stages.append(_Stage(width, size if affine == "position" else None, norm, start))
        self.stages.requires_grad_(trained)

    def stage_masks(self, maps: Sequence[Tensor], masks: Tensor) -> list[Tensor]:
        """Resize the masks (N, 1, H, W) to the size of each map: M_i, (N, 1, h_i, w_i)."""
        resized = [_resized(masks, x) for x in maps]
        # halves are rounded to the even number, as in the original
        return [(m.round() if self.round_masks else m).to(x.dtype) for m, x in zip(resized, maps, strict=True)]

    def forward(self, maps: Sequence[Tensor], masks: Tensor | None = None) -> list[Tensor]:
        """Return z_1, z_2, ... and the last of `maps`."""
        stage_masks = self.stage_masks(maps, _needed(masks, self))
        fused = [stage(x, mask) for stage, x, mask in zip(self.stages, maps, stage_masks, strict=True)]
        if self.mask_mean:
            areas = [mask.mean(dim=(2, 3), keepdim=True).clamp(min=1e-6) for mask in stage_masks]
            fused = [z * mask / area for z, mask, area in zip(fused, stage_masks, areas, strict=True)]
        return [*fused, maps[-1]]


def _fitted(parameter: Tensor, x: Tensor) -> Tensor:
    """Resize (h0, w0) numbers to the size of the map `x`."""
    if parameter.shape == x.shape[-2:]:
        return parameter
    return _resized(parameter[None, None], x)[0, 0].to(parameter.dtype)


def _resized(plane: Tensor, x: Tensor) -> Tensor:
    """Resize planes (N, 1, H, W) to the size of the map `x`; in float32, as bfloat16 would round halves differently."""
    size = (x.shape[-2], x.shape[-1])
    return F.interpolate(plane.float(), size, mode="bilinear", antialias=True, align_corners=False)
