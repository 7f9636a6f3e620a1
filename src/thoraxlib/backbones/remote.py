"""Networks in timm's format outside timm: ``hf_hub:owner/repository[@revision]`` and ``local-dir:/path``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from thoraxlib.input_spec import InputSpec
from thoraxlib.utils.download import unavailable
from thoraxlib.utils.files import read_json

CONFIG, WEIGHTS = "config.json", "model.safetensors"
_NAME = re.compile(r"(hf[_-]hub|local-dir):(.+)")
# arguments of timm.create_model that load files
_REFUSED = ("checkpoint_path", "pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "cache_dir", "features_only")


@dataclass(frozen=True)
class Remote:
    """Description of a network in timm's format.

    Attributes
    ----------
    architecture : str
        Name of timm.
    options : Mapping[str, Any]
        Options of the architecture.
    input_spec : InputSpec
        Size, mean and standard deviation of the weights.
    """

    architecture: str
    options: Mapping[str, Any]
    input_spec: InputSpec


def described(name: str) -> Remote | None:
    """Return the description of a network on the Hub or in a folder; None for other names.

    Raises
    ------
    ValueError
        ``config.json`` describes no network of timm.
    FileNotFoundError, ConnectionError
        No such folder or repository, or no network.
    """
    found = _NAME.fullmatch(name)
    if found is None:
        return None
    source, where = found.groups()
    return _read(name, _local(where, CONFIG)) if source == "local-dir" else _of_hub(name, where)


def weights(name: str) -> Path:
    """Return the weights' file of a network on the Hub or in a folder: safetensors, nothing else.

    Raises
    ------
    ValueError
        There is no such file.
    ConnectionError
        No network.
    """
    found = _NAME.fullmatch(name)
    assert found is not None
    source, where = found.groups()
    try:
        return _local(where, WEIGHTS) if source == "local-dir" else _download(where, WEIGHTS)
    except FileNotFoundError as error:
        raise ValueError(
            f"{name} has no {WEIGHTS}, and files of other kinds (pytorch_model.bin) are not read from there, since "
            "they are pickled: convert the file, or give it to thoraxlib.load_checkpoint if it holds tensors alone"
        ) from error


def names_one(value: Any) -> bool:
    """Return True if a config names a network of the Hub or of a folder, at any depth."""
    if isinstance(value, Mapping):
        return any(map(names_one, value.values()))
    return any(map(names_one, value)) if isinstance(value, list) else bool(_NAME.fullmatch(str(value)))


def as_architecture(value: Any) -> Any:
    """Replace names of the Hub and of folders in a config, at any depth, by their architectures with options."""
    if isinstance(value, str) and (network := described(value)) is not None:
        return {"name": network.architecture, **network.options}
    if isinstance(value, Mapping):
        options = {key: as_architecture(item) for key, item in value.items()}
        nested = options.get("name")
        return {**nested, **options, "name": nested["name"]} if isinstance(nested, Mapping) else options
    if isinstance(value, list):
        return [as_architecture(item) for item in value]
    return value


@lru_cache(maxsize=64)  # a name is looked up several times while a network is built
def _of_hub(name: str, where: str) -> Remote:
    return _read(name, _download(where, CONFIG))


def _local(folder: str, file: str) -> Path:
    path = Path(folder, file)
    if not path.is_file():
        raise FileNotFoundError(f"local-dir:{folder}: no {file} there")
    return path


def _download(where: str, file: str) -> Path:
    """Return a file of a repository on the Hub, in the Hub's own cache."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    repository, _, revision = where.partition("@")
    try:
        return Path(hf_hub_download(repository, file, revision=revision or None))
    except Exception as error:
        if isinstance(error, EntryNotFoundError) and not isinstance(error, LocalEntryNotFoundError):
            raise FileNotFoundError(f"hf_hub:{where}: no {file} there") from error
        address = f"https://huggingface.co/{repository}/resolve/{revision or 'main'}/{file}"
        place = Path("<folder>", file)
        hint = f" beside the other file of {CONFIG} and {WEIGHTS}, and name it local-dir:<folder>"
        raise unavailable(address, error, place, hint=hint) from error


def _read(name: str, path: Path) -> Remote:
    """Read ``config.json`` as timm does: the weights' input under ``pretrained_cfg``, or beside it in old files."""
    import timm

    config = read_json(path)
    architecture = config.get("architecture") if isinstance(config, Mapping) else None
    if not isinstance(architecture, str) or not timm.is_model(architecture):
        raise ValueError(f"{name}: {path} describes no network of timm; its architecture is {architecture!r}")
    options, given = config.get("model_args") or {}, config.get("pretrained_cfg") or config
    if not isinstance(options, Mapping) or not isinstance(given, Mapping) or {*options} & {*_REFUSED}:
        raise ValueError(f"{name}: {path} has model_args or pretrained_cfg that cannot be used: {options!r}")
    options = {key: value for key, value in options.items() if key not in ("num_classes", "in_chans")}  # the caller's
    own = timm.models.get_pretrained_cfg(architecture, allow_unregistered=True)
    size, mean, std = (given.get(key) or getattr(own, key, None) for key in ("input_size", "mean", "std"))
    try:
        channels, *sides = size or (3, 224, 224)
        spec = InputSpec(size=options.get("img_size", tuple(sides)), channels=channels)
        spec = spec.updated({key: tuple(value) for key, value in (("mean", mean), ("std", std)) if value})
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name}: {path} has an input that cannot be used: {error}") from error
    return Remote(architecture, options, spec)
