"""Backbones: image -> list of feature maps, fine to coarse.

Every timm model with feature maps is a backbone under its timm name. timm does not have AlexNet and GoogLeNet; those of
torchvision are registered here, with networks that only published code has.
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
    modules=[f"thoraxlib.backbones.{name}" for name in ("torchvision", "x_ray", "van", "vanillanet")],
)
build, register, names, describe = registry.build, registry.register, registry.names, registry.describe


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
