"""Make a model of this library of any network."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from torch import Tensor, nn

from thoraxlib import labels as label_sets
from thoraxlib.input_spec import InputSpec
from thoraxlib.models.base import ChestModel, check_images
from thoraxlib.models.timm import cam_target

# names under which networks return their logits, in this order
_NAMES = ("logits", "out", "output", "outputs", "cls", "classification")


class WrappedOutput(NamedTuple):
    """All outputs of a :class:`Wrapped` model."""

    logits: Tensor


class Wrapped(ChestModel):
    """A network from anywhere as a :class:`ChestModel`; :func:`wrap` makes it.

    Its features are those of a network with ``forward_features`` and ``forward_head``, such as timm's models; for other
    networks the images themselves, and heat maps explain the layer that :func:`wrap` was told.

    Attributes
    ----------
    net : nn.Module
        The network.
    """

    def __init__(
        self,
        net: nn.Module,
        labels: str | Sequence[str],
        input_spec: InputSpec,
        target: str | None,
        output: str | int | Callable[[Any], Tensor] | None,
    ) -> None:
        super().__init__()
        self.net = net
        self.labels = label_sets.resolve(labels)
        self.input_spec = input_spec
        self.output = output
        self._steps = target is None and output is None and hasattr(net, "forward_head")
        self._target = cam_target(net) if self._steps else target and f"net.{target}"

    def forward_features(self, x: Tensor) -> Tensor:
        """Return the network's features if it has them, otherwise the images (N, C, H, W)."""
        check_images(x, channels=self.input_spec.channels, stride=1, net=self.net)
        return self.net.forward_features(x) if self._steps else x  # type: ignore[operator, no-any-return]

    def forward_head(self, features: Tensor) -> Tensor:
        """Return logits (N, K).

        Raises
        ------
        TypeError, ValueError
            The output holds no logits (N, K), or several tensors that may be: name one by `output`.
        """
        out = self.net.forward_head(features) if self._steps else self.net(features)  # type: ignore[operator]
        logits = _logits(out, self.output)
        if logits.ndim != 2 or logits.shape[1] != len(self.labels):
            raise ValueError(
                f"{type(self.net).__name__} gives {tuple(logits.shape)}, but labels= has {len(self.labels)} names: "
                f"logits (N, {len(self.labels)}) are needed"
            )
        return logits

    def forward_all(self, x: Tensor) -> WrappedOutput:
        """Return the logits."""
        return WrappedOutput(self(x))

    @property
    def cam_target(self) -> str | None:
        """Layer that heat maps explain by default; None for the features.

        Raises
        ------
        TypeError
            No layer is named, and the network has no features.
        """
        if self._target is None and not self._steps:
            raise TypeError(
                f"heat maps of {type(self.net).__name__} need a layer: thoraxlib.wrap(net, target=...), one of the "
                f"last such as {[name for name, _ in self.net.named_modules()][-5:]}"
            )
        return self._target

    def __getattr__(self, name: str) -> Any:
        if name in ("patch_embed", "num_prefix_tokens", "output_fmt"):  # heat maps of transformers use them
            return getattr(super().__getattr__("net"), name)
        return super().__getattr__(name)


def _logits(out: Any, output: str | int | Callable[[Any], Tensor] | None) -> Tensor:
    """Return the tensor of logits in a network's output."""
    kind = type(out).__name__
    if callable(output):
        out = output(out)
    elif output is not None:
        try:
            out = getattr(out, output) if isinstance(output, str) and not isinstance(out, Mapping) else out[output]
        except (KeyError, IndexError, AttributeError, TypeError) as error:
            raise ValueError(
                f"output={output!r}: the network's output, {kind}, has none; it has {_parts(out)}"
            ) from error
    elif not isinstance(out, Tensor):
        named = [name for name in _NAMES if isinstance(_get(out, name), Tensor)]
        tensors = [part for part in out if isinstance(part, Tensor)] if isinstance(out, (list, tuple)) else []
        if named:
            out = _get(out, named[0])
        elif len(tensors) == 1:
            out = tensors[0]
        else:
            raise TypeError(
                f"the network gives {kind} with {_parts(out)}: name the logits by output=, a key, an index or a "
                "function"
            )
    if not isinstance(out, Tensor):
        raise TypeError(f"output={output!r} gives {type(out).__name__}: a tensor of logits is needed")
    return out


def _get(out: Any, name: str) -> Any:
    return out.get(name) if isinstance(out, Mapping) else getattr(out, name, None)


def _parts(out: Any) -> str:
    if isinstance(out, Mapping):
        return f"the keys {sorted(map(str, out))}"
    if isinstance(out, (list, tuple)):
        return f"{len(out)} entries of {sorted({type(part).__name__ for part in out})}"
    return f"the attributes {sorted(name for name in vars(out) if not name.startswith('_'))}" if vars(out) else "none"


def wrap(
    net: nn.Module,
    *,
    labels: str | Sequence[str],
    input_spec: Mapping[str, Any] | InputSpec | None = None,
    target: str | None = None,
    output: str | int | Callable[[Any], Tensor] | None = None,
) -> Wrapped:
    """Make a model of any network, for heat maps, boxes, scoring and all else that takes a model.

    Parameters
    ----------
    net : nn.Module
        Takes images (N, C, H, W). It returns logits (N, K), or an object, mapping or tuple with them.
    labels : str or sequence of str
        A label set, or the K names in the order of the logits.
    input_spec : mapping or InputSpec, optional
        Changes to the default input: 224 x 224 pixels, 3 channels, ImageNet's mean and standard deviation.
    target : str, optional
        Dotted name of the layer that heat maps explain, such as ``"layer4"``; not needed for timm's models.
    output : str, int or callable, optional
        Key, attribute or index of the logits in the network's output, or a function of it. By default a tensor itself,
        an entry ``logits``, ``out``, ``output`` and the like, or the only tensor of a tuple.

    Returns
    -------
    Wrapped
        In the network's mode. It shares the network's weights. It cannot be saved by :func:`save_pretrained`, since no
        registry builds the network.

    Raises
    ------
    TypeError
        `net` is no module, or is a model of this library.
    ValueError
        The network has no layer `target`; the message has the closest ones.

    Examples
    --------
    >>> import thoraxlib, torchvision, torch
    >>> net = torchvision.models.resnet18(num_classes=2).eval()
    >>> model = thoraxlib.wrap(net, labels=["Mass", "Edema"], input_spec={"size": 64}, target="layer4")
    >>> image, = thoraxlib.explain(model, torch.zeros(1, 80, 60, dtype=torch.uint8), threshold=0)
    >>> sorted(finding.label for finding in image.findings)
    ['Edema', 'Mass']
    """
    from thoraxlib.cams import Split

    if not isinstance(net, nn.Module) or isinstance(net, ChestModel):
        raise TypeError(f"net must be a network (nn.Module), and no model of thoraxlib yet, got {type(net).__name__}")
    if target is not None:
        Split(net, target)
    spec = InputSpec()
    if input_spec is not None and not isinstance(input_spec, InputSpec) and "channels" in input_spec:
        spec = spec.with_channels(input_spec["channels"])
    model = Wrapped(net, labels, spec.updated(input_spec), target, output)
    return model.train(net.training)
