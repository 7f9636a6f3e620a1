"""AG-CNN: branches, gradients, crops and heat maps in the image's frame."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import thoraxlib
from thoraxlib import cams
from thoraxlib.backbones import Backbone
from thoraxlib.localization import crops
from thoraxlib.models.ag_cnn import AGCNN

SMALL: dict[str, Any] = {"backbone": "resnet10t", "input_spec": {"size": 64}, "labels": ("a", "b", "c")}


def small(**options: Any) -> AGCNN:
    torch.manual_seed(0)
    return thoraxlib.build("ag_cnn", **{**SMALL, **options}).eval()  # type: ignore[return-value]


def images(n: int = 3, side: int = 64) -> Tensor:
    return torch.randn(n, 3, side, side, generator=torch.Generator().manual_seed(1))


def test_parameter_counts_of_the_spec() -> None:
    count = lambda *models: sum(p.numel() for model in models for p in model.parameters())  # noqa: E731
    paper = thoraxlib.build("ag_cnn")
    assert count(paper.global_branch) == count(paper.local_branch) == 23_538_767
    assert count(paper.head) == 61_455
    assert f"{count(paper):,}" in thoraxlib.describe("ag_cnn").doc
    assert count(thoraxlib.build("ag_cnn", preset="ien001")) == 13_965_098
    assert paper.labels == thoraxlib.labels.build("nih15")
    assert (paper.crop.tau, paper.crop.statistic) == (0.7, "max_abs")
    assert type(paper.head.pool).__name__ == "MaxPool"


def test_published_means() -> None:
    means = [sum(table.values()) / 14 for table in thoraxlib.describe("ag_cnn").published.values()]
    # the spec's own: of the paper as it prints them, of the repository's screenshot
    assert means == pytest.approx([0.868, 0.841, 0.817, 0.871, 0.840, 0.810, 0.841, 0.840, 0.799], abs=6e-4)


@torch.inference_mode()
def test_each_output_agrees_with_its_branch() -> None:
    model, x = small(), images()
    everything = model.forward_all(x)
    found = model.crop(x, model.global_branch.forward_features(x))
    assert found.valid.all()
    assert not torch.equal(found.crop, x)
    for name, value in found._asdict().items():
        assert torch.equal(getattr(everything.attention, name), value)
    assert torch.equal(everything.global_logits, model.global_branch(x))
    assert torch.equal(everything.local_logits, model.local_branch(found.crop))
    vectors = [part.amax(dim=(2, 3)) for part in everything.maps]
    torch.testing.assert_close(everything.logits, model.head.fc(torch.cat(vectors, dim=1)))
    assert torch.equal(model.global_logits(x), everything.global_logits)
    assert torch.equal(model.local_logits(x), everything.local_logits)


@pytest.mark.parametrize("detach", [True, False])
def test_where_the_fusion_s_gradient_goes(detach: bool) -> None:
    model = small(detach_branches=detach).train()
    model(images()).sum().backward()
    trained = {name.split(".")[0] for name, p in model.named_parameters() if p.grad is not None}
    assert trained == ({"head"} if detach else {"head", "global_branch", "local_branch"})


def test_the_local_loss_trains_the_local_branch_only() -> None:
    model = small().train()
    model.local_logits(images()).sum().backward()
    assert {name.split(".")[0] for name, p in model.named_parameters() if p.grad is not None} == {"local_branch"}


class Own(Backbone):
    channels, strides, in_chans = (8,), (8,), 3

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 8, 8)

    def forward(self, x: Tensor) -> list[Tensor]:
        return [self.conv(x).relu()]


@torch.inference_mode()
def test_backbones_of_one_s_own(tmp_path: Path) -> None:
    x = images(2)
    mixed = small(local_backbone="convnext_atto", pool="avg")
    assert mixed.channels == (512, 320)
    assert mixed(x).shape == (2, 3)
    own = small(backbone=Own())
    assert own(x).shape == (2, 3)
    assert own.global_branch.backbone is not own.local_branch.backbone
    one = small(share=True)
    assert one.global_branch.backbone is one.local_branch.backbone
    assert one.global_branch.head is not one.local_branch.head
    thoraxlib.save_pretrained(one, tmp_path / "one")
    again = thoraxlib.load_pretrained(tmp_path / "one")
    assert again.global_branch.backbone is again.local_branch.backbone
    assert torch.equal(again(x), one(x))
    with pytest.raises(ValueError, match="one backbone for both branches, but local_backbone='resnet18'"):
        small(share=True, local_backbone="resnet18")


@torch.inference_mode()
def test_saved_and_loaded_with_its_crop(tmp_path: Path) -> None:
    model, x = small(crop={"name": "percentile", "percentile": 60.0, "statistic": "l1", "size": 32}), images()
    assert model.forward_all(x).attention.crop.shape == (3, 3, 32, 32)
    thoraxlib.save_pretrained(model, tmp_path / "model")
    again = thoraxlib.load_pretrained(tmp_path / "model")
    assert again.crop.percentile == 60
    assert torch.equal(again(x), model(x))
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    other = small(crop=model.crop)
    for p in other.parameters():
        nn.init.constant_(p, 0.1)
    assert thoraxlib.load_checkpoint(other, tmp_path / "weights.pt", labels=other.labels) == "thoraxlib"
    assert torch.equal(other(x), model(x))


@torch.inference_mode()
def test_a_branch_takes_checkpoints_of_its_network() -> None:
    torch.manual_seed(1)
    plain = thoraxlib.build("chexnet", backbone="resnet10t", labels=SMALL["labels"]).eval()
    model = small(pool="avg")
    thoraxlib.load_checkpoint(model.local_branch, plain.state_dict(), labels=plain.labels)
    x = images()
    assert torch.equal(model.local_branch(x), plain(x))
    assert not torch.equal(model.global_branch(x), plain(x))


@torch.inference_mode()
def test_a_map_without_hot_region_gives_the_whole_image() -> None:
    model, x = small(), images(2)
    for p in model.global_branch.backbone.parameters():
        p.zero_()
    everything = model.forward_all(x)
    assert not everything.attention.valid.any()
    torch.testing.assert_close(everything.local_logits, model.local_branch(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("method", [name for name in cams.names() if name != "pcam" and not name.startswith("x_ray_")])
def test_heat_maps_lie_in_the_image(method: str) -> None:
    model, x = small(pool="avg", backbone=Own()), images()
    found = model.forward_all(x).attention
    local = cams.build(method, model)(x)
    assert local.shape == (3, 3, 64, 64)
    beyond = torch.ones(3, 64, 64, dtype=torch.bool)
    for k, (x1, y1, x2, y2) in enumerate(found.box.tolist()):
        beyond[k, y1:y2, x1:x2] = False
    assert beyond.any()
    assert not local.movedim(1, -1)[beyond].any()
    assert cams.build(method, model, target=0)(x).shape == (3, 3, 8, 8)
    with pytest.raises(ValueError, match="target=2: AGCNN has 2 maps"):
        cams.build(method, model, target=2)(x)
    logits, maps = cams.build(method, model).with_logits(x)
    torch.testing.assert_close(logits, model(x).detach())
    torch.testing.assert_close(maps, local)


def test_cam_and_gradcam_of_either_branch_agree_with_the_branch_s_share() -> None:
    model, x = small(pool="avg"), images()
    features = model.forward_features(x)
    shares = [model.logit_maps(features, bias=False, stage=stage) for stage in (0, 1)]
    total = sum(share.mean(dim=(2, 3)) for share in shares) + model.head.fc.bias
    torch.testing.assert_close(total, model(x))
    torch.testing.assert_close(cams.build("cam", model, target=0)(x), shares[0].detach())
    pasted = crops.paste(shares[1].detach(), features.attention.window, (64, 64))
    torch.testing.assert_close(cams.build("cam", model)(x), pasted)
    torch.testing.assert_close(cams.build("cam", model, target=1)(x), pasted)
    for target in (0, 1):
        cam = cams.build("cam", model, target=target)(x)
        torch.testing.assert_close(4 * cams.build("gradcam", model, target=target, relu=False)(x), cam)
    # heat maps do not care that the fusion's gradient stops at the branches in training
    assert cams.build("gradcam", model)(x).std() > 0


def test_explained() -> None:
    (image,) = thoraxlib.explain(small(), torch.randint(0, 255, (1, 90, 80), dtype=torch.uint8), threshold=0)
    assert {finding.label for finding in image.findings} == {"a", "b", "c"}
    assert all(finding.map.shape == (90, 80) for finding in image.findings)


def test_pooling_that_widens_has_no_logit_maps() -> None:
    model = small(pool="avg_max")
    with pytest.raises(NotImplementedError, match="gradient-based"):
        model.logit_maps(model.forward_features(images()))
    assert cams.build("gradcam", model)(images()).shape == (3, 3, 64, 64)
