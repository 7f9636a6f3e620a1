"""Files made to do harm: they run no code, fill no memory, hang nothing, and reach no file outside their folder."""

from __future__ import annotations

import io
import json
import os
import pickle
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1] / "datasets"))

import archives
from damage import refused
from PIL import Image
from safetensors.torch import load_file, save_file

import thoraxlib
from thoraxlib import backbones, checkpoints, datasets, detection, graphs, images, localization, segmentation
from thoraxlib.archives.sources import listed
from thoraxlib.datasets.chest_imagenome.scene_graphs import SceneGraphFiles
from thoraxlib.datasets.mimic_cxr import image_file
from thoraxlib.datasets.openi.reports import read_report
from thoraxlib.explanation import Explanation
from thoraxlib.graphs.embeddings import read_vectors
from thoraxlib.images import TrainingCopy
from thoraxlib.registry import OptionError, UnknownNameError
from thoraxlib.utils.files import below, read_json

# -- code ---------------------------------------------------------------------------------------------


class Payload:
    """Makes a folder when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = str(marker)

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, (self.marker,)


def pickles(marker: Path) -> dict[str, bytes]:
    """The payload as every kind of file that some library would unpickle."""
    payload = Payload(marker)
    zipped, old, array, arrays = io.BytesIO(), io.BytesIO(), io.BytesIO(), io.BytesIO()
    torch.save({"state_dict": {"fc.weight": torch.ones(1)}, "epoch": 0, "x": payload}, zipped)
    torch.save({"state_dict": payload, "callbacks": payload}, old, _use_new_zipfile_serialization=False)
    np.save(array, np.array([payload], object), allow_pickle=True)
    np.savez(arrays, nodes=np.array(["a"]), weights=np.array([payload], object))
    return {
        "pickle": pickle.dumps(payload),
        "zip": zipped.getvalue(),
        "old": old.getvalue(),
        "npy": array.getvalue(),
        "npz": arrays.getvalue(),
    }


def copy_with(path: Path) -> Any:
    """A training copy of which one file is `path`."""
    folder = path.parent
    settings = {"spec": {"size": [8, 8]}, "form": "array"}
    (folder / "copy.json").write_text(json.dumps({"version": 1, "complete": True, "settings": settings}))
    entry = {"name": "a.png", "row": 0, "height": 8, "width": 8, "check": 0}
    (folder / "manifest.jsonl").write_text(json.dumps(entry) + "\n")
    return TrainingCopy(folder).image("a.png")


def run_with(path: Path) -> Any:
    """What a run of training goes on from."""
    resume = pytest.importorskip("thoraxlib.training.resume", reason="needs the extra train")
    resume.WholeFiles().load_checkpoint(path)  # not to be reached
    return resume.of_run(path)


def store_with(path: Path) -> Any:
    """A feature store with the shard `path`."""
    index = {"region_names": ["a"], "labels": ["b"], "feature_dim": 1, "length": 1, "shard_size": 1, "fingerprint": ""}
    (path.parent / "index.json").write_text(json.dumps(index))
    return detection.FeatureStore(path.parent)


def saved_with(path: Path) -> Any:
    """A saved model with the weights `path`."""
    model = thoraxlib.build("chexnet", backbone="test_resnet", labels=["Mass"])
    thoraxlib.save_pretrained(model, path.parent / "new")
    (path.parent / "new/config.json").rename(path.parent / "config.json")
    return thoraxlib.load_pretrained(path.parent)


#: What reads a file -> the name that the file has for it.
READERS: dict[str, tuple[str, Callable[[Path], Any]]] = {
    "load_checkpoint": ("x.pth.tar", lambda path: thoraxlib.load_checkpoint(torch.nn.Linear(1, 1), path)),
    "load_checkpoint of safetensors": ("x.safetensors", checkpoints.read),
    "read_ag_cnn": ("x.pkl", lambda path: checkpoints.read_ag_cnn(path, path, path)),
    "load_pretrained": ("model.safetensors", saved_with),
    "load_pretrained's config": ("config.json", lambda path: thoraxlib.load_pretrained(_beside(path))),
    "segmentation weights": (
        "unet.pth",
        lambda path: thoraxlib.load_checkpoint(segmentation.build("unet", width=4), path),
    ),
    "graph of npz": ("x.npz", graphs.Graph.load),
    "graph of json": ("x.json", graphs.Graph.load),
    "graph of csv": ("x.csv", graphs.Graph.load),
    "counts": ("x.json", graphs.LabelCounts.load),
    "region counts": ("x.json", graphs.RegionCounts.load),
    "feature store": ("00000.safetensors", store_with),
    "feature store's index": ("index.json", lambda path: detection.FeatureStore(path.parent)),
    "AnaXNet's features": ("x.json", datasets.read_anaxnet_features),
    "word vectors": ("x.vec", lambda path: read_vectors(path, ["Mass"], dim=2)),
    "training copy": ("pixels.npy", copy_with),
    "training copy's description": ("copy.json", lambda path: TrainingCopy(path.parent)),
    "run": ("last.ckpt", run_with),
    "COCO": ("x.json", localization.read_coco),
    "image": ("x.png", images.read),
    "DICOM": ("x.dcm", images.read),
    "report": ("x.xml", read_report),
}


def _beside(path: Path) -> Path:
    (path.parent / "model.safetensors").touch()
    return path.parent


@pytest.mark.parametrize("kind", ["pickle", "zip", "old", "npy", "npz"])
@pytest.mark.parametrize("reader", READERS)
def test_no_file_runs_code(reader: str, kind: str, tmp_path: Path) -> None:
    marker = tmp_path / "was run"
    name, read = READERS[reader]
    path = tmp_path / "files" / name
    path.parent.mkdir(parents=True)
    path.write_bytes(pickles(marker)[kind])
    with pytest.raises(ValueError) as error:
        read(path)
    assert path.name in str(error.value) or str(path.parent) in str(error.value)
    assert not marker.exists()


def test_the_payload_would_have_run(tmp_path: Path) -> None:
    for kind, content in pickles(tmp_path / "was run").items():
        file = io.BytesIO(content)
        if kind in ("npy", "npz"):
            found = np.load(file, allow_pickle=True)
            if kind == "npz":
                found["weights"]
        else:
            torch.load(file, weights_only=False) if kind != "pickle" else pickle.load(file)
        assert (tmp_path / "was run").is_dir()
        (tmp_path / "was run").rmdir()


def test_a_config_names_no_file_to_unpickle_and_downloads_nothing(tmp_path: Path) -> None:
    evil = tmp_path / "evil.pth"
    evil.write_bytes(pickles(tmp_path / "was run")["zip"])
    with pytest.raises(OptionError, match=r"checkpoint_path is not accepted; thoraxlib\.load_checkpoint"):
        backbones.build("test_resnet", checkpoint_path=str(evil))
    thoraxlib.save_pretrained(thoraxlib.build("chexnet", backbone="test_resnet", labels=["Mass"]), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    weights = tmp_path / "model.safetensors"
    save_file(load_file(weights), weights)  # without the config that they carry, which would be compared first
    for part in (
        {"name": "test_resnet", "checkpoint_path": str(evil)},
        {"name": "test_resnet", "checkpoint_path": str(evil), "pretrained": True},
        {"name": "hf-hub:someone/something"},
        {"name": f"local-dir:{tmp_path}"},
        "os:mkdir",
    ):
        changed = {**config, "options": {**config["options"], "backbone": part}}
        (tmp_path / "config.json").write_text(json.dumps(changed))
        trouble = r"config.json describes no model that can be built: Option|unknown name .* was saved with it"
        with pytest.raises((ValueError, UnknownNameError), match=trouble):
            thoraxlib.load_pretrained(tmp_path)
    assert not (tmp_path / "was run").exists()
    # a part of its own weights, or of a file, in a list of parts too
    plain = thoraxlib.registry.without_pretrained({"a": [{"pretrained": True, "path": "/dev/zero", "width": 3}]})
    assert plain == {"a": [{"path": None, "width": 3}]}


def test_a_graph_of_more_weights_than_the_memory_holds(tmp_path: Path) -> None:
    array = io.BytesIO()
    np.lib.format.write_array_header_1_0(array, {"descr": "<f4", "fortran_order": False, "shape": (10**7, 10**7)})
    for compression, message in ((zipfile.ZIP_STORED, "graph"), (zipfile.ZIP_DEFLATED, "graph")):
        with zipfile.ZipFile(tmp_path / "graph.npz", "w", compression) as archive:
            archive.writestr("weights.npy", array.getvalue())
            archive.writestr("nodes.npy", array.getvalue() + bytes(2**20))
        with pytest.raises(ValueError, match=rf"{message}.npz holds no graph"):
            graphs.Graph.load(tmp_path / "graph.npz")


def test_a_repository_is_downloaded_as_asked_whatever_its_config_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = thoraxlib.build("chexnet", backbone="test_resnet", labels=["Mass"])
    thoraxlib.save_pretrained(model, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "local_dir": "/", "revision": "x", "token": "y"}))
    asked: list[tuple[str, dict[str, Any]]] = []

    def download(repository: str, name: str, **options: Any) -> str:
        asked.append((name, options))
        return str(tmp_path / name)

    monkeypatch.setattr("thoraxlib.models.loading.hf_hub_download", download)
    again = thoraxlib.load_pretrained("owner/name", revision="v1")
    assert all(torch.equal(a, b) for a, b in zip(again.state_dict().values(), model.state_dict().values(), strict=True))
    assert [name for name, _ in asked] == ["config.json", "model.safetensors"]
    for _, options in asked:
        assert (options["revision"], options["token"]) == ("v1", None)
        assert "local_dir" not in options


# -- memory and time ----------------------------------------------------------------------------------

DEEP = "[" * 100_000
JSON_READERS = {name: pair for name, pair in READERS.items() if pair[0].endswith(".json")}


@pytest.mark.parametrize(
    "text", [DEEP, '{"a":' * 100_000, DEEP + "]" * 100_000, "9" * 10_000], ids=["cut", "dict", "whole", "number"]
)
@pytest.mark.parametrize("reader", JSON_READERS)
def test_json_as_deep_as_no_parser_goes(reader: str, text: str, tmp_path: Path) -> None:
    name, read = JSON_READERS[reader]
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=name):
        read(tmp_path / name)


@pytest.mark.parametrize("packed", [True, False])
def test_scene_graphs_as_deep_and_as_large(packed: bool, tmp_path: Path) -> None:
    for name, content, message in (
        ("a", DEEP.encode(), r"a_SceneGraph.json is broken: .* nested too deeply"),
        ("b", bytes(2**26 + 1), r"b_SceneGraph.json is broken: a scene graph has at most 67108864 bytes"),
    ):
        path = tmp_path / name
        if packed:
            with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
                archive.writestr(f"../../{name}_SceneGraph.json", content)
            assert path.stat().st_size < 10**6
        else:
            path.mkdir()
            (path / f"{name}_SceneGraph.json").write_bytes(content)
        with pytest.raises(ValueError, match=message):
            list(SceneGraphFiles(path).graphs(progress=False))


LAUGHS = "".join(f'<!ENTITY l{k} "{f"&l{k - 1};" * 10}">' for k in range(1, 10))
BOMBS = {
    "laughs": f'<!DOCTYPE r [<!ENTITY l0 "ha">{LAUGHS}]><eCitation><uId id="CXR1"/>&l9;</eCitation>',
    "blow-up": f'<!DOCTYPE r [<!ENTITY a "{"a" * 10_000}">]><eCitation><uId id="CXR1"/>{"&a;" * 10_000}</eCitation>',
    "external": '<!DOCTYPE r [<!ENTITY x SYSTEM "file:///etc/hostname">]><eCitation><uId id="&x;"/></eCitation>',
    "external type": '<!DOCTYPE r SYSTEM "http://127.0.0.1:9/x.dtd"><eCitation><uId id="CXR1"/></eCitation>',
    "parameter": '<!DOCTYPE r [<!ENTITY % p SYSTEM "file:///etc/fstab"> %p;]><eCitation><uId id="CXR1"/></eCitation>',
}


@pytest.mark.parametrize("bomb", BOMBS)
def test_entities_are_not_declared(bomb: str, tmp_path: Path) -> None:
    path = tmp_path / "1.xml"
    path.write_text(BOMBS[bomb])
    with pytest.raises(ValueError, match=r"1.xml has a document type declaration"):
        read_report(path)


def test_xml_that_is_deep_long_or_oddly_encoded(tmp_path: Path) -> None:
    path = tmp_path / "1.xml"
    path.write_text(f'<e><uId id="CXR{"9" * 5000}"/><MeSH><major>{"<a>" * 50_000}x{"</a>" * 50_000}</major></MeSH></e>')
    assert read_report(path).mesh == ("x",)
    assert datasets.openi.read_reports(tmp_path)
    for encoding in ("utf-7", "cp037", "utf-32", "shift_jis", "idna", "rot13", "nonsense"):
        path.write_bytes(f'<?xml version="1.0" encoding="{encoding}"?><e><uId id="CXR1"/></e>'.encode())
        report = refused(lambda: read_report(path), "1.xml")
        assert report is None or report.id == "CXR1"


# -- paths --------------------------------------------------------------------------------------------

OUTSIDE = (
    "../x.png",
    "a/../../x.png",
    "/etc/x.png",
    "C:x.png",
    "c:/x.png",
    "..\\x.png",
    "\\\\host\\x.png",
    "\\x.png",
    "a\0.png",
    "\ud800.png",
)


@pytest.mark.parametrize("name", OUTSIDE)
def test_names_that_point_out_of_their_folder(name: str, tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    Image.new("L", (8, 8)).save(tmp_path / "x.png")
    Image.new("L", (8, 8)).save(root / "y.png")
    with pytest.raises(ValueError, match=r"labels.csv: .* is no (path|name)"):
        below(name, "labels.csv")
    with pytest.raises(ValueError, match="is no (path|name)"):
        image_file("10", "20", name, "metadata.csv:2")
    with pytest.raises(ValueError, match="is no (path|name)"):
        datasets.files.index_named(root, [name])
    with pytest.raises(ValueError, match="is no (path|name)"):
        datasets.files.index_tree(root, [f"{name}/images"])
    content = {
        "images": [{"id": 1, "file_name": name, "height": 8, "width": 8}],
        "categories": [{"id": 1, "name": "trachea"}],
        "annotations": [],
    }
    (tmp_path / "coco.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match="is no (path|name)"):
        datasets.build("region_coco", annotations=tmp_path / "coco.json", images=root)
    entry = {"name": name, "row": 0, "height": 8, "width": 8, "check": 0}
    (root / "manifest.jsonl").write_text(json.dumps(entry) + "\n")
    settings = {"spec": {"size": [8, 8]}, "form": "array"}
    (root / "copy.json").write_text(json.dumps({"version": 1, "complete": True, "settings": settings}))
    with pytest.raises(ValueError, match=r"manifest.jsonl:1: .* is no (path|name)"):
        TrainingCopy(root)


@pytest.mark.parametrize("name", ["../../slip.png", "/slip.png", "C:slip.png", "a\\..\\..\\slip.png"])
def test_archives_with_names_that_point_out_of_them(name: str, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "slip.zip", "w") as archive:
        archive.writestr(name, b"")
    with pytest.raises(ValueError, match=r"slip.zip: .* is no path"):
        listed([tmp_path / "slip.zip"])
    with pytest.raises(ValueError, match=r"slip.zip: .* is no path"):
        thoraxlib.prepare(tmp_path / "slip.zip", tmp_path / "copy", num_workers=0, progress=False)
    assert [path.name for path in tmp_path.iterdir()] == ["slip.zip"]


def test_links_in_an_archive_are_not_followed(tmp_path: Path) -> None:
    (tmp_path / "secret.png").write_bytes(b"secret")
    link = zipfile.ZipInfo("link.png")
    link.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "images.zip", "w") as archive:
        archive.writestr(link, str(tmp_path / "secret.png"))
    (image,) = listed([tmp_path / "images.zip"])
    assert image.open().read() == str(tmp_path / "secret.png").encode()


@pytest.mark.parametrize("path", ["C:/secret/a.jpg", "CheXpert-v1.0/../../a.jpg", "a\0b/c.jpg", "CheXpert-v1.0", ""])
def test_chexpert_paths(path: str, tmp_path: Path) -> None:
    if "\0" in path and sys.version_info < (3, 11):
        pytest.skip("csv refuses NUL itself")
    (tmp_path / "valid.csv").write_text(f"Path,Edema\n{path},1.0\n")
    with pytest.raises(ValueError, match=r"valid.csv:2: .* is no (path|name)"):
        datasets.build("chexpert", root=tmp_path, split="valid", labels=["Edema"])


def test_a_link_that_takes_the_place_of_a_result_is_replaced_not_followed(tmp_path: Path) -> None:
    """Writers go beside the place and rename: what a link points to stays as it is."""
    victim = tmp_path / "victim"
    victim.write_text("as it was")
    (tmp_path / "out").mkdir()
    image = Explanation("image", torch.zeros(1, 8, 8, dtype=torch.uint8), {"Mass": 0.1}, (), "cam", "level")
    for name in ("image.png", "image.json", "boxes.json", "graph.json"):
        (tmp_path / "out" / name).symlink_to(victim)
    image.save(tmp_path / "out")
    boxes = localization.Boxes.from_lists([], [])
    localization.save_coco(tmp_path / "out/boxes.json", boxes, ["Mass"], [], [])
    graphs.Graph(("Mass",), torch.ones(1, 1)).save(tmp_path / "out/graph.json")
    assert victim.read_text() == "as it was"
    assert not any(path.is_symlink() for path in (tmp_path / "out").iterdir())


class Images:
    """One image with the id that is given."""

    def __init__(self, *ids: str) -> None:
        self.ids = list(ids)

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"image": torch.zeros(1, 32, 32, dtype=torch.uint8), "id": self.ids[index]}


def test_masks_stay_in_their_folder(tmp_path: Path) -> None:
    net = segmentation.build("unet", width=4, depth=2)
    folder = tmp_path / "masks"
    for name in ("../../x", "/etc/x", "..", "..\\x"):
        segmentation.predict_masks(net, Images(name), folder)
    assert [path.name for path in tmp_path.iterdir()] == ["masks"]
    for name in ("C:x", "a\0b"):
        with pytest.raises(ValueError, match="is no (path|name)"):
            segmentation.predict_masks(net, Images(name), tmp_path / "none")
    with pytest.raises(ValueError, match=r"the masks of 'a/b' and 'a_b' would both be a_b.png"):
        segmentation.predict_masks(net, Images("a/b", "a_b"), tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_explanations_stay_in_their_folder(tmp_path: Path) -> None:
    from thoraxlib.explanation.images import _Names

    names = _Names()
    for source in ("../../x.png", "..", "C:x.png", "a\0b.png", "", "/", "\\\\host\\x", "aux"):
        path = tmp_path / f"{names.of(source, 0)}.json"
        assert path.parent == tmp_path
        below(path.name, "explain")


def test_every_reader_of_releases_stays_in_the_release(tmp_path: Path) -> None:
    """Tables name an image that is there, outside of the release: it is missing, or refused."""
    root = tmp_path / "root"
    archives.padchest(root, [archives.image(0)])
    Image.new("L", (8, 8)).save(tmp_path / "x.png")
    text = (root / archives.TABLE).read_text().replace(archives.image(0)["ImageID"], "../x.png")
    (root / archives.TABLE).write_text(text)
    with pytest.raises(FileNotFoundError, match="1 of 1 images are missing"):
        datasets.build("padchest", root=root)


def test_json_with_a_byte_order_mark(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_bytes(b'\xef\xbb\xbf{"a": 1}')
    assert read_json(tmp_path / "x.json") == {"a": 1}
