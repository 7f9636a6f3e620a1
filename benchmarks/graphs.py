"""Compare the label graph with itself before folding and with torch_geometric, and label counts with loops."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

import thoraxlib
from benchmarks.timing import Row, Work, compare, optional, peak, repeated
from thoraxlib.graphs import LabelCounts

DEVICES = ("cpu", "cuda")
PACKAGES = ("torch-geometric", "numpy", "pandas")
LABELS = thoraxlib.labels.build("nih14")


def run(device: torch.device) -> Iterator[Row]:
    torch.manual_seed(0)
    yield from _folded(device)
    yield from _against_geometric(device)
    if device.type == "cpu":
        yield from _counting()
        yield from _constant_memory()


def _label_graph(convolution: str) -> thoraxlib.heads.Head:
    """Build the head of SegFusionVANGCN: word vectors of 300, two layers of 1024."""
    return thoraxlib.heads.build(
        "label_graph",
        in_channels=1024,
        num_labels=len(LABELS),
        labels=LABELS,
        embeddings="word_vectors",
        convolution=convolution,
    )


def _folded(device: torch.device) -> Iterator[Row]:
    """Compare the label graph folded into a linear layer with the head that computes it in every call."""
    head = _label_graph("dense").eval().to(device)
    maps = torch.randn(8, 1024, 1, 1, device=device)
    fused = head.fuse()
    ours, built = (torch.inference_mode()(lambda net=net: net(maps)) for net in (fused, head))
    assert torch.equal(ours(), built())
    conditions = "14 labels, 300-1024-1024, logits of 8 vectors"
    name, peer = "label graph, optimize_for_inference", "the head as built"
    yield compare(name, peer, repeated(ours, 20), repeated(built, 20), target=0.06, conditions=conditions)


def _against_geometric(device: torch.device) -> Iterator[Row]:
    """Compare the two convolutions alone, with the same graph and weights."""
    dense, theirs = _label_graph("dense").to(device), _label_graph("GCNConv").to(device)
    with torch.no_grad():
        for ours, peer in zip(dense.convolutions, theirs.convolutions, strict=True):
            peer.layer.lin.weight.copy_(ours.weight.T)
    torch.testing.assert_close(dense.label_classifiers(), theirs.label_classifiers(), rtol=1e-4, atol=1e-4)
    upstream = torch.randn(len(LABELS), 1024, device=device)
    conditions = "14 labels, 300-1024-1024"
    for mode, work in (("inference", _inference), ("forward and backward", _backward)):
        ours, peer = (repeated(work(head, upstream), 10) for head in (dense, theirs))
        name = f"dense graph convolutions, {mode}"
        yield compare(name, "torch_geometric's GCNConv", ours, peer, target=1.0, conditions=conditions)


def _inference(head: thoraxlib.heads.Head, upstream: Tensor) -> Work:
    return torch.inference_mode()(head.label_classifiers)


def _backward(head: thoraxlib.heads.Head, upstream: Tensor) -> Work:
    def work() -> None:
        head.zero_grad()
        head.label_classifiers().backward(upstream)

    return work


def _counting() -> Iterator[Row]:
    """Count labels of a million images; the target is for int64: NumPy's loops are faster on smaller types."""
    positive = np.random.default_rng(0).random((1_000_000, len(LABELS))) < 0.05
    conditions = "1,000,000 x 14 labels"
    for kind, target in (("int64", 1 / 40), ("float32", None), ("uint8", None)):
        targets = positive.astype(kind)
        assert (LabelCounts.of(targets, LABELS).joint.numpy() == one_by_one(targets)).all()
        ours, peer = (lambda t=targets: LabelCounts.of(t, LABELS)), (lambda t=targets: one_by_one(t))
        row = f"LabelCounts.of, {kind}"
        yield compare(row, "NumPy, label by label", ours, peer, target=target, conditions=conditions, pairs=3)
    yield from optional("LabelCounts.of, int64", "pandas", _against_pandas(positive.astype("int64"), conditions))


def _against_pandas(targets: np.ndarray, conditions: str) -> Iterator[Row]:
    import pandas

    frame = pandas.DataFrame(targets, columns=list(LABELS))
    assert (LabelCounts.of(targets, LABELS).joint.numpy() == (frame.T @ frame).to_numpy()).all()
    ours, peer = (lambda: LabelCounts.of(targets, LABELS)), (lambda: frame.T @ frame)
    yield compare("LabelCounts.of, int64", "pandas, frame.T @ frame", ours, peer, conditions=conditions, pairs=5)


def _constant_memory() -> Iterator[Row]:
    rows = 16_000_000
    targets = np.random.default_rng(0).integers(0, 2, (rows, len(LABELS)), dtype=np.uint8)
    extra = {n: peak(lambda n=n: LabelCounts.of(targets[:n], LABELS)) for n in (rows // 16, rows)}
    if None not in extra.values():
        conditions = ", ".join(f"{mebibytes:.1f} MiB for {n:,} rows" for n, mebibytes in extra.items())
        of_labels = targets.nbytes / 2**20
        name, peer = "peak extra memory of LabelCounts.of", f"{rows:,} x 14 labels as bytes"
        yield Row(name, peer, [extra[rows] / of_labels], 0.05, conditions, (extra[rows], of_labels))


def one_by_one(targets: np.ndarray) -> np.ndarray:
    k = targets.shape[1]
    joint = np.zeros((k, k), dtype=np.int64)
    for i in range(k):
        for j in range(k):
            joint[i, j] = np.sum((targets[:, i] == 1) & (targets[:, j] == 1))
    return joint
