from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from torchvision import tv_tensors

import thoraxlib
from thoraxlib import graphs, training
from thoraxlib.checkpoints.load import CheckpointError
from thoraxlib.datasets.samples import Samples
from thoraxlib.detection import Regions
from thoraxlib.explanation.findings import paint
from thoraxlib.heads import regions as region_heads
from thoraxlib.metrics import evaluate_regions, image_level
from thoraxlib.models.anaxnet import AnaXNet
from thoraxlib.registry import OptionError

NAMES = ("left lung", "right lung", "trachea", "mediastinum")
FINDINGS = ("Edema", "Mass", "Nodule")
VARIANTS: dict[str, dict[str, Any]] = {
    "paper": {},
    "released": {"attention_axis": "batch", "missing": "zeros"},
    "scaled": {"scale": True, "normalize": "sym", "learn_adjacency": True, "bias": True},
    "per_region": {"classifier": "per_region"},
    "findings added": {"finding_branch": "add"},
    "findings beside": {"finding_branch": "concat", "finding_graph": {"adjacency": "full", "embeddings": "onehot"}},
    "GCNConv": {"convolution": "GCNConv"},
    "SAGEConv": {"convolution": "SAGEConv", "adjacency": "identity"},
    "region_linear": {"name": "region_linear"},
    "linear per region": {"name": "region_linear", "classifier": "per_region"},
}


def built(variant: str = "paper", **options: Any) -> AnaXNet:
    torch.manual_seed(0)
    head = {"name": "region_graph", **VARIANTS[variant]}
    if head["name"] == "region_graph":
        head = {"hidden": 12, "adjacency": "full", **head}
    model: Any = thoraxlib.build("anaxnet", labels=FINDINGS, regions=NAMES, in_features=8, head=head, **options)
    assert isinstance(model, AnaXNet)
    return model


def inputs(images: int = 5, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    present = torch.rand(images, 4, generator=generator) < 0.7
    present[0], present[1] = True, False
    return torch.randn(images, 4, 8, generator=generator), present


@pytest.mark.parametrize("variant", VARIANTS)
def test_contract(variant: str) -> None:
    model = built(variant).train()
    x, present = inputs()
    logits = model(x, present)
    assert logits.shape == (5, 4, 3)
    assert logits.isfinite().all()
    assert torch.equal(model.forward_head(model.forward_features(x, present)), logits)
    output = model.forward_all(x, present)
    assert torch.equal(output.logits, logits)
    assert torch.equal(output.regions.present, present)
    assert output.regions.boxes is None
    logits.square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    torch.testing.assert_close(model.eval()(x, present), logits)  # one function in both modes
    torch.testing.assert_close(model(x), model(x, torch.ones(5, 4, dtype=torch.bool)))
    probabilities = model.predict_proba(x, present)
    assert torch.equal(probabilities.isnan(), ~present[..., None].expand(5, 4, 3))


@pytest.mark.parametrize("variant", [name for name in VARIANTS if name != "released"])
def test_an_image_does_not_see_the_others(variant: str) -> None:
    model = built(variant).eval()
    x, present = inputs()
    together = model(x, present)
    for n in range(5):
        torch.testing.assert_close(model(x[n : n + 1], present[n : n + 1])[0], together[n], rtol=1e-4, atol=1e-5)
    released = built("released").eval()
    assert (released(x, present)[:1] - released(x[:1], present[:1])).abs().max() > 0.01  # as documented


@pytest.mark.parametrize("variant", VARIANTS)
def test_what_an_absent_region_holds_does_not_matter(variant: str) -> None:
    if "linear" in variant:
        pytest.skip("a region's logits come from its own vector alone, and those of an absent one mean nothing")
    model = built(variant).eval()
    x, present = inputs()
    for value in (100.0, torch.nan):
        other = torch.where(present[..., None], x, value)
        torch.testing.assert_close(model(other, present), model(x, present))


def test_logits_of_whole_images() -> None:
    x, present = inputs()
    output = built().eval().forward_all(x, present)
    for n in range(5):
        there = output.logits[n][present[n]]
        assert torch.equal(output.image_logits[n].isfinite(), torch.full((3,), bool(len(there))))
        if len(there):
            assert torch.equal(output.image_logits[n], there.amax(dim=0))


def test_nobody_attends_to_an_absent_region() -> None:
    x, present = inputs()
    masked, zeros = built().eval(), built("paper").eval()
    zeros.head.missing = "zeros"
    attention = masked.forward_all(x, present).attention
    assert attention is not None
    some = present.any(dim=1)
    torch.testing.assert_close(attention.sum(dim=2), torch.ones(5, 4))
    assert (attention[some] * ~present[some][:, None]).abs().max() == 0
    assert (zeros.forward_all(x, present).attention[some] * ~present[some][:, None]).max() > 0.05
    torch.testing.assert_close(zeros(x), masked(x))


def test_regions_are_names() -> None:
    """Another order of the regions is another order of the logits, graph included."""
    counts = graphs.RegionCounts.of((torch.rand(50, 4, 3) < 0.3).float(), NAMES, FINDINGS)
    x, present = inputs()
    turn = [2, 0, 3, 1]
    head = {"name": "region_graph", "hidden": 12, "classifier": "per_region"}
    one, other = (
        thoraxlib.build(
            "anaxnet", labels=FINDINGS, regions=names, in_features=8, head=head, adjacency="jaccard", counts=counts
        ).eval()
        for names in (NAMES, [NAMES[i] for i in turn])
    )
    state = {key: value for key, value in one.state_dict().items() if "operator" not in key}
    for key in ("head.classifier.weight", "head.classifier.bias"):
        state[key] = state[key][turn]
    other.load_state_dict(state, strict=False)
    torch.testing.assert_close(other(x[:, turn], present[:, turn]), one(x, present)[:, turn], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("variant", VARIANTS)
def test_saved_and_loaded(variant: str, tmp_path: Path) -> None:
    model = built(variant).eval()
    thoraxlib.save_pretrained(model, tmp_path)
    loaded: Any = thoraxlib.load_pretrained(tmp_path)
    assert loaded.labels == FINDINGS
    assert loaded.region_names == NAMES
    assert not hasattr(loaded, "input_spec")
    x, present = inputs()
    assert torch.equal(loaded(x, present), model(x, present))


def test_a_head_that_is_made_already(tmp_path: Path) -> None:
    head = region_heads.build("region_graph", in_features=8, num_labels=3, regions=NAMES, adjacency="full", hidden=12)
    model: Any = thoraxlib.build("anaxnet", labels=FINDINGS, regions=NAMES, in_features=8, head=head).eval()
    assert model.head is head
    thoraxlib.save_pretrained(model, tmp_path)
    x, present = inputs()
    assert torch.equal(thoraxlib.load_pretrained(tmp_path)(x, present), model(x, present))


def test_a_counted_graph_travels_with_the_model(tmp_path: Path) -> None:
    counts = graphs.RegionCounts.of((torch.rand(50, 4, 3) < 0.3).float(), NAMES, FINDINGS)
    model = thoraxlib.build("anaxnet", labels=FINDINGS, regions=NAMES, in_features=8, counts=counts).eval()
    thoraxlib.save_pretrained(model, tmp_path)
    x, _ = inputs()
    assert torch.equal(thoraxlib.load_pretrained(tmp_path)(x), model(x))


def test_defaults() -> None:
    model: Any = thoraxlib.build("anaxnet")
    assert model(torch.zeros(1, 18, 1024)).shape == (1, 18, 9)
    assert sum(p.numel() for p in model.parameters()) == 4_205_577
    linear: Any = thoraxlib.build("anaxnet", head="region_linear")
    assert sum(p.numel() for p in linear.parameters()) == 9 * 1025


@pytest.mark.parametrize("variant", ["paper", "findings added", "linear per region"])
def test_compiled_and_exported(variant: str) -> None:
    model = built(variant).eval()
    x, present = inputs()
    images = {0: torch.export.Dim("n", max=1024)}
    exported = torch.export.export(model, (x, present), dynamic_shapes=(images, images))
    with torch.no_grad():
        expected = model(x, present)
        torch.testing.assert_close(exported.module()(x[:3], present[:3]), expected[:3])
        compiled = torch.compile(model, backend="eager", fullgraph=True)
        torch.testing.assert_close(compiled(x, present), expected)


def test_half_precision() -> None:
    model = built().eval()
    x, present = inputs()
    with torch.no_grad():
        expected = model(x, present)
        with torch.autocast("cpu", torch.bfloat16):
            mixed = model(x, present)
        half = model.bfloat16()(x.bfloat16(), present)
    for logits in (mixed, half):
        assert logits.isfinite().all()
        torch.testing.assert_close(logits.float(), expected, rtol=0.1, atol=0.1)


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"head": {"name": "region_graph", "attention_axis": "rows"}}, ValueError, "attention_axis='rows': allowed"),
        ({"head": {"name": "region_graph", "missing": "drop"}}, ValueError, "missing='drop'"),
        ({"head": {"name": "region_graph", "finding_branch": "sum"}}, ValueError, "finding_branch='sum'"),
        ({"head": {"name": "region_linear", "classifier": "each"}}, ValueError, "classifier='each'"),
        ({"head": "region_linear", "adjacency": "full"}, OptionError, "'region_linear' has no option 'adjacency'"),
        ({"regions": ["spleen"]}, ValueError, "no shipped counts have all of"),
        ({"adjacency": graphs.Graph(("a",), torch.eye(1))}, ValueError, "the graph has no 'right lung'"),
        ({"head": {"name": "region_linear", "regions": NAMES}}, OptionError, "the head has regions=.*, the model"),
        (
            {"head": region_heads.build("region_linear", in_features=1024, num_labels=5)},
            OptionError,
            "the head has num_labels=5, the model 9",
        ),
        (
            {"head": {"name": "region_graph", "finding_graph": {"adjacency": "full"}}},
            ValueError,
            "finding_graph needs finding_branch=",
        ),
        (
            {"head": {"name": "region_graph", "adjacency": "identity"}, "adjacency": "full"},
            OptionError,
            r"\['adjacency'\] given to the model and to its head 'region_graph'",
        ),
        (
            {"head": region_heads.build("region_linear", in_features=1024, num_labels=9), "adjacency": "full"},
            OptionError,
            "head is a RegionLinearHead that is made already",
        ),
        (
            {"head": {"name": "region_graph", "convolution": "SAGEConv", "learn_adjacency": True}},
            ValueError,
            "takes no edge weights",
        ),
        ({"labels": ["a", "a"]}, ValueError, "names .*'a'.* more than once"),
    ],
)
def test_models_that_cannot_be(options: dict[str, Any], kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        thoraxlib.build("anaxnet", **options)


def test_finding_branch_without_names() -> None:
    with pytest.raises(ValueError, match="finding_branch needs labels="):
        region_heads.build("region_graph", in_features=8, num_labels=3, regions=NAMES, adjacency="full",
                           finding_branch="add")  # fmt: skip


@pytest.mark.parametrize(
    ("call", "kind", "message"),
    [
        (
            lambda m: m(torch.zeros(2, 5, 8)),
            ValueError,
            r"features must be \(N, 4, 8\): regions, width; got \(2, 5, 8\)",
        ),
        (lambda m: m(torch.zeros(2, 4, 8, dtype=torch.int64)), TypeError, "features must be floating point"),
        (lambda m: m(torch.zeros(2, 4, 8), torch.ones(2, 4)), ValueError, r"present must be bool \(N, 4\), N=2"),
        (lambda m: m(torch.zeros(2, 3, 64, 64)), ValueError, "this model has no detector: it takes features"),
        (lambda m: thoraxlib.preprocess_for(m), TypeError, "must be an InputSpec or have one"),
        (lambda m: thoraxlib.explain(m, torch.zeros(1, 64, 64)), TypeError, "has no input_spec"),
    ],
)
def test_inputs_that_cannot_be(call: Any, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        call(built())


# -- checkpoints ---------------------------------------------------------------------------------------------------


def of_the_original(tmp_path: Path, graph: Tensor) -> Path:
    content = {"anatomy_inp_tensor": graph, "anatomy_gc1.weight": torch.zeros(8, 12)}
    content |= {"anatomy_gc2.weight": torch.zeros(12, 8), "fc.0.weight": torch.ones(8), "fc.0.bias": torch.zeros(8)}
    content |= {"fc.2.weight": torch.ones(3, 8), "fc.2.bias": torch.zeros(3)}
    scores = {"global_step": 7, "eval_loss": np.float64(0.5), "avg_auc": np.float64(0.9)}
    torch.save({**scores, "state_dict": content}, tmp_path / "checkpoint_5.pth")
    return tmp_path / "checkpoint_5.pth"


def test_a_checkpoint_with_scores_beside_the_weights(tmp_path: Path) -> None:
    graph = torch.eye(4)
    graph[0, 1] = graph[1, 0] = 1
    model = built("released")
    state = of_the_original(tmp_path, graph)
    assert thoraxlib.load_checkpoint(model, state, labels=model.labels) == "anaxnet"
    assert torch.equal(model.head.operator.matrix, graph)
    assert model.head.operator.edge_index.shape == (2, 6)


def test_a_checkpoint_whose_graph_is_none(tmp_path: Path) -> None:
    graph = torch.eye(4)
    graph[0, 1] = 1
    with pytest.raises(ValueError, match="anatomy_inp_tensor is no adjacency matrix of AnaXNet"):
        thoraxlib.load_checkpoint(built("released"), of_the_original(tmp_path, graph))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"regions": thoraxlib.labels.build("regions18")[::-1]}, "has the region_names .* build it with .*'regions18'"),
        ({"labels": thoraxlib.labels.build("imagenome9")[::-1]}, "has the labels .* build it with .*'imagenome9'"),
    ],
)
def test_a_checkpoint_in_another_order(options: dict[str, Any], message: str) -> None:
    """The shapes fit, and each row would be that of another region or finding."""
    state = {"anatomy_inp_tensor": torch.eye(18), "anatomy_gc1.weight": torch.zeros(1024, 2048)}
    state |= {"anatomy_gc2.weight": torch.zeros(2048, 1024), "fc.0.weight": torch.ones(1024)}
    state |= {"fc.0.bias": torch.zeros(1024), "fc.2.weight": torch.ones(9, 1024), "fc.2.bias": torch.zeros(9)}
    model = thoraxlib.build("anaxnet", **options)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(CheckpointError, match=message):
        thoraxlib.load_checkpoint(model, state)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert thoraxlib.load_checkpoint(thoraxlib.build("anaxnet"), state, labels="imagenome9") == "anaxnet"


# -- training on stored features -----------------------------------------------------------------------------------


class Stored(torch.utils.data.Dataset[dict[str, Any]]):
    """Features in which finding k of a region is a sum of its own vector and, for the last, of another region's."""

    labels, region_names, feature_dim = FINDINGS, NAMES, 8

    def __init__(self, images: int, seed: int) -> None:
        x, self.region_present = inputs(images, seed)
        self.features = x
        y = torch.stack([x[..., 0] > 0, x[..., 1] > 0.5, x.roll(1, dims=1)[..., 2] > 0], dim=2).float()
        self.region_targets = torch.where(self.region_present[..., None], y, torch.nan)
        self.targets = image_level(self.region_targets)
        self.ids = [f"{seed}-{n}" for n in range(images)]
        self.patient_ids = self.ids

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, n: int) -> dict[str, Any]:
        return {
            "features": self.features[n],
            "present": self.region_present[n],
            "region_labels": self.region_targets[n],
            "labels": self.targets[n],
            "id": self.ids[n],
        }


@pytest.mark.parametrize("loss", ["bce", "weighted_bce"])
def test_training_on_features(loss: str, tmp_path: Path) -> None:
    data = training.DataModule(Stored(300, 1), Stored(100, 2), batch_size=32)
    model = built("region_linear")
    before = training.predict(model, Stored(100, 3), progress=False)
    result = training.fit(
        model, data, output=tmp_path, epochs=6, loss=loss, progress=False, accelerator="cpu",
        optimizer=lambda p: torch.optim.Adam(p, lr=0.05),
    )  # fmt: skip
    after = training.predict(result.model, Stored(100, 3), progress=False)
    assert after.logits.shape == after.targets.shape == (100, 4, 3)
    there = Stored(100, 3).region_present
    scores = [
        evaluate_regions(p.targets, p.logits, regions=NAMES, labels=FINDINGS, present=there, n_bootstrap=20)
        for p in (before, after)
    ]
    assert scores[1].per_finding[0] > 0.95 > scores[0].per_finding[0] + 0.1
    assert result.score == pytest.approx(scores[1].mean, abs=0.1)


def test_features_of_another_width_are_refused(tmp_path: Path) -> None:
    data = training.DataModule(Stored(20, 1), Stored(20, 2))
    model: Any = thoraxlib.build("anaxnet", labels=FINDINGS, regions=NAMES, in_features=6, head="region_linear")
    with pytest.raises(ValueError, match=r"features must be \(N, 4, 6\)"):
        training.fit(model, data, output=tmp_path, epochs=1, progress=False, accelerator="cpu")


class Turned(Stored):
    region_names = NAMES[::-1]


def test_regions_in_another_order_are_refused(tmp_path: Path) -> None:
    model = built("region_linear")
    for train, val in ((Turned, Stored), (Stored, Turned)):
        data = training.DataModule(train(20, 1), val(20, 2))
        with pytest.raises(ValueError, match="the data set's regions .* are not the model's"):
            training.fit(model, data, output=tmp_path, epochs=1, progress=False, accelerator="cpu")
    with pytest.raises(ValueError, match="the data set's regions .* are not the model's"):
        training.predict(model, Turned(20, 1), progress=False)


def test_a_part_without_any_region_is_refused(tmp_path: Path) -> None:
    val = Stored(20, 2)
    val.region_present[:] = False
    with pytest.raises(ValueError, match="val: no region of any image is present"):
        training.fit(
            built("region_linear"), training.DataModule(Stored(20, 1), val), output=tmp_path, epochs=1, progress=False,
            accelerator="cpu",
        )  # fmt: skip


class Extracted(Stored):
    """A store's features are those of a detector."""

    def __init__(self, images: int, seed: int, fingerprint: str = "one") -> None:
        super().__init__(images, seed)
        self.fingerprint = fingerprint


def test_a_run_is_not_resumed_on_another_detector_s_features(tmp_path: Path) -> None:
    def fit(fingerprint: str) -> training.FitResult:
        data = training.DataModule(Extracted(40, 1, fingerprint), Extracted(40, 2, fingerprint))
        return training.fit(
            built("region_linear"), data, output=tmp_path, epochs=1, progress=False, accelerator="cpu"
        )  # fmt: skip

    assert fit("one").score == fit("one").score
    with pytest.raises(ValueError, match=r"holds a run with other settings \(images=.*one.*other"):
        fit("other")


def test_region_labels_that_cannot_be() -> None:
    stored = Stored(20, 1)
    stored.region_targets[3, 1, 2] = -1
    with pytest.raises(ValueError, match="val has the region_target -1.0: from 0 to 1"):
        training.DataModule(Stored(20, 2), stored)


def test_features_are_cached_as_they_are() -> None:
    stored = Stored(20, 1)
    cached, read = (Samples(stored, cache=cache) for cache in (True, False))
    stored.features = stored.features * 0  # what is cached is not read again
    for n in (0, 7):
        assert cached[n].keys() == read[n].keys()
        torch.testing.assert_close(cached[n]["features"], inputs(20, 1)[0][n])
        for key in ("present", "region_labels", "labels"):
            torch.testing.assert_close(cached[n][key], read[n][key], equal_nan=True)


# -- with a detector -----------------------------------------------------------------------------------------------


class Quarters(nn.Module):
    """Finds the four quarters of an image, the last one not; a region's features are its mean brightness."""

    def __init__(self, size: int = 64) -> None:
        super().__init__()
        self.region_names, self.feature_dim = NAMES, 8
        self.input_spec = thoraxlib.InputSpec(size=size, channels=1, mean=0.0, std=1.0)
        self.scale = nn.Parameter(torch.ones(8))

    def forward(self, x: Tensor) -> Regions:
        h, w = x.shape[-2] // 2, x.shape[-1] // 2
        corners = [(0, 0), (w, 0), (0, h), (w, h)]
        boxes = torch.tensor([[a, b, a + w, b + h] for a, b in corners], dtype=torch.float32)
        bright = torch.stack([x[:, 0, b : b + h, a : a + w].mean(dim=(1, 2)) for a, b in corners], dim=1)
        present = torch.tensor([True, True, True, False]).expand(len(x), 4)
        features = bright[..., None] * self.scale * present[..., None]
        return Regions(boxes.expand(len(x), 4, 4), present.float(), present, features)


def test_frozen_and_trained_detectors() -> None:
    x = torch.rand(2, 1, 64, 64)
    frozen = built(detector=Quarters()).train()
    assert frozen.detector is not None
    assert not frozen.detector.training
    frozen(x).sum().backward()
    assert frozen.detector.scale.grad is None
    trained = built(detector=Quarters(), train_detector=True).train()
    assert trained.detector is not None
    assert trained.detector.training
    trained(x).square().sum().backward()
    assert trained.detector.scale.grad.abs().max() > 0


def test_detectors_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match="the detector finds .*trachea.*the model has regions="):
        thoraxlib.build("anaxnet", detector=Quarters())
    with pytest.raises(ValueError, match="in_features=16, but the detector's features are 8 wide"):
        thoraxlib.build("anaxnet", regions=NAMES, detector=Quarters(), in_features=16, adjacency="full")


def test_images_say_themselves_which_regions_are_there() -> None:
    with pytest.raises(ValueError, match="present goes with features"):
        built(detector=Quarters())(torch.rand(2, 1, 64, 64), torch.ones(2, 4, dtype=torch.bool))


class Images(torch.utils.data.Dataset[dict[str, Any]]):
    """Images of which nothing is known about regions."""

    labels = FINDINGS

    def __init__(self) -> None:
        self.ids = self.patient_ids = ["a", "b"]
        self.targets = torch.tensor([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0]])

    def __len__(self) -> int:
        return 2

    def __getitem__(self, n: int) -> dict[str, Any]:
        image = tv_tensors.Image(torch.full((1, 64, 64), 0.25 + n / 2))
        return {"image": image, "labels": self.targets[n], "id": self.ids[n]}


class Quartered(Images):
    """Samples that know them, in a data set that does not beforehand, as the synthetic data set has it."""

    region_names = NAMES

    def __getitem__(self, n: int) -> dict[str, Any]:
        return {**super().__getitem__(n), "region_labels": torch.full((4, 3), float(n))}


@pytest.mark.filterwarnings("ignore:.*patients of train")
def test_predicting_images(tmp_path: Path) -> None:
    model = built(detector=Quarters())
    unknown, known = (training.predict(model, images, progress=False) for images in (Images(), Quartered()))
    assert unknown.logits.shape == unknown.targets.shape == (2, 4, 3)
    assert unknown.targets.isnan().all()
    assert torch.equal(known.targets, torch.tensor([0.0, 1.0])[:, None, None].expand(2, 4, 3))
    assert torch.equal(known.logits, unknown.logits)
    data = training.DataModule(Quartered(), Quartered(), regions=False)
    with pytest.raises(ValueError, match=r"the samples have no region_labels: .*regions=True"):
        training.fit(model, data, output=tmp_path, epochs=1, progress=False, accelerator="cpu")


@pytest.fixture
def bright(tmp_path: Path) -> Path:
    """An image that is bright at the top right, twice as wide as high."""
    pixels = np.zeros((100, 200), np.uint8)
    pixels[:50, 100:] = 255
    Image.fromarray(pixels).save(tmp_path / "image.png")
    return tmp_path / "image.png"


def seeing(rule: dict[str, float]) -> AnaXNet:
    """Says Edema with the given logit for a bright region."""
    model = built("region_linear", detector=Quarters())
    with torch.no_grad():
        model.head.weight.zero_()
        model.head.bias.fill_(-3.0)
        for name, weight in rule.items():
            model.head.weight[FINDINGS.index(name), 0] = weight
    return model


def test_explained_in_the_image_s_own_pixels(bright: Path, tmp_path: Path) -> None:
    (image,) = thoraxlib.explain(seeing({"Edema": 5.0}), bright)
    (finding,) = image.findings
    assert (finding.label, finding.regions) == ("Edema", ("right lung",))
    assert finding.boxes == ((100.0, 0.0, 200.0, 50.0),)
    assert finding.probability == pytest.approx(float(torch.tensor(2.0).sigmoid()), abs=0.01)
    assert finding.scores == (finding.probability,)
    assert finding.map.shape == (100, 200)
    assert finding.map[:45, 105:].min() == pytest.approx(finding.probability)
    low = float(torch.tensor(-3.0).sigmoid())
    assert finding.map[60:, :90].max() == pytest.approx(low, abs=1e-5)
    assert finding.map[60:, 110:].max() == 0  # a region that was not found
    assert "right lung 100 0 200 50" in str(image)
    assert (image.method, image.rule) == ("regions", "all")
    image.save(tmp_path / "out")
    assert json.loads((tmp_path / "out" / "image.json").read_text())["findings"][0]["regions"] == ["right lung"]


def test_the_most_specific_region() -> None:
    model = seeing({"Edema": 5.0})

    class Nested(Quarters):
        def forward(self, x: Tensor) -> Regions:
            found = super().forward(x)
            boxes = found.boxes.clone()
            boxes[:, 0] = torch.tensor([0.0, 0.0, 64.0, 64.0])  # holds all others
            return Regions(boxes, found.scores, found.present, torch.ones_like(found.features))

    model.detector = Nested()
    image = torch.ones(1, 64, 64)
    told = {rule: thoraxlib.explain(model, image, rule=rule)[0].findings[0].regions for rule in ("all", "specific")}
    assert set(told["all"]) == set(NAMES[:3])
    assert set(told["specific"]) == set(NAMES[1:3])
    with pytest.raises(ValueError, match="method='cam': allowed are None, 'regions' for a model"):
        thoraxlib.explain(model, image, method="cam")
    with pytest.raises(
        ValueError, match="rule='otsu': allowed are None, 'all', 'specific' for a model of anatomical regions"
    ):
        thoraxlib.explain(model, image, rule="otsu")


def test_an_image_without_regions_is_not_assessed() -> None:
    model = seeing({"Edema": 5.0})

    class Blind(Quarters):
        def forward(self, x: Tensor) -> Regions:
            found = super().forward(x)
            nothing = torch.zeros_like(found.present)
            return Regions(found.boxes * 0, found.scores * 0, nothing, found.features * 0)

    model.detector = Blind()
    (image,) = thoraxlib.explain(model, torch.ones(1, 64, 64))
    assert not image.findings
    assert "no region found: not assessed" in str(image)
    assert image.to_json()["probabilities"] == dict.fromkeys(FINDINGS)


def test_painting() -> None:
    boxes = torch.tensor([[[0.0, 0.0, 2.0, 2.0], [1.0, 1.0, 4.0, 3.0], [0.0, 0.0, 0.0, 0.0]]])
    maps = paint(boxes, torch.tensor([[0.5, 0.25, 1.0]]), (4, 4))
    assert maps[0].tolist() == [[0.5, 0.5, 0, 0], [0.5, 0.5, 0.25, 0.25], [0, 0.25, 0.25, 0.25], [0, 0, 0, 0]]


def test_images_of_their_regions() -> None:
    p = torch.tensor([[[0.2], [0.6], [0.9]], [[0.2], [0.6], [0.9]], [[0.2], [0.6], [0.9]]])
    present = torch.tensor([[True, True, True], [True, True, False], [False, False, False]])
    expected = {"max": [0.9, 0.6], "mean": [1.7 / 3, 0.4], "noisy_or": [1 - 0.8 * 0.4 * 0.1, 1 - 0.8 * 0.4]}
    for rule, values in expected.items():
        result = image_level(torch.where(present[..., None], p, torch.nan), rule)[:, 0]
        torch.testing.assert_close(result[:2], torch.tensor(values))
        assert result[2].isnan()
    with pytest.raises(ValueError, match="rule='min'"):
        image_level(p, "min")


class Plain(nn.Module):
    """A detector without an input specification."""

    def forward(self, x: Tensor) -> Any:
        raise NotImplementedError


@pytest.mark.parametrize("train_detector", [False, True])
def test_a_detector_without_an_input_specification(train_detector: bool) -> None:
    head = thoraxlib.build("anaxnet").head
    options = {"labels": "imagenome9", "regions": "regions18", "in_features": 1024, "train_detector": train_detector}
    model = AnaXNet(head, detector=Plain(), **options)
    assert not hasattr(model, "input_spec")
    assert model.detector.training is train_detector
