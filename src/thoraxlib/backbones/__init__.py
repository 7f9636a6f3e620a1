"""Backbones: image -> list of feature maps, fine to coarse.

Every timm model with feature maps is a backbone under its timm name, and one in timm's format on the Hub or in a folder
as ``"hf_hub:owner/repository"`` or ``"local-dir:/path"``. Backbones trained on radiographs, such as ``"rad-dino"``, are
called as in the catalogue of weights. timm does not have AlexNet and GoogLeNet; those of torchvision are registered
here, with networks that only published code has.
"""

from collections.abc import Mapping
from dataclasses import replace

from thoraxlib.backbones.base import Backbone, check_backbone
from thoraxlib.backbones.published import PublishedSource
from thoraxlib.backbones.timm import TimmBackbone, TimmSource
from thoraxlib.input_spec import InputSpec
from thoraxlib.registry import Registry, Spec

__all__ = [
    "Backbone",
    "TimmBackbone",
    "build",
    "check_backbone",
    "default_input",
    "describe",
    "for_input",
    "model_input",
    "names",
    "register",
    "registry",
]

registry: Registry[Backbone] = Registry(
    "backbones",
    sources=[PublishedSource(), TimmSource()],
    modules=[
        f"thoraxlib.backbones.{name}" for name in ("torchvision", "x_ray", "van", "vanillanet", "efficientnet_lite")
    ],
)
build, register, names, describe = registry.build, registry.register, registry.names, registry.describe


def default_input(backbone: Spec | Backbone, in_chans: int = 3) -> InputSpec:
    """Return the input that a backbone's published weights expect: size, mean and standard deviation.

    Parameters
    ----------
    backbone : str, mapping or Backbone
        A name, ``{"name": ..., **options}`` (its option `img_size` is the size), or a ready backbone.
    in_chans : int
        Channels of the images, unless the backbone says its own; grey images get the average of the statistics.

    Returns
    -------
    InputSpec
        For names of timm: what timm records. By default, 224 x 224 pixels and ImageNet's statistics.

    Raises
    ------
    UnknownNameError
        No such backbone.

    Examples
    --------
    >>> default_input("vit_base_patch14_dinov2").size
    (518, 518)
    >>> default_input("van_b0", in_chans=1).mean
    (0.5,)
    >>> default_input("rad-dino").mean
    (0.5307, 0.5307, 0.5307)
    """
    if not isinstance(backbone, (str, Mapping)):
        spec: InputSpec = getattr(backbone, "input_spec", InputSpec())
        return spec.with_channels(getattr(backbone, "in_chans", in_chans))
    name, options = registry.split_spec(backbone)
    spec = getattr(registry.factory(name), "input_spec", InputSpec())
    spec = spec.with_channels(options.get("in_chans", in_chans))
    return replace(spec, size=options["img_size"]) if options.get("img_size") is not None else spec


def model_input(backbone: Spec | Backbone, in_chans: int = 3) -> InputSpec:
    """Return the default input of a model for any backbone: a catalogue backbone's own, else ImageNet's.

    Parameters
    ----------
    backbone : str, mapping or Backbone
        See :func:`default_input`.
    in_chans : int
        Channels of the images.
    """
    spec = backbone if isinstance(backbone, (str, Mapping)) else getattr(backbone, "registry_spec", {"name": ""})
    if registry.split_spec(spec)[0] in PublishedSource().names():
        return default_input(backbone, in_chans)
    return InputSpec().with_channels(in_chans)


def for_input(backbone: Spec | Backbone, spec: InputSpec, *, pretrained: bool = False) -> Backbone:
    """Build a backbone for a model's input from a name or a mapping.

    Parameters
    ----------
    backbone : str, mapping or Backbone
        A ready backbone is returned unchanged; the other two arguments are then ignored.
    spec : InputSpec
        The model's input: its channels, and its size for backbones with a fixed input size.
    pretrained : bool
        Load ImageNet weights.

    Raises
    ------
    TypeError
        The component is no backbone; see :func:`check_backbone`.
    """
    network = registry.resolve(backbone, in_chans=spec.channels, pretrained=pretrained, img_size=spec.size)
    check_backbone(network)
    return network
