"""What every class activation map does: split the model, pick the labels, leave no trace."""

from __future__ import annotations

import abc
import copy
import difflib
from collections.abc import Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from thoraxlib.cams.split import Split, split
from thoraxlib.cams.stage import Stage
from thoraxlib.cams.tokens import fits, grid_of
from thoraxlib.utils.arguments import positions
from thoraxlib.utils.modes import eval_view

Labels: TypeAlias = Sequence[int | str] | Tensor | int | str | None


class ClassActivationMap(abc.ABC):
    """Images (N, C, H, W) -> heat maps of labels, float32 (N, K, h, w), at the resolution of the features.

    The model computes as in eval mode, whatever mode it is in; it is not changed, so that several threads may call
    heat maps of one model. Gradient and inference modes of the caller do not matter, autocast and the device are the
    caller's.

    Parameters
    ----------
    model : nn.Module or Split
        With ``forward_features`` (images to a map (N, C, h, w); or (N, h, w, C) or tokens, as timm's transformers give
        them) and ``forward_head`` (map to logits (N, K)); or any network, if `target` names a layer.
    target : str or int, optional
        Dotted name of the layer whose output is explained; or, for a model whose features are several maps, which of
        them. Default the map that the head sees, the last one of several.

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
            model = split(model, target) if isinstance(model, nn.Module) else split(model.model, target)
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
        """The heat maps of images.

        Parameters
        ----------
        x : Tensor
            Images (N, C, H, W), as the model takes them.
        labels : sequence of int or str, tensor or array of int or bool, or one of them, optional
            Which labels: positions (negative ones from the end), names from ``model.labels``, or for a model with
            ``labels`` a boolean mask of them. None: all.

        Returns
        -------
        Tensor
            float32 (N, number of labels, h, w). :func:`upsample` brings it to the image's size. Of a map that is of a
            part of the image, float32 (N, number of labels, H, W), 0 beyond that part.

        Raises
        ------
        TypeError
            The model's features are not a tensor; labels that are neither whole numbers, names nor a mask.
        ValueError, IndexError
            Images that the model refuses; a label that it does not have; a mask of another length; maps with NaN or
            infinite values; a model in training mode that cannot be copied.
        """
        return self._run(x, labels, with_logits=False)[1]

    def with_logits(self, x: Tensor, labels: Labels = None) -> tuple[Tensor, Tensor]:
        """Logits (N, K) of all labels and the maps of `labels`, as by calling it, from one pass of the backbone."""
        logits, maps = self._run(x, labels, with_logits=True)
        assert logits is not None
        return logits, maps

    def _run(self, x: Tensor, labels: Labels, *, with_logits: bool) -> tuple[Tensor | None, Tensor]:
        indices = self._indices(labels)
        call = copy.copy(self)  # what a call keeps is its own
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
            if features.is_inference():  # the images themselves, or a view of them: not to be differentiated
                features = features.clone()
            if indices == [] or not len(x):
                spatial = self.spatial(features, x)
                count = self.logits(features).shape[1] if indices is None else len(indices)
                return features, spatial.new_zeros(len(x), count, *spatial.shape[2:])
            return features, self.maps(features, x, indices).float()

    def logits(self, features: Tensor) -> Tensor:
        """The model's logits (N, K), without gradients."""
        if isinstance(self.model, Split):
            return self.model.graph()[1].detach()
        with torch.no_grad():
            logits: Tensor = self.model.forward_head(features)
            return logits

    def differentiable(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """A leaf for `features`, and the logits (N, K) that depend on it.

        Raises
        ------
        ValueError
            The logits do not: no gradient can be had.
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
        """(N, K', h, w) of the model's raw `features` for the positions `labels` (None: all)."""

    def spatial(self, features: Tensor, x: Tensor) -> Tensor:
        """Raw features, or gradients for them, as (N, C, h, w).

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
                f"one token for the image has no places; name an earlier layer of {self._name}: target='...'"
            )
        count, size = features.shape[1], (x.shape[-2], x.shape[-1])
        network = self.model.model if isinstance(self.model, Split) else self.model
        grid = grid_of(count, size, self.model, network)
        if grid is None:
            raise ValueError(
                f"{count} tokens form no grid for images of {size} pixels; if class tokens come first, say how many: "
                "cams.split(model, layer, num_prefix_tokens=1)"
            )
        skipped, rows, columns = grid
        return features[:, skipped:].transpose(1, 2).reshape(len(features), -1, rows, columns)

    def channel_axis(self, features: Tensor, x: Tensor) -> int:
        """Which dimension of raw features of the images `x` holds the channels.

        Raises
        ------
        ValueError
            Features that are neither map nor tokens.
        """
        if features.ndim not in (3, 4):
            raise ValueError(f"features must be (N, C, h, w), or tokens (N, T, C), got {tuple(features.shape)}")
        if features.ndim == 3:
            return 2
        # a map has the image's shape; only where that leaves a doubt, what the model says of its last map
        last, first = (fits(grid, x.shape[-2:]) for grid in (features.shape[1:3], features.shape[2:]))
        if last != first:
            return 3 if last else 1
        return 3 if getattr(self.model, "output_fmt", "") == "NHWC" else 1

    @property
    def _name(self) -> str:
        return type(self.model.model if isinstance(self.model, (Split, Stage)) else self.model).__name__

    def _indices(self, labels: Labels) -> list[int] | None:
        """Positions of the labels asked for, in their order."""
        if labels is None:
            return None
        asked = labels.tolist() if hasattr(labels, "tolist") else labels
        asked = [asked] if isinstance(asked, (bool, int, float, str)) else list(asked)
        names = tuple(getattr(self.model, "labels", ()))
        known = [self._named(label, names) if isinstance(label, str) else label for label in asked]
        return positions("labels", known, len(names) if names else None)

    @staticmethod
    def _named(label: str, names: tuple[str, ...]) -> int:
        """The position of a label's name."""
        if label in names:
            return names.index(label)
        close = difflib.get_close_matches(label, names, n=1)
        hint = f" (did you mean {close[0]!r}?)" if close else ""
        raise ValueError(f"the model has no label {label!r}{hint}; it has {', '.join(map(repr, names)) or 'no names'}")
