"""Save models and components to a folder or to the Hub: weights as safetensors, the config as JSON."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, ClassVar

import torch
from huggingface_hub import ModelHubMixin
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from thoraxlib.input_spec import InputSpec
from thoraxlib.registry import as_json, without_pretrained
from thoraxlib.utils.files import discard_scratch, locked, parse_json, read_json, replacing, write_json
from thoraxlib.utils.modes import uncompiled

#: The two files of a saved model.
CONFIG, WEIGHTS = "config.json", "model.safetensors"
#: Advice for a ready component that no registry knows.
BY_NAME = (
    "Register the component (for instance @thoraxlib.backbones.register(...)) and pass it by name, so that the saved "
    "model can be built again"
)
_CARD = "README.md"
_CARRIED = "thoraxlib"  # the key of the config in the weights' metadata

_MODEL_CARD = """---
{{ card_data }}
---

A chest X-ray model of the Python library thoraxlib. `config.json` describes the network, its labels and its input:

```python
import thoraxlib

model = thoraxlib.load_pretrained("this folder or repository")
x = thoraxlib.preprocess_for(model)("cxr.png")
probabilities = model.predict_proba(x)
```

Not a medical device.
"""


class Persistent(
    ModelHubMixin,
    nn.Module,
    library_name="thoraxlib",
    tags=["chest-x-ray", "thoraxlib"],
    model_card_template=_MODEL_CARD,
):
    """Base class with ``save_pretrained`` and ``push_to_hub``, for models and components that a registry built.

    The Hub mixin does the transport; this class defines the files: ``config.json`` (how to build the model, its labels
    and input spec) and ``model.safetensors``. :func:`thoraxlib.load_pretrained` loads them.

    Attributes
    ----------
    subpackage : str
        Subpackage of thoraxlib whose registry builds the component.
    input_spec : InputSpec
        Description of the input.
    """

    subpackage: ClassVar[str]
    input_spec: InputSpec

    def described(self) -> dict[str, Any]:
        """Return the config that builds it again, as plain JSON.

        Raises
        ------
        TypeError
            No registry built it, or it has a ready component that no registry knows.
        """
        spec = getattr(self, "registry_spec", None)
        if spec is None:
            raise TypeError(
                f"this {type(self).__name__} was not built by a registry, so nothing records how to build it again; "
                "register a factory for it and build it by name"
            )
        try:
            options = as_json(spec)
        except TypeError as error:
            raise TypeError(f"cannot save {spec['name']!r}, which has {error}: {BY_NAME}") from error
        name = options.pop("name")
        return {
            "subpackage": self.subpackage,
            "name": name,
            "options": options,
            "input_spec": self.input_spec.to_json(),
        }

    def save_pretrained(self, save_directory: str | os.PathLike[str], **hub: Any) -> str | None:  # type: ignore[override]
        """See the mixin, whose arguments `hub` are, and :func:`save_pretrained`, with its errors."""
        _check_own(Path(save_directory))
        return super().save_pretrained(save_directory, **hub)  # type: ignore[arg-type]

    def _save_pretrained(self, save_directory: Path) -> None:
        """Write the weights, which carry the config: from their rename on, the folder holds this model."""
        from safetensors.torch import save_model

        from thoraxlib import __version__

        config = {"thoraxlib_version": __version__, **self.described()}
        with replacing(save_directory / WEIGHTS) as scratch:
            save_model(self, str(scratch), {"format": "pt", _CARRIED: json.dumps(config)})
        write_json(save_directory / CONFIG, config, indent=2)

    @classmethod
    def from_pretrained(cls, *_: Any, **__: Any) -> Any:
        """Refuse: the mixin's own method would pass options of a config to the download.

        Raises
        ------
        NotImplementedError
            Always; :func:`thoraxlib.load_pretrained` loads models and components.
        """
        raise NotImplementedError(f"load with thoraxlib.load_pretrained(folder, {cls.__name__})")


def save_pretrained(model: nn.Module, folder: str | os.PathLike[str]) -> None:
    """Write `model` to `folder` as ``model.safetensors``, ``config.json`` and a model card, ``README.md``.

    The weights carry the config, and one rename puts both in place, so that an interrupted save leaves the old model or
    the new one; ``config.json`` is a copy for people and the Hub. One process writes to a folder at a time, and removes
    unfinished files of an earlier one that was killed.

    Parameters
    ----------
    model : nn.Module
        Built by :func:`thoraxlib.build`, as it is or compiled by ``torch.compile``.
    folder : path
        Created if needed; a model saved there before is replaced. An existing ``README.md`` is kept.

    Raises
    ------
    TypeError
        The model was not built by a registry, has a ready component that no registry knows, or is no
        :class:`Persistent` (a plug-in's own class must be).
    FileExistsError
        The folder has a ``config.json`` or ``model.safetensors`` that this library did not write.
    """
    model = _persistent(model)
    model.described()
    folder = Path(folder)
    _check_own(folder)
    with locked(folder, wait=True):
        for name in (WEIGHTS, CONFIG, _CARD):
            discard_scratch(folder, Path(name).stem)
        if not os.path.lexists(folder / _CARD):
            with replacing(folder / _CARD) as scratch:
                model.generate_model_card().save(scratch)
        model._save_pretrained(folder)


def can_be_saved(model: nn.Module) -> bool:
    """Return True if :func:`save_pretrained` can write `model`: a record says how to build it again."""
    try:
        _persistent(model).described()
    except TypeError:
        return False
    return True


def _persistent(model: nn.Module) -> Persistent:
    """Return `model`, or the module that ``torch.compile`` wrapped, if it can describe itself."""
    model = uncompiled(model)
    if not isinstance(model, Persistent):
        raise TypeError(
            "model must be built by thoraxlib.build, or be a thoraxlib.checkpoints.saving.Persistent; "
            f"got {type(model).__name__}"
        )
    return model


def _check_own(folder: Path) -> None:
    """Raise FileExistsError if saving to `folder` would replace files that this library did not write."""
    written = {}
    for name in (CONFIG, WEIGHTS):
        path = folder / name
        try:
            config = read_json(path) if name == CONFIG else read_header(path)[1]
        except (OSError, ValueError):
            config = None
        written[name] = isinstance(config, dict) and "thoraxlib_version" in config
        # the weights of an early version carry no config, but lie beside one
        if os.path.lexists(path) and not written[name] and not (name == WEIGHTS and written[CONFIG]):
            raise FileExistsError(
                f"{path} was not written by thoraxlib, or is damaged: choose another folder, or move the file away"
            )
    if (card := folder / _CARD).is_symlink() and not card.exists():
        raise FileExistsError(f"{card} is a link to a file that is not there: choose another folder, or remove it")


def read_header(path: Path) -> tuple[dict[str, list[int]], Any]:
    """Read the names and shapes of the weights in a file, and the config that it carries, or None.

    Raises
    ------
    ValueError
        No safetensors file, or a damaged one.
    """
    try:
        with safe_open(path, framework="pt") as file:
            shapes = {key: file.get_slice(key).get_shape() for key in file.keys()}  # noqa: SIM118
            text = (file.metadata() or {}).get(_CARRIED)
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged, or no safetensors file: {error}") from error
    return shapes, None if text is None else parse_json(text, f"{path}: its metadata")


def weights_digest(model: nn.Module) -> str:
    """Hash of all weights and buffers."""
    return tensors_digest(model.state_dict().values())


def tensors_digest(tensors: Iterable[Tensor]) -> str:
    """Hash of tensors in their order."""
    whole = hashlib.sha256()
    for value in tensors:
        whole.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return whole.hexdigest()[:16]


def fingerprint(model: nn.Module) -> str:
    """Hash of a model's config and weights, the same for its saved and loaded copy on any device.

    For models that cannot be saved, a hash of class name and weights.
    """
    try:
        config = _persistent(model).described()
    except TypeError:
        config = {"class": type(uncompiled(model)).__qualname__}
    written = json.dumps(without_pretrained(config), sort_keys=True) + weights_digest(uncompiled(model))
    return hashlib.sha256(written.encode()).hexdigest()[:16]
