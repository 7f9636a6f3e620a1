"""Make a trained model faster for inference: fold constants into weights."""

from __future__ import annotations

import contextlib
import copy
import inspect
import warnings
from collections import Counter
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from thoraxlib.layers.lka import DepthwiseConv2d
from thoraxlib.layers.pointwise import PointwiseConv2d

_CONVOLUTIONS = (nn.Conv2d, DepthwiseConv2d, PointwiseConv2d)  # not subclasses that do more with their weight


@torch.no_grad()
def optimize_for_inference(model: nn.Module, example: Tensor | tuple[Any, ...] | None = None) -> nn.Module:
    """Return a faster copy of `model` for inference, with the same outputs except for rounding.

    Modules with a method ``fuse()`` are replaced by its result: VAN blocks fold their norms and layer scales into their
    convolutions, a label graph becomes its constant classifier, VanillaNet joins its layers. A batch norm is folded
    into the convolution before it if no other operation uses the convolution's output; one forward pass tests that.
    Weights get the layout ``torch.channels_last``, and no gradient.

    The copy is the same function: in float64, logits agree to 1e-10 of the largest. In float32 both round, each in its
    own way. The copy's logits are within 1e-5 of the float64 ones, relative to the largest, or within three times the
    model's own error if that is more: as exact as the model, which is tested for every documented one. In deep networks
    that were never trained, rounding grows (ResNet-50: to 4e-5, ResNet-101: to 2e-4); there, the model's own outputs
    differ as much from one batch size or memory layout to the next.

    Any module can have a method ``fuse()`` without arguments. It returns the module that replaces it, or raises
    ValueError if it cannot be fused (timm's modules have the same convention).

    Parameters
    ----------
    model : nn.Module
        In eval mode; it stays unchanged.
    example : Tensor or tuple, optional
        Arguments of the forward pass, ``(x, masks)`` for a model that needs masks; by default one image of zeros of the
        size of ``model.input_spec``.

    Returns
    -------
    nn.Module
        Model for inference only: do not train or save it. Its state dict has other keys.

    Raises
    ------
    ValueError
        A model in training mode, or without ``input_spec`` and no `example`.

    Examples
    --------
    >>> import thoraxlib
    >>> model = thoraxlib.build("van", input_spec={"size": 64}).eval()
    >>> fast = thoraxlib.optimize_for_inference(model)
    >>> x = torch.randn(2, 3, 64, 64)
    >>> torch.allclose(fast(x), model(x), rtol=1e-4, atol=1e-5)
    True
    """
    training = [name or "the model itself" for name, module in model.named_modules() if module.training]
    if training:
        raise ValueError(
            f"model must be in eval mode, model.eval(), as the copy cannot be trained; {len(training)} of its modules "
            f"are in training mode, first {training[0]}"
        )
    arguments = _arguments(model, example)
    fast = _fused(copy.deepcopy(model))
    _fold_norms(fast, arguments)
    if hasattr(fast, "unrecorded"):
        fast.unrecorded = {"weights": "folded by optimize_for_inference; save the model that they come from"}  # type: ignore[assignment]
    return fast.requires_grad_(False).to(memory_format=torch.channels_last)  # type: ignore[call-overload, no-any-return]


def _arguments(model: nn.Module, example: Tensor | tuple[Any, ...] | None) -> tuple[Any, ...]:
    if example is not None:
        return (example,) if isinstance(example, Tensor) else tuple(example)
    spec: Any = getattr(model, "input_spec", None)
    if spec is None:
        raise ValueError(f"{type(model).__name__} has no input_spec: give an example of its input, example=x")
    weight = next((p for p in model.parameters() if p.is_floating_point()), torch.empty(0))
    return (weight.new_zeros(1, spec.channels, *spec.size),)


def _fused(module: nn.Module) -> nn.Module:
    """Return the result of the module's ``fuse()``; without one, the module with its children fused."""
    fuse = getattr(module, "fuse", None)
    if callable(fuse) and not inspect.signature(fuse).parameters:
        with contextlib.suppress(ValueError):
            fused: nn.Module = fuse()
            return fused.eval()
    for name, child in module.named_children():
        setattr(module, name, _fused(child))
    return module


def _fold_norms(model: nn.Module, arguments: tuple[Any, ...]) -> None:
    """Fold each batch norm into the convolution whose output only the norm uses."""
    for conv, norm in _pairs(model, arguments):
        conv.weight, conv.bias = fuse_conv_bn_weights(
            conv.weight, conv.bias, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
        )
        rest = getattr(norm, "act", nn.Identity())  # timm's norms contain the activation
        for parent in model.modules():
            for name, child in parent.named_children():
                if child is norm:
                    setattr(parent, name, rest)


def _pairs(model: nn.Module, arguments: tuple[Any, ...]) -> Iterator[tuple[Any, Any]]:
    """Yield pairs of convolution and norm that each run once in ``model(*arguments)``, the output for the norm only."""
    from timm.layers import BatchNormAct2d

    runs: Counter[nn.Module] = Counter()
    made: dict[int, tuple[nn.Module, Tensor]] = {}  # the tensor is held: no other gets its id
    pairs: list[tuple[nn.Module, nn.Module, int]] = []

    def convolved(conv: nn.Module, inputs: Any, output: Tensor) -> None:
        runs[conv] += 1
        made[id(output)] = conv, output
        uses.count[id(output)] = 0  # of tensors that had the id before

    def normalising(norm: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        runs[norm] += 1
        if id(inputs[0]) in made:
            pairs.append((made[id(inputs[0])][0], norm, id(inputs[0])))

    hooks = []
    for module in model.modules():
        if type(module) in _CONVOLUTIONS:
            hooks.append(module.register_forward_hook(convolved))
        elif type(module) in (nn.BatchNorm2d, BatchNormAct2d) and module.running_mean is not None:
            hooks.append(module.register_forward_pre_hook(normalising))
    uses = _Uses()
    try:
        with uses, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about the example's content
            returned = model(*arguments)
        uses.count.update(map(id, tree_leaves(returned)))
    finally:
        for hook in hooks:
            hook.remove()
    for conv, norm, output in pairs:
        if runs[conv] == runs[norm] == uses.count[output] == 1:
            yield conv, norm


class _Uses(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Count the operations that use each tensor, by its id."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.count: Counter[int] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count.update({id(leaf) for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)})
        return func(*args, **(kwargs or {}))
