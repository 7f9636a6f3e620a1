"""Saving and loading models: weights as safetensors, everything else as JSON; the Hub by the same two verbs."""

from __future__ import annotations

import hashlib
import importlib
import json
import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from huggingface_hub import ModelHubMixin, hf_hub_download

from thoraxlib.bounded import Bounded
from thoraxlib.files import alone, discard_scratch, parse_json, read_json, replacing, write_json
from thoraxlib.modes import uncompiled
from thoraxlib.registry import UnknownNameError, as_json, without_pretrained

if TYPE_CHECKING:
    from torch import Tensor, nn
    from typing_extensions import Self

__all__ = [
    "Persistent",
    "can_be_saved",
    "fingerprint",
    "load_pretrained",
    "save_pretrained",
    "weights_digest",
]

_CONFIG = "config.json"
_ROOMS = ("detection", "segmentation")  # of parts that are saved by themselves
_BY_NAME = (
    "Register the part in its room (for instance @thoraxlib.backbones.register(...)) and pass it by name, so that the "
    "saved model can be built again"
)
_WEIGHTS = "model.safetensors"
_CARD = "README.md"
_CARRIED = "thoraxlib"  # the key of the config in the weights' metadata

# What building may need for each of the weights, and beside them: torchvision's VGG makes a classifier first, of 124
# million numbers, that is not kept
_MOST_TENSORS, _MORE_TENSORS = 4, 1000
_MOST_NUMBERS, _MORE_NUMBERS = 2, 1 << 27


_MODEL_CARD = """---
{{ card_data }}
---

A chest X-ray model of the Python library thoraxlib. `config.json` says which one, with what labels and input:

```python
import thoraxlib

model = thoraxlib.load_pretrained("this folder or repository")
x = thoraxlib.preprocess_for(model)("cxr.png")
probabilities = model.predict_proba(x)
```

Not a medical device.
"""


class Persistent(
    ModelHubMixin, library_name="thoraxlib", tags=["chest-x-ray", "thoraxlib"], model_card_template=_MODEL_CARD
):
    """``save_pretrained``, ``from_pretrained`` and ``push_to_hub`` for models of the registry.

    The Hub mixin does the transport; this class says what is in the folder: ``config.json`` (how to build the model,
    its labels and input spec) and ``model.safetensors``.
    """

    def save_pretrained(self, save_directory: str | os.PathLike[str], **hub: Any) -> str | None:  # type: ignore[override]
        """See the mixin, whose arguments `hub` are, and :func:`save_pretrained`, with its errors."""
        _check_own(Path(save_directory))
        return super().save_pretrained(save_directory, **hub)  # type: ignore[arg-type]

    def _save_pretrained(self, save_directory: Path) -> None:
        """Write the weights, which carry the config: from their rename on, the folder is of this model."""
        from safetensors.torch import save_model

        config = _config_of(self)
        with replacing(save_directory / _WEIGHTS) as scratch:
            save_model(self, str(scratch), {"format": "pt", _CARRIED: json.dumps(config)})
        write_json(save_directory / _CONFIG, config, indent=2)

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls,
        pretrained_model_name_or_path: str | os.PathLike[str],
        *,
        map_location: str = "cpu",
        revision: str | None = None,
        token: str | bool | None = None,
        cache_dir: str | Path | None = None,
        force_download: bool = False,
        local_files_only: bool = False,
    ) -> Self:
        """See :func:`load_pretrained`; not the mixin's, which hands what the config says to the download."""
        source = os.fspath(pretrained_model_name_or_path)
        if Path(source).is_dir():
            config, weights = Path(source, _CONFIG), Path(source, _WEIGHTS)
            if not config.exists() and not weights.exists():
                why = f"no readable {_CONFIG}; is this a folder that save_pretrained wrote?"
                raise FileNotFoundError(f"{source}: {why}")
            if not weights.exists():
                raise FileNotFoundError(f"{source}: no {_WEIGHTS} beside its {_CONFIG}")
        else:
            config, weights = (
                Path(
                    hf_hub_download(
                        source,
                        name,
                        revision=revision,
                        token=token,
                        cache_dir=cache_dir,
                        force_download=force_download,
                        local_files_only=local_files_only,
                    )
                )
                for name in (_CONFIG, _WEIGHTS)
            )
        model = _described(config, weights)
        _load_weights(model, weights, map_location)
        model.eval()
        return model  # type: ignore[no-any-return]


def _described(path: Path, weights: Path) -> Any:
    """The model that ``config.json`` describes, or without it the weights, which it must agree with."""
    written = read_json(path) if path.exists() else None
    shapes, carried = _header(weights)
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
    used = ("room", "name", "options", "labels", "input_spec")
    return json.dumps({key: config.get(key) for key in used} if isinstance(config, dict) else config, sort_keys=True)


def _header(path: Path) -> tuple[dict[str, list[int]], Any]:
    """Names and shapes of the weights in a file, and the config that it carries, if it does."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            shapes = {key: file.get_slice(key).get_shape() for key in file.keys()}  # noqa: SIM118
            text = (file.metadata() or {}).get(_CARRIED)
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged, or no safetensors file: {error}") from error
    return shapes, None if text is None else parse_json(text, f"{path}: its metadata")


def _built(config: Any, source: Path, shapes: dict[str, list[int]]) -> Any:
    """The model that a config describes, before it gets its weights, of which `shapes` are."""
    from thoraxlib import labels

    numbers = sum(map(math.prod, shapes.values()))
    bounds = Bounded(
        tensors=_MOST_TENSORS * len(shapes) + _MORE_TENSORS,
        numbers=_MOST_NUMBERS * numbers + _MORE_NUMBERS,
        reason=f"{_WEIGHTS} has {len(shapes)} tensors of {numbers} numbers",
    )
    try:
        with bounds:
            model = _rebuilt(config)
        if "labels" in config:
            if not isinstance(config["labels"], list):
                raise ValueError(f"labels must be a list of names, got {type(config['labels']).__name__}")
            names, of_options = labels.resolve(config["labels"]), len(model.labels)
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
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        state = load_file(path, device=device)
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged, or no safetensors file: {error}") from error
    state = _with_shared(state, model)
    try:
        model.load_state_dict(state, strict=True)
    except RuntimeError as error:
        raise ValueError(f"{path} is not of the model that {_CONFIG} beside it describes: {error}") from error


def _rebuilt(config: dict[str, Any]) -> Any:
    """What a config describes, a model or a part, with new weights."""
    from thoraxlib import models

    if config.get("room") not in _ROOMS:
        return models.registry.rebuild(config)
    room = importlib.import_module(f"thoraxlib.{config['room']}")
    return room.build(config["name"], **without_pretrained(config["options"]))


def save_pretrained(model: nn.Module, folder: str | os.PathLike[str]) -> None:
    """Write `model` to `folder` as ``model.safetensors``, ``config.json`` and a model card, ``README.md``.

    The weights carry the config, and one rename puts both in place, so that an interrupted save leaves the old model or
    the new one; ``config.json`` is a copy for people and the Hub. One process writes to a folder at a time, and what an
    earlier one that was killed left unfinished is removed.

    Parameters
    ----------
    model : nn.Module
        Built by :func:`thoraxlib.build`, as it is or compiled by ``torch.compile``.
    folder : path
        Made if needed; a model saved there before is replaced. A ``README.md`` that is there stays as it is.

    Raises
    ------
    TypeError
        The model was not built by the registry, holds a ready part that no registry knows, or is no
        :class:`Persistent` (a plug-in's own class must be).
    FileExistsError
        The folder has a ``config.json`` or ``model.safetensors`` that this library did not write.
    """
    model = uncompiled(model)
    if not isinstance(model, Persistent):
        raise TypeError(
            "model must be built by thoraxlib.build, from a class that derives from thoraxlib.persistence.Persistent; "
            f"got {type(model).__name__}"
        )
    _config_of(model)
    folder = Path(folder)
    _check_own(folder)
    with alone(folder, wait=True):
        for name in (_WEIGHTS, _CONFIG, _CARD):
            discard_scratch(folder, Path(name).stem)
        if not os.path.lexists(folder / _CARD):
            with replacing(folder / _CARD) as scratch:
                model.generate_model_card().save(scratch)
        model._save_pretrained(folder)


def can_be_saved(model: nn.Module) -> bool:
    """Whether :func:`save_pretrained` can write `model`: it is known how to build it again."""
    model = uncompiled(model)
    if not isinstance(model, Persistent):
        return False
    try:
        _config_of(model)
    except TypeError:
        return False
    return True


def _check_own(folder: Path) -> None:
    """Raise FileExistsError where saving to `folder` would replace what this library did not write."""
    written = {}
    for name in (_CONFIG, _WEIGHTS):
        path = folder / name
        try:
            config = read_json(path) if name == _CONFIG else _header(path)[1]
        except (OSError, ValueError):
            config = None
        written[name] = isinstance(config, dict) and "thoraxlib_version" in config
        # the weights of an early version carry no config, but lie beside one
        if os.path.lexists(path) and not written[name] and not (name == _WEIGHTS and written[_CONFIG]):
            raise FileExistsError(
                f"{path} was not written by thoraxlib, or is damaged: choose another folder, or move the file away"
            )
    if (card := folder / _CARD).is_symlink() and not card.exists():
        raise FileExistsError(f"{card} is a link to a file that is not there: choose another folder, or remove it")


def load_pretrained(source: str | os.PathLike[str], **hub: Any) -> nn.Module:
    """Load a model that :func:`save_pretrained` wrote, from a folder or from the Hub.

    Parameters
    ----------
    source : path or str
        A folder, or a Hub repository ``"owner/name"``.
    **hub
        ``revision``, ``token``, ``cache_dir``, ``force_download``, ``local_files_only``, ``map_location``.

    Returns
    -------
    nn.Module
        In eval mode, bit for bit the saved one, with its labels, input spec and config.

    Raises
    ------
    FileNotFoundError
        The folder, or one of its two files, does not exist.
    ValueError
        Naming the file: no JSON, no model that can be built, damaged weights, or those of another model.
    UnknownNameError
        A name that the model was saved with is not known here, as that of a plug-in that is not installed.
    """
    path = Path(source)
    if not path.is_dir() and (path.is_absolute() or len(path.parts) != 2 or path.parts[0] in {".", ".."}):
        raise FileNotFoundError(f"{source}: neither a folder nor a Hub repository ('owner/name')")
    model: nn.Module = Persistent.from_pretrained(str(source), **hub)  # type: ignore[assignment]
    return model


def weights_digest(model: nn.Module) -> str:
    """Of all weights and buffers."""
    whole = hashlib.sha256()
    for value in model.state_dict().values():
        whole.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return whole.hexdigest()[:16]


def fingerprint(model: nn.Module) -> str:
    """Of what a model is: its weights and how it is built, the same for its saved and loaded copy on any device.

    Of how a model is built that cannot be saved, only its class is known.
    """
    model = uncompiled(model)
    try:
        config = {key: value for key, value in _config_of(model).items() if key != "thoraxlib_version"}
    except TypeError:
        config = {"class": type(model).__qualname__}
    written = json.dumps(without_pretrained(config), sort_keys=True) + weights_digest(model)
    return hashlib.sha256(written.encode()).hexdigest()[:16]


def _with_shared(state: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """`state`, in which weights that two parts of `model` share are once, with both of their names."""
    own = model.state_dict()
    names = {(value.data_ptr(), value.shape): key for key, value in own.items() if key in state}
    shared = {key: names[place] for key, value in own.items() if (place := (value.data_ptr(), value.shape)) in names}
    return {**{key: state[name] for key, name in shared.items()}, **state}


def _config_of(model: Any) -> dict[str, Any]:
    from thoraxlib import __version__

    config = getattr(model, "config", None)
    part = getattr(model, "registry_spec", None)
    if config is None and part is not None:  # a segmenter, a detector of regions
        try:
            options = as_json(part)
        except TypeError as error:
            raise TypeError(f"cannot save {part['name']!r}, which has {error}: {_BY_NAME}") from error
        name = options.pop("name")
        spec = {"room": model.room, "name": name, "options": options, "input_spec": model.input_spec.to_json()}
        return {"thoraxlib_version": __version__, **spec}
    if config is None:
        raise TypeError(
            f"this {type(model).__name__} was not built by thoraxlib.build, so nothing records how to build it again; "
            "register a factory for it (thoraxlib.models.register) and build it by name"
        )
    if model.unrecorded:
        listed = "; ".join(f"{option}: {why}" for option, why in model.unrecorded.items())
        raise TypeError(f"cannot save {config['name']!r}: {listed}. {_BY_NAME}")
    spec = {"input_spec": model.input_spec.to_json()} if model.input_spec is not None else {}
    return {"thoraxlib_version": __version__, **config, "labels": list(model.labels), **spec}
