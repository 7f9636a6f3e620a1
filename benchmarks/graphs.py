"""The label graph against computing it anew and against torch_geometric; counting labels against one by one."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

import thoraxlib
from benchmarks.timing import Row, pair, repeated
from thoraxlib.graphs import LabelCounts

LABELS = thoraxlib.labels.build("nih14")


def run() -> Iterator[Row]:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield _kept()
    yield from _against_geometric()
    yield from _counting()
    extra = {rows: _extra_memory(rows) / 1024 for rows in (1_000_000, 16_000_000)}
    ratio = extra[16_000_000] * 2**20 / (16_000_000 * len(LABELS))
    conditions = ", ".join(f"{mebibytes:.1f} MiB for {rows:,} rows" for rows, mebibytes in extra.items())
    yield Row("peak extra memory of LabelCounts.of", "16,000,000 x 14 labels as bytes", [ratio], 0.05, conditions)


def _label_graph(convolution: str) -> thoraxlib.heads.Head:
    """The head of SegFusionVANGCN's form: word vectors of 300, two layers of 1024."""
    return thoraxlib.heads.build(
        "label_graph",
        in_channels=1024,
        num_labels=len(LABELS),
        labels=LABELS,
        embeddings="word_vectors",
        convolution=convolution,
    )


def _kept() -> Row:
    head = _label_graph("dense").eval()
    maps = torch.randn(8, 1024, 1, 1)
    ours = torch.inference_mode()(lambda: head(maps))
    anew = torch.inference_mode()(lambda: F.linear(head.vector(maps), head.label_classifiers()))
    assert torch.equal(ours(), anew())
    conditions = "14 labels, 300-1024-1024, logits of 8 vectors, 1 thread"
    return Row(
        "label graph in eval mode", "computed anew", pair(repeated(ours, 20), repeated(anew, 20)), 0.06, conditions
    )


def _against_geometric() -> Iterator[Row]:
    """The two layers alone, on the same graph with the same weights."""
    dense, theirs = _label_graph("dense"), _label_graph("GCNConv")
    with torch.no_grad():
        for ours, peer in zip(dense.convolutions, theirs.convolutions, strict=True):
            peer.layer.lin.weight.copy_(ours.weight.T)
    torch.testing.assert_close(dense.label_classifiers(), theirs.label_classifiers(), rtol=1e-4, atol=1e-4)
    upstream = torch.randn(len(LABELS), 1024)
    conditions = "14 labels, 300-1024-1024, 1 thread"
    for what, work in (("inference", _inference), ("forward and backward", _backward)):
        ratios = pair(*(repeated(work(head, upstream), 10) for head in (dense, theirs)))
        yield Row(f"dense graph convolutions, {what}", "torch_geometric's GCNConv", ratios, 1.0, conditions)


def _inference(head: thoraxlib.heads.Head, upstream: Tensor) -> Callable[[], Tensor]:
    return torch.inference_mode()(head.label_classifiers)


def _backward(head: thoraxlib.heads.Head, upstream: Tensor) -> Callable[[], None]:
    def work() -> None:
        head.zero_grad()
        head.label_classifiers().backward(upstream)

    return work


def _counting() -> Iterator[Row]:
    """Labels of a million films; the target is for NumPy's own integers, its loops are faster on smaller types."""
    positive = np.random.default_rng(0).random((1_000_000, len(LABELS))) < 0.05
    for kind, target in (("int64", 1 / 40), ("float32", None), ("uint8", None)):
        targets = positive.astype(kind)
        assert (LabelCounts.of(targets, LABELS).joint.numpy() == _one_by_one(targets)).all()
        ratios = pair(lambda t=targets: LabelCounts.of(t, LABELS), lambda t=targets: _one_by_one(t), 7, 1)
        yield Row(f"LabelCounts.of, {kind}", "NumPy, label by label", ratios, target, "1,000,000 x 14 labels, 1 thread")


def _one_by_one(targets: np.ndarray) -> np.ndarray:
    k = targets.shape[1]
    joint = np.zeros((k, k), dtype=np.int64)
    for i in range(k):
        for j in range(k):
            joint[i, j] = np.sum((targets[:, i] == 1) & (targets[:, j] == 1))
    return joint


def _extra_memory(rows: int) -> float:
    """Kilobytes that are resident at the worst moment beyond those before, in a process of its own (Linux)."""
    code = f"""
import re, numpy, thoraxlib
from thoraxlib.graphs import LabelCounts
status = lambda key: int(re.search(key + r":\\s+(\\d+)", open("/proc/self/status").read())[1])
labels = thoraxlib.labels.build("nih14")
targets = numpy.random.default_rng(0).integers(0, 2, ({rows}, 14), dtype=numpy.uint8)
LabelCounts.of(targets[:10], labels)  # loads what it needs
open("/proc/self/clear_refs", "w").write("5")  # the peak counts from here
before = status("VmRSS")
LabelCounts.of(targets, labels)
print(status("VmHWM") - before)
"""
    return float(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout)
