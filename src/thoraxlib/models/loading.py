"""Load what :func:`thoraxlib.save_pretrained` wrote, from a folder or from the Hub."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import hf_hub_download
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from typing_extensions import TypeVar

from thoraxlib import detection, models, segmentation
from thoraxlib import labels as label_sets
from thoraxlib.checkpoints.saving import CONFIG, WEIGHTS, Persistent, read_header
from thoraxlib.models.base import ChestModel
from thoraxlib.models.bounded import Bounded
from thoraxlib.registry import OptionError, Registry, UnknownNameError, without_pretrained
from thoraxlib.utils.files import read_json

P = TypeVar("P", bound=Persistent, default=ChestModel)

_PARTS: dict[Any, Registry[Any]] = {"detection": detection.registry, "segmentation": segmentation.registry}

# What building may need for each of the weights, and beside them: torchvision's VGG makes a classifier first, of 124
# million numbers, that is not kept
_MOST_TENSORS, _MORE_TENSORS = 4, 1000
_MOST_NUMBERS, _MORE_NUMBERS = 2, 1 << 27


def load_pretrained(
    source: str | os.PathLike[str],
    kind: type[P] = ChestModel,  # type: ignore[assignment]
    *,
    map_location: str = "cpu",
    revision: str | None = None,
    token: str | bool | None = None,
    cache_dir: str | Path | None = None,
    force_download: bool = False,
    local_files_only: bool = False,
) -> P:
    """Load a model that :func:`save_pretrained` wrote, from a folder or from the Hub.

    Parameters
    ----------
    source : path or str
        A folder, or a Hub repository ``"owner/name"``.
    kind : type
        Class of what is loaded: a :class:`thoraxlib.models.ChestModel`, or
        :class:`thoraxlib.segmentation.Segmenter`, or :class:`thoraxlib.detection.RegionDetector`.
    map_location : str
        Device on which the file's weights are read.
    revision, token, cache_dir, force_download, local_files_only
        See :func:`huggingface_hub.hf_hub_download`.

    Returns
    -------
    ChestModel
        Or of `kind`, in eval mode, bit for bit the saved one, with its labels, input spec and config.

    Raises
    ------
    FileNotFoundError
        The folder, or one of its two files, does not exist.
    ValueError
        Naming the file: no JSON, no model that can be built, damaged weights, or those of another model.
    TypeError
        Another kind of model is saved there.
    UnknownNameError
        A name that the model was saved with is not known here, as that of a plug-in that is not installed.
    """
    config, weights = Path(source, CONFIG), Path(source, WEIGHTS)
    if Path(source).is_dir():
        if not config.exists() and not weights.exists():
            why = f"no readable {CONFIG}; is this a folder that save_pretrained wrote?"
            raise FileNotFoundError(f"{source}: {why}")
        if not weights.exists():
            raise FileNotFoundError(f"{source}: no {WEIGHTS} beside its {CONFIG}")
    else:
        parts = Path(source).parts
        if Path(source).is_absolute() or len(parts) != 2 or parts[0] in {".", ".."}:
            raise FileNotFoundError(f"{source}: neither a folder nor a Hub repository ('owner/name')")
        config, weights = (
            Path(
                hf_hub_download(
                    str(source),
                    name,
                    revision=revision,
                    token=token,
                    cache_dir=cache_dir,
                    force_download=force_download,
                    local_files_only=local_files_only,
                )
            )
            for name in (CONFIG, WEIGHTS)
        )
    model = _described(config, weights)
    if not isinstance(model, kind):
        found = f"a {type(model).__name__} is saved there, no {kind.__name__}"
        raise TypeError(f"{source}: {found}; load_pretrained(source, kind) takes the class")
    _load_weights(model, weights, map_location)
    return model.eval()


def _described(path: Path, weights: Path) -> Any:
    """The model that ``config.json`` describes, or without it the weights, which it must agree with."""
    written = read_json(path) if path.exists() else None
    shapes, carried = read_header(weights)
    if written is None:
        if carried is None:
            raise FileNotFoundError(f"{path.parent}: no readable {path.name}, and {weights.name} carries no config")
        return _built(carried, weights, shapes)
    trouble = ""
    if carried is not None and _deciding(carried) != _deciding(written):
        trouble = (
            f"{path} is not the config that {weights.name} beside it was saved with: a save was interrupted, or the "
            f"file was edited. Delete {path.name} to load what was saved; to change a model, load it, change it, and "
            "save it again"
        )
    try:
        model = _built(written, path, shapes)
    except ValueError as error:
        raise ValueError(f"{error}. {trouble}") if trouble else error from error
    if trouble:
        raise ValueError(trouble)
    return model


def _deciding(config: Any) -> str:
    """As text, the parts of a config that say what is built; the Hub and others may add theirs."""
    used = ("subpackage", "name", "options", "labels", "input_spec")
    return json.dumps({key: config.get(key) for key in used} if isinstance(config, dict) else config, sort_keys=True)


def _built(config: Any, source: Path, shapes: dict[str, list[int]]) -> Any:
    """The model that a config describes, before it gets its weights, of which `shapes` are."""
    numbers = sum(map(math.prod, shapes.values()))
    bounds = Bounded(
        tensors=_MOST_TENSORS * len(shapes) + _MORE_TENSORS,
        numbers=_MOST_NUMBERS * numbers + _MORE_NUMBERS,
        reason=f"{WEIGHTS} has {len(shapes)} tensors of {numbers} numbers",
    )
    try:
        with bounds:
            model = _rebuilt(config)
        if "labels" in config:
            if not isinstance(config["labels"], list):
                raise ValueError(f"labels must be a list of names, got {type(config['labels']).__name__}")
            names, of_options = label_sets.resolve(config["labels"]), len(model.labels)
            if len(names) != of_options:
                raise ValueError(f"{len(names)} labels, but options for {of_options}")
            model.labels = names
        if "input_spec" in config:
            spec = model.input_spec.updated(config["input_spec"])
            if spec.channels != model.input_spec.channels:
                raise ValueError(
                    f"input_spec has channels={spec.channels}, but options for {model.input_spec.channels}"
                )
            model.input_spec = spec
    except UnknownNameError as error:
        error.message += f". {source.parent} was saved with it: if it is a plug-in's, install the package that has it"
        raise
    except ImportError:  # a plug-in or an extra that is lacking here
        raise
    except Exception as error:  # of whatever constructor the options reach
        raise ValueError(f"{source} describes no model that can be built: {type(error).__name__}: {error}") from error
    return model


def _load_weights(model: Any, path: Path, device: str) -> None:
    try:
        state = load_file(path, device=device)
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged, or no safetensors file: {error}") from error
    state = _with_shared(state, model)
    try:
        model.load_state_dict(state, strict=True)
    except RuntimeError as error:
        raise ValueError(f"{path} is not of the model that {CONFIG} beside it describes: {error}") from error


def _rebuilt(config: Mapping[str, Any]) -> Any:
    """Build the model or part that a config describes, with new weights."""
    if not isinstance(config.get("name"), str) or not isinstance(config.get("options"), Mapping):
        raise OptionError(f"a config needs 'name' (str) and 'options' (mapping), got {dict(config)!r}")
    registry = _PARTS.get(config.get("subpackage"), models.registry)
    return registry.build(config["name"], **without_pretrained(config["options"]))


def _with_shared(state: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """`state`, in which weights that two parts of `model` share are once, with both of their names."""
    own = model.state_dict()
    names = {(value.data_ptr(), value.shape): key for key, value in own.items() if key in state}
    shared = {key: names[place] for key, value in own.items() if (place := (value.data_ptr(), value.shape)) in names}
    return {**{key: state[name] for key, name in shared.items()}, **state}
