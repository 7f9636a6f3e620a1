"""What the whole-model records of SegFusionVANGCN and its relatives hold beside the outputs in manifest.json."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from formulas import assert_matches, image, label_graph, load_record, state_dict, weight
from torch import Tensor, nn

import thoraxlib
from thoraxlib import cams, graphs, heads
from thoraxlib.segmentation.base import foreground

FUSED = {"cxr_segfusionvan": "segfusion_van", "cxr_segfusionvangcn": "segfusion_vangcn"}
SMALL = {"size": [64, 64]}


@cache
def built(record: str, name: str, preset: str) -> tuple[nn.Module, dict[str, Any]]:
    content = load_record(f"{record}.json")
    model = thoraxlib.build(name, preset=preset, input_spec=SMALL).eval()
    thoraxlib.load_checkpoint(model, state_dict(content, unregistered=bool(content["state_not_registered"])))
    return model, content["outputs"]


@pytest.mark.parametrize(("record", "name"), FUSED.items())
@torch.no_grad()
def test_masks_and_stages(record: str, name: str) -> None:
    model, out = built(record, name, "original")
    x = image(2, 3, 64, 64)
    everything = model.forward_all(x)
    assert_matches(everything.masks.sum(dim=3), out["mask_row_sums"])
    of_stages = model.fusion.stage_masks(everything.maps, everything.masks)
    for number, (stage, m, mask) in enumerate(zip(model.fusion.stages, everything.maps, of_stages, strict=True), 1):
        assert_matches(mask, out[f"mask_stage{number}"], 1e-6)
        assert_matches(stage.masked(m, mask), out[f"stage{number}_masked_affine"])


@pytest.mark.parametrize(("record", "name"), FUSED.items())
@torch.no_grad()
def test_an_image_alone_has_other_logits_in_the_original_only(record: str, name: str) -> None:
    x = image(2, 3, 64, 64)
    model, out = built(record, name, "original")
    assert_matches(model(x[:1]), out["logits_first_image_alone"])
    assert (model(x[:1]) - model(x)[:1]).abs().max() > 0.003 * model(x).abs().max()
    # of the masked maps, nothing is left but the norms' shifts
    vectors = [z.mean(dim=(2, 3))[0] for z in model.forward_all(x[:1]).fused[:-1]]
    for stage, vector in zip(model.fusion.stages, vectors, strict=True):
        torch.testing.assert_close(vector, stage.norm.bias, atol=1e-5, rtol=0)
    sound, _ = built(record, name, "trained_fusion")
    torch.testing.assert_close(sound(x[:1]), sound(x)[:1], rtol=1e-4, atol=1e-5)


GRADCAMS = {"cxr_fusionvan": ("fusion_van", None), "cxr_segvangcn": ("seg_vangcn", "original")}
GRADCAMS |= {record: (name, "trained_fusion") for record, name in FUSED.items()}


@pytest.mark.parametrize("record", GRADCAMS)
@pytest.mark.parametrize("layer", ["block1.2", "block4.1"])
def test_gradcam(record: str, layer: str) -> None:
    name, preset = GRADCAMS[record]
    if preset is None:
        model = thoraxlib.build(name, labels="nih14_alphabetical").eval()
        thoraxlib.load_checkpoint(model, state_dict(load_record(f"{record}.json")))
        out = load_record(f"{record}.json")["outputs"]
    else:
        model, out = built(record, name, preset)
    for k in (1, 8):
        expected = out[f"gradcam_class{k}_{layer.partition('.')[0]}_last"]
        maps = cams.build("gradcam", model, f"backbone.{layer}", relu=False)(image(2, 3, 64, 64), [k])[:, 0]
        assert_matches(maps, expected["weighted_sum_before_relu"])
        assert torch.equal(
            cams.build("gradcam", model, f"backbone.{layer}")(image(2, 3, 64, 64), [k])[:, 0], maps.relu()
        )


def nih_head(widths: list[int], threshold: float, **form: Any) -> heads.Head:
    head = heads.build(
        "label_graph",
        in_channels=widths[-1],
        num_labels=14,
        labels=thoraxlib.labels.build("nih14_alphabetical"),
        hidden=widths[1:-1],
        adjacency={"name": "mlgcn", "threshold": threshold, "isolated": "ignore"},
        embeddings="word_vectors",
        **form,
    )
    return head.eval()


def fill(head: Any, state: list[Any], start: int) -> None:
    for index, (key, shape, _) in enumerate(state, start=start):
        layer = head.convolutions[int(key[2]) - 1]
        layer.weight.data = torch.from_numpy(weight(key, tuple(shape), index))


@torch.no_grad()
def test_label_graph() -> None:
    record = load_record("cxr_label_gcn.json")
    out = record["outputs"]
    for form, name in (("gelu", "classifiers"), ("leaky_relu", "classifiers_mlgcn_style")):
        head = nih_head([300, 1024, 256], 0.3, act=form, act_last="gelu" if form == "gelu" else None)
        fill(head, record["state"][1:], 1)
        assert_matches(head.operator.matrix, out["normalised_adjacency"], 1e-7)
        assert_matches(head.classifier()[0].T, out[name])
    deep = record["five_layer"]
    head = nih_head(deep["config"]["dims"], 0.2, act="leaky_relu", act_last=None)
    fill(head, deep["state"], 0)
    assert_matches(head.classifier()[0].T, deep["outputs"]["classifiers"])


@pytest.mark.parametrize("name", ["nih14", "chexpert5", "mimic14"])
@pytest.mark.parametrize("threshold", [0.2, 0.3, 0.4])
def test_adjacency(name: str, threshold: float) -> None:
    """Every published matrix, exactly, from the shipped counts."""
    record = load_record(f"adjacency_{name}.json")
    counts = graphs.counts.build(name)
    assert list(counts.labels) == record["labels"]
    assert counts.positives.tolist() == record["counts"]
    conditional = counts.conditional().fill_diagonal_(0)
    torch.testing.assert_close(conditional, torch.tensor(record["conditional"]).double(), atol=1e-7, rtol=0)
    expected = record["derived"][f"t={threshold}"]
    graph = graphs.adjacency.build("mlgcn", threshold=threshold, isolated="ignore")(counts)
    assert sorted([source, target] for source, target, _ in graph.edges()) == sorted(expected["edges"])
    torch.testing.assert_close(graph.weights, torch.tensor(expected["A"]), atol=1e-7, rtol=0)
    torch.testing.assert_close(graph.normalized(), torch.tensor(expected["normalised"]), atol=1e-7, rtol=0)


def test_the_label_graph_of_the_records_is_the_library_s() -> None:
    graph = graphs.adjacency.build("mlgcn", threshold=0.3, isolated="ignore")(graphs.counts.build("nih14"))
    torch.testing.assert_close(graph.weights, label_graph(0.3), atol=1e-7, rtol=0)


@cache
def unet(fit: str) -> nn.Module:
    model = thoraxlib.segmentation.build("unet", fit=fit).eval()
    model.load_state_dict(state_dict(load_record("cxr_unet.json")))
    return model


@torch.no_grad()
def test_unet() -> None:
    record = load_record("cxr_unet.json")
    out = record["outputs"]
    model = unet("pad")
    assert sum(p.numel() for p in model.parameters()) == record["parameters"]
    seen: dict[str, Tensor] = {}
    for name in [key for key in out if key.startswith(("down_conv", "up_", "middle_conv"))]:
        module = model.get_submodule(name)
        module.register_forward_hook(lambda m, i, o, name=name: seen.__setitem__(name, o))
    logits = model(image(2, 3, 64, 64))
    assert_matches(logits, out["logits"])
    for name, value in seen.items():
        assert_matches(value, out[name])
    mask = foreground(logits)
    assert_matches(mask[:, 0], out["mask"], 1e-6)
    assert_matches(mask[:, 0].sum(dim=2), out["row_sums_of_mask"], 1e-6)
    assert_matches(unet("crop")(image(1, 3, 50, 70)), out["logits_50x70"])
    assert model(image(1, 3, 50, 70)).shape == (1, 3, 50, 70)
