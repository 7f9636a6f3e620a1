from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest
import torch
from compatibility import small_parts
from torch import Tensor, nn

import thoraxlib
from thoraxlib import cams, labels, layers
from thoraxlib.layers import pooling
from thoraxlib.layers.attention import ChannelAttention
from thoraxlib.models import Classifier
from thoraxlib.registry import OptionError, UnknownNameError

SMALL = {"backbone": "resnet10t", "input_spec": {"size": 64}}
# of images -> (N, K), of whatever backbone
MODELS = [name for name in thoraxlib.names() if "backbone" in thoraxlib.describe(name).options and name != "timm"]


@pytest.fixture(params=MODELS)
def model(request: pytest.FixtureRequest) -> Classifier:
    return thoraxlib.build(request.param, **SMALL, **small_parts(request.param)).eval()  # type: ignore[return-value]


def test_contract(model: Classifier) -> None:
    x = torch.randn(2, 3, 64, 64)
    logits = model(x)
    assert logits.shape == (2, len(model.labels))
    torch.testing.assert_close(model.forward_head(model.forward_features(x)), logits)
    everything = model.forward_all(x)
    torch.testing.assert_close(everything.logits, logits)
    features = model.forward_features(x)
    # of fused maps, the finest
    seen = features if isinstance(features, Tensor) else getattr(everything, "fused", features.maps[::-1])[0]
    if "but cam" in thoraxlib.describe(model.config["name"]).abilities["heat maps"]:
        with pytest.raises(NotImplementedError, match="gradient-based"):
            model.logit_maps(features)
    else:
        assert model.logit_maps(features).shape == (2, len(model.labels), *seen.shape[2:])
    probabilities = model.predict_proba(x)
    assert ((probabilities > 0) & (probabilities < 1)).all()
    assert not probabilities.requires_grad


@pytest.mark.parametrize("name", thoraxlib.names())
def test_cards(name: str) -> None:
    card = thoraxlib.describe(name)
    assert card.paper
    for label_set in card.label_sets:
        assert label_set in labels.names()
    for table in card.published.values():
        sets = [labels.build(label_set) for label_set in card.label_sets]
        assert tuple(table) in [*sets, ("mean",)]  # of some papers, the mean alone is known
        assert all(0.5 < value < 1 for value in table.values())
    for preset in card.presets:
        built = thoraxlib.build(name, preset=preset, **({"backbone": "resnet10t"} if name in MODELS else {}))
        assert built.config["name"] == name
    assert card.paper in str(card)


@pytest.mark.parametrize("name", MODELS)
def test_the_input_of_the_card_is_the_model_s(name: str) -> None:
    model = thoraxlib.build(name, backbone="resnet10t", **small_parts(name))
    assert thoraxlib.describe(name).input_spec == model.input_spec


def test_published_means() -> None:
    means = {
        title: sum(table.values()) / len(table)
        for name in ("chexnet", "unified_dcnn", "jf_top1")
        for title, table in thoraxlib.describe(name).published.items()
    }
    expected = [0.8414, 0.8427, 0.8508, 0.8383, 0.6389, 0.6385, 0.6255, 0.6962, 0.6583, 0.7451, 0.9134]
    assert [round(value, 4) for value in means.values()] == pytest.approx(expected, abs=6e-5)


@pytest.mark.parametrize(
    ("backbone", "last_pool", "channels", "stride"),
    [
        ("alexnet", True, 256, 32),
        ("alexnet", False, 256, 16),
        ("googlenet", True, 1024, 32),
        ("vgg16", True, 512, 32),
        ("vgg16", False, 512, 16),
        ("resnet50", True, 2048, 32),
    ],
)
def test_the_papers_backbones(backbone: str, last_pool: bool, channels: int, stride: int) -> None:
    model = thoraxlib.build("unified_dcnn", backbone=backbone, last_pool=last_pool, labels="nih8").eval()
    with torch.inference_mode():
        features = model.forward_features(torch.randn(1, 3, 128, 128))
    assert features.shape[1] == channels
    assert abs(features.shape[2] - 128 / stride) <= 1
    assert features.min() >= 0


def test_parameter_counts_of_the_spec() -> None:
    count = lambda model: sum(p.numel() for p in model.parameters())  # noqa: E731
    assert count(thoraxlib.build("chexnet")) == 6_968_206
    assert count(thoraxlib.build("chexnet", labels="pneumonia")) == 6_954_881
    assert count(thoraxlib.build("chexnet", backbone="densenet169")) == 12_507_790
    assert count(thoraxlib.build("unified_dcnn", labels="nih8", transition="none", pool="avg")) == 23_524_424
    # less torchvision's classifiers, and the attention blocks and norms that are built there and not used
    assert count(thoraxlib.build("x_ray")) == 11_180_616
    assert count(thoraxlib.build("x_ray", preset="densenet121")) == 6_962_056
    assert count(thoraxlib.build("x_ray", preset="custom")) == 1_629_143
    assert count(thoraxlib.build("x_ray", preset="densenet121_pcam")) == 7_987_056 - 1_025_000
    with_attention = {"preset": "resnet18_pcam", "attention": "spatial_attention"}
    assert count(thoraxlib.build("x_ray", **with_attention)) == 11_180_616 + 328_321
    assert count(thoraxlib.build("jf_top1")) == 12_525_301 - 1_025_000 - 1_050_112 - 1_312_001


@pytest.mark.parametrize(
    "options",
    [
        {"transition": {"kind": "conv3x3", "size": 4}},
        {"pool": {"name": "lse", "r": 5}},
        {"pool": "max"},
        {"in_chans": 1},
    ],
)
def test_unified_dcnn_options(options: dict[str, Any]) -> None:
    model = thoraxlib.build("unified_dcnn", **SMALL, **options).eval()
    x = torch.randn(1, options.get("in_chans", 3), 64, 64)
    assert model(x).shape == (1, 14)


def test_any_block_is_a_transition() -> None:
    model = thoraxlib.build("unified_dcnn", backbone="resnet10t", transition={"name": "channel_attention"})
    assert isinstance(model.neck, ChannelAttention)  # type: ignore[attr-defined]


def test_last_pool_needs_a_backbone_with_one() -> None:
    with pytest.raises(ValueError, match="last_pool=False needs a backbone that ends in a max pool"):
        thoraxlib.build("unified_dcnn", backbone="resnet18", last_pool=False)


class OwnBackbone(nn.Module):
    channels = (8,)
    strides = (4,)

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, 4)

    def forward(self, x: Tensor) -> list[Tensor]:
        return [self.conv(x)]


def test_ready_modules_as_components() -> None:
    model = thoraxlib.build("chexnet", backbone=OwnBackbone())
    assert model(torch.randn(1, 3, 32, 32)).shape == (1, 14)
    with pytest.raises(TypeError, match="needs the attribute 'channels'"):
        thoraxlib.build("chexnet", backbone=nn.Conv2d(3, 8, 3))


@pytest.mark.parametrize(
    ("images", "error", "message"),
    [
        (torch.zeros(1, 3, 64, 64, dtype=torch.uint8), TypeError, "float tensor.*uint8"),
        ([[0.0]], TypeError, "got list"),
        (torch.zeros(3, 64, 64), ValueError, r"shape \(N, 3, H, W\), got \(3, 64, 64\)"),
        (torch.zeros(1, 1, 64, 64), ValueError, "1 channels, the model takes 3.*in_chans=1"),
        (torch.zeros(1, 3, 16, 64), ValueError, "16 x 64 pixels are smaller than the network's stride 32"),
        (torch.full((2, 3, 64, 64), float("nan")), ValueError, r"NaN or infinite pixels \(batch positions \[0, 1\]"),
    ],
)
def test_bad_images(model: Classifier, images: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        model(images)


def test_images_of_another_precision_than_the_weights(model: Classifier) -> None:
    x = torch.randn(2, 3, 64, 64)
    for kind in (torch.float16, torch.bfloat16, torch.float64):
        with pytest.raises(TypeError, match=rf"images are {kind}, the model's weights are torch.float32: convert"):
            model(x.to(kind))
        with pytest.raises(TypeError, match=rf"images are torch.float32, the model's weights are {kind}"):
            deepcopy(model).to(kind)(x)
    with torch.no_grad():
        expected = model.eval()(x)
        torch.testing.assert_close(deepcopy(model).double()(x.double()).float(), expected, rtol=1e-3, atol=1e-3)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert model(x).isfinite().all()
        assert model(x.bfloat16()).isfinite().all()


def test_bad_options() -> None:
    with pytest.raises(OptionError, match="no option 'backbon'.*did you mean 'backbone'"):
        thoraxlib.build("chexnet", backbon="resnet18")
    with pytest.raises(UnknownNameError, match="pooling: unknown name 'lsee'; did you mean 'lse'"):
        thoraxlib.build("unified_dcnn", pool="lsee")
    with pytest.raises(UnknownNameError, match="labels: unknown name"):
        thoraxlib.build("chexnet", labels="nih13")
    with pytest.raises(TypeError, match="input_spec has no field"):
        thoraxlib.build("chexnet", input_spec={"sizes": 3})


def test_trains(model: Classifier) -> None:
    model.train()
    x, y = torch.randn(4, 3, 64, 64), torch.randint(0, 2, (4, len(model.labels))).float()
    optimiser = torch.optim.Adam(model.parameters(), 1e-3)
    losses = []
    for _ in range(8):
        everything = model.forward_all(x)._asdict()  # each output with a loss of its own, if there are several
        outputs = [value for name, value in everything.items() if name.endswith("logits")]
        loss = sum(nn.functional.binary_cross_entropy_with_logits(logits, y) for logits in outputs)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert all((p.grad is not None) == p.requires_grad for p in model.parameters())
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("attention", layers.names("*_attention"))
@pytest.mark.parametrize("mode", ["once", "cumulative"])
@pytest.mark.parametrize("pool", pooling.names())
def test_x_ray_takes_every_pooling_and_attention(pool: str, attention: str, mode: str) -> None:
    model = thoraxlib.build("x_ray", pool=pool, attention=attention, attention_mode=mode, **SMALL).train()
    x = torch.randn(2, 3, 64, 64)
    model(x).sum().backward()
    assert all((p.grad is not None) == p.requires_grad for p in model.parameters())
    model.eval()
    logits = model(x)
    assert logits.shape == (2, 8)
    # the map that the head sees has been attended once already, or not yet
    assert ("attention" in str(type(model.neck)).lower()) == (mode == "once")


def test_attention_options() -> None:
    with pytest.raises(ValueError, match="attention_mode='twice': allowed are 'once', 'cumulative'"):
        thoraxlib.build("x_ray", attention="channel_attention", attention_mode="twice")
    with pytest.raises(UnknownNameError, match="layers: unknown name 'pyramid_atention'; did you mean 'pyramid_att"):
        thoraxlib.build("pcam", attention="pyramid_atention")
    with pytest.raises(OptionError, match="'map' has no option 'attention'"):
        thoraxlib.build("classifier", head="map", attention="channel_attention", attention_mode="cumulative")


def test_fields_of_the_input_are_changed_one_by_one() -> None:
    model = thoraxlib.build("pcam", preset="jfhealthcare", backbone="resnet10t", input_spec={"size": [64, 64]})
    assert model.input_spec.size == (64, 64)
    assert model.input_spec.equalize
    assert model.input_spec.resize == "pad_end"
    whole = thoraxlib.InputSpec(size=64)
    assert thoraxlib.build("pcam", preset="jfhealthcare", backbone="resnet10t", input_spec=whole).input_spec == whole


def test_unified_dcnn_padchest_is_the_network_of_jaydurant() -> None:
    ours = thoraxlib.build("unified_dcnn_padchest", preset="jaydurant").eval()
    recorded = thoraxlib.build("unified_dcnn", preset="jaydurant").eval()  # that the parity tests compare
    assert ours.labels == recorded.labels == labels.build("padchest_openi22")
    assert ours.input_spec == recorded.input_spec
    ours.load_state_dict(recorded.state_dict())
    x = torch.rand(2, 3, 64, 64)
    assert torch.equal(ours(x), recorded(x))
    assert cams.build("cam", ours)(x).shape == (2, 22, 2, 2)
    sound = thoraxlib.build("unified_dcnn_padchest", backbone="resnet10t").input_spec
    assert (sound.size, sound.mean) == ((250, 250), (0.485, 0.456, 0.406))
