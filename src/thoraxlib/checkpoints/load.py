"""Load a published checkpoint into a model: all of it, or raise an error that lists what does not fit."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from thoraxlib import labels as label_sets
from thoraxlib.checkpoints import registry
from thoraxlib.checkpoints.files import AVERAGED, read, state_dict_of
from thoraxlib.checkpoints.fitting import backbone_keys, filtered, with_channels
from thoraxlib.checkpoints.layout import LOGITS, StateDict, views
from thoraxlib.utils.modes import uncompiled

# names, in the heads, of the layer with one row for each label
_LAST = ("head.fc", "head.conv", "head.linear.fc")
# layouts whose files may be of a backbone alone
_OWN, _PLAIN = "thoraxlib", "plain"

_Sets = Sequence[str | Sequence[str]]  # label sets by name, or names


class CheckpointError(ValueError):
    """Error of a checkpoint that does not fit the model; it lists all unmatched and misshapen entries."""


def load_checkpoint(
    model: nn.Module,
    checkpoint: str | os.PathLike[str] | Mapping[str, Any],
    *,
    layout: str | None = None,
    labels: str | Sequence[str] | None = None,
    backbone_only: bool = False,
    key: str | None = None,
    ema: bool = False,
    allow_pickle: bool = False,
) -> str:
    """Load weights that others published (or that a plain PyTorch script saved) into `model`.

    Nothing is loaded unless everything fits: every entry of the checkpoint that its source uses belongs to an entry of
    the model of the same shape, and every parameter and buffer of the model gets a value (missing
    ``num_batches_tracked`` counters, which files from before torch 0.4.1 lack, are set to 0). The prefixes of
    ``torch.compile``, data parallel engines and Lightning are removed from the names. What timm changes in its own
    files is changed here, too: position embeddings are resampled to the model's image size, and the first layer's
    weights for three channels are summed for one channel (or repeated for more).

    Parameters
    ----------
    model : nn.Module
        Built by :func:`thoraxlib.build`, as it is or compiled by ``torch.compile``. Or a backbone alone, built by
        :func:`thoraxlib.backbones.build`: then `backbone_only` is True.
    checkpoint : path or mapping
        A file (see :func:`thoraxlib.checkpoints.read`), or the content of one.
    layout : str, optional
        One of :func:`thoraxlib.checkpoints.names`; default: recognised by its keys.
    labels : str or sequence of str, optional
        Labels of the checkpoint's outputs in its order: a label set, or names. Needed unless the layout says them,
        since the numbers do not: ``labels=model.labels`` confirms that they are the model's.
    backbone_only : bool
        Load the backbone alone and leave the head (and neck) as they are, e.g. from ImageNet weights, or from a file
        that has no head.
    key : str, optional
        Name of the weights in the file, such as ``"state_dict_ema"``; see :func:`thoraxlib.checkpoints.read`.
    ema : bool
        Load the copy of the weights that was averaged over the training (EMA).
    allow_pickle : bool
        See :func:`thoraxlib.checkpoints.read`.

    Returns
    -------
    str
        The layout's name.

    Raises
    ------
    CheckpointError
        Unmatched or misshapen entries, labels that are others than the source's or in another order, or not known, or
        no known layout. The model stays unchanged.
    FileNotFoundError, ValueError
        The file cannot be read.

    Warns
    -----
    UserWarning
        The file also has a copy of the weights averaged over the training, which is not loaded; or, with
        `backbone_only`, entries that are left out: the file's head, and layers of a larger backbone.
    """
    model = uncompiled(model)
    alone = hasattr(model, "checkpoint_keys") and hasattr(model, "strides")  # a backbone
    if alone:
        model, backbone_only = nn.ModuleDict({"backbone": model}), True
    if isinstance(checkpoint, Mapping):
        state = state_dict_of(checkpoint, key, ema)
    else:
        state = read(checkpoint, key=key, ema=ema, allow_pickle=allow_pickle)
    name, network, headless = _recognised(model, state, layout)
    if headless and not backbone_only:
        raise CheckpointError(
            f"the checkpoint has the backbone's weights (layout {name!r}) and no head: backbone_only=True loads them "
            "and leaves the model's head unchanged. Nothing was loaded."
        )
    if {entry.partition(".")[0] for entry in state if len(network) < len(state)} & {*AVERAGED}:
        warnings.warn("weights averaged over the training are not loaded: ema=True loads them", stacklevel=2)
    source = registry.build(name)
    known = {**source.names, **({} if labels is None else {"labels": (labels,)})}
    _check_names(name, model, known)
    if source.then:
        network, source = source.translate(network), registry.build(source.then)
    translated = source.translate(network if name == _OWN else filtered(model, network))
    sources = _sources(model, translated)
    own = model.state_dict()
    if backbone_only:
        wanted = backbone_keys(model)
        own = {key: value for key, value in own.items() if key in wanted}
        sources = {key: theirs for key, theirs in sources.items() if key in own}
        extra = translated.keys() - sources.values()
        translated = {theirs: translated[theirs] for theirs in sources.values()}
    new = with_channels(model, {key: translated[theirs] for key, theirs in sources.items()})
    for key, value in own.items():
        if key not in new and key.endswith("num_batches_tracked"):
            new[key] = torch.zeros_like(value)
        elif key not in new and source.kept(key):
            new[key] = value
    unused = sorted(key for key in set(translated) - set(sources.values()) if not source.spare(key))
    _check(name, model, own, new, unused, known.get("labels", ()))
    if not backbone_only and not _named(model, known.get("labels", ())):
        raise CheckpointError(
            f"a checkpoint of layout {name!r} does not say which labels its outputs are. The model has {model.labels}: "
            "if these are the checkpoint's, in this order, pass labels=model.labels; otherwise build the model with "
            "the checkpoint's labels and pass them. Nothing was loaded."
        )
    if backbone_only:  # for a backbone alone, the file's head is no news, but layers of a larger backbone are
        inside = {theirs.partition(".")[0] for theirs in sources.values()}
        left = sorted(key for key in extra if not alone or key.partition(".")[0] in inside)
        if left:
            shown = _some(key.replace(LOGITS, "the last layer's") for key in left)
            warnings.warn(f"{len(left)} entries of the checkpoint are not loaded: {shown}", stacklevel=2)
    model.load_state_dict(new, strict=not backbone_only)
    return name


def _recognised(model: nn.Module, state: StateDict, layout: str | None) -> tuple[str, StateDict, bool]:
    """Name of the layout, the network's part of `state`, and True if that is a backbone alone."""
    layouts = dict(registry.working()) if layout is None else {layout: registry.build(layout)}
    networks = list(views(state))
    for network in networks:
        for name in sorted(layouts, key=lambda name: -layouts[name].priority):
            if layouts[name].recognises(network):
                return name, network, False
    wanted = {key for key in backbone_keys(model) if not key.endswith("num_batches_tracked")}
    for network in networks if wanted else ():
        for entries in (network, {f"backbone.{key}": value for key, value in network.items()}):
            if _OWN in layouts and wanted <= entries.keys():
                return _OWN, entries, True
        if _PLAIN in layouts and wanted <= _sources(model, layouts[_PLAIN].translate(filtered(model, network))).keys():
            return _PLAIN, network, True
    if layout is not None:
        return layout, networks[0], False
    raise CheckpointError(
        f"the checkpoint's layout is not recognised; it has {len(state)} entries such as {_some(state)}. "
        f"Known layouts: {', '.join(registry.names())}; name one with layout=..."
    )


def _sources(model: nn.Module, translated: Mapping[str, Tensor]) -> dict[str, str]:
    """Map the model's state-dict keys to keys of the translated checkpoint."""
    own = model.state_dict()
    sources = {key: key for key in own if key in translated}
    for component in ("", "backbone", "head"):
        module: Any = getattr(model, component, None) if component else model
        start = f"{component}." if component else ""
        if hasattr(module, "checkpoint_keys"):
            sources |= {start + key: theirs for key, theirs in module.checkpoint_keys(translated).items()}
    last = next((name for name in _LAST if f"{name}.weight" in own), None)
    for leaf in ("weight", "bias"):
        if last is not None and f"{LOGITS}.{leaf}" in translated:
            sources[f"{last}.{leaf}"] = f"{LOGITS}.{leaf}"
    for name, branch in model.named_children():
        if hasattr(branch, "backbone"):  # a classifier itself
            start = f"{name}."
            inside = {key.removeprefix(start): value for key, value in translated.items() if key.startswith(start)}
            sources |= {start + own: start + theirs for own, theirs in _sources(branch, inside).items()}
    return sources


def _named(model: nn.Module, sets: _Sets) -> bool:
    """Return True if the names of the source's outputs are known, or the model has none."""
    count = len(getattr(model, "labels", ()))
    return not count or any(len(label_sets.resolve(each)) == count for each in sets)


def _check_names(name: str, model: nn.Module, known: Mapping[str, _Sets]) -> None:
    """Raise if the model has as many names as one of the source's sets, but none with the same names in its order."""
    for attribute, sets in known.items():
        ours = tuple(getattr(model, attribute, ()))
        near = [each for each in sets if len(label_sets.resolve(each)) == len(ours)]
        if near and not any(
            label_sets.align(label_sets.resolve(each), ours) == list(range(len(ours))) for each in near
        ):
            theirs = " or ".join(map(str, map(label_sets.resolve, near)))
            raise CheckpointError(
                f"a checkpoint of layout {name!r} has the {attribute} {theirs}, in this order; the model has {ours}: "
                f"build it with {' or '.join(map(repr, near))}. Nothing was loaded."
            )


def _check(
    name: str,
    model: nn.Module,
    own: Mapping[str, Tensor],
    new: Mapping[str, Tensor],
    unused: list[str],
    sets: _Sets,
) -> None:
    missing = [key for key in own if key not in new]
    misshapen = [key for key in new if key in own and own[key].shape != new[key].shape]
    if not (missing or unused or misshapen):
        return
    lines = [f"a checkpoint of layout {name!r} does not fit this model; nothing was loaded."]
    if missing:
        lines.append(f"  {len(missing)} of the model's {len(own)} entries get no value: {_some(missing)}")
    if unused:
        lines.append(f"  {len(unused)} entries of the checkpoint have no place in the model: {_some(unused)}")
    if missing and not unused and not backbone_keys(model).intersection(missing):
        lines.append("  All of the backbone is there: load it alone with backbone_only=True.")
    if misshapen:
        shapes = [f"{key} {tuple(new[key].shape)} -> {tuple(own[key].shape)}" for key in misshapen]
        lines.append(f"  {len(misshapen)} entries have another shape (checkpoint -> model): {_some(shapes)}")
    last = (new[key] for name in _LAST if (key := f"{name}.weight") in misshapen)
    rows = next((len(value) for value in last if value.ndim), None)
    labels = getattr(model, "labels", ())
    if rows is not None and rows != len(labels):
        theirs = next((f"labels={each!r}" for each in sets if len(label_sets.resolve(each)) == rows), "its labels")
        lines.append(
            f"  The checkpoint has {rows} outputs, the model {len(labels)}: build it with {theirs}, or load the "
            "backbone alone with backbone_only=True."
        )
    raise CheckpointError("\n".join(lines))


def _some(items: Iterable[str], most: int = 8) -> str:
    listed = list(items)
    return ", ".join(listed[:most]) + (f", ... ({len(listed) - most} more)" if len(listed) > most else "")
