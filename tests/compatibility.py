"""Try which components work together, and each ability of the documented models.

``test_everything.py`` compares the abilities with the models' cards, and the rest with the tables of
``docs/guides/compatibility.md``. After a new head, pooling, CAM or family of backbones::

    python -m tests.compatibility --write
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import fnmatch
import functools
import io
import re
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import thoraxlib
from thoraxlib import backbones, cams, heads
from thoraxlib.layers import fusion, pooling
from thoraxlib.models.fusion import FusionFeatures
from thoraxlib.registry import Spec
from thoraxlib.utils.text_tables import markdown

PAGE = Path(__file__).parents[1] / "docs" / "guides" / "compatibility.md"
YES = "yes"
#: Heat maps; those of `thoraxlib.reproduce` fit where the methods that they vary do.
METHODS = [name for name in cams.names() if not name.startswith("x_ray_")]

Table = dict[str, dict[str, str]]

# -- small parts -----------------------------------------------------------------------------------------------------

# the same architecture from fewer and narrower layers; of what is not here, the whole
_STAND_INS: dict[str, Mapping[str, Any]] = {
    "resnet*": {"layers": (1, 1, 1, 1), "channels": (8, 16, 24, 32)},
    "densenet*": {"block_config": (2, 2, 2, 2), "growth_rate": 8},
    "dense_van": {"growth_rate": 4, "depths": (1, 1, 1, 1)},
    "van_b*": {"widths": (8, 16, 24, 32), "depths": (1, 1, 1, 1)},
    "vanillanet_5": {"widths": (8, 16, 24, 32)},
    "swin_*": {"embed_dim": 16, "depths": (1, 1, 1, 1), "num_heads": (1, 1, 2, 2)},
    "vit_per_stage": {"width": 24, "depth": 1, "num_heads": 2},
    "query_decoder": {"channels": 32, "hidden": 32, "attention_heads": 4, "encoder_layers": 1, "decoder_layers": 2},
    "label_graph": {"hidden": (16,)},
    "region_graph": {"hidden": 12},
    "unet": {"width": 4},
}
_SIDES = {"dense_van": 8, "inception*": 96}  # pixels, of what is slow because it has no stride, or needs more than 64
_LABELS = ("Edema", "Mass", "Nodule")  # graphs know them

# of the many sizes of a family that timm has, one
_TIMM = (
    "convnext_atto",
    "deit_tiny_patch16_224",
    "densenet121",
    "efficientnet_b0",
    "hiera_tiny_224",
    "inception_v3",
    "mambaout_femto",
    "mobilenetv3_small_050",
    "pvt_v2_b0",
    "regnetx_002",
    "resnest14d",
    "resnet18",
    "swin_tiny_patch4_window7_224",
    "swinv2_cr_tiny_ns_224",
    "vgg11_bn",
    "vit_tiny_patch16_224",
)


def _matching(table: Mapping[str, Any], name: str, default: Any) -> Any:
    return next((value for pattern, value in table.items() if fnmatch.fnmatch(name, pattern)), default)


def reduced(part: Spec) -> dict[str, Any]:
    """The spec of a small part of the same kind."""
    name, options = heads.registry.split_spec(part)
    return {"name": name, **options, **_matching(_STAND_INS, name, {})}


def side_for(backbone: Spec) -> int:
    """Pixels of a small image that the backbone takes."""
    side: int = _matching(_SIDES, heads.registry.split_spec(backbone)[0], 64)
    return side


def small_parts(name: str, preset: str | None = None, *, but: tuple[str, ...] = ("backbone",)) -> dict[str, Any]:
    """Options that make the large parts of a documented model small, `but` some."""
    card: Any = thoraxlib.describe(name)
    options = {**card.options, **(card.presets[preset].options if preset else {})}
    parts = {key: options[key] for key in ("backbone", "head", "segmenter") if options.get(key) and key not in but}
    return {key: reduced(part) for key, part in parts.items() if not isinstance(part, nn.Module)}


def small(name: str, preset: str | None = None, **options: Any) -> nn.Module:
    """A documented model from small parts, as if it was trained: no norm and no scale is without effect."""
    torch.manual_seed(0)
    parts = small_parts(name, preset, but=())
    accepted = thoraxlib.describe(name).options
    given: dict[str, Any] = {"in_features": 8} if "in_features" in accepted else {"labels": _LABELS}
    if "backbone" in parts:
        given["input_spec"] = {"size": side_for(parts["backbone"])}
    model = thoraxlib.build(name, preset=preset, **{**parts, **given, **options})
    return used(model, *example(model, 8))


def used(model: nn.Module, *inputs: Tensor) -> nn.Module:
    """`model` in eval mode as if it was trained: norms that have seen `inputs`, and layer scales."""
    torch.manual_seed(0)
    norms = [module for module in model.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    for norm in norms:
        norm.momentum = 1.0
        nn.init.uniform_(norm.weight, 0.5, 1.5)
        nn.init.normal_(norm.bias, std=0.2)
    for name, parameter in model.named_parameters():
        if "layer_scale" in name:
            nn.init.uniform_(parameter, 0.1, 1)
    with torch.no_grad():
        if isinstance(segmenter := getattr(model, "segmenter", None), nn.Module):  # whose masks would be all or nothing
            *_, last = (module for module in segmenter.modules() if isinstance(module, nn.Conv2d))
            last.bias -= segmenter(inputs[0]).mean(dim=(0, 2, 3))  # type: ignore[operator]
        model.train()(*inputs)
    return model.eval()


def example(model: Any, batch: int = 3) -> tuple[Tensor, ...]:
    """Inputs of `model`; images have bright and dark regions."""
    torch.manual_seed(1)
    inputs: tuple[Tensor, ...] = model.example_inputs(batch)
    if inputs[0].ndim == 4:
        return (images(batch, *inputs[0].shape[1:2], inputs[0].shape[2:]),)
    return inputs


def images(batch: int, channels: int, size: tuple[int, int]) -> Tensor:
    """Images with bright and dark places, (N, C, H, W)."""
    return F.interpolate(torch.rand(batch, channels, 6, 6), size, mode="bilinear") + 0.1 * torch.rand(size)


def assert_near(got: Tensor, expected: Tensor, share: float) -> None:
    """Raise unless no number is off by more than a share of the largest one."""
    assert got.shape == expected.shape, f"{tuple(got.shape)}, not {tuple(expected.shape)}"
    off = _off(got, expected)
    assert off <= share, f"off by {off:.1g}"


def _off(got: Tensor, expected: Tensor) -> float:
    return float((got.double() - expected.double()).abs().max() / expected.abs().max())


def assert_as_exact(fast: nn.Module, model: nn.Module, inputs: tuple[Tensor, ...]) -> None:
    """Raise unless `fast` keeps the promise of optimize_for_inference: as near to float64 as `model`, or 1e-5."""
    exact = copy.deepcopy(model).double()
    wide = tuple(part.double() if part.is_floating_point() else part for part in inputs)
    with torch.no_grad():
        truth = exact(*wide)
        assert_near(fast(*inputs), truth, max(1e-5, 3 * _off(model(*inputs), truth)))
        same = thoraxlib.optimize_for_inference(exact, wide)
        assert_near(same(*wide), truth, 1e-10)


# -- abilities of the documented models -------------------------------------------------------------------------------

Check = Callable[[str], str]
CHECKS: dict[str, Check] = {}


def _ability(heading: str) -> Callable[[Check], Check]:
    def register(check: Check) -> Check:
        CHECKS[heading] = check
        return check

    return register


class _Known:
    """A small model with its example and logits, made once."""

    def __init__(self, name: str) -> None:
        self.model, self.name = small(name), name
        self.inputs = example(self.model)
        with torch.no_grad():
            self.logits: Tensor = self.model(*self.inputs)

    def alone(self) -> tuple[Tensor, ...]:
        return tuple(part[:1] for part in self.inputs)

    @functools.cached_property
    def program(self) -> torch.export.ExportedProgram:
        """Exported for a batch of any size."""
        images = {0: torch.export.Dim.DYNAMIC}
        return torch.export.export(self.model, self.inputs, dynamic_shapes=(images,) * len(self.inputs))


@functools.lru_cache(maxsize=1)
def known(name: str) -> _Known:
    """The small model called `name`."""
    return _Known(name)


@_ability("save, load")
def _saved(name: str) -> str:
    """Bit for bit, with labels, input and config."""
    it, model = known(name), known(name).model
    with tempfile.TemporaryDirectory() as folder:
        thoraxlib.save_pretrained(model, folder)
        loaded = thoraxlib.load_pretrained(folder)
    assert not loaded.training
    for attribute in ("labels", "input_spec", "config"):
        ours, theirs = (getattr(each, attribute, None) for each in (model, loaded))
        assert ours == theirs, f"another {attribute}"
    ours, theirs = model.state_dict(), loaded.state_dict()
    assert list(ours) == list(theirs)
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)
    with torch.no_grad():
        assert torch.equal(loaded(*it.inputs), it.logits)
    return YES


@_ability("an image alone")
def _alone(name: str) -> str:
    """A batch of one; logits that do not depend on what else is in the batch."""
    it = known(name)
    with torch.no_grad():
        assert_near(it.model(*it.alone()), it.logits[:1], 1e-4)
        others = []
        for preset in thoraxlib.describe(name).presets:  # type: ignore[attr-defined]
            model = small(name, preset)
            x = example(model)
            if not torch.allclose(model(*(part[:1] for part in x)), model(*x)[:1], rtol=1e-3, atol=1e-4):
                others.append(repr(preset))
    return f"yes, but not as preset {', '.join(others)}" if others else YES


@_ability("bfloat16")
def _autocast(name: str) -> str:
    """Autocast, as near as what rounding the weights alone does lets expect."""
    it = known(name)
    rounded = copy.deepcopy(it.model)
    with torch.no_grad():
        for parameter in rounded.parameters():
            parameter.copy_(parameter.bfloat16())
        unavoidable = _off(rounded(*it.inputs), it.logits)
        with torch.autocast("cpu", torch.bfloat16):
            assert_near(it.model(*it.inputs), it.logits, 0.1 + 4 * unavoidable)
    return YES


@_ability("channels_last")
def _channels_last(name: str) -> str:
    """Model and images in that layout."""
    it = known(name)
    if it.inputs[0].ndim != 4:
        return "no images"
    turned = copy.deepcopy(it.model).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    with torch.no_grad():
        assert_near(turned(*(part.to(memory_format=torch.channels_last) for part in it.inputs)), it.logits, 1e-3)
    return YES


@_ability("optimize_for_inference")
def _optimized(name: str) -> str:
    """Logits as exact; the model stays as it was, and the copy has no gradient and no hook."""
    it, model = known(name), known(name).model
    before = {key: value.clone() for key, value in model.state_dict().items()}
    fast = thoraxlib.optimize_for_inference(model, it.inputs)
    assert_as_exact(fast, model, it.inputs)
    after = model.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[key], value) for key, value in before.items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in fast.modules())
    assert not any(parameter.requires_grad for parameter in fast.parameters())
    assert fast.labels == model.labels
    return YES


@_ability("torch.compile")
def _compiled(name: str) -> str:
    """In one graph."""
    it = known(name)
    torch._dynamo.reset()  # each model is one more variant of the same forward
    with torch.no_grad():
        assert_near(torch.compile(it.model, backend="aot_eager", fullgraph=True)(*it.inputs), it.logits, 1e-4)
    return YES


@_ability("torch.export")
def _exported(name: str) -> str:
    """For a batch of any size."""
    it = known(name)
    try:
        program = it.program.module()
    except Exception:
        program = torch.export.export(it.model, it.inputs).module()
        assert_near(program(*it.inputs), it.logits, 1e-4)
        return "for a fixed batch"
    with torch.no_grad():
        assert_near(program(*it.inputs), it.logits, 1e-4)
        assert_near(program(*it.alone()), it.logits[:1], 1e-4)
    return YES


@_ability("ONNX Runtime")
def _onnx(name: str) -> str:
    """The same logits from the exported program, for a batch of any size."""
    import onnxruntime

    it = known(name)
    with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(io.StringIO()):
        path = Path(folder) / "model.onnx"
        torch.onnx.export(it.program, dynamo=True, optimize=False, verbose=False).save(path)
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [given.name for given in session.get_inputs()]
    for inputs, logits in ((it.inputs, it.logits), (it.alone(), it.logits[:1])):
        (got,) = session.run(None, dict(zip(names, (part.numpy() for part in inputs), strict=True)))
        assert_near(torch.from_numpy(got), logits, 1e-3)
    return YES


@_ability("heat maps")
def _heat_maps(name: str) -> str:
    """By every method of :mod:`thoraxlib.cams`."""
    it = known(name)
    if it.inputs[0].ndim != 4:
        return "no images"
    missing = {method for method in METHODS if not _explains(it.model, method, it.alone())}
    return _all_but(METHODS, missing) if missing else YES


# what goes wrong, by words of its message
_REASONS = {"thoraxlib.largest_component": "ONNX has no connected components"}


def finding(name: str, heading: str) -> str:
    """Try an ability of the documented model `name`: "yes", or what holds instead."""
    with _quiet():
        try:
            return CHECKS[heading](name)
        except Exception as error:
            text = f"{type(error).__name__}: {error}"
            known_words = (words for part, words in _REASONS.items() if part in text or part in str(error.__cause__))
            return f"no: {next(known_words, ' '.join(text.split())[:120])}"


def _explains(model: nn.Module, method: str, inputs: tuple[Tensor, ...]) -> bool:
    """Whether the method gives heat maps of images, or says that the head is not made for it."""
    options = {"batch_size": 256} if "batch_size" in cams.describe(method).options else {}
    try:
        maps = cams.build(method, model, **options)(*inputs)
    except TypeError as error:
        if re.search("gradient-based|use 'gradcam'", str(error)):
            return False
        raise
    assert maps.shape[:2] == (len(inputs[0]), len(model.labels))  # type: ignore[arg-type]
    assert maps.isfinite().all()
    assert maps.ndim == 4
    return True


def _all_but(names: list[str], not_these: set[str]) -> str:
    return f"all but {', '.join(name for name in names if name in not_these)}" if not_these else "all"


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    import logging

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        before = logging.root.manager.disable
        logging.disable(logging.ERROR)
        try:
            yield
        finally:
            logging.disable(before)


# -- backbones, fusions, heads, poolings, heat maps --------------------------------------------------------------------


def families() -> list[str]:
    """One backbone of each family: of what is registered, the first of the sizes; of timm's, a choice."""
    first: dict[str, str] = {}
    for name in backbones.registry.registered():
        first.setdefault(re.sub(r"_b?\d.*", "", name), name)
    return [*first.values(), *_TIMM]


FUSIONS: list[str | None] = [None, *fusion.names()]
TYPICAL = "van_b0"  # for tables of heads


class Backbone:
    """A family's backbone, and what it makes of images, once for each fusion."""

    def __init__(self, family: str) -> None:
        torch.manual_seed(0)
        self.side = side_for(family)
        spec = reduced(family)
        self.backbone = backbones.registry.resolve(spec, img_size=(self.side, self.side))
        used(self.backbone, *self.inputs(None, 8))

    def build(self, **parts: Any) -> Any:
        """A generic classifier on the backbone."""
        given = {"labels": _LABELS, "input_spec": {"size": self.side, "mean": 0.0, "std": 1.0}}
        return thoraxlib.build("classifier", backbone=self.backbone, **given, **parts).eval()

    def inputs(self, fused: str | None, batch: int = 2) -> tuple[Tensor, ...]:
        """Images, and masks where the fusion needs some."""
        torch.manual_seed(1)
        pictures = images(batch, 3, (self.side, self.side))
        if fused is None or not fusion.registry.factory(fused).uses_masks:  # type: ignore[attr-defined]
            return (pictures,)
        return pictures, (torch.rand(batch, 1, self.side, self.side) < 0.7).float()


@functools.lru_cache(maxsize=2)
def backbone(family: str) -> Backbone:
    """The small backbone of a family."""
    return Backbone(family)


@functools.cache
def fits(family: str, fused: str | None, head: str, pool: str) -> bool:
    """Whether the parts make a model, and it works; False where they are refused, with an error that says why.

    Raises
    ------
    Exception
        Whatever else happens: they are not refused, and do not work.
    """
    it = backbone(family)
    try:
        model = it.build(head=reduced(head), pool=pool, fusion=fused)
    except (ValueError, TypeError) as error:
        named = (repr(head), type(pooling.build(pool)).__name__)
        if not any(name in str(error) for name in named) or not re.search(r"\b(use|build|leave)\b", str(error)):
            raise AssertionError(f"an error that does not say which part to change, and how: {error}") from error
        return False
    with torch.no_grad():
        features = _features(model, family, fused)
        logits = model.forward_head(features)
        assert logits.shape == (2, len(_LABELS))
        assert logits.isfinite().all()
        assert_near(model.forward_head(_first(features)), logits[:1], 1e-3)
    return True


_kept: dict[tuple[str, str | None], Any] = {}


def _features(model: Any, family: str, fused: str | None) -> Any:
    """What the backbone makes of images: heads and poolings do not change it."""
    if (family, fused) not in _kept:
        _kept.clear()
        _kept[family, fused] = model.forward_features(*backbone(family).inputs(fused))
    return _kept[family, fused]


def _first(features: Any) -> Any:
    """Of the first image alone."""
    if isinstance(features, Tensor):
        return features[:1]
    masks = None if features.masks is None else features.masks[:1]
    return FusionFeatures([part[:1] for part in features.maps], masks)


def heads_and_pools() -> Table:
    """For each head and pooling: "yes", "one map", "several maps" or "no", by a backbone that stands for all."""
    words = {(True, True): YES, (True, False): "one map", (False, True): "several maps", (False, False): "no"}
    return {
        head: {
            pool: words[fits(TYPICAL, None, head, pool), fits(TYPICAL, "pyramid", head, pool)]
            for pool in pooling.names()
        }
        for head in heads.names()
    }


def heads_and_cams() -> Table:
    """For each head and method of heat maps: "yes", or with which poolings not."""
    return {head: {method: head_and_cam(head, method) for method in METHODS} for head in heads.names()}


def head_and_cam(head: str, method: str) -> str:
    """Whether the method explains the head with every pooling that it takes, or with which not."""
    taken, missing = [], []
    for pool in pooling.names():
        fused = next((each for each in (None, "pyramid") if fits(TYPICAL, each, head, pool)), "none fits")
        if fused != "none fits":
            taken.append(pool)
            model = backbone(TYPICAL).build(head=reduced(head), pool=pool, fusion=fused)
            if not _explains(model, method, backbone(TYPICAL).inputs(fused, 1)):
                missing.append(pool)
    if not missing:
        return YES
    return "no" if missing == taken else f"not with {', '.join(missing)}"


def described(family: str) -> dict[str, str]:
    """Strides of a family's maps, and which methods explain it."""
    it = backbone(family)
    model = it.build(neck={"name": "transition", "out_channels": 4})  # few channels: some methods mask each
    missing = {method for method in METHODS if not _explains(model, method, it.inputs(None, 1))}
    return {"strides": ", ".join(map(str, it.backbone.strides)), "heat maps": _all_but(METHODS, missing)}


# -- the page ---------------------------------------------------------------------------------------------------------

_TEXT = """\
# Which components work together

A test (`tests/test_everything.py`) tries every component of the registries and compares the results with this page.

## Documented models

Each model is tried with small components of its own kind, on images of 64 pixels (`densevan`: 8), on a CPU.
`anaxnet` gets the features of regions.

- **An image alone**: a batch of one image gives the same logits as a larger batch with that image.
- **bfloat16**: by autocast.
- **optimize_for_inference**: the error against float64 stays within 1e-5 of the largest logit, or three times the
  model's own error.
- **torch.compile**: in one graph.
- **torch.export**, **ONNX Runtime**: for batches of any size.
- **heat maps**: by every method of `thoraxlib.cams`.

```{{eval-rst}}
.. abilities::
```

ONNX (extra `onnx`) is written from the exported program:

```python
program = torch.export.export(model, (x,), dynamic_shapes=({{0: torch.export.Dim.DYNAMIC}},))
torch.onnx.export(program, dynamo=True).save("model.onnx")
```

Each version of torch needs the onnxscript of its time. torch 2.6, the oldest supported version, fails with the newest
one. With `onnx==1.17.0 onnxscript==0.3.0 onnx-ir==0.1.3 protobuf==5.29.6` it exports all models but those with organ
masks, because it has no antialiased resize.

The abilities are declared in the models' cards (`thoraxlib.describe(name).abilities`). The tables below are written by
`python -m tests.compatibility --write`, from the root of the repository and with the extra `test`.

## Heads and poolings

"one map": not with a fusion that gives several maps; "several maps": only with such a fusion. Other combinations raise
an error when the model is built. It names the component and the alternative.

{pools}

## Heads and heat maps

"yes": with every pooling that the head takes. "no" and "not with": the head has no logits for each location, and the
error names the gradient-based methods.

{cams}

## Families of backbones

One backbone of each family, and a choice of timm's. All work with every fusion ({fusions}),
and with every head and pooling as in the tables above. A gradient reaches all of their weights.

{families}
"""


class Page(NamedTuple):
    """The tables of the page: of each row's name, its cells by their headings."""

    pools: Table
    cams: Table
    families: Table

    def __str__(self) -> str:
        fusions = ", ".join(f"`{name}`" for name in fusion.names())
        return _TEXT.format(**{key: _markdown(key, part) for key, part in self._asdict().items()}, fusions=fusions)

    @classmethod
    def read(cls) -> Page:
        """The page as it is committed."""
        tables: list[list[list[str]]] = [[]]
        for line in PAGE.read_text(encoding="utf-8").splitlines():
            if line.startswith("| "):
                tables[-1].append(line.strip("| ").split(" | "))
            elif tables[-1]:
                tables.append([])
        return cls(*(_cells(rows) for rows in tables if rows))

    @classmethod
    def find(cls) -> Page:
        """The page as it should be."""
        with _quiet():
            return cls(heads_and_pools(), heads_and_cams(), {name: described(name) for name in families()})


def _cells(rows: list[list[str]]) -> Table:
    (_, *headings), _, *body = rows
    return {name.strip("`"): dict(zip(headings, cells, strict=True)) for name, *cells in body}


def _markdown(corner: str, table: Table) -> str:
    headings = next(iter(table.values()))
    rows = [[f"`{name}`", *cells.values()] for name, cells in table.items()]
    return markdown([[_CORNERS[corner], *headings], *rows]).replace("---:", "---").strip()


_CORNERS = {"pools": "head", "cams": "head", "families": "backbone"}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help=f"write {PAGE.name}; without, print the page")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    found = str(Page.find())
    if arguments.write:
        PAGE.write_text(found, encoding="utf-8")
    else:
        print(found)
