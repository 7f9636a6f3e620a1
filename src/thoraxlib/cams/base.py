"""Base class of class activation maps."""

from __future__ import annotations

import abc
import copy
import difflib
from collections.abc import Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from thoraxlib.cams.split import Split, Stage
from thoraxlib.utils.arguments import positions
from thoraxlib.utils.modes import eval_view

Labels: TypeAlias = Sequence[int | str] | Tensor | int | str | None


class ClassActivationMap(abc.ABC):
    """Base class: images (N, C, H, W) -> heat maps of labels, float32 (N, K, h, w), at the resolution of the features.

    The model computes as in eval mode, whatever its mode, and is not changed, so several threads may compute heat maps
    of one model. Gradient and inference modes of the caller have no effect; its autocast and device are used.

    Parameters
    ----------
    model : nn.Module or Split
        With ``forward_features`` (images to a map (N, C, h, w); or (N, h, w, C) or tokens, as in timm's transformers)
        and ``forward_head`` (map to logits (N, K)); or any network, if `target` names a layer.
    target : str or int, optional
        Dotted name of the layer whose output is explained; or, for a model whose features are several maps, the index
        of the map. Default the map that the head gets, the last one of several.

    Raises
    ------
    TypeError
        The model lacks one of the two methods, and no layer is named.
    ValueError
        No such layer.
    """

    def __init__(self, model: nn.Module | Split, target: str | int | None = None) -> None:
        if target is None:
            target = getattr(model, "cam_target", None)
        if isinstance(target, str):
            model = Split(model.model if isinstance(model, Split) else model, target)
        elif getattr(model, "several_maps", False):
            model = Stage(model, -1 if target is None else target)  # type: ignore[assignment]
        elif target is not None:
            raise ValueError(f"target={target}: {type(model).__name__} has one map; name a layer instead")
        lacking = [name for name in ("forward_features", "forward_head") if not hasattr(model, name)]
        if lacking:
            raise TypeError(
                f"{type(model).__name__} has no {' and no '.join(lacking)}: a model of thoraxlib or timm is needed, or "
                "the name of a layer: target='...'"
            )
        self.model: Any = model

    def __call__(self, x: Tensor, labels: Labels = None) -> Tensor:
        """Compute heat maps of images.

        Parameters
        ----------
        x : Tensor
            Images (N, C, H, W), as the model takes them.
        labels : sequence of int or str, tensor or array of int or bool, or one of them, optional
            Indices of labels (negative ones from the end), names from ``model.labels``, or, for a model with
            ``labels``, a boolean mask of them. Default all.

        Returns
        -------
        Tensor
            float32 (N, number of labels, h, w). :func:`upsample` resizes it to the image. If the model's map covers
            only a part of the image: float32 (N, number of labels, H, W), 0 outside that part.

        Raises
        ------
        TypeError
            The model's features are not a tensor; labels that are neither integers, names nor a mask.
        ValueError, IndexError
            Images that the model refuses; an unknown label; a mask of another length; maps with NaN or infinite values;
            a model in training mode that cannot be copied.
        """
        return self._run(x, labels, with_logits=False)[1]

    def with_logits(self, x: Tensor, labels: Labels = None) -> tuple[Tensor, Tensor]:
        """Compute the logits (N, K) of all labels and the heat maps of `labels`, from one pass of the backbone.

        Parameters and errors: see :meth:`__call__`.
        """
        logits, maps = self._run(x, labels, with_logits=True)
        assert logits is not None
        return logits, maps

    def _run(self, x: Tensor, labels: Labels, *, with_logits: bool) -> tuple[Tensor | None, Tensor]:
        indices = self._indices(labels)
        call = copy.copy(self)  # each call has its own state
        with torch.inference_mode(False):
            call.model = self.model.for_call() if isinstance(self.model, (Split, Stage)) else eval_view(self.model)
            features, maps = call._features_and_maps(x, indices)
            if isinstance(call.model, Stage):
                maps = call.model.in_image(maps, (x.shape[-2], x.shape[-1]))
            logits = call.logits(features).detach().float() if with_logits else None
        if not maps.isfinite().all():
            raise ValueError(
                f"{type(self).__name__} gives NaN or infinite values: is the model trained, and its input finite? Half "
                "precision may overflow; compute in float32 or bfloat16"
            )
        return logits, maps

    def _features_and_maps(self, x: Tensor, indices: list[int] | None) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            features = self.model.forward_features(x)
        if not isinstance(features, Tensor):
            raise TypeError(
                f"forward_features of {self._name} gives {type(features).__name__}, not a map or tokens; name a layer: "
                "target='...'"
            )
        with torch.autocast(features.device.type, enabled=False):
            weight = next((p for p in self.model.parameters() if p.is_floating_point()), features)
            features = features.detach().to(weight.dtype)
            if features.is_inference():  # the images themselves or a view of them, which cannot be differentiated
                features = features.clone()
            if indices == [] or not len(x):
                spatial = self.spatial(features, x)
                count = self.logits(features).shape[1] if indices is None else len(indices)
                return features, spatial.new_zeros(len(x), count, *spatial.shape[2:])
            return features, self.maps(features, x, indices).float()

    def logits(self, features: Tensor) -> Tensor:
        """Return the model's logits (N, K), without gradients."""
        if isinstance(self.model, Split):
            return self.model.graph()[1].detach()
        with torch.no_grad():
            logits: Tensor = self.model.forward_head(features)
            return logits

    def differentiable(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Return a leaf tensor for `features`, and the logits (N, K) computed from it.

        Raises
        ------
        ValueError
            The logits have no gradient.
        """
        if isinstance(self.model, Split):
            leaf, logits = self.model.graph()
        else:
            with torch.enable_grad():
                leaf = features.detach().requires_grad_()
                logits = self.model.forward_head(leaf)
        if not logits.requires_grad:
            raise ValueError(
                f"{type(self).__name__}: the logits of {self._name} have no gradient for its features "
                "(a head that detaches, or takes an argmax?); use 'scorecam' or 'eigencam'"
            )
        return leaf, logits

    @abc.abstractmethod
    def maps(self, features: Tensor, x: Tensor, labels: list[int] | None) -> Tensor:
        """Compute maps (N, K', h, w) of the label indices `labels` (None: all) from the model's raw `features`."""

    def spatial(self, features: Tensor, x: Tensor) -> Tensor:
        """Convert raw features, or their gradients, to (N, C, h, w).

        Raises
        ------
        ValueError
            Tokens that do not form a grid, or features that are neither map nor tokens.
        """
        axis = self.channel_axis(features, x)
        if features.ndim == 4:
            return features.movedim(axis, 1)
        if features.shape[1] == 1:
            raise ValueError(
                f"one token for the image has no locations; name an earlier layer of {self._name}: target='...'"
            )
        count, size = features.shape[1], (x.shape[-2], x.shape[-1])
        network = self.model.model if isinstance(self.model, Split) else self.model
        grid = grid_of(count, size, self.model, network)
        if grid is None:
            raise ValueError(
                f"{count} tokens form no grid for images of {size} pixels; if class tokens come first, give their "
                "number: cams.Split(model, layer, num_prefix_tokens=1)"
            )
        skipped, rows, columns = grid
        return features[:, skipped:].transpose(1, 2).reshape(len(features), -1, rows, columns)

    def channel_axis(self, features: Tensor, x: Tensor) -> int:
        """Return the dimension of the channels in raw features of the images `x`.

        Raises
        ------
        ValueError
            Features that are neither map nor tokens.
        """
        if features.ndim not in (3, 4):
            raise ValueError(f"features must be (N, C, h, w), or tokens (N, T, C), got {tuple(features.shape)}")
        if features.ndim == 3:
            return 2
        # a map has the image's shape; if that is ambiguous, the model's attribute decides
        last, first = (_fits(grid, x.shape[-2:]) for grid in (features.shape[1:3], features.shape[2:]))
        if last != first:
            return 3 if last else 1
        return 3 if getattr(self.model, "output_fmt", "") == "NHWC" else 1

    @property
    def _name(self) -> str:
        return type(self.model.model if isinstance(self.model, (Split, Stage)) else self.model).__name__

    def _indices(self, labels: Labels) -> list[int] | None:
        """Indices of labels, in their order."""
        if labels is None:
            return None
        asked = labels.tolist() if hasattr(labels, "tolist") else labels
        asked = [asked] if isinstance(asked, (bool, int, float, str)) else list(asked)
        names = list(getattr(self.model, "labels", ()))
        for label in asked:
            if isinstance(label, str) and label not in names:
                close = difflib.get_close_matches(label, names, n=1)
                hint = f" (did you mean {close[0]!r}?)" if close else ""
                known = ", ".join(map(repr, names)) or "no names"
                raise ValueError(f"the model has no label {label!r}{hint}; it has {known}")
        indices = [names.index(label) if isinstance(label, str) else label for label in asked]
        return positions("labels", indices, len(names) or None)


def grid_of(count: int, size: tuple[int, int], model: Any, network: Any) -> tuple[int, int, int] | None:
    """Find the number of tokens before the patch tokens, and the rows and columns of the patches; None if no grid fits.

    A layer may come before the class token is added (XCiT, CaiT) or after. If the network knows its number of patches,
    that decides. Otherwise, class tokens are counted from ``model.num_prefix_tokens`` or the network's ``cls_token``.

    Parameters
    ----------
    count : int
        Number of tokens of an image.
    size : (int, int)
        (H, W) of the images.
    model : object
        May have ``num_prefix_tokens``.
    network : nn.Module
        May have ``patch_embed`` and ``cls_token``, as in timm's networks.

    Examples
    --------
    >>> from types import SimpleNamespace
    >>> xcit = SimpleNamespace(num_prefix_tokens=1, patch_embed=SimpleNamespace(patch_size=16))
    >>> grid_of(196, (224, 224), xcit, xcit), grid_of(197, (224, 224), xcit, xcit)
    ((0, 14, 14), (1, 14, 14))
    """
    prefix = getattr(model, "num_prefix_tokens", None)
    if prefix is None:
        token = getattr(network, "cls_token", None)
        prefix = token.shape[1] if isinstance(token, Tensor) and token.ndim == 3 else 0
    embed, grids = getattr(network, "patch_embed", None), []
    if (grid := getattr(embed, "grid_size", None)) and _fits(grid, size):
        grids.append((int(grid[0]), int(grid[1])))
    if patch := getattr(embed, "patch_size", None):
        high, wide = (patch, patch) if isinstance(patch, int) else patch
        grids += [(size[0] // high, size[1] // wide), (-(-size[0] // high), -(-size[1] // wide))]  # with padding
    for rows, columns in grids:
        for skipped in (0, int(prefix)):
            if count - skipped == rows * columns:
                return skipped, rows, columns
    left = count - int(prefix)
    rows = max(round((max(left, 0) * size[0] / size[1]) ** 0.5), 1)
    return (int(prefix), rows, left // rows) if left > 0 and left % rows == 0 else None


def _fits(grid: Sequence[int], size: Sequence[int]) -> bool:
    """Return True if a grid (h, w) has the aspect ratio of images of `size`, within one cell."""
    return abs(int(grid[0]) * size[1] - int(grid[1]) * size[0]) <= max(size)
