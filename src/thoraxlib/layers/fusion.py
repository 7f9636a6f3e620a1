"""Fusion: the backbone's feature maps, and organ masks -> the feature maps for the head."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from thoraxlib.registry import Registry
from thoraxlib.utils.arguments import one_of

registry: Registry[Fusion] = Registry("layers.fusion")
build, register, names, describe = registry.build, registry.register, registry.names, registry.describe

_AFFINES = ("none", "position")
_NORMS = ("batch", "batch_statistics", "none")
_STARTS = ("one", "uniform")


class Fusion(nn.Module):
    """``forward(maps, masks) -> maps``: a backbone's maps, finest first, to those that a head sees.

    Attributes
    ----------
    channels : tuple of int
        Of the maps that come out.
    uses_masks : bool
        Whether it needs organ masks, (N, 1, H, W) in [0, 1] at the image's size.
    """

    channels: tuple[int, ...]
    uses_masks: bool = False

    def image(self, x: Tensor, masks: Tensor | None) -> Tensor:
        """What the backbone sees of images (N, C, H, W): by default the images."""
        return x

    def sizes(self, sizes: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
        """Sides of the maps that come out, from those of the backbone's: the last ones', the very last for more."""
        count = len(self.channels)
        return [*sizes, *[sizes[-1]] * (count - len(sizes))][-count:]

    def forward(self, maps: Sequence[Tensor], masks: Tensor | None = None) -> list[Tensor]:
        """Maps (N, C_i, h_i, w_i) for the head."""
        raise NotImplementedError

    def needed(self, masks: Tensor | None) -> Tensor:
        """`masks`, for a fusion that cannot do without.

        Raises
        ------
        ValueError
            There are none.
        """
        if masks is None:
            raise ValueError(f"{type(self).__name__} needs organ masks (N, 1, H, W)")
        return masks


def pyramid_channels(channels: Sequence[int]) -> tuple[int, ...]:
    """`channels`, of two maps or more.

    Raises
    ------
    ValueError
        Of fewer.
    """
    if len(channels) < 2:
        raise ValueError(
            f"a fusion over the stages needs a backbone with two maps or more, got channels={tuple(channels)}; "
            "use fusion='seg_input', or a backbone with more stages"
        )
    return tuple(channels)


@register("pyramid")
class Pyramid(Fusion):
    """All maps: a head pools each and puts the vectors side by side.

    FusionVAN (QUST-SmartData/CXRClassification), with ``repeat_last=True``, as SegFusionVAN's layout without masks.

    Parameters
    ----------
    channels : sequence of int
        Of the backbone's maps.
    repeat_last : bool
        Give the last map twice.

    Raises
    ------
    ValueError
        A backbone with a single map.
    """

    def __init__(self, channels: Sequence[int], *, repeat_last: bool = False) -> None:
        super().__init__()
        self.repeat_last = repeat_last
        self.channels = pyramid_channels(channels)
        if repeat_last:
            self.channels += self.channels[-1:]

    def forward(self, maps: Sequence[Tensor], masks: Tensor | None = None) -> list[Tensor]:
        """The maps."""
        return [*maps, maps[-1]] if self.repeat_last else list(maps)


@register("seg_input")
class SegInput(Fusion):
    """The image times the mask goes into the backbone; the head sees the last map.

    SegVANGCN (QUST-SmartData/CXRClassification).

    Parameters
    ----------
    channels : sequence of int
        Of the backbone's maps.
    """

    uses_masks = True

    def __init__(self, channels: Sequence[int]) -> None:
        super().__init__()
        self.channels = (channels[-1],)

    def image(self, x: Tensor, masks: Tensor | None) -> Tensor:
        """Images (N, C, H, W) times masks (N, 1, H, W)."""
        return x * self.needed(masks)

    def forward(self, maps: Sequence[Tensor], masks: Tensor | None = None) -> list[Tensor]:
        """The last map."""
        return [maps[-1]]


class _Stage(nn.Module):
    """``norm((w m + b) M)`` for one stage."""

    def __init__(self, channels: int, size: tuple[int, int] | None, norm: str, start: str) -> None:
        super().__init__()
        self.weight = self.bias = None
        if size is not None:
            self.weight = nn.Parameter(torch.ones(size) if start == "one" else torch.rand(size))
            self.bias = nn.Parameter(torch.zeros(size) if start == "one" else torch.rand(size))
        kinds = {"batch": nn.BatchNorm2d, "batch_statistics": _BatchStatistics}
        self.norm: nn.Module = kinds[norm](channels) if norm in kinds else nn.Identity()

    def masked(self, x: Tensor, mask: Tensor) -> Tensor:
        """(w m + b) M."""
        if self.weight is not None and self.bias is not None:
            x = _fitted(self.weight, x) * x + _fitted(self.bias, x)
        return x * mask

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Map (N, C, h, w) and mask (N, 1, h, w) -> (N, C, h, w)."""
        out: Tensor = self.norm(self.masked(x, mask))
        return out


class _BatchStatistics(nn.BatchNorm2d):
    """A batch norm that always takes the statistics of the batch, in evaluation as well."""

    def forward(self, input: Tensor) -> Tensor:
        return F.batch_norm(input, None, None, self.weight, self.bias, True, 0.0, self.eps)


@register("seg_pyramid")
class SegPyramid(Fusion):
    """``z_i = norm_i((w_i m_i + b_i) M_i)`` for every map m_i, and the last map again, unmasked.

    The segmentation fusion of SegFusionVANGCN (QUST-SmartData/CXRClassification; its figure shows the product with the
    mask alone). M_i is the mask at the size of m_i: bilinear, antialiased, and rounded to 0 or 1. A head pools each
    map, so that its vector has the channels of all stages, and those of the last one twice.

    In the original, w, b and the norms are no parameters of the network: they stay at their random start, are not
    saved, and the norms take the statistics of whatever batch an image is in; of an image alone, nothing is left of
    the masked maps (their mean is the norm's shift). ``affine="position", start="uniform", norm="batch_statistics",
    trained=False`` is that; here it is saved.

    Parameters
    ----------
    channels : sequence of int
        Of the backbone's maps.
    sizes : sequence of (int, int)
        h and w of the maps at the model's own input size, for which w and b are made with ``affine="position"``.
    affine : {"none", "position"}
        "none": w = 1 and b = 0, for any size. "position": a number for each place of a stage, shared by all channels;
        resized where a map has another size.
    start : {"one", "uniform"}
        w = 1 and b = 0, or both from [0, 1).
    norm : {"batch", "batch_statistics", "none"}
        "batch_statistics": a batch norm that never uses running statistics.
    trained : bool
        Train w, b and the norms.
    mask_mean : bool
        Let a pooled mean be that over the mask's area instead of over all places.
    round_masks : bool
        Round M_i, which leaves soft masks without a gradient; models with ``mask="soft"`` set it to False.

    Raises
    ------
    ValueError
        A value that is not among those allowed; a backbone with a single map.
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
        for name, value, allowed in (("affine", affine, _AFFINES), ("start", start, _STARTS), ("norm", norm, _NORMS)):
            one_of(name, value, allowed)
        self.channels = (*pyramid_channels(channels), channels[-1])
        self.mask_mean, self.round_masks = mask_mean, round_masks
        self.stages = nn.ModuleList()
        for width, size in zip(channels, sizes, strict=True):
            self.stages.append(_Stage(width, size if affine == "position" else None, norm, start))
        self.stages.requires_grad_(trained)

    def stage_masks(self, maps: Sequence[Tensor], masks: Tensor) -> list[Tensor]:
        """M_i: the masks (N, 1, H, W) at the size of every map, (N, 1, h_i, w_i)."""
        resized = [_resized(masks, x) for x in maps]
        # halves go to the even number, as in the original
        return [(m.round() if self.round_masks else m).to(x.dtype) for m, x in zip(resized, maps, strict=True)]

    def forward(self, maps: Sequence[Tensor], masks: Tensor | None = None) -> list[Tensor]:
        """z_1, z_2, ... and the last of `maps`."""
        fused: list[Tensor] = []
        for stage, x, mask in zip(self.stages, maps, self.stage_masks(maps, self.needed(masks)), strict=True):
            z = stage(x, mask)
            if self.mask_mean:
                z = z * mask / mask.mean(dim=(2, 3), keepdim=True).clamp(min=1e-6)
            fused.append(z)
        return [*fused, maps[-1]]


def _fitted(parameter: Tensor, x: Tensor) -> Tensor:
    """(h0, w0) numbers at the size of the map `x`."""
    if parameter.shape == x.shape[-2:]:
        return parameter
    return _resized(parameter[None, None], x)[0, 0].to(parameter.dtype)


def _resized(plane: Tensor, x: Tensor) -> Tensor:
    """Planes (N, 1, H, W) at the size of the map `x`, in float32: 8 bits of mantissa would round a half."""
    size = (x.shape[-2], x.shape[-1])
    return F.interpolate(plane.float(), size, mode="bilinear", antialias=True, align_corners=False)
