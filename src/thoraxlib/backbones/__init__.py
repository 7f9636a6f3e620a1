"""Backbones: image -> list of feature maps, fine to coarse.

Every timm model that yields feature maps is a backbone under its timm name; torchvision's AlexNet and
GoogLeNet, which timm lacks, are registered here.
"""

from thoraxlib.backbones.base import Backbone, check_backbone
from thoraxlib.backbones.timm import TimmBackbone, TimmSource
from thoraxlib.input_spec import InputSpec
from thoraxlib.registry import Registry, Spec

__all__ = [
    "Backbone",
    "TimmBackbone",
    "build",
    "check_backbone",
    "describe",
    "for_input",
    "names",
    "register",
    "registry",
]

registry: Registry[Backbone] = Registry(
    "backbones",
    sources=[TimmSource()],
    modules=[f"thoraxlib.backbones.{name}" for name in ("torchvision", "x_ray", "van", "dense_van", "vanillanet")],
)
build, register, names, describe = registry.build, registry.register, registry.names, registry.describe


def for_input(backbone: Spec | Backbone, spec: InputSpec, *, pretrained: bool = False) -> Backbone:
    """The backbone that a name, a mapping or a ready module stands for, for a model's input.

    Parameters
    ----------
    backbone : str, mapping or Backbone
        A ready one stays as it is, whatever the other two say.
    spec : InputSpec
        Its channels, and its size for those that are made for one.
    pretrained : bool
        ImageNet weights.

    Raises
    ------
    TypeError
        See :func:`check_backbone`.
    """
    network = registry.resolve(backbone, in_chans=spec.channels, pretrained=pretrained, img_size=spec.size)
    check_backbone(network)
    return network
