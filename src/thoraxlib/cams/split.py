"""Adapters that let heat maps explain an inner layer of a network, or one of several feature maps."""

from __future__ import annotations

import copy
import difflib
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn

from thoraxlib.localization.crops import paste
from thoraxlib.utils.modes import eval_view, shared_copy

_COMPILED = "_orig_mod."  # in names of modules wrapped by torch.compile


class Split:
    """A network split behind one of its layers, for :func:`thoraxlib.cams.build`.

    ``forward_features`` returns the layer's output, ``forward_head`` the logits computed from it. The network runs
    once, without gradients up to the layer and with gradients behind it. A forward hook reads or replaces the layer's
    output. It is registered on a copy of the network in eval mode that shares its weights, made for each run. The
    object stores the last run, so each call uses its own (:meth:`for_call`).

    Parameters
    ----------
    model : nn.Module
        Network from images to logits (N, K).
    layer : str
        Dotted name of one of its modules, as in ``model.named_modules()``. If it runs several times, the last run
        counts. Modules compiled by ``torch.compile`` run as they were before, and keep their names.
    num_prefix_tokens : int, optional
        Number of tokens before the patch tokens (class token, registers), if the layer gives tokens and the model has
        no such attribute, as timm's models have.

    Raises
    ------
    ValueError
        No such layer (the message lists similar names); `num_prefix_tokens` below 0.

    Examples
    --------
    >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    >>> from thoraxlib import cams
    >>> cams.build("gradcam", Split(net, "1"))(torch.randn(1, 3, 8, 8)).shape
    torch.Size([1, 2, 6, 6])
    """

    def __init__(self, model: nn.Module, layer: str, *, num_prefix_tokens: int | None = None) -> None:
        layer = layer.replace(_COMPILED, "")
        names = [name for path, _ in model.named_modules() if (name := f"{path}.".replace(_COMPILED, "")[:-1])]
        if layer not in names:
            close = difflib.get_close_matches(layer, names, n=3, cutoff=0.4) or names[:20]
            raise ValueError(f"{type(model).__name__} has no layer {layer!r}; did you mean one of {close}?")
        if num_prefix_tokens is not None and num_prefix_tokens < 0:
            raise ValueError(f"num_prefix_tokens={num_prefix_tokens}: at least 0 is needed")
        self.model, self.layer, self._prefix = model, layer, num_prefix_tokens
        # of the last run: the network's copy, images, the layer's output as a leaf, and logits that depend on it
        self._run: tuple[nn.Module, Tensor, Tensor, Tensor] | None = None

    def for_call(self) -> Split:
        """Return a copy for the runs of one call."""
        return copy.copy(self)

    def forward_features(self, x: Tensor) -> Tensor:
        """Return the layer's output for images (N, C, H, W), detached.

        Raises
        ------
        ValueError
            The layer does not run for these images, or the model's output is not logits (N, K).
        """
        kept: list[Tensor] = []

        def keep(output: Tensor) -> Tensor:
            kept.append(output.detach().requires_grad_())
            torch.set_grad_enabled(True)
            return kept[-1].clone()  # the next operation may work in place

        x, net = x.clone() if x.is_inference() else x, shared_copy(self.model)
        # no_grad restores the caller's mode at the end, although the hook changes it
        with torch.no_grad(), self._hooked(net, keep):
            logits = net(x)
        if not kept:
            raise ValueError(f"layer {self.layer!r} of {type(self.model).__name__} does not run for these images")
        if not isinstance(logits, Tensor) or logits.ndim != 2:
            given = f"a tensor {tuple(logits.shape)}" if isinstance(logits, Tensor) else type(logits).__name__
            raise ValueError(f"{type(self.model).__name__} must give logits (N, K), got {given}")
        self._run = net, x, kept[-1], logits
        return kept[-1].detach()

    def graph(self) -> tuple[Tensor, Tensor]:
        """Return the layer's output as a leaf of the last run's graph, and the logits that depend on it."""
        assert self._run is not None
        return self._run[2:]

    def forward_head(self, features: Tensor) -> Tensor:
        """Rerun the network on the last N images, repeated M times, with the layer's output replaced by `features`.

        `features` are (M * N, ...); the result are logits (M * N, K).
        """
        assert self._run is not None
        net, x = self._run[:2]
        times = len(features) // max(len(x), 1)
        with self._hooked(net, lambda output: features.to(output.dtype).clone()):
            logits: Tensor = net(x.repeat(times, *[1] * (x.ndim - 1)))
        return logits

    def _hooked(self, net: nn.Module, replace: Callable[[Tensor], Tensor]) -> AbstractContextManager[Any]:
        def hook(module: nn.Module, args: Any, output: Any) -> Tensor:
            if not isinstance(output, Tensor) or not output.is_floating_point():
                raise ValueError(f"layer {self.layer!r} gives {type(output).__name__}, not a map; name another layer")
            return replace(output)

        return net.get_submodule(self.layer).register_forward_hook(hook)

    def __getattr__(self, name: str) -> Any:
        if name == "num_prefix_tokens" and self._prefix is not None:
            return self._prefix
        # attributes of the network that heat maps may use; never its own head
        if name in ("labels", "parameters", "patch_embed", "num_prefix_tokens", "output_fmt"):
            return getattr(self.model, name)
        raise AttributeError(name)

    def __call__(self, x: Tensor) -> Tensor:
        """Logits of images, in eval mode."""
        net = eval_view(self.model) if self._run is None else self._run[0]
        logits: Tensor = net(x)
        return logits


class Stage:
    """``forward_features`` and ``forward_head`` for one of several feature maps (``maps``) of a network.

    The other maps keep their values, although later ones were computed from it. The object stores the features of the
    last images, so each call uses its own (:meth:`for_call`).

    Parameters
    ----------
    model : nn.Module
        Its ``forward_features`` returns a NamedTuple with ``maps``, and perhaps other batched tensors. If a map covers
        only a part of the image, ``model.window(features, stage)`` returns the part's edges (N, 4), else None; its
        ``logit_maps`` then has an option ``stage``.
    stage : int
        Index of the map.
    """

    def __init__(self, model: Any, stage: int = -1) -> None:
        self.model, self.stage = model, stage
        self._window = getattr(model, "window", None)
        self._features: Any = None

    def for_call(self) -> Stage:
        """Return an object for one call, with the model in eval mode."""
        return Stage(eval_view(self.model), self.stage)

    def forward_features(self, x: Tensor) -> Tensor:
        """Return the map (N, C, h, w) of images.

        Raises
        ------
        ValueError
            The model has no such map.
        """
        self._features = self.model.forward_features(x)
        maps = self._features.maps
        if not -len(maps) <= self.stage < len(maps):
            raise ValueError(f"target={self.stage}: {type(self.model).__name__} has {len(maps)} maps")
        chosen: Tensor = maps[self.stage]
        return chosen

    def forward_head(self, features: Tensor) -> Tensor:
        """Logits of the last N images, repeated M times, with this map replaced by `features` (M * N, C, h, w)."""
        logits: Tensor = self.model.forward_head(self._with(features))
        return logits

    def logit_maps(self, features: Tensor, *, bias: bool = True) -> Tensor:
        """Return the model's per-location logits, with `features` as this map."""
        options = {} if self._window is None else {"stage": self.stage}
        maps: Tensor = self.model.logit_maps(self._with(features), bias=bias, **options)
        return maps

    def in_image(self, maps: Tensor, size: tuple[int, int], images: Tensor | None = None) -> Tensor:
        """Paste maps (M, K, h, w) into the whole images of `size` (H, W): (M, K, H, W).

        Maps that cover the whole image are returned unchanged. `images`, int64 (M,), is the index of each map's image;
        default one map for each image.
        """
        window = None if self._window is None else self._window(self._features, self.stage)
        if window is None:
            return maps
        return paste(maps, window if images is None else window[images], size)

    def _with(self, features: Tensor) -> Any:
        times = len(features) // max(len(self._features.maps[self.stage]), 1)

        def repeated(part: Any) -> Any:
            if isinstance(part, Tensor):
                return part.to(features.dtype).repeat(times, *[1] * (part.ndim - 1))
            return [repeated(one) for one in part] if isinstance(part, (list, tuple)) else part

        with torch.no_grad():
            whole = type(self._features)(*(repeated(part) for part in self._features))
        whole.maps[self.stage] = features
        return whole

    def __call__(self, x: Tensor) -> Tensor:
        """Logits of images."""
        logits: Tensor = self.model(x)
        return logits

    def __getattr__(self, name: str) -> Any:
        if name in ("labels", "parameters"):
            return getattr(self.model, name)
        raise AttributeError(name)
