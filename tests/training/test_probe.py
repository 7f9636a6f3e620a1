"""Probes: the same logits by the features and by the model, every head, unknown labels, shards, and what is refused."""

from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

pytest.importorskip("lightning")
sys.path.insert(0, str(Path(__file__).parents[1] / "archives"))

from small import Held

import thoraxlib
from thoraxlib import heads
from thoraxlib.archives import FeatureFolder
from thoraxlib.training import ProbeResult
from thoraxlib.training import probe as run

QUICK: dict[str, Any] = {
    "input_spec": {"size": 64},
    "pretrained": False,
    "folds": 3,
    "epochs": 2,
    "n_bootstrap": 20,
    "device": "cpu",
    "progress": False,
}
LABELS = ("Mass", "Edema")
HEADS: dict[str, Any] = {
    "query_decoder": {"channels": 8, "encoder_layers": 1, "decoder_layers": 1, "attention_heads": 2, "hidden": 8},
    "map": {"pool": "lse"},
}
SEVERAL_MAPS = {"vit_per_stage"}


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module")
def images() -> Held:
    return Held(60)


def probe(*args: Any, **options: Any) -> ProbeResult:
    torch.manual_seed(0)
    return run(*args, **{**QUICK, **options})


def logits_of(model: Any, images: Any) -> torch.Tensor:
    """Logits of the assembled model, from images."""
    prepare = thoraxlib.preprocess_for(model)
    with torch.inference_mode():
        return model(torch.cat([prepare(images[k]["image"]) for k in range(len(images))])).clone()


@pytest.mark.parametrize("name", sorted({*heads.registry.registered()} - SEVERAL_MAPS))
def test_every_head(name: str, images: Held, tmp_path: Path) -> None:
    found = probe("resnet10t", images, {"name": name, **HEADS.get(name, {})}, output=tmp_path, strengths=[0.1])
    model = found.model
    assert not model.training
    assert model.labels == LABELS
    assert found.logits.shape == (60, 2)
    assert bool(found.logits.isfinite().all())
    (folder,) = (path for path in tmp_path.iterdir())
    stored = FeatureFolder(folder)
    with torch.inference_mode():
        maps = folder.name == "train_maps"
        by_features = model.forward_head(stored.maps() if maps else stored.vectors()[:, :, None, None])
    assert maps == (name in ("map", "query_decoder"))
    torch.testing.assert_close(by_features, logits_of(model, images), atol=1e-5, rtol=1e-5)


def test_a_linear_probe_is_scikit_learns_on_the_known_labels(images: Held, tmp_path: Path) -> None:
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    partly = Held(60)
    partly.targets[torch.arange(60) % 3 == 0, 0] = torch.nan
    partly.targets[torch.arange(60) % 4 == 1, 1] = torch.nan
    found = probe("resnet10t", partly, output=tmp_path, strengths=[0.1])
    vectors = FeatureFolder(tmp_path / "train").vectors().double().numpy()
    scaled = StandardScaler().fit_transform(vectors)
    logits = logits_of(found.model, partly)
    for k in range(2):
        y = partly.targets[:, k].numpy()
        known = ~np.isnan(y)
        peer = LogisticRegression(C=1 / (0.1 * known.sum()), max_iter=10000, tol=1e-8).fit(scaled[known], y[known])
        np.testing.assert_allclose(logits[:, k], peer.decision_function(scaled), atol=1e-3, rtol=0)
        row = found.cross_validation.rows[k]
        assert (row.images, row.positives) == (int(known.sum()), int(np.nansum(y)))
        assert row.auroc > 0.8
        assert row.auroc_low <= row.auroc <= row.auroc_high


def test_held_out_predictions_are_of_heads_that_never_saw_the_patient(images: Held) -> None:
    """Labels of pure chance, the same for both images of a patient: nothing can be known of a patient held out."""
    chance = Held(120, labels=("Mass",), seed=3)
    chance.images = (torch.rand(60, 1, 64, 64).repeat_interleave(2, dim=0) * 200).to(torch.uint8)
    chance.targets = (torch.rand(60, 1) < 0.5).float().repeat_interleave(2, dim=0)
    found = probe("resnet10t", chance)
    assert found.cross_validation.rows[0].auroc < 0.75
    chance.patient_ids = [""] * 120
    with pytest.warns(UserWarning, match="the patients of 120 of 120 images are unknown"):
        leaking = probe("resnet10t", chance)
    assert leaking.cross_validation.rows[0].auroc > 0.9


def test_strengths_are_chosen_by_the_held_out_loss(images: Held) -> None:
    found = probe("resnet10t", images, strengths=[1e4, 0.1])
    assert found.strengths == (0.1, 0.1)
    alone = [probe("resnet10t", images, strengths=[strength]) for strength in (1e4, 0.1)]
    assert torch.equal(found.logits, alone[1].logits) or torch.allclose(found.logits, alone[1].logits, atol=2e-2)
    loss = nn.BCEWithLogitsLoss()
    assert loss(alone[1].logits, images.targets) < loss(alone[0].logits, images.targets)


def test_the_model_is_an_ordinary_one(images: Held, tmp_path: Path) -> None:
    disjoint = Held(40, seed=5)
    disjoint.patient_ids = [f"other {patient}" for patient in disjoint.patient_ids]
    found = probe("resnet10t", images, labels=["Edema"], test=disjoint, strengths=[0.1])
    assert found.folder is None
    assert found.test is not None
    assert found.test.rows[0].auroc > 0.8
    model = found.model
    thoraxlib.save_pretrained(model, tmp_path / "model")
    loaded = thoraxlib.load_pretrained(tmp_path / "model")
    assert loaded.labels == ("Edema",)
    assert torch.equal(logits_of(loaded, images), logits_of(model, images))
    positive = int(images.targets[:, 1].argmax())
    (explained,) = thoraxlib.explain(loaded, images[positive]["image"])
    (finding,) = explained.findings
    assert finding.probability > 0.5
    heat = thoraxlib.cams.build("cam", model)(thoraxlib.preprocess_for(model)(images[positive]["image"]))[0, 0]
    assert heat.shape == (2, 2)


def test_models_as_backbones(images: Held, tmp_path: Path) -> None:
    whole = thoraxlib.build("timm", backbone="resnet10t", labels=["a", "b", "c"], input_spec={"size": 64}).eval()
    before = {key: value.clone() for key, value in whole.state_dict().items()}
    found = probe(whole, images, output=tmp_path / "timm", input_spec=None, strengths=[0.1])
    assert type(found.model) is type(whole)
    assert found.model.labels == LABELS
    assert all(torch.equal(value, before[key]) for key, value in whole.state_dict().items())
    with torch.inference_mode():
        expected = found.model.get_classifier()(FeatureFolder(tmp_path / "timm/train").vectors())  # type: ignore[operator]
    torch.testing.assert_close(logits_of(found.model, images), expected, atol=1e-5, rtol=1e-5)
    classifier = thoraxlib.build("chexnet", backbone="resnet10t", head="map", pool="lse", input_spec={"size": 64})
    found = probe(classifier, images, output=tmp_path / "classifier", input_spec=None, strengths=[0.1])
    assert found.model.config["name"] == "chexnet"
    state = found.model.backbone.state_dict()  # type: ignore[union-attr]
    assert all(torch.equal(value, state[key]) for key, value in classifier.backbone.state_dict().items())
    thoraxlib.save_pretrained(found.model, tmp_path / "model")
    ready = thoraxlib.backbones.build("resnet10t")
    probe(ready, images, strengths=[0.1])
    assert ready.training


def test_features_are_computed_once_and_shared_by_shards(
    images: Held, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = probe("resnet10t", images, output=tmp_path / "one", part_size=16, strengths=[0.1])
    child = os.fork()
    if not child:  # pragma: no cover
        probe("resnet10t", images, output=tmp_path / "two", part_size=16, strengths=[0.1], shard=(1, 2))
        os._exit(0)
    two = probe("resnet10t", images, output=tmp_path / "two", part_size=16, strengths=[0.1], shard=(0, 2))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert torch.equal(one.logits, two.logits)
    monkeypatch.setattr(thoraxlib.backbones.TimmBackbone, "forward", _counting(calls := []))
    probe("resnet10t", images, "label_graph", output=tmp_path / "one", part_size=16, strengths=[0.1])
    assert sum(calls) <= 2  # of shapes, not of the images
    with pytest.raises(ValueError, match="other weights"):
        probe("resnet18", images, output=tmp_path / "one", part_size=16)


def _counting(calls: list[int]) -> Any:
    plain = thoraxlib.backbones.TimmBackbone.forward

    def forward(self: Any, x: torch.Tensor) -> Any:
        calls.append(len(x))
        return plain(self, x)

    return forward


def with_targets(column: list[float]) -> Held:
    made = Held(12)
    made.targets[:, 0] = torch.tensor(column)
    return made


NAN = float("nan")


@pytest.mark.parametrize(
    ("column", "match"),
    [
        ([0.0] * 12, r"Mass: 0 positive images of 0 patients, 12 negative of 6.* labels=\['Edema'\]"),
        ([1.0] * 12, "Mass: 12 positive images of 6 patients, 0 negative of 0"),
        ([1.0, 1.0] + [0.0] * 10, "Mass: 2 positive images of 1 patients"),
        ([NAN] * 12, "Mass: unknown in all 12 images"),
        ([0.5] * 12, "no soft labels"),
    ],
)
def test_labels_that_cannot_be_learned(column: list[float], match: str) -> None:
    made = with_targets(column)
    made.targets[:, 1] = torch.tensor([0.0, 1.0] * 6)
    with pytest.raises(ValueError, match=match):
        probe("resnet10t", made)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        if "soft" not in match:
            assert probe("resnet10t", made, labels=["Edema"], strengths=[1.0]).model.labels == ("Edema",)


def test_wrong_calls(images: Held) -> None:
    with pytest.raises(ValueError, match="labels=Hernia: the data set has Mass, Edema"):
        probe("resnet10t", images, labels=["Hernia"])
    with pytest.raises(ValueError, match="folds=1"):
        probe("resnet10t", images, folds=1)
    with pytest.raises(ValueError, match=r"strengths=\(0,\)"):
        probe("resnet10t", images, strengths=[0])
    whole = thoraxlib.build("timm", backbone="resnet10t", labels=["a"])
    with pytest.raises(ValueError, match="takes the head 'linear'"):
        probe(whole, images, "map")
    with pytest.raises(TypeError, match="no single feature map"):
        probe(thoraxlib.build("ag_cnn", backbone="resnet10t"), images)
    with pytest.warns(UserWarning, match="20 patients are also in the test set"):
        probe("resnet10t", images, test=Held(40), strengths=[1.0])
