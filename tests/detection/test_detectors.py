"""Every detector of the subpackage: shapes, gradients, batches, regions, saving."""

from __future__ import annotations

import copy
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import thoraxlib
from thoraxlib import detection
from thoraxlib.detection.base import RegionDetector
from thoraxlib.detection.faster_rcnn import LOSSES, FasterRCNN, Pyramid, best_boxes
from thoraxlib.detection.template import Template
from thoraxlib.registry import OptionError, UnknownNameError

NAMES = detection.names()
TRAINED = [name for name in NAMES if name != "template"]
SIZE = 64
REGIONS = ("right lung", "left lung", "heart")
SMALL: dict[str, dict[str, Any]] = {
    "fasterrcnn_fpn": {"backbone": "resnet10t", "width": 16, "feature_dim": 24},
    "template": {"backbone": "resnet10t"},
}
BOXES = torch.tensor([[4.0, 8.0, 30.0, 50.0], [34.0, 8.0, 60.0, 52.0], [20.0, 30.0, 48.0, 56.0]])


@cache
def plain(name: str) -> Any:
    torch.manual_seed(0)
    return made(name)


def built(name: str, **options: Any) -> Any:
    return made(name, **options) if options else copy.deepcopy(plain(name))


def made(name: str, **options: Any) -> Any:
    few = {"rois": 8, "proposals": 8} if name in TRAINED else {}
    spec = {"size": SIZE, **options.pop("input_spec", {})}
    net = detection.build(name, **{"regions": REGIONS, **few, **SMALL.get(name, {}), **options, "input_spec": spec})
    if isinstance(net, Template):
        net.mean_boxes.copy_(BOXES / SIZE)
    return net


def images(count: int = 2, channels: int = 3) -> Tensor:
    return torch.randn(count, channels, SIZE, SIZE)


@pytest.mark.parametrize("name", NAMES)
def test_every_detector(name: str) -> None:
    net, x = built(name), images()
    assert isinstance(net, RegionDetector)
    assert net.region_names == REGIONS
    for mode in (True, False):
        found = net.train(mode)(x)
        assert found.boxes.shape == (2, 3, 4)
        assert found.scores.shape == found.present.shape == (2, 3)
        assert found.features.shape == (2, 3, net.feature_dim)
        assert ((found.boxes >= 0) & (found.boxes <= SIZE)).all()
        assert ((found.scores >= 0) & (found.scores <= 1)).all()
        assert torch.equal(found.present, found.scores > net.score_threshold)
        assert (found.features[~found.present] == 0).all()
    again = net(x)
    assert all(torch.equal(a, b) for a, b in zip(found, again, strict=True))


@pytest.mark.parametrize("name", NAMES)
def test_alone_and_in_a_batch(name: str) -> None:
    net, x = built(name).eval(), images(3)
    net.score_threshold = 0.0
    with torch.no_grad():
        together, turned = net(x), net(x.flip(0))
        alone = [net(one) for one in x.split(1)]
    for field in ("boxes", "scores", "features"):
        whole = getattr(together, field)
        torch.testing.assert_close(torch.cat([getattr(one, field) for one in alone]), whole, rtol=1e-3, atol=1e-3)
        torch.testing.assert_close(getattr(turned, field).flip(0), whole, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", TRAINED)
def test_losses_and_gradients(name: str) -> None:
    net, x = built(name), images()
    boxes = BOXES.expand(2, -1, -1)
    losses = net.losses(x, boxes)
    assert tuple(losses) == LOSSES
    assert all(loss.isfinite() and loss.ndim == 0 for loss in losses.values())
    sum(losses.values()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())
    assert net.eval().losses(x, boxes).keys() == losses.keys()


@pytest.mark.parametrize("name", NAMES)
def test_gradients_of_given_boxes(name: str) -> None:
    net, x = built(name), images()
    present = torch.tensor([[True, False, True], [False, False, False]])
    found = net.region_features(x, BOXES.expand(2, -1, -1), present)
    assert torch.equal(found.present, present)
    assert torch.equal(found.scores, present.float())
    assert (found.features[~present] == 0).all()
    assert (found.features[present].flatten(1).abs().sum(dim=1) > 0).all()
    found.features.sum().backward()
    first = next(p for p in net.backbone.parameters())
    assert first.grad is not None
    assert first.grad.abs().sum() > 0


@pytest.mark.parametrize("name", ["fasterrcnn_fpn", "template"])
def test_features_of_its_own_boxes(name: str) -> None:
    """Features of a detected region equal the features of its box."""
    net, x = built(name, score_threshold=0.0).eval(), images()
    with torch.no_grad():
        found = net(x)
        given = net.region_features(x, found.boxes, found.present)
    assert found.present.any()
    torch.testing.assert_close(given.features, found.features)


@pytest.mark.parametrize("name", NAMES)
def test_boxes_without_area_and_beyond_the_border(name: str) -> None:
    net, x = built(name).eval(), images(1)
    boxes = torch.tensor([[[0.0, 0.0, 0.0, 0.0], [-20.0, 10.0, 40.0, 900.0], [50.0, 50.0, 40.0, 60.0]]])
    with torch.no_grad():
        found = net.region_features(x, boxes)
        inside = net.region_features(x, torch.tensor([[[0.0] * 4, [0.0, 10.0, 40.0, SIZE], [0.0] * 4]]))
    assert found.present.tolist() == [[False, True, False]]
    assert all(torch.equal(a, b) for a, b in zip(found, inside, strict=True))
    if name in TRAINED:
        torch.manual_seed(0)
        losses = net.losses(x, boxes)
        torch.manual_seed(0)
        unknown = boxes.where(found.present[..., None], torch.nan)
        assert losses == net.losses(x, unknown, found.present)  # neither counts


@pytest.mark.parametrize("name", TRAINED)
def test_images_without_regions(name: str) -> None:
    """Only the background is learned."""
    net, x = built(name), images()
    losses = net.losses(x, torch.zeros(2, 3, 4))
    assert losses["proposal"] == losses["box"] == 0
    sum(losses.values()).backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in net.parameters())


@pytest.mark.parametrize("name", TRAINED)
def test_an_image_without_proposals(name: str) -> None:
    net = built(name).eval()
    net.rpn.score_thresh = 2.0
    found = net(images())
    assert (found.boxes == 0).all()
    assert (found.scores == 0).all()
    assert not found.present.any()
    assert (found.features == 0).all()
    net = built(name).eval()
    net.score_threshold = 0.0
    lost = net(torch.full((1, 3, SIZE, SIZE), torch.nan))
    assert not lost.present.any()
    assert (lost.features == 0).all()


@pytest.mark.parametrize("name", TRAINED)
def test_as_torchvision_s_postprocessing(name: str) -> None:
    """Non-maximum suppression, and then the best box of each region, without a cap on boxes."""
    net, x = built(name).eval(), images()
    with torch.no_grad():
        maps = net.maps(x)
        boxes, scores = net.locate(maps, x)
        proposals = net._select(*net._propose(maps, x), x)
        heads = net.roi_heads
        heads.score_thresh, heads.detections_per_img = 0.0, 10**6
        logits, codes = net._predict(maps, proposals, x)
        listed = heads.postprocess_detections(logits, codes, proposals, [(SIZE, SIZE)] * 2)
    for image, (kept, values, classes) in enumerate(zip(*listed, strict=True)):
        for region in range(3):
            mine = classes == region + 1
            best = values[mine].argmax()
            assert torch.equal(kept[mine][best], boxes[image, region])
            assert values[mine][best] == scores[image, region]


def test_best_boxes_of_a_loop() -> None:
    boxes, scores = torch.rand(11, 4, 4).cumsum(dim=-1), torch.rand(11, 4)
    boxes[3, 1, 2] = boxes[3, 1, 0]  # no width
    scores[3, 1] = 2.0
    found, values = best_boxes(boxes, scores, [4, 0, 7])
    for image, part in enumerate((range(4), range(0), range(4, 11))):
        for region in range(4):
            usable = [p for p in part if not (p == 3 and region == 1)]
            best = max(usable, key=lambda p, r=region: scores[p, r], default=None)
            assert torch.equal(found[image, region], torch.zeros(4) if best is None else boxes[best, region])
            assert values[image, region] == (0 if best is None else scores[best, region])


def test_rows_follow_the_names() -> None:
    """A detector of permuted names, with its last layers permuted alike, gives the same regions in the other order."""
    order, many = [2, 0, 1], {"rois": 512}  # so many that none of the boxes is left out by chance
    net = built("fasterrcnn_fpn", **many).eval()
    other = built("fasterrcnn_fpn", regions=[REGIONS[r] for r in order], **many).eval()
    state = net.state_dict()
    rows = torch.tensor([0, *[1 + r for r in order]])
    for key in list(state):
        if "cls_score" in key:
            state[key] = state[key][rows]
        if "bbox_pred" in key and "roi_heads" in key:
            state[key] = state[key].unflatten(0, (4, 4))[rows].flatten(0, 1)
    other.load_state_dict(state)
    x = images()
    with torch.no_grad():
        ours, theirs = net(x), other(x)
    assert torch.equal(ours.boxes[:, order], theirs.boxes)
    torch.testing.assert_close(ours.scores[:, order], theirs.scores)
    boxes = BOXES.expand(2, -1, -1)
    torch.manual_seed(0)
    losses = net.losses(x, boxes)
    torch.manual_seed(0)
    for name, loss in other.losses(x, boxes[:, order]).items():
        torch.testing.assert_close(loss, losses[name], msg=name)


@pytest.mark.parametrize("name", NAMES)
def test_saving(name: str, tmp_path: Path) -> None:
    net = built(name, score_threshold=0.25, in_chans=1, input_spec={"mean": 0.5, "std": 0.25}).eval()
    thoraxlib.save_pretrained(net, tmp_path)
    loaded = thoraxlib.load_pretrained(tmp_path, detection.RegionDetector)
    assert (loaded.region_names, loaded.input_spec) == (net.region_names, net.input_spec)
    assert loaded.score_threshold == 0.25
    assert loaded.fingerprint() == net.fingerprint()
    x = images(channels=1)
    with torch.no_grad():
        assert all(torch.equal(a, b) for a, b in zip(loaded(x), net(x), strict=True))
    loaded.score_threshold = 0.5
    assert loaded.fingerprint() != net.fingerprint()


def test_an_unregistered_backbone_cannot_be_saved(tmp_path: Path) -> None:
    class Backbone(nn.Module):
        channels, strides = (8,), (8,)

        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 8, 8, 8)

        def forward(self, x: Tensor) -> list[Tensor]:
            return [self.conv(x)]

    net = built("fasterrcnn_fpn", backbone=Backbone()).eval()
    assert net(images()).features.shape == (2, 3, 24)
    assert net.fingerprint()
    with pytest.raises(
        TypeError, match="cannot save 'fasterrcnn_fpn', which has a ready Backbone.*Register the component"
    ):
        thoraxlib.save_pretrained(net, tmp_path)


@pytest.mark.parametrize("backbone", ["resnet18", "mobilenetv3_small_050", "convnext_atto", "vit_tiny_patch16_224"])
def test_backbones(backbone: str) -> None:
    net = built("fasterrcnn_fpn", backbone=backbone).eval()
    assert isinstance(net.backbone, Pyramid)
    with torch.no_grad():
        maps = net.maps(images())
    assert [SIZE // m.shape[-1] for m in maps.values()] == list(net.backbone.strides)
    assert net.losses(images(), BOXES.expand(2, -1, -1))["box"].isfinite()


def test_maps_with_gaps() -> None:
    """A box for a map that the backbone lacks is pooled from the next finer map."""
    backbone = {"name": "resnet10t", "out_indices": [1, 4]}
    net = built("fasterrcnn_fpn", backbone=backbone, input_spec={"size": 256}).eval()
    assert net.backbone.strides == (4, 32, 64)
    sides = torch.tensor([8.0, 40.0, 100.0, 143.0, 145.0, 250.0])  # from 144 on of stride 32, if 72 is of stride 16
    boxes = torch.stack([torch.zeros(6), torch.zeros(6), sides, sides], dim=1)
    assert net.roi_heads.box_roi_pool.map_levels([boxes]).tolist() == [0, 0, 0, 0, 1, 1]
    x = torch.randn(1, 3, 256, 256)
    found = net.region_features(x, boxes[None, 3:])
    assert (found.features.abs().sum(dim=-1) > 0).all()


@pytest.mark.parametrize("name", ["fasterrcnn_resnet50_fpn", "fasterrcnn_mobilenet_v3_large_fpn", "fasterrcnn_fpn"])
def test_levels_as_torchvision_s(name: str) -> None:
    from torchvision.ops import MultiScaleRoIAlign

    net = built(name, input_spec={"size": 800}, proposals=4)
    pool = net.roi_heads.box_roi_pool
    theirs = MultiScaleRoIAlign(pool.featmap_names, 7, 2)
    levels = net.backbone.strides[:-1] if name == "fasterrcnn_fpn" else (32, 32) if "mobile" in name else (4, 8, 16, 32)
    maps = {str(k): torch.randn(1, 2, 800 // stride, 800 // stride) for k, stride in enumerate(levels)}
    corners = torch.rand(50, 2) * 300
    boxes = [torch.cat([corners, corners + torch.rand(50, 2) * 490 + 1], dim=1)]
    assert torch.equal(pool(maps, boxes, [(800, 800)]), theirs(maps, boxes, [(800, 800)]))


@pytest.mark.parametrize("name", NAMES)
def test_memory_format_and_low_precision(name: str) -> None:
    net, x = built(name).eval(), images()
    boxes = BOXES.expand(2, -1, -1)
    with torch.no_grad():
        whole = net.region_features(x, boxes).features
        turned = copy.deepcopy(net).to(memory_format=torch.channels_last)
        torch.testing.assert_close(
            turned.region_features(x.to(memory_format=torch.channels_last), boxes).features, whole, rtol=1e-3, atol=1e-4
        )
        with torch.autocast("cpu", torch.bfloat16):
            low, found = net.region_features(x, boxes).features, net(x)
        assert (low.float() - whole).abs().mean() < 0.05 * whole.abs().mean() + 1e-3
        assert found.boxes.dtype == found.scores.dtype == torch.float32
    if name in TRAINED:
        with torch.autocast("cpu", torch.bfloat16):
            assert all(loss.isfinite() for loss in net.losses(x, boxes).values())


def test_frozen_norms() -> None:
    net = built("fasterrcnn_fpn", freeze_norm=True)
    assert net.training
    before = [norm.running_mean.clone() for norm in net.modules() if isinstance(norm, nn.BatchNorm2d)]
    net.losses(images(), BOXES.expand(2, -1, -1))
    after = [norm.running_mean for norm in net.modules() if isinstance(norm, nn.BatchNorm2d)]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


@pytest.mark.parametrize("name", [name for name in TRAINED if name != "fasterrcnn_fpn"])
def test_layers_that_are_not_trained(name: str) -> None:
    with torch.device("meta"):
        net = built(name, trainable_layers=3)
    frozen = [key for key, p in net.backbone.body.named_parameters() if not p.requires_grad]
    assert frozen
    assert all(not key.startswith(("layer2", "layer3", "layer4", "13", "16")) for key in frozen)
    if "resnet50" in name:
        assert {key.split(".")[0] for key in frozen} == {"conv1", "bn1", "layer1"}


def test_anchors_scale_with_the_input() -> None:
    sizes = {side: built("fasterrcnn_fpn", input_spec={"size": side}).rpn.anchor_generator.sizes for side in (400, 800)}
    assert sizes[800] == ((32.0,), (64.0,), (128.0,), (256.0,), (512.0,))
    assert sizes[400] == ((16.0,), (32.0,), (64.0,), (128.0,), (256.0,))
    own = built("fasterrcnn_fpn", anchor_sizes=[[8, 12]] * 5)
    assert own.rpn.anchor_generator.num_anchors_per_location() == [6] * 5
    assert own(images()).boxes.shape == (2, 3, 4)


@pytest.mark.parametrize(
    ("name", "options", "error", "message"),
    [
        ("fasterrcnn_fpn", {"regions": ()}, ValueError, "non-empty sequence of names"),
        ("fasterrcnn_fpn", {"regions": ("a", "a")}, ValueError, "more than once"),
        ("fasterrcnn_fpn", {"regions": "region18"}, UnknownNameError, "did you mean 'regions18'"),
        ("fasterrcnn_fpn", {"score_threshold": 1.0}, ValueError, "score_threshold=1.0: from 0 to below 1"),
        ("fasterrcnn_fpn", {"rois": 0}, ValueError, "rois=0, proposals=8: at least 1"),
        ("fasterrcnn_fpn", {"width": 0}, ValueError, "width=0, feature_dim=24: at least 1"),
        ("fasterrcnn_fpn", {"anchor_sizes": [[8]]}, ValueError, "for each of 5 maps, of strides"),
        (
            "fasterrcnn_fpn",
            {"anchor_sizes": [[8], [8, 9], [8], [8], [8]]},
            ValueError,
            "all maps need the same number of sides",
        ),
        ("fasterrcnn_fpn", {"anchor_sizes": [[8], [], [8], [8], [8]]}, ValueError, "positive sides in pixels"),
        ("fasterrcnn_fpn", {"backbone": nn.Identity()}, TypeError, "needs the attribute 'channels'"),
        ("fasterrcnn_resnet50_fpn", {"pretrained": "coko"}, ValueError, "allowed are 'coco'"),
        ("fasterrcnn_resnet50_fpn", {"trainable_layers": 6}, ValueError, "trainable_layers=6: the backbone has 5"),
        ("template", {"stage": 9}, ValueError, "stage=9: the backbone has 5 maps"),
        ("fasterrcnn_fpn", {"treshold": 1}, OptionError, "has no option 'treshold'"),
        ("fasterrcnn_resnet", {}, UnknownNameError, "did you mean 'fasterrcnn_resnet50_fpn'"),
    ],
)
def test_bad_options(name: str, options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        built(name, **options)


def test_bad_boxes() -> None:
    net, x = built("fasterrcnn_fpn"), images()
    with pytest.raises(ValueError, match=r"boxes must be \(2, 3, 4\) for these images and regions, got \(2, 4, 4\)"):
        net.losses(x, torch.zeros(2, 4, 4))
    with pytest.raises(ValueError, match=r"present must be \(2, 3\)"):
        net.region_features(x, torch.zeros(2, 3, 4), torch.ones(2, 4, dtype=torch.bool))
    with pytest.raises(ValueError, match="must be finite"):
        net.region_features(x, torch.full((2, 3, 4), torch.nan))
    with pytest.raises(TypeError, match="Template is not trained on boxes"):
        built("template").losses(x, torch.zeros(2, 3, 4))


@pytest.mark.parametrize("name", ["fasterrcnn_resnet50_fpn", "fasterrcnn_mobilenet_v3_large_fpn"])
@pytest.mark.parametrize("pretrained", ["coco", "imagenet"])
def test_weights_that_cannot_be_downloaded(
    name: str, pretrained: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def offline(*args: Any, **kwargs: Any) -> None:
        raise OSError("no network")

    monkeypatch.setattr("torch.hub.download_url_to_file", offline)
    monkeypatch.setattr("torch.hub.get_dir", lambda: str(tmp_path))
    with pytest.raises(RuntimeError, match="could not be downloaded .no network.; build with pretrained=False"):
        built(name, pretrained=pretrained)


@pytest.mark.parametrize("name", [name for name in TRAINED if name != "fasterrcnn_fpn"])
def test_weights_of_coco(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """All weights of torchvision's file are loaded, except for the layers of COCO's objects; the maps are equal."""
    from torchvision.models import detection as theirs

    other = getattr(theirs, name)(weights=None, weights_backbone=None)
    state = {
        key: torch.rand_like(v) * 0.1 + 0.05 if v.is_floating_point() else v for key, v in other.state_dict().items()
    }
    if name != "fasterrcnn_resnet50_fpn_v2":  # published with frozen norms, which count no batches
        state = {key: value for key, value in state.items() if "num_batches_tracked" not in key}
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", lambda *args, **kwargs: state)
    net = built(name, pretrained="coco").eval()
    assert net.roi_heads.box_predictor.cls_score.out_features == 4
    assert torch.equal(net.rpn.head.cls_logits.weight, state["rpn.head.cls_logits.weight"])
    other.load_state_dict(state, strict=False)
    if name == "fasterrcnn_resnet50_fpn":
        for norm in (m for m in other.backbone.modules() if isinstance(m, nn.BatchNorm2d)):
            norm.eps = 0.0
    x = images(1)
    with torch.no_grad():
        for ours, expected in zip(net.maps(x).values(), other.eval().backbone(x).values(), strict=True):
            torch.testing.assert_close(ours, expected, rtol=1e-3, atol=1e-4)
    assert isinstance(net, FasterRCNN)


def test_channels() -> None:
    """A grey image through one channel or three equal ones."""
    three = built("fasterrcnn_resnet50_fpn").eval()
    one = built("fasterrcnn_resnet50_fpn", in_chans=1).eval()
    state = three.state_dict()
    state["backbone.body.conv1.weight"] = state["backbone.body.conv1.weight"].sum(dim=1, keepdim=True)
    one.load_state_dict(state)
    assert one.input_spec.channels == 1
    x = images(1, 1)
    with torch.no_grad():
        for a, b in zip(one.maps(x).values(), three.maps(x.expand(-1, 3, -1, -1)).values(), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3)


def test_describe() -> None:
    for name in NAMES:
        card = detection.describe(name)
        assert {"regions", "in_chans", "input_spec", "score_threshold", "pretrained"} <= set(card.options)
    assert detection.build("fasterrcnn_fpn", **SMALL["fasterrcnn_fpn"]).input_spec.size == (800, 800)
