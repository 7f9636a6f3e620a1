"""Augmentations for training, each named after the paper or repository that it comes from.

An augmentation is a factory ``(input_spec: InputSpec, **options) -> transform``. The transform takes a grey image
(uint8, or float in [0, 1]), alone or in a sample with boxes and masks, from the file's size to the model's size.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torchvision import tv_tensors
from torchvision.transforms import v2

from thoraxlib.images.resize import Resize
from thoraxlib.input_spec import InputSpec
from thoraxlib.labels import mirrored
from thoraxlib.registry import Registry

registry: Registry[nn.Module] = Registry("images.augmentations")
build, register, names, describe = registry.build, registry.register, registry.names, registry.describe

_BILINEAR = v2.InterpolationMode.BILINEAR


@register("none")
def none(*, input_spec: InputSpec) -> nn.Module:
    """Resize only, by the model's own resize rule.

    Parameters
    ----------
    input_spec : InputSpec
        The model's input.
    """
    return Resize(input_spec)


@register("chexnet")
@register("jrzech")
@register("x_ray")
def flip(*, input_spec: InputSpec, p: float = 0.5, region_names: Sequence[str] | None = None) -> nn.Module:
    """Resize, then mirror left and right: CheXNet paper, jrzech/reproduce-chexnet and alinstein/X_RAY.

    The colour jitter of X_RAY has strengths of 0, so it is left out. Mirroring swaps the patient's sides: see
    :class:`Mirror`. Labels and masks that name a side keep their name.

    Parameters
    ----------
    input_spec : InputSpec
        The model's input.
    p : float
        Probability of mirroring, from 0 to 1.
    region_names : sequence of str, optional
        Names of the rows of ``regions``; needed for samples that have them.
    """
    return nn.Sequential(Resize(input_spec), Mirror(p, region_names))


@register("jfhealthcare")
def jfhealthcare(
    *,
    input_spec: InputSpec,
    degrees: float = 15.0,
    translate: float = 0.05,
    scale: tuple[float, float] = (0.95, 1.05),
    fill: float = 128 / 255,
) -> nn.Module:
    """Rotate, shift and zoom the file's own pixels, then resize by `input_spec`: jfhealthcare/Chexpert.

    Parameters
    ----------
    input_spec : InputSpec
        The model's input.
    degrees : float
        Largest rotation in degrees, in both directions.
    translate : float
        Largest shift, as a fraction of the side.
    scale : (float, float)
        Range of the zoom factor.
    fill : float
        Grey value outside of the image, from 0 to 1.
    """
    return nn.Sequential(_Affine(degrees, (translate, translate), tuple(scale), fill=fill), Resize(input_spec))


@register("cxr_lka")
def cxr_lka(
    *, input_spec: InputSpec, degrees: float = 10.0, translate: float = 0.05, scale: tuple[float, float] = (0.95, 1.05)
) -> nn.Module:
    """Resize, then rotate, shift and zoom, with black outside of the image: QUST-SmartData/CXRClassification.

    The original transforms the file's own pixels and resizes afterwards, which is slower and gives nearly the same
    result: ``{"name": "jfhealthcare", "degrees": 10, "fill": 0}`` does that.

    Parameters
    ----------
    input_spec : InputSpec
        The model's input.
    degrees : float
        Largest rotation in degrees, in both directions.
    translate : float
        Largest shift, as a fraction of the side.
    scale : (float, float)
        Range of the zoom factor.
    """
    return nn.Sequential(Resize(input_spec), _Affine(degrees, (translate, translate), tuple(scale), fill=0.0))


@register("zoogzog")
@register("ag_cnn")
def zoogzog(
    *,
    input_spec: InputSpec,
    scale: tuple[float, float] = (0.08, 1.0),
    p: float = 0.5,
    region_names: Sequence[str] | None = None,
) -> nn.Module:
    """Crop a random part, resize it, then mirror left and right: zoogzog/chexnet and the AG-CNN paper.

    The AG-CNN paper resizes images to 256 x 256 before that.

    Parameters
    ----------
    input_spec : InputSpec
        The model's input.
    scale : (float, float)
        Range of the crop's area, as a fraction of the image's area.
    p : float
        Probability of mirroring, from 0 to 1.
    region_names : sequence of str, optional
        Names of the rows of ``regions``; needed for samples that have them.
    """
    return nn.Sequential(v2.RandomResizedCrop(input_spec.size, tuple(scale), antialias=True), Mirror(p, region_names))


@register("jaydurant")
def jaydurant(*, input_spec: InputSpec, degrees: tuple[float, float] = (0.0, 180.0), p: float = 0.5) -> nn.Module:
    """Resize, rotate by a random angle (black corners), then invert the greys: jaydurant's PadChest and Open-i code.

    For reproduction only: no model is given upside-down or negative radiographs later.

    Parameters
    ----------
    input_spec : InputSpec
        The model's input.
    degrees : (float, float)
        Range of the angle in degrees.
    p : float
        Probability of the inversion, from 0 to 1.
    """
    return nn.Sequential(Resize(input_spec), v2.RandomRotation(tuple(degrees)), v2.RandomInvert(p))


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
    """Resize, then small changes of rotation, shift, zoom, brightness and contrast: the recommended default.

    Images are not mirrored, because sides matter in a radiograph: the heart's apex and the aortic arch are on the left.

    Parameters
    ----------
    input_spec : InputSpec
        The model's input.
    degrees : float
        Largest rotation in degrees, in both directions.
    translate : float
        Largest shift, as a fraction of the side.
    scale : float
        The zoom factor is between 1 - scale and 1 + scale.
    brightness, contrast : float
        The factors are between 1 - value and 1 + value.
    """
    return nn.Sequential(
        Resize(input_spec),
        v2.RandomAffine(degrees, (translate, translate), (1 - scale, 1 + scale), interpolation=_BILINEAR),
        v2.ColorJitter(brightness=brightness, contrast=contrast),
    )


class _Affine(v2.RandomAffine):  # type: ignore[misc]
    """Random affine transform by nearest neighbours; `fill` is a fraction of the image's white."""

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        fill = self.fill
        is_image = not isinstance(inpt, (tv_tensors.BoundingBoxes, tv_tensors.Mask))
        value = (round(fill * 255) if inpt.dtype == torch.uint8 else fill) if is_image else 0.0
        return v2.functional.affine(inpt, **params, interpolation=v2.InterpolationMode.NEAREST, fill=value)


class Mirror(v2.RandomHorizontalFlip):  # type: ignore[misc]
    """Mirror left and right at random, and exchange left and right regions.

    In a sample with ``regions``, the rows of ``regions``, ``present`` and ``region_labels`` that name a side are
    exchanged with the rows of the other side: "right lung" stays the patient's right lung. A region without a row for
    the other side (the right atrium) is lost by mirroring: its box is empty, ``present`` is False and its labels NaN.

    Parameters
    ----------
    p : float
        Probability of mirroring, from 0 to 1.
    region_names : sequence of str, optional
        Region names of the data set; needed for samples with regions.

    Raises
    ------
    ValueError
        `p` is out of range; or, for a sample, `region_names` is missing or has another length than ``regions``.
    """

    def __init__(self, p: float = 0.5, region_names: Sequence[str] | None = None) -> None:
        if not 0 <= p <= 1:
            raise ValueError(f"p={p}: from 0 to 1 is accepted")
        super().__init__(p)
        self.region_names = None if region_names is None else tuple(region_names)

    def forward(self, sample: Any) -> Any:
        """Return a sample or image, mirrored or unchanged; errors: see :class:`Mirror`."""
        if not isinstance(sample, dict) or "regions" not in sample:
            return super().forward(sample)
        if self.region_names is None:
            remedy = "train={'name': ..., 'region_names': dataset.region_names}"
            raise ValueError(f"mirroring would put 'right' regions on the left: the region names are needed, {remedy}")
        rows, names = len(sample["regions"]), len(self.region_names)
        if rows != names:
            raise ValueError(f"the sample has {rows} regions, region_names has {names}")
        flipped = super().forward(sample)
        return sample if flipped is sample else self._exchanged(flipped)

    def _exchanged(self, sample: dict[str, Any]) -> dict[str, Any]:
        rows = mirrored(self.region_names or ())
        lost = [row is None for row in rows]
        empty: dict[str, float | bool] = {"regions": 0.0, "present": False, "region_labels": float("nan")}
        changed = {}
        for key in empty.keys() & sample.keys():
            value = sample[key].as_subclass(Tensor)[[row or 0 for row in rows]]
            value[lost] = empty[key]
            changed[key] = tv_tensors.wrap(value, like=sample[key]) if key == "regions" else value
        return {**sample, **changed}
