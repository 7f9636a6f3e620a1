"""Features in files: their values, formats, interruptions, shards, and what is refused."""

from __future__ import annotations

import csv
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))

from small import QUICK, Held, archive, image

import thoraxlib
from thoraxlib import backbones, datasets
from thoraxlib.archives import FeatureFolder, Features, features, output


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)


def model(seed: int = 0, **options: Any) -> Any:
    torch.manual_seed(seed)
    options = {"backbone": "resnet10t", "labels": ["Mass", "Edema"], "input_spec": {"size": 64}, **options}
    return thoraxlib.build("classifier", **options).eval()


@pytest.fixture(scope="module")
def images() -> Any:
    return Held(10)


def table(folder: Path) -> list[dict[str, str]]:
    found = []
    for path in sorted((folder / "rows").iterdir()):
        with path.open(newline="") as file:
            found += list(csv.DictReader(file))
    return found


def files(folder: Path) -> dict[str, bytes]:
    kinds = ("vectors", "maps", "rows")
    return {str(path.relative_to(folder)): path.read_bytes() for kind in kinds for path in (folder / kind).glob("*")}


def test_features_of_a_data_set_are_those_of_the_model(images: Any, tmp_path: Path) -> None:
    net = model()
    written = features(net.train(), images, tmp_path, maps=True, dtype="float32", **QUICK)
    assert net.training
    assert written == Features(tmp_path, 10, 0, True)
    stored = FeatureFolder(tmp_path)
    x = torch.cat([thoraxlib.preprocess_for(net)(images[k]["image"]) for k in range(10)])
    with torch.inference_mode():
        maps = net.eval().forward_features(x)
        torch.testing.assert_close(net.head.fc(stored.vectors()), net(x), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(stored.maps(), maps.clone(), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(stored.maps([7, 0]), maps[[7, 0]].clone(), atol=1e-5, rtol=1e-5)
    assert stored.ids == images.ids == [row["id"] for row in table(tmp_path)]
    assert {(row["height"], row["width"]) for row in table(tmp_path)} == {("64", "64")}
    assert isinstance(stored._parts("vectors")[0], np.memmap)


def test_float16_has_three_digits(images: Any, tmp_path: Path) -> None:
    features(model(), images, tmp_path / "16", **QUICK)
    features(model(), images, tmp_path / "32", dtype="float32", **QUICK)
    half, single = (FeatureFolder(tmp_path / name).vectors() for name in ("16", "32"))
    assert not torch.equal(half, single)
    torch.testing.assert_close(half, single, rtol=1e-3, atol=1e-4)


def test_an_archive_with_broken_files_as_npy_and_parquet(tmp_path: Path) -> None:
    tree, net = archive(tmp_path), backbones.build("resnet10t")
    assert features(net, tree, tmp_path / "npy", dtype="float32", **QUICK) == Features(tmp_path / "npy", 21, 2, True)
    vectors, rows = FeatureFolder(tmp_path / "npy").vectors(), table(tmp_path / "npy")
    assert len(vectors) == len(rows) == 21
    for vector, row in zip(vectors, rows, strict=True):
        assert bool(vector.isnan().all()) == bool(row["error"])
        assert bool(vector.isfinite().all()) != bool(row["error"])
    row = next(row for row in rows if row["id"].endswith("03.png"))
    x = thoraxlib.preprocess_for(backbones.default_input(net))(image(3))
    expected = net.eval()(x)[-1].mean(dim=(2, 3))[0].detach()
    torch.testing.assert_close(vectors[rows.index(row)], expected, atol=1e-5, rtol=1e-5)
    parquet = pytest.importorskip("pyarrow.parquet")
    features(net, tree, tmp_path / "parquet", format="parquet", dtype="float32", **QUICK)
    found = [
        line
        for path in sorted((tmp_path / "parquet/vectors").iterdir())
        for line in parquet.read_table(path).to_pylist()
    ]
    assert [line["id"] for line in found] == [row["id"] for row in rows]
    np.testing.assert_array_equal(np.array([line["features"] for line in found], np.float32), vectors.numpy())
    with pytest.raises(ValueError, match="no features in the format 'npy'"):
        FeatureFolder(tmp_path / "parquet")


def test_a_killed_run_goes_on_and_damaged_parts_are_written_again(images: Any, tmp_path: Path) -> None:
    options = {**QUICK, "part_size": 2}
    features(model(), images, tmp_path / "whole", maps=True, **options)
    child = os.fork()
    if not child:  # pragma: no cover
        plain = output.Output.write

        def write(self: Any, number: int, *rest: Any) -> None:
            if number == 2:
                os._exit(9)
            plain(self, number, *rest)

        output.Output.write = write  # type: ignore[method-assign]
        features(model(), images, tmp_path / "cut", maps=True, **options)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    with pytest.raises(FileNotFoundError, match="not complete"):
        FeatureFolder(tmp_path / "cut")
    before = (tmp_path / "cut/vectors/000001.npy").stat().st_mtime_ns
    time.sleep(0.01)
    assert features(model(), images, tmp_path / "cut", maps=True, **options).complete
    assert (tmp_path / "cut/vectors/000001.npy").stat().st_mtime_ns == before  # not computed again
    assert files(tmp_path / "cut") == files(tmp_path / "whole")
    (tmp_path / "cut/maps/000003.npy").write_bytes(b"damaged")
    features(model(), images, tmp_path / "cut", maps=True, **options)
    assert files(tmp_path / "cut") == files(tmp_path / "whole")


def test_two_shards_are_one(images: Any, tmp_path: Path) -> None:
    options = {**QUICK, "part_size": 3}
    features(model(), images, tmp_path / "one", **options)
    assert not features(model(), images, tmp_path / "two", shard=(0, 2), **options).complete
    assert features(model(), images, tmp_path / "two", shard=(1, 2), **options).complete
    assert files(tmp_path / "one") == files(tmp_path / "two")


def other_pixels(images: Any) -> Any:
    return Held(10, seed=1)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda images: (model(1), images, {}), "another model, or this one with other weights"),
        (lambda images: (model(input_spec={"size": 32}), images, {}), "input_spec="),
        (lambda images: (model(backbone={"name": "resnet10t", "output_stride": 16}), images, {}), "another model"),
        (lambda images: (model(), datasets.Subset(images, range(5)), {}), "other images"),
        (lambda images: (model(), other_pixels(images), {}), "other pixels"),
        (lambda images: (model(), images, {"dtype": "float32"}), "dtype='float16' before, 'float32' now"),
    ],
)
def test_features_of_another_network_or_of_other_images(images: Any, tmp_path: Path, change: Any, match: str) -> None:
    features(model(), images, tmp_path, **QUICK)
    network, others, options = change(images)
    with pytest.raises(ValueError, match=match):
        features(network, others, tmp_path, **QUICK, **options)


def test_the_head_and_the_way_to_the_backbone_do_not_matter(images: Any, tmp_path: Path) -> None:
    net, other = model(), model(labels=["Hernia"])
    other.backbone.load_state_dict(net.backbone.state_dict())
    net.backbone.input_spec = net.input_spec
    for network in (net, net.backbone, other):
        assert features(network, images, tmp_path, **QUICK).complete


def test_wrong_calls(images: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="nothing is to be written"):
        features(model(), images, tmp_path, pooled=False)
    with pytest.raises(TypeError, match="got Linear"):
        features(torch.nn.Linear(2, 2), images, tmp_path)
    own = Held(2)
    own.transform = lambda sample: sample  # type: ignore[attr-defined]
    with pytest.raises(TypeError, match="transform of its own"):
        features(model(), own, tmp_path)
    with pytest.raises(ValueError, match="a data set reads its images itself"):
        features(model(), images, tmp_path, bits=12)
    with pytest.raises(FileNotFoundError, match="holds no features"):
        FeatureFolder(tmp_path / "nothing")
    whole = thoraxlib.build("timm", backbone="resnet10t", labels=["a"], input_spec={"size": 64}).eval()
    with pytest.raises(ValueError, match="gives vectors alone"):
        features(whole, images, tmp_path, maps=True)
    features(whole, images, tmp_path / "whole", dtype="float32", **QUICK)
    x = torch.cat([thoraxlib.preprocess_for(whole)(images[k]["image"]) for k in range(10)])
    with torch.inference_mode():
        logits = whole.get_classifier()(FeatureFolder(tmp_path / "whole").vectors())
        torch.testing.assert_close(logits, whole(x), atol=1e-5, rtol=1e-5)
