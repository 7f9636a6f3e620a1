"""Every timm model as a backbone, on timm's own ``features_only`` engine."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from torch import Tensor

from thoraxlib.backbones.base import Backbone
from thoraxlib.registry import OptionError

__all__ = ["TimmBackbone", "TimmSource"]


class TimmBackbone(Backbone):
    """Feature maps of a timm model, NCHW whatever the model's own layout.

    Parameters
    ----------
    timm_name : str
        A timm model name, with or without the tag of its weights (``"resnet50.a1_in1k"``).
    in_chans : int
        Channels of the image; timm adapts pretrained first layers (sum over colours for 1 channel).
    pretrained : bool
        Load timm's weights (downloaded by timm and cached).
    img_size : int or (int, int), optional
        Input size for models with a fixed one (plain and windowed transformers); others need none.
    **options
        Further options of the timm model, e.g. ``drop_path_rate``, ``output_stride``, ``out_indices``.

    Raises
    ------
    OptionError
        The model does not accept one of the `options`.
    ValueError
        The model yields no feature maps.
    RuntimeError
        Pretrained weights could not be had (offline, or none are published).
    """

    net: Any

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
        from timm.layers import Format

        super().__init__()
        if not isinstance(in_chans, int) or in_chans < 1:
            raise ValueError(f"in_chans must be a positive int, got {in_chans!r}")
        if "checkpoint_path" in options:  # timm may unpickle it, and a saved model's config could name one
            raise OptionError("backbones: checkpoint_path is not accepted; thoraxlib.load_checkpoint loads files")
        config = timm.models.get_pretrained_cfg(timm_name, allow_unregistered=True)
        if img_size is not None and config is not None and config.fixed_input_size:
            options["img_size"] = img_size
        try:
            self.net = timm.create_model(
                timm_name, pretrained=pretrained, features_only=True, in_chans=in_chans, **options
            )
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
        self.in_chans = in_chans
        self.channels = tuple(self.net.feature_info.channels())
        self.strides = tuple(int(stride) for stride in self.net.feature_info.reduction())
        self._channels_last_maps = getattr(self.net, "output_fmt", None) == Format.NHWC

    def forward(self, x: Tensor) -> list[Tensor]:
        """Feature maps of `x`, finest first, (N, C_i, H_i, W_i)."""
        maps: list[Tensor] = self.net(x)
        return [m.permute(0, 3, 1, 2) for m in maps] if self._channels_last_maps else list(maps)

    def checkpoint_keys(self, keys: Iterable[str]) -> dict[str, str]:
        """Undo how timm flattens one ``nn.Sequential`` level (``features.conv0`` -> ``features_conv0``) or nests."""
        by_own: dict[str, str] = {}
        for key in keys:
            by_own[f"net.model.{key}"] = key
            by_own[f"net.{key.replace('.', '_', 1)}"] = key
            by_own[f"net.{key}"] = key
        return {own: by_own[own] for own in self.state_dict() if own in by_own}


class TimmSource:
    """Makes every timm model name a backbone name."""

    def names(self) -> Iterable[str]:
        """Every architecture that timm knows."""
        import timm

        return list(timm.list_models())

    def find(self, name: str) -> Callable[..., Backbone] | None:
        """A factory for the timm model `name`, or None."""
        import timm

        if not timm.is_model(name):
            return None
        if timm.models.is_model_in_modules(name, ["densenet"]):
            from thoraxlib.backbones.densenet import DenseNetBackbone

            return _Factory(DenseNetBackbone, name)
        if timm.models.is_model_in_modules(name, ["efficientnet"]):
            from thoraxlib.backbones.efficientnet import EfficientNetBackbone

            return _Factory(EfficientNetBackbone, name)
        return _Factory(TimmBackbone, name)


class _Factory(partial[TimmBackbone]):
    """A backbone class with the timm name filled in, and a docstring for ``describe``."""

    def __new__(cls, backbone: type[TimmBackbone], name: str) -> _Factory:
        self = super().__new__(cls, backbone, name)
        self.__doc__ = f"The timm model ``{name}`` as a feature pyramid.\n\n{inspect.getdoc(backbone)}"
        self.__module__ = backbone.__module__
        return self
