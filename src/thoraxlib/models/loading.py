"""Load models: saved ones from a folder or from the Hub, and published weights by name."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, Literal, overload

from huggingface_hub import hf_hub_download
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn
from typing_extensions import TypeVar

from thoraxlib import detection, models, segmentation, weights
from thoraxlib import labels as label_sets
from thoraxlib.backbones import remote
from thoraxlib.checkpoints.saving import CONFIG, WEIGHTS, Persistent, read_header
from thoraxlib.models.base import ChestModel
from thoraxlib.models.bounded import Bounded
from thoraxlib.models.published import published
from thoraxlib.registry import OptionError, Registry, UnknownNameError, without_pretrained
from thoraxlib.segmentation import Segmenter
from thoraxlib.utils.files import read_json

P = TypeVar("P", bound=Persistent, default=ChestModel)

_COMPONENTS: dict[Any, Registry[Any]] = {"detection": detection.registry, "segmentation": segmentation.registry}

# Bounds on building, for each tensor or number of the weights, and in addition: torchvision's VGG first makes a
# classifier of 124 million numbers and then drops it
_TENSORS_EACH, _MORE_TENSORS = 4, 1000
_NUMBERS_EACH, _MORE_NUMBERS = 2, 1 << 27


@overload
def load_pretrained(source: Literal["lungs-small"], kind: None = None) -> Segmenter: ...
@overload
def load_pretrained(
    source: str | os.PathLike[str],
    kind: type[P] = ...,
    *,
    map_location: str = ...,
    revision: str | None = ...,
    token: str | bool | None = ...,
    cache_dir: str | Path | None = ...,
    force_download: bool = ...,
    local_files_only: bool = ...,
    allow_pickle: bool = ...,
) -> P: ...
def load_pretrained(
    source: str | os.PathLike[str],
    kind: type[Persistent] | None = None,
    *,
    map_location: str = "cpu",
    revision: str | None = None,
    token: str | bool | None = None,
    cache_dir: str | Path | None = None,
    force_download: bool = False,
    local_files_only: bool = False,
    allow_pickle: bool = False,
) -> Any:
    """Load a model that :func:`save_pretrained` wrote, from a folder or from the Hub, or published weights by name.

    Parameters
    ----------
    source : path or str
        A folder, a Hub repository ``"owner/name"``, or a name of the catalogue (:func:`thoraxlib.weights.names`).
    kind : type, optional
        Class of the model: :class:`thoraxlib.models.ChestModel`, :class:`thoraxlib.segmentation.Segmenter` or
        :class:`thoraxlib.detection.RegionDetector`. By default the first; for a name of the catalogue, the one of its
        weights.
    map_location : str
        Device on which the file's weights are read.
    revision, token, cache_dir, force_download, local_files_only
        See :func:`huggingface_hub.hf_hub_download`.
    allow_pickle : bool
        Load published weights that are a whole pickled module, which runs the code that it names.

    Returns
    -------
    ChestModel
        Or a `kind`, in eval mode: bit for bit the saved model, with its labels, input spec and config.

    Raises
    ------
    FileNotFoundError
        The folder, or one of its two files, does not exist.
    ValueError
        A file is no JSON, describes no model that can be built, or has damaged weights or those of another model.
    TypeError
        The saved model is of another kind.
    UnknownNameError
        A name in the config is unknown here, such as that of a plug-in that is not installed; or `source` is neither a
        folder nor a name of the catalogue.
    """
    if isinstance(source, str) and re.fullmatch(r"[a-z0-9][\w.+-]*", source) and not Path(source).exists():
        card = weights.describe(source)
        if not card.shipped:
            model: Any = published(card, allow_pickle=allow_pickle)
            return _of_kind(model, kind or Persistent, source)
        kind, source = kind or Persistent, weights.fetch(source).parent
    kind = kind or ChestModel
    config, file = Path(source, CONFIG), Path(source, WEIGHTS)
    if Path(source).is_dir():
        if not config.exists() and not file.exists():
            raise FileNotFoundError(f"{source}: no readable {CONFIG}; is this a folder that save_pretrained wrote?")
        if not file.exists():
            raise FileNotFoundError(f"{source}: no {WEIGHTS} beside its {CONFIG}")
    else:
        parts = Path(source).parts
        if Path(source).is_absolute() or len(parts) != 2 or parts[0] in {".", ".."}:
            raise FileNotFoundError(f"{source}: neither a folder nor a Hub repository ('owner/name')")
        download = partial(
            hf_hub_download,
            str(source),
            revision=revision,
            token=token,
            cache_dir=cache_dir,
            force_download=force_download,
            local_files_only=local_files_only,
        )
        config, file = (Path(download(name)) for name in (CONFIG, WEIGHTS))
    model = _of_kind(_described(config, file), kind, source)
    try:
        state = load_file(file, device=map_location)
        model.load_state_dict(_with_shared(state, model), strict=True)
    except SafetensorError as error:
        raise ValueError(f"{file} is damaged, or no safetensors file: {error}") from error
    except RuntimeError as error:
        raise ValueError(f"{file} is not of the model that {CONFIG} beside it describes: {error}") from error
    return model.eval()


def _of_kind(model: Any, kind: type[Persistent], source: object) -> Any:
    """Return `model`, or raise TypeError if it is of another class."""
    if not isinstance(model, kind):
        found = f"it is a {type(model).__name__}, no {kind.__name__}"
        raise TypeError(f"{source}: {found}; load_pretrained(source, kind) takes the class")
    return model


def _described(path: Path, weights: Path) -> Any:
    """Build the model that ``config.json`` describes; without that file, the one that the weights describe."""
    written = read_json(path) if path.exists() else None
    shapes, carried = read_header(weights)
    if written is None and carried is None:
        raise FileNotFoundError(f"{path.parent}: no readable {path.name}, and {weights.name} carries no config")
    if None not in (written, carried) and _deciding(carried) != _deciding(written):
        raise ValueError(
            f"{path} is not the config that {weights.name} beside it was saved with: a save was interrupted, or the "
            f"file was edited. Delete {path.name} to load the saved model; to change a model, load it, change it, and "
            "save it again"
        )
    return _built(carried, weights, shapes) if written is None else _built(written, path, shapes)


def _deciding(config: Any) -> str:
    """Text of the keys of a config that decide how the model is built; the Hub and others may add keys."""
    used = ("subpackage", "name", "options", "labels", "input_spec")
    return json.dumps({key: config.get(key) for key in used} if isinstance(config, dict) else config, sort_keys=True)


def _built(config: Any, source: Path, shapes: dict[str, list[int]]) -> Any:
    """Build the model of a config with new weights, and refuse models much larger than `shapes`."""
    numbers = sum(map(math.prod, shapes.values()))
    bounds = Bounded(
        tensors=_TENSORS_EACH * len(shapes) + _MORE_TENSORS,
        numbers=_NUMBERS_EACH * numbers + _MORE_NUMBERS,
        reason=f"{WEIGHTS} has {len(shapes)} tensors of {numbers} numbers",
    )
    try:
        if not isinstance(config.get("name"), str) or not isinstance(config.get("options"), Mapping):
            raise OptionError(f"a config needs 'name' (str) and 'options' (mapping), got {dict(config)!r}")
        if remote.names_one(config["options"]):  # a saved model has the architecture: the file may be hostile
            raise OptionError("a config names no network of the Hub or of a folder (hf_hub:, local-dir:)")
        registry = _COMPONENTS.get(config.get("subpackage"), models.registry)
        with bounds:
            model = registry.build(config["name"], **without_pretrained(config["options"]))
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
    except ImportError:  # a plug-in or an extra that is not installed
        raise
    except Exception as error:  # of any constructor that the options reach
        raise ValueError(f"{source} describes no model that can be built: {type(error).__name__}: {error}") from error
    return model


def _with_shared(state: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Give weights that two components of `model` share, and the file holds once, both of their names."""
    own = model.state_dict()
    names = {(value.data_ptr(), value.shape): key for key, value in own.items() if key in state}
    shared = {key: names[shape] for key, value in own.items() if (shape := (value.data_ptr(), value.shape)) in names}
    return {**{key: state[name] for key, name in shared.items()}, **state}
