from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

import thoraxlib
from thoraxlib import cams

LABELS = ["Mass", "Edema"]


class Net(nn.Module):
    """A small network whose output is made by a function of the logits."""

    def __init__(self, make: Any = lambda logits: logits) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.layer = nn.Sequential(nn.Conv2d(8, 8, 3, stride=2, padding=1), nn.ReLU())
        self.fc = nn.Linear(8, 2)
        self.make = make

    def forward(self, x: Tensor) -> Any:
        return self.make(self.fc(self.layer(self.stem(x).relu()).mean((2, 3))))


OUTPUTS: dict[str, tuple[Any, Any]] = {
    "tensor": (lambda z: z, None),
    "object": (lambda z: SimpleNamespace(loss=None, logits=z, hidden=2 * z), None),
    "mapping": (lambda z: {"aux": 2 * z, "out": z}, None),
    "tuple": (lambda z: (z, None), None),
    "key": (lambda z: {"a": 2 * z, "b": z}, "b"),
    "index": (lambda z: [2 * z, z], 1),
    "attribute": (lambda z: SimpleNamespace(a=2 * z, b=z), "b"),
    "function": (lambda z: {"a": {"b": z}}, lambda out: out["a"]["b"]),
}


@pytest.mark.parametrize("kind", OUTPUTS)
def test_outputs_of_networks(kind: str) -> None:
    make, output = OUTPUTS[kind]
    net = Net(make).eval()
    model = thoraxlib.wrap(net, labels=LABELS, input_spec={"size": 32}, target="layer", output=output)
    x = torch.rand(2, 3, 32, 32)
    plain = Net().eval()
    plain.load_state_dict(net.state_dict())
    assert torch.equal(model(x), plain(x))
    assert torch.equal(model.forward_all(x).logits, plain(x))
    torch.testing.assert_close(model.predict_proba(x), plain(x).sigmoid())
    wanted = cams.build("gradcam", plain, target="layer")(x)
    assert wanted.abs().max() > 0
    torch.testing.assert_close(cams.build("gradcam", model)(x), wanted)


def test_findings_and_scores(tmp_path: Any) -> None:
    from PIL import Image

    model = thoraxlib.wrap(Net().eval(), labels=LABELS, input_spec={"size": 32}, target="layer")
    (tmp_path / "in").mkdir()
    for name in ("a", "b"):
        Image.effect_noise((40, 50), 60).save(tmp_path / "in" / f"{name}.png")
    images = thoraxlib.explain(model, sorted((tmp_path / "in").iterdir()), threshold=0)
    assert [sorted(finding.label for finding in image.findings) for image in images] == [["Edema", "Mass"]] * 2
    scored = thoraxlib.score_archive(model, tmp_path / "in", tmp_path / "out", format="csv", boxes=True, progress=False)
    assert (scored.images, scored.failed, scored.complete) == (2, 0, True)
    with pytest.raises(TypeError, match="nothing records how to build it again"):
        thoraxlib.save_pretrained(model, tmp_path / "saved")


@pytest.mark.parametrize("name", ["test_resnet", "test_vit"])
def test_networks_of_timm_need_no_target(name: str) -> None:
    net = timm.create_model(name, num_classes=2).eval()
    size = net.pretrained_cfg["input_size"][1]
    model = thoraxlib.wrap(net, labels=LABELS, input_spec={"size": size})
    x = torch.rand(2, 3, size, size)
    torch.testing.assert_close(model(x), net(x))
    target = f"blocks.{len(net.blocks) - 2}" if name == "test_vit" else None
    torch.testing.assert_close(cams.build("gradcam", model)(x), cams.build("gradcam", net, target=target)(x))


def test_channels_and_mode() -> None:
    model = thoraxlib.wrap(
        nn.Sequential(nn.Flatten(), nn.Linear(16, 1)), labels=["Mass"], input_spec={"size": 4, "channels": 1}
    )
    assert model.training
    assert model.input_spec.mean == pytest.approx((0.449,))
    assert model(torch.rand(3, 1, 4, 4)).shape == (3, 1)


def test_errors() -> None:
    x = torch.rand(1, 3, 32, 32)
    with pytest.raises(TypeError, match="net must be a network.*got Classifier"):
        thoraxlib.wrap(thoraxlib.build("chexnet", backbone="test_resnet"), labels=LABELS)
    with pytest.raises(ValueError, match=r"no layer 'layr'; did you mean one of \['layer'"):
        thoraxlib.wrap(Net(), labels=LABELS, target="layr")
    with pytest.raises(ValueError, match=r"Net gives \(1, 2\), but labels= has 14 names"):
        thoraxlib.wrap(Net(), labels="nih14")(x)
    with pytest.raises(TypeError, match=r"gives dict with the keys \['a', 'b'\]: name the logits by output="):
        thoraxlib.wrap(Net(lambda z: {"a": z, "b": z}), labels=LABELS)(x)
    with pytest.raises(TypeError, match="gives list with 2 entries"):
        thoraxlib.wrap(Net(lambda z: [z, z]), labels=LABELS)(x)
    with pytest.raises(ValueError, match=r"output='c': the network's output, dict, has none; it has the keys \['a'\]"):
        thoraxlib.wrap(Net(lambda z: {"a": z}), labels=LABELS, output="c")(x)
    with pytest.raises(TypeError, match="output='a' gives NoneType"):
        thoraxlib.wrap(Net(lambda z: {"a": None}), labels=LABELS, output="a")(x)
    with pytest.raises(TypeError, match="Net has no forward_features"):
        cams.build("gradcam", Net())
    with pytest.raises(TypeError, match=r"heat maps of Net need a layer: .*'layer.0', 'layer.1', 'fc'"):
        cams.build("gradcam", thoraxlib.wrap(Net(), labels=LABELS))
    assert cams.build("gradcam", thoraxlib.wrap(Net(), labels=LABELS), target="net.layer")(x).shape == (1, 2, 8, 8)
