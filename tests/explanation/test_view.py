"""The gate before a model: explain(check=True) and ViewCheck."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import thoraxlib

LABELS = ("AP", "Female", "Inverted", "Upright", "Turned 90", "Turned 180", "Turned 270")


def answering(**logits: float) -> Any:
    """A model that gives the same answer for every image, with its labels in another order."""
    labels = tuple(reversed(LABELS))
    spec = {"size": 64, "mean": [0.5], "std": [0.5]}
    model = thoraxlib.build("classifier", labels=labels, backbone="resnet10t", in_chans=1, input_spec=spec)
    last = [module for module in model.head.modules() if isinstance(module, (nn.Linear, nn.Conv2d))][-1]
    nn.init.zeros_(last.weight)
    with torch.no_grad():
        last.bias.copy_(torch.tensor([logits.get(label.replace(" ", "_"), -3.0) for label in labels]))
    return model


@pytest.fixture
def model() -> Any:
    return thoraxlib.build("classifier", backbone="resnet10t", labels=["Mass"], input_spec={"size": 64})


def test_answers_are_read_by_label(monkeypatch: pytest.MonkeyPatch) -> None:
    from thoraxlib.explanation import ViewCheck

    odd = answering(AP=2.0, Female=-1.0, Inverted=1.0, Turned_270=4.0)
    monkeypatch.setattr("thoraxlib.explanation.view.load_pretrained", lambda *_: odd)
    view, again = ViewCheck()([torch.rand(1, 80, 60), torch.zeros(1, 30, 90, dtype=torch.uint8)])
    assert (view.position, view.turned) == ("AP", 270)
    expected = torch.tensor([2.0, -1.0, 1.0]).sigmoid().tolist()
    assert [view.ap, view.female, view.inverted] == pytest.approx(expected, abs=1e-6)
    assert len(view.faults) == 2
    assert again == view


def test_explain_keeps_the_view_and_warns_once_an_odd_image(
    model: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    odd = answering(Inverted=3.0, Turned_90=3.0)
    monkeypatch.setattr("thoraxlib.explanation.view.load_pretrained", lambda *_: odd)
    images = torch.randint(0, 255, (3, 1, 80, 60), dtype=torch.uint8)
    with pytest.warns(UserWarning, match="90 degrees clockwise.*inverted") as caught:
        found = thoraxlib.explain(model, images, check=True, batch_size=2)
    messages = [str(one.message) for one in caught if "inverted" in str(one.message)]
    assert [message.split()[0] for message in messages] == ["image-0001", "image-0002", "image-0003"]
    assert [image.view.turned for image in found if image.view is not None] == [90, 90, 90]
    assert "PA" in str(found[0])
    found[0].save(tmp_path)
    assert json.loads((tmp_path / "image-0001.json").read_text())["view"]["turned"] == 90


def test_explain_says_nothing_of_an_upright_image_or_without_check(model: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    upright = answering(Upright=3.0)
    image = torch.randint(0, 255, (1, 80, 60), dtype=torch.uint8)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        (plain,) = thoraxlib.explain(model, image)
        assert plain.view is None
        assert "view" not in plain.to_json()
        monkeypatch.setattr("thoraxlib.explanation.view.load_pretrained", lambda *_: upright)
        (seen,) = thoraxlib.explain(model, image, check=True)
    assert seen.view is not None
    assert not seen.view.faults
    assert seen.probabilities == pytest.approx(plain.probabilities)


def test_the_shipped_weights_on_a_real_radiograph() -> None:
    from thoraxlib.explanation import ViewCheck
    from thoraxlib.images import read

    image = read(Path(__file__).parents[2] / "examples" / "images" / "radiograph.jpg").as_subclass(torch.Tensor)
    copies = [torch.rot90(255 - image if invert else image, -k, (1, 2)) for invert in (False, True) for k in range(4)]
    views = ViewCheck()(copies)
    assert [view.turned for view in views] == [0, 90, 180, 270] * 2
    assert [view.inverted >= 0.5 for view in views] == [False] * 4 + [True] * 4
    assert views[0].position == "PA"
    assert not views[0].faults
    assert torch.equal(torch.rot90(copies[1], views[1].turned // 90, (-2, -1)), image)
