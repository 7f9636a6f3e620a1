"""Features of a data set in files: content, interruptions, and errors."""

from __future__ import annotations

import json
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from thoraxlib import datasets, detection
from thoraxlib.detection.store import INDEX
from thoraxlib.images import transform_for
from thoraxlib.utils.files import locked

LENGTH, SHARD, BATCH = 11, 4, 3
REGIONS = ("right lung", "left lung", "heart")


class Images(torch.utils.data.Dataset[dict[str, Any]]):
    """Synthetic images of several shapes with three regions and random findings."""

    region_names = REGIONS
    labels = ("Mass", "Effusion", "Hernia")

    def __init__(self, length: int = LENGTH, seed: int = 0) -> None:
        self.images = datasets.build("synthetic", size=96, length=length, seed=seed, labels=self.labels, masks=False)
        self.targets, self.ids, self.patient_ids = self.images.targets, self.images.ids, self.images.patient_ids
        draw = torch.Generator().manual_seed(seed)
        self.region_targets = (torch.rand(length, 3, 3, generator=draw) > 0.7).float()
        self.region_targets[::3, 1] = torch.nan
        self.region_present = ~self.region_targets.isnan().any(dim=2)
        self.broken: int | None = None

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict[str, Any]:
        if index == self.broken:
            raise OSError("the disk is gone")
        image = self.images[index]
        rows = torch.tensor([0, 7, 16])
        present = self.region_present[index]
        return {
            "image": image["image"][:, : 96 - index],
            "regions": image["regions"].as_subclass(Tensor)[rows] * present[:, None],
            "present": present,
            "region_labels": self.region_targets[index],
            "labels": image["labels"],
            "id": image["id"],
        }


class Plain(torch.utils.data.Dataset[dict[str, Any]]):
    """Images with labels only."""

    def __init__(self) -> None:
        self.images = Images()
        self.labels, self.targets = self.images.labels, self.images.targets
        self.ids, self.patient_ids = self.images.ids, self.images.patient_ids

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {key: self.images[index][key] for key in ("image", "labels", "id")}


def detector(seed: int = 0, **options: Any) -> Any:
    torch.manual_seed(seed)
    small = {"backbone": "resnet10t", "width": 8, "feature_dim": 16, "proposals": 20, "score_threshold": 0.2}
    spec = {"size": 64, "resize": "pad"}
    return detection.build("fasterrcnn_fpn", **{"regions": REGIONS, "input_spec": spec, **small, **options})


def extract(net: Any, images: Any, path: Path, **options: Any) -> detection.FeatureStore:
    return detection.extract(
        net, images, path, **{"batch_size": BATCH, "shard_size": SHARD, "progress": False, **options}
    )


def content(path: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in path.iterdir()}


@pytest.mark.parametrize("boxes", ["detected", "given"])
def test_content_of_a_store(boxes: str, tmp_path: Path) -> None:
    net, images = detector(), Images()
    store = extract(net, images, tmp_path, boxes=boxes, num_workers=2)
    assert net.training  # as before
    assert (len(store), store.labels, store.region_names) == (LENGTH, images.labels, REGIONS)
    assert (store.ids, store.patient_ids) == (images.ids, images.patient_ids)
    assert (store.feature_dim, store.fingerprint) == (16, net.fingerprint())
    torch.testing.assert_close(store.targets, images.targets, equal_nan=True)
    torch.testing.assert_close(store.region_targets, images.region_targets, equal_nan=True)
    if boxes == "given":
        assert torch.equal(store.region_present, images.region_present)
    assert sorted(p.name for p in tmp_path.iterdir()) == [".lock", *(f"0000{k}.safetensors" for k in range(3)), INDEX]
    transform, net = transform_for(net.input_spec), net.eval()
    for index in (0, 5, -1):
        image, sample = images[index % LENGTH], store[index]
        moved = transform({"image": image["image"], **({"regions": _boxes(image)} if boxes == "given" else {})})
        x = moved["image"].as_subclass(Tensor)[None]
        with torch.no_grad():
            if boxes == "given":
                found = net.region_features(x, moved["regions"][None], image["present"][None])
            else:
                found = net(x)
        assert sample["id"] == image["id"]
        assert torch.equal(sample["present"], found.present[0])
        torch.testing.assert_close(sample["features"], found.features[0], rtol=2e-3, atol=1e-3)
        torch.testing.assert_close(sample["scores"], found.scores[0])
        assert torch.equal(sample["regions"], store.regions[index])
        if boxes == "given":
            assert torch.equal(sample["regions"], image["regions"])
        else:  # an input of 64 pixels shows an image of 96, which is as wide as high or wider
            height = image["image"].shape[-2]
            top = round((64 - 64 * height // 96) / 2)
            scale = torch.tensor([96 / 64, height / (64 * height // 96)] * 2)
            shown = ((found.boxes[0] - torch.tensor([0, top, 0, top])) * scale).clamp(min=0)
            limit = torch.tensor([96.0, height, 96, height])
            torch.testing.assert_close(sample["regions"], shown.minimum(limit), atol=1.5 * 96 / 64, rtol=0)


def _boxes(image: dict[str, Any]) -> Any:
    from torchvision import tv_tensors

    size = tuple(image["image"].shape[-2:])
    return tv_tensors.BoundingBoxes(image["regions"], format="XYXY", canvas_size=size)  # type: ignore[call-overload]


def test_a_store_is_a_data_set(tmp_path: Path) -> None:
    store = extract(detector(), Images(), tmp_path)
    assert isinstance(store, datasets.ChestDataset)
    loader = DataLoader(store, batch_size=4, num_workers=2, collate_fn=datasets.collate)
    batches = list(loader)
    assert batches[0]["features"].shape == (4, 3, 16)
    assert batches[0]["features"].dtype == torch.float32
    assert batches[0]["present"].dtype == torch.bool
    features = torch.cat([batch["features"] for batch in batches])
    again = pickle.loads(pickle.dumps(store))
    assert all(torch.equal(again[i]["features"], features[i]) for i in range(LENGTH))
    part = datasets.Subset(store, [7, 2])
    assert part[0]["id"] == store.ids[7]
    assert part.region_names == REGIONS
    torch.testing.assert_close(part.region_targets, store.region_targets[[7, 2]], equal_nan=True)
    with pytest.raises(IndexError):
        store[LENGTH]


def test_images_without_regions(tmp_path: Path) -> None:
    net, images = detector(), Plain()
    store = extract(net, images, tmp_path / "detected")
    assert store.region_targets.shape == (LENGTH, 3, 3)
    assert store.region_targets.isnan().all()
    torch.testing.assert_close(store.targets, images.targets, equal_nan=True)
    with pytest.raises(ValueError, match="Plain has no region_names: boxes of regions are needed"):
        extract(net, images, tmp_path / "given", boxes="given")
    assert not (tmp_path / "given").exists()


@pytest.mark.parametrize("broken", [0, 3, 6, 10])
def test_an_error_in_the_middle(broken: int, tmp_path: Path) -> None:
    net, images = detector(), Images()
    whole = extract(net, images, tmp_path / "whole")
    images.broken = broken
    with pytest.raises(OSError, match="the disk is gone"):
        extract(net, images, tmp_path / "cut")
    done = len(list((tmp_path / "cut").glob("*.safetensors")))
    assert done == broken // SHARD
    with pytest.raises(FileNotFoundError, match=rf"not complete: {3 - done} of 3 parts are missing, first 0000{done}"):
        detection.FeatureStore(tmp_path / "cut")
    stamps = {p: p.stat().st_mtime_ns for p in (tmp_path / "cut").glob("[!.]*")}
    images.broken = None
    resumed = extract(net, images, tmp_path / "cut")
    assert all(p.stat().st_mtime_ns == stamp for p, stamp in stamps.items())  # nothing is done twice
    assert content(tmp_path / "cut") == content(tmp_path / "whole")
    assert resumed.ids == whole.ids


_RUN = """
import sys, time
from pathlib import Path
sys.path.insert(0, {folder!r})
from test_stores import Images, detector, extract
images = Images()
slow = type(images).__getitem__
type(images).__getitem__ = lambda self, index: (time.sleep(0.05), slow(self, index))[1]
extract(detector(), images, Path({path!r}))
"""


def test_a_kill(tmp_path: Path) -> None:
    net, images = detector(), Images()
    extract(net, images, tmp_path / "whole")
    code = _RUN.format(folder=str(Path(__file__).parent), path=str(tmp_path / "cut"))
    process = subprocess.Popen([sys.executable, "-c", code], env={**os.environ, "OMP_NUM_THREADS": "1"})
    deadline = time.monotonic() + 120
    while not (tmp_path / "cut" / "00000.safetensors").exists():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not (tmp_path / "cut" / "00002.safetensors").exists()
    (tmp_path / "cut" / ".00001.999.part.safetensors").write_bytes(b"half")  # as a kill within a file leaves it
    extract(net, images, tmp_path / "cut")
    assert content(tmp_path / "cut") == content(tmp_path / "whole")


def test_other_settings_are_refused(tmp_path: Path) -> None:
    net, images = detector(), Images()
    extract(net, images, tmp_path)
    before = content(tmp_path)
    other = Images()
    other.region_targets = 1 - other.region_targets
    renamed = Images()
    renamed.labels = ("Mass", "Effusion", "Edema")
    trained = detector()
    trained.roi_heads.box_head.fc7.bias.data[3] += 1e-4
    for changed, data, options, message in [
        (detector(seed=1), images, {}, "another detector"),
        (trained, images, {}, "another detector"),
        (detector(score_threshold=0.3), images, {}, "another detector"),
        (detector(input_spec={"size": 64}), images, {}, "another detector"),
        (net, Images(length=10), {}, "length=11 before, 10 now"),
        (net, Images(seed=1), {}, "another data set"),
        (net, other, {}, "another data set, or other labels"),
        (net, renamed, {}, "labels=.*'Hernia'"),
        (net, images, {"boxes": "given"}, "boxes='detected' before, 'given' now"),
        (net, images, {"shard_size": 5}, "shard_size=4 before, 5 now"),
    ]:
        with pytest.raises(ValueError, match=message):
            extract(changed, data, tmp_path, **options)
    assert content(tmp_path) == before
    assert len(extract(net, images, tmp_path, batch_size=2)) == LENGTH  # complete: nothing to do


def test_a_store_of_another_detector(tmp_path: Path) -> None:
    net = detector()
    extract(net, Images(), tmp_path)
    open_store = detection.FeatureStore
    assert len(open_store(tmp_path, detector=net)) == LENGTH
    for other in (detector(seed=1), detector(regions=("a", "b", "c"))):
        with pytest.raises(ValueError, match="was extracted by another detector"):
            open_store(tmp_path, detector=other)
    with pytest.raises(FileNotFoundError, match="holds no feature store: there is no index.json"):
        open_store(tmp_path / "none")


def test_damaged_files(tmp_path: Path) -> None:
    net, images = detector(), Images()
    store = extract(net, images, tmp_path)
    features = [store[i]["features"] for i in range(LENGTH)]
    file = tmp_path / "00001.safetensors"
    file.write_bytes(file.read_bytes()[:-10])
    with pytest.raises(ValueError, match="00001.safetensors is damaged .*: delete it"):
        detection.FeatureStore(tmp_path)
    file.unlink()
    again = extract(net, images, tmp_path)
    assert all(torch.equal(again[i]["features"], features[i]) for i in range(LENGTH))
    (tmp_path / INDEX).write_text("{")
    with pytest.raises(ValueError, match=r"index.json is damaged .*: delete the folder"):
        detection.FeatureStore(tmp_path)


def test_size_on_disk(tmp_path: Path) -> None:
    """36 kB of features an image, for 18 regions of 1024."""
    net = detection.build("fasterrcnn_fpn", backbone="resnet10t", width=4, proposals=5, input_spec={"size": 32})
    images = datasets.build("synthetic", size=32, length=20, masks=False)
    extract(net, images, tmp_path, shard_size=20)
    size = (tmp_path / "00000.safetensors").stat().st_size / 20
    assert 18 * 1024 * 2 < size < 1.1 * 18 * 1024 * 2


def test_features_that_do_not_fit(tmp_path: Path) -> None:
    net, images = detector(), Images()
    net.roi_heads.box_head.fc7.bias.data += 1e6
    with pytest.raises(ValueError, match="features of synthetic-0-000000, .* are NaN or beyond float16's largest"):
        extract(net, images, tmp_path, boxes="given")
    assert not list(tmp_path.glob("*.safetensors"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"boxes": "true"}, "boxes='true': allowed are 'detected', 'given'"),
        ({"batch_size": 0}, "batch_size=0: at least 1"),
        ({"shard_size": 0}, "shard_size=0: at least 1"),
    ],
)
def test_bad_options(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=message):
        extract(detector(), Images(), tmp_path / "store", **options)
    assert not (tmp_path / "store").exists()


def test_other_regions_and_no_images(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="the data set's regions .* are not the model's"):
        extract(detector(regions=("left lung", "right lung", "heart")), Images(), tmp_path / "a")
    with pytest.raises(ValueError, match="holds no image"):
        extract(detector(), datasets.Subset(Images(), []), tmp_path / "b")
    assert not list(tmp_path.iterdir())


def test_the_index_describes_the_store(tmp_path: Path) -> None:
    net = detector()
    extract(net, Images(), tmp_path)
    index = json.loads((tmp_path / INDEX).read_text())
    assert index["region_names"] == list(REGIONS)
    assert index["fingerprint"] == net.fingerprint()
    assert (index["length"], index["shard_size"], index["boxes"]) == (LENGTH, SHARD, "detected")


def test_files_of_others_and_links(tmp_path: Path) -> None:
    net, images = detector(), Images()
    store, victim = tmp_path / "store", tmp_path / "victim"
    store.mkdir()
    (store / "00001.safetensors").write_text("theirs")
    with pytest.raises(ValueError, match=rf"store holds parts of a feature store, but no {INDEX}"):
        extract(net, images, store)
    assert (store / "00001.safetensors").read_text() == "theirs"
    (store / "00001.safetensors").unlink()
    (store / INDEX).symlink_to(victim)
    extract(net, images, store)
    assert not victim.exists()
    assert not any(path.is_symlink() for path in store.iterdir())


def test_one_process_at_a_time(tmp_path: Path) -> None:
    with locked(tmp_path), pytest.raises(ValueError, match="another process is writing"):
        extract(detector(), Images(), tmp_path)


@pytest.mark.skipif(os.name == "nt", reason="has no such modes")
def test_modes_of_a_store(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        extract(detector(), Images(), tmp_path / "store")
    finally:
        os.umask(before)
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "store").iterdir()} == {0o640}
    assert (tmp_path / "store").stat().st_mode & 0o777 == 0o750
