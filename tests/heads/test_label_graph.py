from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack, nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state

import thoraxlib
from thoraxlib import graphs, heads
from thoraxlib.graphs import Graph, LabelCounts
from thoraxlib.heads.label_graph import LabelGraphHead
from thoraxlib.layers import pooling
from thoraxlib.layers.pooling import expansion, per_label

LABELS = ("Edema", "Effusion", "Mass", "Nodule")
MODES = {"no_grad": torch.no_grad, "inference": torch.inference_mode, "grad": nullcontext}


def built(**options: Any) -> LabelGraphHead:
    given = {"in_channels": 6, "num_labels": 4, "labels": LABELS, "hidden": (5,), **options}
    return heads.build("label_graph", **given).eval()  # type: ignore[return-value]


def fresh(head: LabelGraphHead, x: Any) -> Tensor:
    """Logits by the head's formula."""
    return head.vector(x) @ head.label_classifiers().T


@pytest.fixture
def x() -> Tensor:
    return torch.randn(3, 6, 4, 5)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("convolution", ["dense", "GCNConv", "GATv2Conv"])
@pytest.mark.parametrize("pool", [name for name in pooling.names() if not per_label(pooling.build(name))])
def test_logits_of_every_pooling(mode: str, convolution: str, pool: str, x: Tensor) -> None:
    head = built(convolution=convolution, pool=pool)
    with MODES[mode]():
        expected = fresh(head, x)
        assert torch.equal(head(x), expected)
        if expansion(head.pool) == 1:
            assert head.logit_maps(x).shape == (3, 4, 4, 5)
    head(x).sum().backward()  # and afterwards, there are gradients
    assert all(p.grad is not None for p in head.parameters())


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@torch.no_grad()
def test_another_precision(dtype: torch.dtype, x: Tensor) -> None:
    head = built()
    expected = head(x)
    logits = head.to(dtype)(x.to(dtype))
    assert logits.dtype == dtype
    torch.testing.assert_close(logits.float(), expected, rtol=0.05, atol=0.05)


@pytest.mark.parametrize("mode", ["no_grad", "inference"])
def test_autocast(mode: str, x: Tensor) -> None:
    head = built()
    half = lambda: torch.autocast("cpu", torch.bfloat16)  # noqa: E731
    with MODES[mode]():
        for context, dtype in ((nullcontext, torch.float32), (half, torch.bfloat16), (nullcontext, torch.float32)):
            with ExitStack() as stack:
                stack.enter_context(context())
                logits = head(x)
                assert logits.dtype == dtype
                assert torch.equal(logits, torch.nn.functional.linear(head.vector(x), head.label_classifiers()))


@torch.no_grad()
def test_weights_lent_for_a_call(x: Tensor) -> None:
    head = built(hidden=(1024,))
    for _ in range(3):
        weights = {key: torch.randn_like(value) for key, value in head.named_parameters()}
        logits = functional_call(head, weights, (x,))
        h = head.embedding() @ weights["convolutions.0.weight"]
        h = nn.functional.leaky_relu(head.operator.matrix @ h, 0.2)
        h = head.operator.matrix @ h @ weights["convolutions.1.weight"]
        torch.testing.assert_close(logits, x.mean((2, 3)) @ h.T, rtol=1e-4, atol=1e-4)
        del weights


@torch.no_grad()
def test_an_ensemble_under_vmap(x: Tensor) -> None:
    members = [built() for _ in range(3)]
    weights = stack_module_state(members)  # type: ignore[arg-type]
    together = torch.vmap(lambda p, b: functional_call(members[0], (p, b), (x,)))(*weights)
    for logits, member in zip(together, members, strict=True):
        torch.testing.assert_close(logits, member(x))


def test_meta_device(x: Tensor) -> None:
    with torch.no_grad():
        assert built().to("meta")(x.to("meta")).shape == (3, 4)


@pytest.mark.parametrize("convolution", ["dense", "GCNConv", "SAGEConv"])
def test_compiled_and_exported(convolution: str, x: Tensor) -> None:
    torch._dynamo.reset()  # older versions count compilations of one function over all tests
    head = built(convolution=convolution)
    compiled = torch.compile(head, backend="aot_eager", fullgraph=True)
    with torch.no_grad():
        torch.testing.assert_close(compiled(x), head(x))
        next(head.parameters()).mul_(2)  # compiled code reads the weights anew
        torch.testing.assert_close(compiled(x), head(x))
    # a compiled step is followed by eval mode without a compiler
    optimiser = torch.optim.Adam(head.parameters(), 0.1, fused=True)
    compiled(x).sum().backward()
    optimiser.step()
    with torch.no_grad():
        torch.testing.assert_close(compiled(x), fresh(head, x))
        torch.testing.assert_close(head(x), fresh(head, x))
    program = torch.export.export(head, (x,), dynamic_shapes=({0: torch.export.Dim("n")},))
    torch.testing.assert_close(program.module()(x[:2]), head(x[:2]))


@pytest.mark.parametrize("act_last", ["gelu", "leaky_relu", "relu", None])
@pytest.mark.parametrize("hidden", [(), (7,), (7, 3)])
def test_the_formula(hidden: tuple[int, ...], act_last: str | None) -> None:
    head = built(in_channels=(6, 8), hidden=hidden, act="gelu", act_last=act_last, bias=True, embeddings="onehot")
    acts = {"gelu": nn.GELU(), "leaky_relu": nn.LeakyReLU(0.2), "relu": nn.ReLU(), None: nn.Identity()}
    matrix = graphs.adjacency.label_graph(LABELS, {"name": "mlgcn", "isolated": "ignore"}).normalized()
    h = torch.eye(4)
    for number, convolve in enumerate(head.convolutions):
        last = number == len(hidden)
        h = acts[act_last if last else "gelu"](matrix @ h @ convolve.weight + convolve.bias)
    maps = [torch.randn(2, 6, 4, 4), torch.randn(2, 8, 2, 2)]
    vector = torch.cat([part.mean((2, 3)) for part in maps], dim=1)
    torch.testing.assert_close(head(maps), vector @ h.T)
    torch.testing.assert_close(head.logit_maps(maps).mean((2, 3)), head(maps))


def test_everything_is_matched_by_name(x: Tensor) -> None:
    """The same weights give label k the same logit, wherever it stands."""
    turned = ("Nodule", "Edema", "Mass", "Pleural Effusion")
    options = {"embeddings": "ppmi", "counts": "nih14"}
    head, other = built(**options), built(labels=turned, **options)
    for ours, theirs in zip(head.convolutions, other.convolutions, strict=True):
        theirs.load_state_dict(ours.state_dict())
    # PPMI vectors are unique up to a rotation
    at = [3, 0, 2, 1]
    other.embedding.vectors.copy_(head.embedding()[at])
    torch.testing.assert_close(other(x), head(x)[:, at])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_labels": 3}, "labels has 4 names, and num_labels=3: must be equal"),
        ({"act": "tanh"}, "act='tanh': allowed are 'gelu', 'leaky_relu', 'relu', None"),
        ({"act_last": "softmax"}, "act_last='softmax'"),
        ({"normalize": "columns"}, "normalize='columns'"),
        ({"adjacency": Graph(("Edema", "Mass"), torch.eye(2))}, "the graph has no 'Effusion', 'Nodule'"),
        ({"counts": LabelCounts.of(torch.ones(1, 2), ["Edema", "Mass"])}, "counts have no 'Effusion', 'Nodule'"),
        ({"embeddings": graphs.embeddings.Embedding(torch.eye(3))}, r"embeddings must be \(4, F\).*got \(3, 3\)"),
        (
            {"pool": "pcam", "in_channels": (3, 3)},
            "weighs the locations of one map for each label, and there are 2 maps",
        ),
        ({"learn_adjacency": True, "convolution": "GATv2Conv"}, "takes no edge weights, so that learn_adjacency=True"),
        ({"labels": ("Edema", "Effusion", "Mass", "Fracture")}, "no shipped counts have all of"),
        ({"labels": ("Edema", "Effusion", "Mass", "Mass")}, "more than once"),
    ],
)
def test_bad_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        built(**options)


def test_labels_by_the_name_of_their_set() -> None:
    assert built(labels="chexpert5", num_labels=5).label_classifiers().shape == (5, 6)


def counted(labels: tuple[str, ...]) -> LabelCounts:
    targets = (torch.rand(100, len(labels)) < 0.4).float()
    targets[0] = float("nan")
    return LabelCounts.of(targets, labels)


def vectors_file(folder: Path) -> dict[str, Any]:
    path = folder / "vectors.txt"
    path.write_text("".join(f"{label} {' '.join(map(str, torch.randn(7).tolist()))}\n" for label in LABELS))
    return {"name": "file", "path": path, "dim": 7}


PARTS: dict[str, Callable[[Path], dict[str, Any]]] = {
    "default": lambda folder: {},
    "graph": lambda folder: {"adjacency": Graph(LABELS, torch.rand(4, 4))},
    "graph from a builder": lambda folder: {"adjacency": graphs.adjacency.build("mlgcn", threshold=0.1)},
    "counts": lambda folder: {"counts": counted(LABELS)},
    "counts by name": lambda folder: {"counts": "mimic14", "labels": ("Edema", "Effusion", "Fracture")},
    "counts of the embedding": lambda folder: {"embeddings": {"name": "ppmi", "counts": counted(LABELS)}},
    "file": lambda folder: {"embeddings": vectors_file(folder)},
    "file, trained": lambda folder: {"embeddings": {**vectors_file(folder), "learn": True}},
    "embedding": lambda folder: {"embeddings": graphs.embeddings.Embedding(torch.randn(4, 9))},
    "embedding from a file": lambda folder: {
        "embeddings": graphs.embeddings.registry.resolve(vectors_file(folder), labels=LABELS)
    },
    "learned": lambda folder: {"embeddings": "learned", "head": {"name": "label_graph", "learn_adjacency": True}},
    "attention": lambda folder: {"convolution": {"name": "GATv2Conv", "heads": 2, "concat": False}},
}


@pytest.mark.filterwarnings("ignore:threshold=")
@pytest.mark.parametrize("part", PARTS)
def test_saved_and_loaded(part: str, tmp_path: Path) -> None:
    options = {"labels": LABELS, "backbone": "resnet10t", "input_spec": {"size": 32}, **PARTS[part](tmp_path)}
    model = thoraxlib.build("vangcn", **options).eval()
    thoraxlib.save_pretrained(model, tmp_path / "saved")
    (tmp_path / "vectors.txt").unlink(missing_ok=True)
    torch.manual_seed(1)
    loaded = thoraxlib.load_pretrained(tmp_path / "saved")
    assert str(tmp_path) not in (tmp_path / "saved" / "config.json").read_text()
    assert [key for key, _ in loaded.named_parameters()] == [key for key, _ in model.named_parameters()]
    images = torch.rand(2, 3, 32, 32)
    assert torch.equal(loaded(images), model(images))
    assert loaded(images).std() > 0
    # a loaded model is saved again
    thoraxlib.save_pretrained(loaded, tmp_path / "again")
    assert torch.equal(thoraxlib.load_pretrained(tmp_path / "again")(images), model(images))
