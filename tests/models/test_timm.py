"""Whole classifiers of timm: logits, checkpoints and heat maps of every family."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch

import thoraxlib
from thoraxlib import cams
from thoraxlib.registry import OptionError

LABELS = ["Mass", "Edema", "Nodule"]
FAMILIES = [
    *("convnext_atto", "convnextv2_atto", "deit_tiny_patch16_224", "densenet121", "efficientnet_b0"),
    *("eva02_tiny_patch14_224", "hiera_tiny_224", "inception_v3", "mambaout_femto", "maxvit_rmlp_pico_rw_256"),
    *("mobilenetv3_small_050", "pvt_v2_b0", "regnetx_002", "resnest14d", "resnet18", "swin_tiny_patch4_window7_224"),
    *("swinv2_cr_tiny_ns_224", "tf_efficientnetv2_b0", "tf_efficientnet_lite0", "vgg11_bn", "vit_tiny_patch16_224"),
    *("vit_small_patch14_reg4_dinov2", "xcit_nano_12_p16_224", "beit_base_patch16_224"),
]
SMALL = {"vit_small_patch14_reg4_dinov2": {"img_size": 112, "depth": 3}, "beit_base_patch16_224": {"depth": 3}}


QUICK = ("convnext_atto", "resnet18", "vit_tiny_patch16_224")


@pytest.mark.parametrize(
    "family", [pytest.param(name, marks=[] if name in QUICK else pytest.mark.slow) for name in FAMILIES]
)
def test_a_fine_tuned_file_has_the_same_logits(family: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    options = SMALL.get(family, {})
    theirs = timm.create_model(family, num_classes=3, **options).eval()
    with torch.no_grad():
        for parameter in theirs.get_classifier().parameters():  # hiera's begins at 0
            torch.nn.init.normal_(parameter, std=0.1)
    torch.save({"state_dict": {f"module.{key}": value for key, value in theirs.state_dict().items()}}, tmp_path / "f")
    spec = {"size": options["img_size"]} if "img_size" in options else {}
    rest = {key: value for key, value in options.items() if key != "img_size"}
    model = thoraxlib.build("timm", backbone=family, labels=LABELS, input_spec=spec, **rest).eval()
    assert thoraxlib.load_checkpoint(model, tmp_path / "f", labels=model.labels) == "plain"
    x = torch.randn(1, 3, *model.input_spec.size)
    with torch.no_grad():
        assert torch.equal(model(x), theirs(x))
    maps = cams.build("gradcam", model)(x)
    assert maps.shape[:2] == (1, 3)
    assert min(maps.shape[2:]) > 1
    assert maps.abs().max() > 0


def test_position_embeddings_are_resampled_as_timm_does(tmp_path: Path) -> None:
    small = timm.create_model("vit_tiny_patch16_224", num_classes=3, depth=2)
    torch.save(small.state_dict(), tmp_path / "f")
    options = {"backbone": "vit_tiny_patch16_224", "labels": LABELS, "depth": 2}
    model = thoraxlib.build("timm", **options, input_spec={"size": 320})
    thoraxlib.load_checkpoint(model, tmp_path / "f", labels=model.labels)
    theirs = timm.create_model("vit_tiny_patch16_224", num_classes=3, depth=2, img_size=320)
    convert = timm.models.vision_transformer.checkpoint_filter_fn
    timm.models.load_checkpoint(theirs, str(tmp_path / "f"), filter_fn=convert, weights_only=True)
    assert torch.equal(model.net.pos_embed, theirs.pos_embed)


def test_saved_and_loaded(tmp_path: Path) -> None:
    model = thoraxlib.build("timm", backbone="resnet10t", labels=LABELS, in_chans=1, input_spec={"size": 64}).eval()
    thoraxlib.save_pretrained(model, tmp_path)
    loaded = thoraxlib.load_pretrained(tmp_path)
    x = torch.rand(2, 1, 64, 64)
    assert torch.equal(loaded(x), model(x))
    assert loaded.input_spec == model.input_spec


def test_errors() -> None:
    with pytest.raises(ValueError, match=r"backbone='resnet1': timm has no such model; it has 'resnet18'"):
        thoraxlib.build("timm", backbone="resnet1")
    with pytest.raises(OptionError, match="checkpoint_path is not accepted"):
        thoraxlib.build("timm", checkpoint_path="x.pth")
    with pytest.raises(OptionError, match="timm model 'resnet18': .*'depths'"):
        thoraxlib.build("timm", backbone="resnet18", depths=3)
