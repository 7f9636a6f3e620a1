"""AnaXNet's region graph, adjacency and scores against the original's."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from formulas import assert_matches, image, load_record, state_dict
from torch import Tensor
from torch.nn import functional as F

import thoraxlib
from thoraxlib import graphs
from thoraxlib import labels as label_sets
from thoraxlib.graphs import LabelCounts, RegionCounts
from thoraxlib.metrics import evaluate_regions

RECORD = load_record("anaxnet.json")
GRAPHS = load_record("anaxnet_adjacency.json")
SCORES = load_record("anaxnet_metrics.json")
VARIANTS = {
    "released_code_batch_of_2": ("released", 2),
    "released_code_batch_of_1": ("released", 1),
    "region_softmax_batch_of_2": ("paper", 2),
}
MODULES = {"layer_norm": "norm", "gc1_out": "convolutions.0", "gc2_out": "convolutions.1"}
WEIGHTS = {
    "anatomy_gc1.weight": "head.convolutions.0.weight",
    "anatomy_gc2.weight": "head.convolutions.1.weight",
    "fc.0.weight": "head.norm.weight",
    "fc.0.bias": "head.norm.bias",
    "fc.2.weight": "head.classifier.weight",
    "fc.2.bias": "head.classifier.bias",
}


def original() -> dict[str, Tensor]:
    state = state_dict(RECORD)
    state["anatomy_inp_tensor"] = torch.tensor(RECORD["state_override"]["values"], dtype=torch.float32)
    return state


def features() -> Tensor:
    return image(*RECORD["input"]["args"]).reshape(2, 18, 1024) * 5


def targets() -> Tensor:
    b, r, f = np.ogrid[:2, :18, :9]
    y = torch.from_numpy(np.sin(1.1 * b + 0.7 * r + 1.9 * f) > 0.4).float()
    assert int(y.sum()) == RECORD["target"]["positives"]
    return y


@pytest.mark.parametrize("variant", VARIANTS)
def test_region_graph(variant: str) -> None:
    preset, images = VARIANTS[variant]
    model = thoraxlib.build("anaxnet", preset=preset, adjacency="identity").eval()
    assert thoraxlib.load_checkpoint(model, original()) == "anaxnet"
    assert sum(p.numel() for p in model.parameters()) == RECORD["trainable_parameters_that_receive_a_gradient"]
    seen: dict[str, Tensor] = {}
    for name in MODULES.values():
        module = model.head.get_submodule(name)
        module.register_forward_hook(lambda m, i, o, name=name: seen.__setitem__(name, o))
    model.head.norm.register_forward_pre_hook(lambda m, i: seen.__setitem__("sum", i[0]))
    x = features()[:images]
    output = model.forward_all(x)
    loss = F.binary_cross_entropy_with_logits(output.logits, targets()[:images])
    loss.backward()

    everywhere = RECORD["outputs"]
    if images == 2:
        assert_matches(x, everywhere["input_features"])
        assert_matches(seen["convolutions.0"], everywhere["gc1_out"])
        assert_matches(seen["convolutions.1"], everywhere["gc2_out"])
        assert_matches(x @ seen["convolutions.1"].mT, everywhere["attention_scores"])
    recorded = {k.partition("/")[2]: v for k, v in everywhere.items() if k.startswith(f"{variant}/")}
    assert_matches(output.attention, recorded["attention_weights"])
    assert_matches(seen["sum"] - x, recorded["attended_features"])
    assert_matches(seen["sum"], recorded["residual_sum"])
    assert_matches(seen["norm"], recorded["layer_norm"])
    assert_matches(output.logits, recorded["logits"])
    assert_matches(output.logits.sigmoid(), recorded["probabilities"])
    assert float(loss) == pytest.approx(recorded["bce_with_logits_mean"], abs=1e-6)
    own = dict(model.named_parameters())
    for theirs, name in WEIGHTS.items():
        grad = own[name].grad
        assert grad is not None
        if recorded["gradients"][theirs]["abs_max"] == 0:  # with one image the released weights are 1, whatever H is
            assert grad.abs().max() == 0
        else:
            assert_matches(grad, recorded["gradients"][theirs])


def labels_of(case: dict[str, Any]) -> Tensor:
    """(40, 18, 9), NaN where a region is not annotated."""
    rows = [[np.nan if c == "-" else float(c) for c in text] for text in case["labels"]["images"]]
    return torch.tensor(rows).reshape(-1, 18, 9)


def table(values: list[list[float | None]]) -> Tensor:
    return torch.tensor([[np.nan if value is None else value for value in row] for row in values], dtype=torch.float64)


@pytest.mark.parametrize("name", GRAPHS["cases"])
def test_adjacency(name: str) -> None:
    y, recorded = labels_of(GRAPHS["cases"][name]), GRAPHS["cases"][name]["outputs"]
    assert tuple(GRAPHS["region_order"]) == label_sets.build("regions18")
    assert tuple(GRAPHS["finding_order"]) == label_sets.build("imagenome9")
    counts = RegionCounts.of(y, "regions18", "imagenome9")
    assert graphs.adjacency.build("jaccard")(counts).weights.tolist() == recorded["original/anatomy_matrix"]
    means = table(recorded["original/anatomy_mean_jaccard_before_threshold"])
    # the record has None where no image is usable, also for a region with itself
    torch.testing.assert_close(counts.jaccard(), means.nan_to_num(0.0).fill_diagonal_(1), rtol=0, atol=1e-9)
    known = RegionCounts.of(y, "regions18", "imagenome9", complete=False)
    means = table(recorded["positive_only/mean_jaccard"])
    mine = known.jaccard(average="positive")
    torch.testing.assert_close(mine[~means.isnan()], means[~means.isnan()], rtol=0, atol=1e-9)
    matrix = graphs.adjacency.build("jaccard", average="positive")(known).weights
    assert matrix.fill_diagonal_(1).tolist() == table(recorded["positive_only/anatomy_matrix_at_0.5"]).tolist()

    findings = LabelCounts.of(y.flatten(0, 1), "imagenome9")
    assert findings.joint.tolist() == recorded["recomputed/findings_joint_counts"]
    chance = table(recorded["recomputed/findings_conditional_probability"])
    torch.testing.assert_close(findings.conditional(), chance, rtol=0, atol=1e-8)
    graph = graphs.adjacency.build("conditional", absent="ignore")(findings)
    assert graph.weights.tolist() == recorded["original/findings_matrix"]


def test_scores() -> None:
    i, r, f = np.ogrid[:60, :18, :9]
    logits = (2 * np.sin(0.9 * i + 0.5 * r + 1.3 * f) + 1.2 * np.cos(0.37 * i * (f + 1) + 0.8 * r) - 1).astype(
        np.float32
    )
    y = (np.sin(0.9 * i + 0.5 * r + 1.3 * f) + 0.9 * np.sin(2.1 * i + 1.1 * r + 0.3 * f) > 0.8).astype(np.float32)
    y[:, 17, 5], y[:, 16, 7] = 0, 1
    recorded = SCORES["outputs"]
    report = evaluate_regions(y, logits, n_bootstrap=2, regions="regions18", labels="imagenome9")
    expected = table(recorded["original/auc_finding_by_region"])
    np.testing.assert_allclose(report.auroc, expected, rtol=0, atol=1e-9)
    of_findings = recorded["original/auc_per_finding_nanmean_over_regions"]
    np.testing.assert_allclose(report.per_finding, of_findings, rtol=0, atol=1e-9)
    assert report.mean == pytest.approx(recorded["original/auc_overall_nanmean_of_finding_means"], abs=1e-9)
    pooled = recorded["recomputed/auc_per_finding_all_regions_pooled"]
    np.testing.assert_allclose([row.auroc for row in report.pooled.rows], pooled, rtol=0, atol=1e-9)
