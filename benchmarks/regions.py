"""Compare AnaXNet's adjacency with nested loops, and its head with torch_geometric and with its matrix products."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

import thoraxlib
from benchmarks.timing import Row, compare, peak, repeated, seconds
from thoraxlib.graphs import RegionCounts
from thoraxlib.heads import regions as region_heads

PACKAGES = ("torch-geometric", "numpy", "scikit-learn")
REGIONS, FINDINGS = thoraxlib.labels.build("regions18"), thoraxlib.labels.build("imagenome9")


def run(device: torch.device) -> Iterator[Row]:
    torch.manual_seed(0)
    yield _adjacency(600)
    yield _many(100_000)
    yield from _constant_memory()
    yield from _head()


def _labels(images: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    return (rng.random((images, len(REGIONS), len(FINDINGS))) < rng.random((18, 9)) * 0.3).astype(np.uint8)


def _adjacency(images: int) -> Row:
    """Compare with loops; they are slow and timed once."""
    targets, found = _labels(images), []
    conditions = f"{images} images x 18 regions x 9 findings"
    row = compare(
        "region adjacency",
        "loops over pairs and images, scikit-learn",
        lambda: RegionCounts.of(targets, REGIONS, FINDINGS).jaccard(),
        lambda: found.append(_by_loops(targets)),
        target=1 / 5000,
        conditions=conditions,
        pairs=9,
        slow=True,
    )
    alike = RegionCounts.of(targets, REGIONS, FINDINGS).jaccard().numpy()
    np.testing.assert_allclose(alike, found[0], atol=1e-12)
    return row


def _by_loops(targets: np.ndarray) -> np.ndarray:
    """Compute the adjacency pair by pair, image by image, finding by finding, as the original does."""
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


def _many(images: int) -> Row:
    """Compare many images with summing the labels once; the conditions give the seconds."""
    targets = _labels(images)
    ours = lambda: RegionCounts.of(targets, REGIONS, FINDINGS).jaccard()  # noqa: E731
    conditions = f"{images:,} images, {seconds(ours):.2f} s here"
    return compare("region adjacency", "summing the labels once", ours, targets.sum, conditions=conditions, pairs=7)


def _constant_memory() -> Iterator[Row]:
    images = 1_000_000
    targets = np.random.default_rng(0).integers(0, 2, (images, len(REGIONS), len(FINDINGS)), dtype=np.uint8)
    extra = {n: peak(lambda n=n: RegionCounts.of(targets[:n], REGIONS, FINDINGS)) for n in (images // 10, images)}
    if None not in extra.values():
        conditions = ", ".join(f"{mebibytes:.1f} MiB for {n:,} images" for n, mebibytes in extra.items())
        of_labels = targets.nbytes / 2**20
        name, peer = "peak extra memory of RegionCounts.of", f"{images:,} x 18 x 9 labels as bytes"
        yield Row(name, peer, [extra[images] / of_labels], 0.5, conditions, (extra[images], of_labels))


def _head() -> Iterator[Row]:
    """Compare the paper's head, batch 64, with torch_geometric's layers and with its two weight products alone."""
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
    conditions = "18 regions, 1024-2048-1024, batch 64, inference"
    beside = "graph, attention, norm and classifier add 0.1 to 0.15, mostly for reading memory"
    for other, name, target, reason in (
        (peer, "the same with torch_geometric's GCNConv", 1.0, ""),
        (floor, "its two weight products alone", 1.15, beside),
    ):
        given = {"target": target, "conditions": conditions, "reason": reason, "pairs": 9}
        yield compare("region graph head", name, ours, other, **given)
