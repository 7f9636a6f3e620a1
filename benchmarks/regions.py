"""AnaXNet's region graph: its adjacency against nested loops, its head against torch_geometric and its own products."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator

import numpy as np
import torch

import thoraxlib
from benchmarks.timing import Row, pair, repeated
from thoraxlib.graphs import RegionCounts
from thoraxlib.heads import regions as region_heads

REGIONS, FINDINGS = thoraxlib.labels.build("regions18"), thoraxlib.labels.build("imagenome9")


def run() -> Iterator[Row]:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield _adjacency(600)
    yield from _many(100_000)
    extra = {images: _extra_memory(images) / 1024 for images in (100_000, 1_000_000)}
    ratio = extra[1_000_000] * 2**20 / (1_000_000 * len(REGIONS) * len(FINDINGS))
    conditions = ", ".join(f"{mebibytes:.1f} MiB for {images:,} images" for images, mebibytes in extra.items())
    yield Row("peak extra memory of RegionCounts.of", "1,000,000 x 18 x 9 labels as bytes", [ratio], 0.5, conditions)
    yield from _head()


def _labels(images: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    return (rng.random((images, len(REGIONS), len(FINDINGS))) < rng.random((18, 9)) * 0.3).astype(np.uint8)


def _adjacency(images: int) -> Row:
    """The loops take so long that they are timed once."""
    targets = _labels(images)
    start = time.perf_counter()
    expected = _by_loops(targets)
    loops = time.perf_counter() - start
    alike = RegionCounts.of(targets, REGIONS, FINDINGS).jaccard().numpy()
    np.testing.assert_allclose(alike, expected, atol=1e-12)
    ratios = []
    for _ in range(9):
        start = time.perf_counter()
        RegionCounts.of(targets, REGIONS, FINDINGS).jaccard()
        ratios.append((time.perf_counter() - start) / loops)
    conditions = f"{images} images x 18 regions x 9 findings, 1 thread; the loops timed once ({loops:.1f} s)"
    return Row("region adjacency", "loops over pairs and images, scikit-learn", ratios, 1 / 5000, conditions)


def _by_loops(targets: np.ndarray) -> np.ndarray:
    """Pair by pair, image by image, finding by finding, as the original goes about it."""
    from sklearn.metrics import jaccard_score

    result = np.eye(len(REGIONS))
    for a in range(len(REGIONS)):
        for b in range(len(REGIONS)):
            first: list[list[int]] = [[] for _ in FINDINGS]
            second: list[list[int]] = [[] for _ in FINDINGS]
            for image in targets:
                if image[a].any() or image[b].any():
                    for f in range(len(FINDINGS)):
                        first[f].append(int(image[a][f]))
                        second[f].append(int(image[b][f]))
            scores = [jaccard_score(x, y, average="macro") for x, y in zip(first, second, strict=True) if x]
            if a != b and scores:
                result[a, b] = np.mean(scores)
    return result


def _many(images: int) -> Iterator[Row]:
    """Against reading the labels once, and how long it takes."""
    targets = _labels(images)
    ours = repeated(lambda: RegionCounts.of(targets, REGIONS, FINDINGS).jaccard(), 1)
    start = time.perf_counter()
    ours()
    seconds = time.perf_counter() - start
    conditions = f"{images:,} images, {seconds:.2f} s, 1 thread"
    yield Row(
        "region adjacency", "summing the labels once", pair(ours, repeated(targets.sum, 1), 7, 1), None, conditions
    )


def _head() -> Iterator[Row]:
    """The head of the paper, batch 64, against its three weight products alone, and with torch_geometric's layer."""
    shared = {"in_features": 1024, "num_labels": 9, "adjacency": "full"}
    dense, theirs = (
        region_heads.build("region_graph", convolution=kind, **shared).eval() for kind in ("dense", "GCNConv")
    )
    with torch.no_grad():
        for ours, peer in zip(dense.convolutions, theirs.convolutions, strict=True):
            peer.layer.lin.weight.copy_(ours.weight.T)
        theirs.norm.load_state_dict(dense.norm.state_dict())
        theirs.classifier.load_state_dict(dense.classifier.state_dict())
    x = torch.randn(64, 18, 1024)
    first, second = (layer.weight for layer in dense.convolutions)
    with torch.inference_mode():
        torch.testing.assert_close(dense(x), theirs(x), rtol=1e-3, atol=1e-3)
    run = torch.inference_mode()
    ours, peer = (repeated(run(lambda head=head: head(x)), 2) for head in (dense, theirs))
    floor = repeated(run(lambda: (x @ first) @ second), 2)
    conditions = "18 regions, 1024-2048-1024, batch 64, inference, 1 thread"
    yield Row("region graph head", "the same with torch_geometric's GCNConv", pair(ours, peer, 9, 1), 1.0, conditions)
    yield Row("region graph head", "its two weight products alone", pair(ours, floor, 9, 1), 1.15, conditions)


def _extra_memory(images: int) -> float:
    """Kilobytes that are resident at the worst moment beyond those before, in a process of its own (Linux)."""
    code = f"""
import re, numpy
from thoraxlib.graphs import RegionCounts
status = lambda key: int(re.search(key + r":\\s+(\\d+)", open("/proc/self/status").read())[1])
targets = numpy.random.default_rng(0).integers(0, 2, ({images}, 18, 9), dtype=numpy.uint8)
RegionCounts.of(targets[:10], "regions18", "imagenome9")  # loads what it needs
open("/proc/self/clear_refs", "w").write("5")  # the peak counts from here
before = status("VmRSS")
RegionCounts.of(targets, "regions18", "imagenome9")
print(status("VmHWM") - before)
"""
    return float(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout)
