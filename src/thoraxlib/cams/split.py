"""Any network, cut behind one of its layers."""

from __future__ import annotations

import copy
import difflib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from thoraxlib.utils.modes import eval_view, shared_copy

_COMPILED = "_orig_mod."  # in names of what torch.compile wraps


def split(model: nn.Module, layer: str, *, num_prefix_tokens: int | None = None) -> Split:
    """`model` cut behind `layer`, as :func:`thoraxlib.cams.build` takes it.

    Parameters
    ----------
    model : nn.Module
        Images to logits (N, K).
    layer : str
        Dotted name of a module in it, as in ``model.named_modules()``. Of several runs of it, the last counts. Modules
        compiled by ``torch.compile`` run as they were before, and have their names.
    num_prefix_tokens : int, optional
        Tokens in front of the patches' (a class token, registers), where the layer gives tokens and the model does not
        tell, as timm's do.

    Raises
    ------
    ValueError
        No such layer; the message has the closest ones. `num_prefix_tokens` below 0.

    Examples
    --------
    >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    >>> from thoraxlib import cams
    >>> cams.build("gradcam", split(net, "1"))(torch.randn(1, 3, 8, 8)).shape
    torch.Size([1, 2, 6, 6])
    """
    return Split(model, layer, num_prefix_tokens)


class Split:
    """A network as ``forward_features`` (up to a layer's output) and ``forward_head`` (from there to the logits).

    The network runs once, without gradients up to the layer and with them behind it. A forward hook reads the layer's
    output or puts another in its place; it is on a copy of the network in eval mode that shares its weights, made for
    each run. The last run is kept, so each call has an object of its own (:meth:`for_call`). See :func:`split`.
    """

    def __init__(self, model: nn.Module, layer: str, num_prefix_tokens: int | None = None) -> None:
        layer = layer.replace(_COMPILED, "")
        names = [name for path, _ in model.named_modules() if (name := f"{path}.".replace(_COMPILED, "")[:-1])]
        if layer not in names:
            close = difflib.get_close_matches(layer, names, n=3, cutoff=0.4) or names[:20]
            raise ValueError(f"{type(model).__name__} has no layer {layer!r}; did you mean one of {close}?")
        if num_prefix_tokens is not None and num_prefix_tokens < 0:
            raise ValueError(f"num_prefix_tokens={num_prefix_tokens}: at least 0 is needed")
        self.model, self.layer, self._prefix = model, layer, num_prefix_tokens
        self._run: _Run | None = None

    def for_call(self) -> Split:
        """Return an object of the same network and layer, for the runs of one call."""
        return copy.copy(self)

    def forward_features(self, x: Tensor) -> Tensor:
        """The layer's output for images (N, C, H, W), detached.

        Raises
        ------
        ValueError
            The layer does not run for these images, or the model's output is no logits (N, K).
        """
        kept: list[Tensor] = []

        def keep(output: Tensor) -> Tensor:
            kept.append(output.detach().requires_grad_())
            torch.set_grad_enabled(True)
            return kept[-1].clone()  # what follows may work in place

        x, net = x.clone() if x.is_inference() else x, shared_copy(self.model)
        # no_grad gives the caller's mode back, whatever it was set to in between
        with torch.no_grad(), self._hooked(net, keep):
            logits = net(x)
        if not kept:
            raise ValueError(f"layer {self.layer!r} of {type(self.model).__name__} does not run for these images")
        if not isinstance(logits, Tensor) or logits.ndim != 2:
            given = f"a tensor {tuple(logits.shape)}" if isinstance(logits, Tensor) else type(logits).__name__
            raise ValueError(f"{type(self.model).__name__} must give logits (N, K), got {given}")
        self._run = _Run(net, x, kept[-1], logits)
        return kept[-1].detach()

    def graph(self) -> tuple[Tensor, Tensor]:
        """The layer's output as a leaf of the last run's graph, and the logits that depend on it."""
        assert self._run is not None
        return self._run.leaf, self._run.logits

    def forward_head(self, features: Tensor) -> Tensor:
        """Logits with `features` (M * N, ...) as the layer's output for the last images, M times over.

        The network runs again, from the images on.
        """
        assert self._run is not None
        net, x = self._run[:2]
        times = len(features) // max(len(x), 1)
        with self._hooked(net, lambda output: features.to(output.dtype).clone()):
            logits: Tensor = net(x.repeat(times, *[1] * (x.ndim - 1)))
        return logits

    @contextmanager
    def _hooked(self, net: nn.Module, replace: Callable[[Tensor], Tensor]) -> Iterator[None]:
        def hook(module: nn.Module, args: Any, output: Any) -> Tensor:
            if not isinstance(output, Tensor) or not output.is_floating_point():
                raise ValueError(f"layer {self.layer!r} gives {type(output).__name__}, not a map; name another layer")
            return replace(output)

        handle = net.get_submodule(self.layer).register_forward_hook(hook)
        try:
            yield
        finally:
            handle.remove()

    def __getattr__(self, name: str) -> Any:
        if name == "num_prefix_tokens" and self._prefix is not None:
            return self._prefix
        # what a heat map may ask of the network itself; never its own head
        if name in ("labels", "parameters", "patch_embed", "num_prefix_tokens", "output_fmt"):
            return getattr(self.model, name)
        raise AttributeError(name)

    def __call__(self, x: Tensor) -> Tensor:
        """Logits of images, in eval mode."""
        net = eval_view(self.model) if self._run is None else self._run.net
        logits: Tensor = net(x)
        return logits


class _Run(NamedTuple):
    """A run: the network's copy, images, the layer's output as a leaf, and logits that depend on it."""

    net: nn.Module
    x: Tensor
    leaf: Tensor
    logits: Tensor
