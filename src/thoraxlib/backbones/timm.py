"""Every timm model as a backbone, on timm's own ``features_only`` engine."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Any

from torch import Tensor, nn

from thoraxlib.backbones.base import Backbone, variant
from thoraxlib.input_spec import IMAGENET_MEAN, IMAGENET_STD, InputSpec
from thoraxlib.registry import OptionError
from thoraxlib.utils.arguments import one_of


class FeatureInfoBackbone(Backbone):
    """Feature maps of a network of timm's ``features_only`` engine, NCHW whatever the network's own layout.

    Parameters
    ----------
    net : nn.Module
        Image -> list of maps, with timm's ``feature_info``.
    in_chans : int
        Channels of the image.
    """

    def __init__(self, net: Any, in_chans: int) -> None:
        from timm.layers import Format

        super().__init__()
        self.net = net
        self.in_chans = in_chans
        self.channels = tuple(net.feature_info.channels())
        self.strides = tuple(int(stride) for stride in net.feature_info.reduction())
        self._channels_last_maps = getattr(net, "output_fmt", None) == Format.NHWC

    def forward(self, x: Tensor) -> list[Tensor]:
        """Compute the feature maps of `x`, finest first, (N, C_i, H_i, W_i)."""
        maps: list[Tensor] = self.net(x)
        return [m.permute(0, 3, 1, 2) for m in maps] if self._channels_last_maps else list(maps)

    def checkpoint_keys(self, keys: Iterable[str]) -> dict[str, str]:
        """Undo how timm renames keys: ``features.conv0`` -> ``features_conv0``, or one level more."""
        by_own: dict[str, str] = {}
        for key in keys:
            by_own[f"net.model.{key}"] = key
            by_own[f"net.{key.replace('.', '_', 1)}"] = key
            by_own[f"net.{key}"] = key
        return {own: by_own[own] for own in self.state_dict() if own in by_own}


def published_input(timm_name: str) -> InputSpec:
    """Return size, mean and standard deviation that timm records for the weights of a model, by default ImageNet's."""
    import timm

    config = timm.models.get_pretrained_cfg(timm_name, allow_unregistered=True)
    if config is None:
        return InputSpec()
    channels, *size = config.input_size
    mean, std = config.mean or IMAGENET_MEAN, config.std or IMAGENET_STD
    return InputSpec(size=(size[0], size[1]), channels=channels, mean=mean, std=std)


class TimmBackbone(FeatureInfoBackbone):
    """Feature maps of a timm model.

    Parameters
    ----------
    timm_name : str
        A timm model name, with or without the tag of its weights (``"resnet50.a1_in1k"``).
    in_chans : int
        Channels of the image; timm adapts pretrained first layers (sum over colours for 1 channel).
    pretrained : bool
        Load timm's weights (downloaded by timm and cached).
    img_size : int or (int, int), optional
        Input size, used only by models with a fixed one (plain and windowed transformers).
    **options
        Further options of the timm model, e.g. ``drop_path_rate``, ``output_stride``, ``out_indices``.

    Raises
    ------
    OptionError
        The model does not accept one of the `options`.
    ValueError
        The model has no feature maps.
    RuntimeError
        Pretrained weights could not be loaded (offline, or none are published).
    """

    def __init__(
        self,
        timm_name: str,
        *,
        in_chans: int = 3,
        pretrained: bool = False,
        img_size: int | tuple[int, int] | None = None,
        **options: Any,
    ) -> None:
        import timm

        if not isinstance(in_chans, int) or in_chans < 1:
            raise ValueError(f"in_chans must be a positive int, got {in_chans!r}")
        if "checkpoint_path" in options:  # timm may unpickle it, and a saved model's config could name one
            raise OptionError("backbones: checkpoint_path is not accepted; thoraxlib.load_checkpoint loads files")
        config = timm.models.get_pretrained_cfg(timm_name, allow_unregistered=True)
        if img_size is not None and config is not None and config.fixed_input_size:
            options["img_size"] = img_size
        options |= {"features_only": True, "in_chans": in_chans}
        try:
            net = timm.create_model(timm_name, pretrained=pretrained, **options)
        except TypeError as error:
            if "unexpected keyword argument" not in str(error):
                raise
            raise OptionError(f"backbones: timm model {timm_name!r}: {error}") from error
        except Exception as error:
            if pretrained:
                raise RuntimeError(
                    f"backbones: pretrained weights of timm model {timm_name!r} could not be loaded "
                    f"({type(error).__name__}: {error}). They are downloaded on first use: is this machine online, "
                    "and does timm publish weights under this name? Build with pretrained=False to do without."
                ) from error
            raise ValueError(
                f"backbones: timm model {timm_name!r} yields no feature maps ({type(error).__name__}: {error})"
            ) from error
        super().__init__(net, in_chans)
        self.input_spec = published_input(timm_name).with_channels(in_chans)


class DenseNetBackbone(TimmBackbone):
    """A timm DenseNet; the options do not change its parameters.

    Parameters
    ----------
    timm_name : str
        ``"densenet121"``, ``"densenet169"``, ...
    output_stride : {32, 16, 8, 4}
        Stride of the last map. Below 32, the last transitions do not pool: heat maps are finer and take more time.
    dilated : bool
        Dilate the 3x3 convolutions after a transition that does not pool (as in DeepLab), so that weights trained at
        stride 32 still fit. False keeps them as they are, with a smaller receptive field: for training from scratch on
        small images.
    final_act : bool
        Keep the ReLU after the last norm, as timm and torchvision do; False removes it.
    **options
        As for :class:`thoraxlib.backbones.TimmBackbone`.
    """

    def __init__(
        self, timm_name: str, *, output_stride: int = 32, dilated: bool = True, final_act: bool = True, **options: Any
    ) -> None:
        one_of("output_stride", output_stride, (32, 16, 8, 4))
        super().__init__(timm_name, **options)
        if not final_act:
            list(self.net.children())[-1].act = nn.Identity()
        self.strides = tuple(min(stride, output_stride) for stride in self.strides)
        stride, dilation = 4, 1  # after the stem
        for name, stage in self.net.named_children():
            if "transition" in name:
                stride *= 2
                if stride > output_stride:
                    stage.pool = nn.Identity()
                    dilation *= 2 if dilated else 1
            elif "denseblock" in name and dilation > 1:
                for module in stage.modules():
                    if isinstance(module, nn.Conv2d) and module.kernel_size == (3, 3):
                        module.dilation = module.padding = (dilation, dilation)


class EfficientNetBackbone(TimmBackbone):
    """A timm EfficientNet.

    Parameters
    ----------
    timm_name : str
        ``"efficientnet_b0"``, ``"tf_efficientnet_b0"``, ...
    conv_head : bool
        Add the 1x1 convolution after the last map (320 to 1280 channels for B0); its output is what the network's own
        classifier pools. False leaves it out, as timm's ``features_only`` does.
    **options
        As for :class:`thoraxlib.backbones.TimmBackbone`.
    """

    def __init__(self, timm_name: str, *, conv_head: bool = False, **options: Any) -> None:
        super().__init__(timm_name, **options)
        self.tail = nn.Sequential()
        if conv_head:
            import timm

            options.pop("img_size", None)
            whole: Any = timm.create_model(timm_name, **options)
            self.tail = nn.Sequential(OrderedDict(conv_head=whole.conv_head, bn2=whole.bn2))
            self.channels = (*self.channels[:-1], whole.num_features)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Compute the feature maps of `x`, finest first, (N, C_i, H_i, W_i)."""
        maps = super().forward(x)
        return [*maps[:-1], self.tail(maps[-1])]

    def checkpoint_keys(self, keys: Iterable[str]) -> dict[str, str]:
        """Map the keys of :class:`TimmBackbone`, and those of the last convolution and norm."""
        keys = set(keys)
        tail = {f"tail.{name}": name for name in self.tail.state_dict() if name in keys}
        return super().checkpoint_keys(keys) | tail


class TimmSource:
    """Source of the registry: every timm model name is a backbone name."""

    def names(self) -> Iterable[str]:
        """List every architecture of timm."""
        import timm

        return list(timm.list_models())

    def find(self, name: str) -> Callable[..., Backbone] | None:
        """Return a factory for the timm model `name`, or None if timm does not have it."""
        import timm

        if not timm.is_model(name):
            return None
        kinds = {"densenet": DenseNetBackbone, "efficientnet": EfficientNetBackbone}
        kind = next((kinds[key] for key in kinds if timm.models.is_model_in_modules(name, [key])), TimmBackbone)
        factory: Callable[..., Backbone] = variant(f"The timm model ``{name}`` as a feature pyramid.", kind, name)
        vars(factory).update(input_spec=published_input(name))
        return factory
