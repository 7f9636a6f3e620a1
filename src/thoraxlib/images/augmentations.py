"""Train-time augmentations, each named after the recipe it comes from.

An augmentation brings a grey image (uint8, or float in [0, 1]) with its boxes and masks from the file's size to the
model's: it is a factory ``(input_spec: InputSpec, **options) -> transform``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from torchvision import tv_tensors
from torchvision.transforms import v2

from thoraxlib.images.mirror import Mirror
from thoraxlib.images.resize import Resize
from thoraxlib.input_spec import InputSpec
from thoraxlib.registry import Registry

registry: Registry[nn.Module] = Registry("images.augmentations")
build, register, names, describe = registry.build, registry.register, registry.names, registry.describe

_BILINEAR = v2.InterpolationMode.BILINEAR


def _chain(*transforms: nn.Module) -> nn.Module:
    chain: nn.Module = v2.Compose(transforms)
    return chain


@register("none")
def none(*, input_spec: InputSpec) -> nn.Module:
    """No augmentation: the model's own resize rule.

    Parameters
    ----------
    input_spec : InputSpec
        The model's input.
    """
    return Resize(input_spec)


@register("chexnet")
@register("jrzech")
def flip(*, input_spec: InputSpec, p: float = 0.5, region_names: Sequence[str] | None = None) -> nn.Module:
    """Resize, then mirror left and right with probability p: the CheXNet paper and jrzech/reproduce-chexnet.

    Mirroring swaps the patient's sides. Samples with ``regions`` need `region_names`, and their rows are exchanged
    (:class:`~thoraxlib.images.mirror.Mirror`); labels and masks that name a side keep their old name.

    Parameters
    ----------
    input_spec : InputSpec
        The model's input.
    p : float
        How often, from 0 to 1.
    region_names : sequence of str, optional
        Of the rows of ``regions``.
    """
    return _chain(Resize(input_spec), Mirror(p, region_names))


@register("x_ray")
def x_ray(*, input_spec: InputSpec, p: float = 0.5, region_names: Sequence[str] | None = None) -> nn.Module:
    """As "chexnet", see :func:`flip`: alinstein/X_RAY's colour jitter has strengths of 0."""
    return flip(input_spec=input_spec, p=p, region_names=region_names)


@register("jfhealthcare")
def jfhealthcare(
    *,
    input_spec: InputSpec,
    degrees: float = 15.0,
    translate: float = 0.05,
    scale: tuple[float, float] = (0.95, 1.05),
    fill: float = 128 / 255,
) -> nn.Module:
    """Rotate, shift and zoom the file's own pixels, then equalise, blur and resize: jfhealthcare/Chexpert.

    Parameters
    ----------
    input_spec : InputSpec
        The model's input.
    degrees : float
        Largest rotation, both ways.
    translate : float
        Largest shift, as a share of the side.
    scale : (float, float)
        Zoom.
    fill : float
        What comes in from outside, 0 to 1.
    """
    return _chain(_Affine(degrees, (translate, translate), tuple(scale), fill=fill), Resize(input_spec))


class _Affine(v2.RandomAffine):  # type: ignore[misc]
    """Nearest neighbour, with a fill that is a share of the image's white."""

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        fill = self.fill
        is_image = not isinstance(inpt, (tv_tensors.BoundingBoxes, tv_tensors.Mask))
        value = (round(fill * 255) if inpt.dtype == torch.uint8 else fill) if is_image else 0.0
        return v2.functional.affine(inpt, **params, interpolation=v2.InterpolationMode.NEAREST, fill=value)


@register("cxr_lka")
def cxr_lka(
    *,
    input_spec: InputSpec,
    degrees: float = 10.0,
    translate: float = 0.05,
    scale: tuple[float, float] = (0.95, 1.05),
    before_resize: bool = False,
) -> nn.Module:
    """Resize, then rotate, shift and zoom, black outside: QUST-SmartData/CXRClassification.

    Parameters
    ----------
    input_spec : InputSpec
        The model's input.
    degrees : float
        Largest rotation, both ways.
    translate : float
        Largest shift, as a share of the side.
    scale : (float, float)
        Zoom.
    before_resize : bool
        Change the file's own pixels instead, and then resize, as the original does: slower, and nearly the same.
    """
    affine, resize = _Affine(degrees, (translate, translate), tuple(scale), fill=0.0), Resize(input_spec)
    return _chain(affine, resize) if before_resize else _chain(resize, affine)


@register("zoogzog")
@register("ag_cnn")
def zoogzog(
    *,
    input_spec: InputSpec,
    scale: tuple[float, float] = (0.08, 1.0),
    p: float = 0.5,
    region_names: Sequence[str] | None = None,
) -> nn.Module:
    """Random crop of a share `scale` of the area, resized, then mirrored with probability p: zoogzog/chexnet.

    And the AG-CNN paper, which resizes to 256 x 256 before.

    Parameters
    ----------
    input_spec : InputSpec
        The model's input.
    scale : (float, float)
        Shares of the area.
    p : float
        How often it is mirrored, from 0 to 1.
    region_names : sequence of str, optional
        As for "chexnet".
    """
    return _chain(v2.RandomResizedCrop(input_spec.size, tuple(scale), antialias=True), Mirror(p, region_names))


@register("jaydurant")
def seed(*, input_spec: InputSpec, degrees: tuple[float, float] = (0.0, 180.0), p: float = 0.5) -> nn.Module:
    """Resize, rotate by a uniform angle (black corners), invert the greys with probability p: the PadChest/OpenI seed.

    Kept for reproduction: an upside-down or negative chest image is nothing that a model meets later.

    Parameters
    ----------
    input_spec : InputSpec
        The model's input.
    degrees : (float, float)
        From and to.
    p : float
        How often greys are inverted, from 0 to 1.
    """
    return _chain(Resize(input_spec), v2.RandomRotation(tuple(degrees)), v2.RandomInvert(p))


@register("light")
def light(
    *,
    input_spec: InputSpec,
    degrees: float = 10.0,
    translate: float = 0.05,
    scale: float = 0.1,
    brightness: float = 0.2,
    contrast: float = 0.2,
) -> nn.Module:
    """Resize, then small rotation, shift, zoom, brightness and contrast: a sound default, ours.

    No mirroring, because sides matter in a chest image: the heart's apex and the aortic arch point left.

    Parameters
    ----------
    input_spec : InputSpec
        The model's input.
    degrees : float
        Largest rotation, both ways.
    translate : float
        Largest shift, as a share of the side.
    scale : float
        Zoom by 1 - scale ... 1 + scale.
    brightness, contrast : float
        Factors from 1 - value to 1 + value.
    """
    return _chain(
        Resize(input_spec),
        v2.RandomAffine(degrees, (translate, translate), (1 - scale, 1 + scale), interpolation=_BILINEAR),
        v2.ColorJitter(brightness=brightness, contrast=contrast),
    )
