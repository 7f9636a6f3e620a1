"""Run the examples with small settings, and check what they print and write."""

from __future__ import annotations

import argparse
import importlib
import json
import math
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import thoraxlib
from thoraxlib.images import transform_for

pytest.importorskip("lightning")
pytestmark = pytest.mark.slow
EXAMPLES = Path(__file__).parents[2] / "examples"
TINY = [
    "--no-progress",
    "--device",
    "cpu",
    "--num-images",
    "48",
    "--epochs",
    "1",
    "--batch-size",
    "8",
    "--weights",
    "none",
]


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    for path in EXAMPLES.glob("*.py"):
        sys.modules.pop(path.stem, None)
    yield
    torch.set_flush_denormal(False)  # the examples set it for the whole process


def check_output(folder: Path) -> None:
    written = {path.name for path in folder.iterdir()}
    assert {"metrics.csv", "metrics.md", "metrics.txt", "panel.png", "model", "checkpoints", "logs"} <= written
    assert {"config.json", "model.safetensors"} <= {path.name for path in (folder / "model").iterdir()}
    assert np.asarray(Image.open(folder / "panel.png")).std() > 10


@pytest.mark.parametrize(
    ("name", "flags"),
    [
        ("quickstart", ["--size", "48"]),
        ("chexnet", ["--size", "48", "--backbone", "resnet10t"]),
        (
            "chexnet",
            ["--size", "48", "--backbone", "resnet10t", "--labels", "Effusion", "Mass", "--loss", "weighted_bce"],
        ),
        ("unified_dcnn", ["--size", "64", "--backbone", "resnet10t", "--labels", "nih8"]),
        ("pcam", ["--size", "48", "--labels", "Mass", "Effusion", "--attention", "channel_attention"]),
        ("pcam", ["--size", "48", "--labels", "Mass", "Effusion", "--compare", "avg"]),
        ("weakly_supervised", ["--size", "48", "--maps", "cam", "layercam"]),
        ("weakly_supervised", ["--size", "64", "--preset", "custom", "--labels", "abnormal", "--maps", "eigencam"]),
    ],
)
def test_on_synthetic_images(
    name: str, flags: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    macro = importlib.import_module(name).main([*TINY, *flags])
    assert 0 <= macro <= 1
    folder = tmp_path / "outputs" / name
    check_output(folder)
    printed = capsys.readouterr().out
    assert "AUROC" in printed
    assert ("published" in printed) == (name in ("quickstart", "chexnet", "unified_dcnn"))
    tables = {path.stem.removeprefix("boxes_") for path in folder.glob("boxes_*.txt")}
    if "abnormal" in flags:  # no label with boxes
        assert tables == set()
        return
    peaks = json.loads((folder / "peaks.json").read_text())
    assert all(hits <= images for counts in peaks.values() for hits, images in counts.values())
    maps = (
        flags[flags.index("--maps") + 1 :] if "--maps" in flags else [{"pcam": "pcam", "unified_dcnn": "cam"}.get(name)]
    )
    assert tables == set(filter(None, maps))
    for method in tables:
        assert json.loads((folder / f"boxes_{method}.json").read_text())["categories"]
    if "--compare" in flags:
        check_output(tmp_path / "outputs" / "pcam_avg")
        assert (tmp_path / "outputs" / "pcam_avg" / "boxes_cam.txt").exists()


UNET = ["--unet-width", "2", "--unet-images", "24", "--unet-epochs", "1"]


def test_segfusion_on_synthetic_images(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    flags = [*TINY, *UNET, "--size", "64", "--backbone", "resnet10t"]
    macro = importlib.import_module("segfusion_vangcn").main(flags)
    assert 0 <= macro <= 1
    folder = tmp_path / "outputs" / "segfusion_vangcn"
    printed = capsys.readouterr().out
    for variant in ("backbone", "segmentation", "graph", "both"):
        check_output(folder / variant)
        assert re.search(rf"^{variant} .*\d \(.* to .*\)", printed, flags=re.MULTILINE)
    assert re.search(r"^100 images +Dice .*IoU$", printed, flags=re.MULTILINE)
    assert re.search(r"^heart +[\d.]+ \([\d.]+ to [\d.]+\) +[\d.]+$", printed, flags=re.MULTILINE)
    assert len(list((folder / "masks" / "train").glob("*.png"))) == 48
    assert thoraxlib.graphs.Graph.load(folder / "both" / "label_graph.json").nodes == thoraxlib.labels.build("nih14")
    model = thoraxlib.load_pretrained(folder / "both" / "model")
    assert len(thoraxlib.explain(model, np.zeros((50, 60), np.uint8))) == 1
    segmenter = thoraxlib.load_pretrained(folder / "unet" / "model", thoraxlib.segmentation.Segmenter)
    assert segmenter.input_spec.size == (64, 64)
    for own, saved in zip(model.segmenter.parameters(), segmenter.parameters(), strict=True):
        assert torch.equal(own, saved)


def test_segfusion_on_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    root = nih_folder(tmp_path / "nih")
    rng = np.random.default_rng(0)
    for part in ("train", "valid"):
        for kind, most in (("image", 255), ("label", 3)):
            (tmp_path / "organs" / part / kind).mkdir(parents=True)
            for k in range(4):
                pixels = rng.integers(0, most, (40, 40), dtype=np.uint8)
                Image.fromarray(pixels).save(tmp_path / "organs" / part / kind / f"{kind}{k}.png")
    flags = [
        "--data",
        "nih14",
        "--root",
        str(root),
        "--size",
        "64",
        "--backbone",
        "resnet10t",
        "--labels",
        "Effusion",
        "Mass",
    ]
    main = importlib.import_module("segfusion_vangcn").main
    with pytest.raises(SystemExit):  # neither organs nor masks
        main([*TINY, *flags])
    main([*TINY, *UNET, *flags, "--organs", str(tmp_path / "organs"), "--output", "here"])
    check_output(tmp_path / "here" / "both")
    masks = tmp_path / "masks"
    masks.mkdir()
    for path in (tmp_path / "here" / "masks").glob("*/*.png"):
        path.rename(masks / path.name)
    main([*TINY, *flags, "--masks", str(masks), "--output", "given"])
    assert (tmp_path / "given" / "both" / "model" / "model.safetensors").exists()


def nih_folder(root: Path) -> Path:
    """Write files in the layout of the NIH release, with two images for each of 24 patients."""
    (root / "images").mkdir(parents=True)
    rng = np.random.default_rng(0)
    lines = ["Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Sex,View Position"]
    for k in range(48):
        finding = ("Effusion", "No Finding", "Mass|Effusion", "Mass")[k % 4]
        lines.append(f"{k:08d}_000.png,{finding},0,{k // 2},50,M,PA")
        Image.fromarray(rng.integers(0, 255, (40, 40), dtype=np.uint8)).save(root / "images" / f"{k:08d}_000.png")
    (root / "Data_Entry_2017.csv").write_text("\n".join(lines) + "\n")
    boxes = ["Image Index,Finding Label,Bbox [x,y,w,h],,,"]
    boxes += [f"{k:08d}_000.png,Effusion,100,200,300,400" for k in range(0, 48, 4)]
    (root / "BBox_List_2017.csv").write_text("\n".join(boxes) + "\n")
    return root


def test_nih_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    root = nih_folder(tmp_path / "nih")
    flags = [
        "--data",
        "nih14",
        "--root",
        str(root),
        "--size",
        "48",
        "--backbone",
        "resnet10t",
        "--labels",
        "Effusion",
        "Mass",
    ]
    importlib.import_module("chexnet").main([*TINY, *flags, "--output", "here"])
    check_output(tmp_path / "here")
    # the same call again finds nothing left to train
    importlib.import_module("chexnet").main([*TINY, *flags, "--output", "here"])


def own_images(folder: Path) -> list[str]:
    """Write a table, boxes and folders by class: two images for each of 30 patients; return flags for the table."""
    rng = np.random.default_rng(0)
    rows, boxes = ["file,pid,Effusion,Mass"], ["file,finding,x1,y1,x2,y2"]
    for k in range(60):
        sick = k % 3 == 0
        rows.append(f"{k:03d},{k // 2},{int(sick)},{'' if k == 7 else k % 2}")
        boxes += [f"{k:03d},Effusion,4,5,20,25"] if sick else []
        (folder / "images" / ("SICK" if sick else "NORMAL")).mkdir(parents=True, exist_ok=True)
        path = folder / "images" / ("SICK" if sick else "NORMAL") / f"{k:03d}.png"
        Image.fromarray(rng.integers(0, 255, (40, 40), dtype=np.uint8)).save(path)
    (folder / "labels.csv").write_text("\n".join(rows) + "\n")
    (folder / "boxes.csv").write_text("\n".join(boxes) + "\n")
    flags = ["--data", "csv", "--table", "labels.csv", "--root", "images", "--image", "file", "--patient", "pid"]
    return [*flags, "--data-options", "boxes=boxes.csv", "box_label=finding"]


SMALL_NET = ["--size", "48", "--backbone", "resnet10t"]


@pytest.mark.filterwarnings("ignore")  # few images
@pytest.mark.parametrize(
    ("name", "flags"),
    [
        ("chexnet", SMALL_NET),
        ("unified_dcnn", ["--size", "64", "--backbone", "resnet10t", "--labels", "Mass", "pleural effusion"]),
        ("pcam", ["--size", "48"]),
        ("weakly_supervised", ["--size", "64", "--preset", "custom", "--maps", "cam"]),
        ("ag_cnn", [*SMALL_NET, "--order", "GLF"]),
        ("segfusion_vangcn", [*SMALL_NET, "--variants", "graph"]),
        ("leaderboard", ["--size", "48", "--models", "chexnet", "--backbone", "small"]),
    ],
)
def test_own_table(
    name: str,
    flags: list[str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    importlib.import_module(name).main([*TINY, *own_images(tmp_path), *flags])
    printed = capsys.readouterr().out
    assert "AUROC" in printed or name == "leaderboard"
    (model,) = {path.parent for path in (tmp_path / "outputs").rglob("model/config.json")}
    labels = ("Mass", "pleural effusion") if name == "unified_dcnn" else ("Effusion", "Mass")
    assert thoraxlib.load_pretrained(model).labels == labels
    if name == "chexnet":
        assert json.loads((tmp_path / "outputs" / "chexnet" / "peaks.json").read_text())["cam"].keys() == {"Effusion"}
    if name == "leaderboard":
        (row,) = json.loads((tmp_path / "outputs" / "leaderboard" / "leaderboard.json").read_text())["rows"]
        assert 0 <= row["auroc"] <= 1
        assert row["boxes"] > 0


@pytest.mark.filterwarnings("ignore")  # few images
def test_own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    own_images(tmp_path)
    flags = ["--data", "folder", "--root", "images", "--data-options", "negative=NORMAL", *SMALL_NET]
    importlib.import_module("chexnet").main([*TINY, *flags])
    assert thoraxlib.load_pretrained(tmp_path / "outputs" / "chexnet" / "model").labels == ("SICK",)
    with pytest.raises(SystemExit):
        importlib.import_module("chexnet").main(["--data", "csv", "--root", "images"])
    assert "--data csv needs --table, the table" in capsys.readouterr().err


@pytest.mark.parametrize("name", sorted(path.stem for path in EXAMPLES.glob("*.py") if "parser" in path.read_text()))
def test_help_shows_the_defaults(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    if name == "recipe":
        return
    with pytest.raises(SystemExit, match="0"):
        importlib.import_module(name).main(["--help"])
    printed = " ".join(capsys.readouterr().out.split())
    flags = ["--batch-size", "--num-workers", "--precision", "--output"]
    for flag in flags if name in ("score_archive", "probe") else [*flags, "--epochs", "--lr"]:
        assert f" {flag} " in printed
    assert re.search(r"--batch-size BATCH_SIZE [^(]*\(default: \d+\)", printed)


def test_flags(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        importlib.import_module("chexnet").main(["--data", "nih14"])
    assert "--root" in capsys.readouterr().err
    with pytest.raises(FileNotFoundError, match="nowhere"):
        importlib.import_module("chexnet").main([*TINY, "--data", "nih14", "--root", str(tmp_path / "nowhere")])


def test_missing_imagenet_weights_are_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import thoraxlib

    monkeypatch.chdir(tmp_path)
    real = thoraxlib.build

    def offline(name: str, *, pretrained: bool = False, **options: object) -> object:
        if pretrained:
            raise RuntimeError("no weights here")
        return real(name, **options)

    monkeypatch.setattr(thoraxlib, "build", offline)
    flags = [*TINY[:-1], "imagenet", "--size", "48", "--backbone", "resnet10t"]
    importlib.import_module("chexnet").main(flags)
    assert "Going on from scratch" in capsys.readouterr().err


def test_chexpert_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run the authors' recipe, with a smaller input, one epoch and no ImageNet weights."""
    monkeypatch.chdir(tmp_path)
    root, rng = tmp_path / "CheXpert-v1.0-small", np.random.default_rng(0)
    columns = ["Cardiomegaly", "Edema", "Consolidation", "Atelectasis", "Pleural Effusion"]
    for part, count in (("train", 60), ("valid", 12)):
        lines = ["Path,Sex,Age,Frontal/Lateral,AP/PA," + ",".join(columns)]
        for k in range(count):
            path = f"{part}/patient{k:05d}/study1/view1_frontal.jpg"
            (root / path).parent.mkdir(parents=True)
            Image.fromarray(rng.integers(0, 255, (40, 50), dtype=np.uint8)).save(root / path)
            values = rng.choice(["1.0", "0.0", "-1.0", ""], 5) if part == "train" else rng.choice(["1.0", "0.0"], 5)
            lines.append(f"CheXpert-v1.0-small/{path},Male,60,Frontal,AP,{','.join(values)}")
        (root / f"{part}.csv").write_text("\n".join(lines) + "\n")
    flags = [*TINY, "--data", "chexpert", "--root", str(root), "--size", "64"]
    importlib.import_module("pcam").main(flags)
    check_output(tmp_path / "outputs" / "pcam")
    importlib.import_module("weakly_supervised").main([*flags, "--labels", "chexpert5"])
    check_output(tmp_path / "outputs" / "weakly_supervised")


def test_ag_cnn_on_synthetic_images(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    main = importlib.import_module("ag_cnn").main
    assert 0 <= main([*TINY, "--size", "32"]) <= 1
    folder, printed = tmp_path / "outputs" / "ag_cnn", capsys.readouterr().out
    assert re.search(r"^mean +[\d.]+ \(.*\) +[\d.]+ \(.*\) +[\d.]+ \(.*\)", printed, flags=re.MULTILINE)
    assert re.search(r"^fusion - global: [+-][\d.]+ \([+-][\d.]+ to [+-][\d.]+\)$", printed, flags=re.MULTILINE)
    assert re.search(r"attended box [\d.]+, centred box of equal size [\d.]+", printed)
    assert (folder / "result.txt").read_text().strip() in printed
    assert np.asarray(Image.open(folder / "attention.png")).std() > 10
    for name in ("global", "local", "fusion"):
        assert (folder / name / "metrics.csv").exists()
    model = thoraxlib.load_pretrained(folder / "model")
    assert model.labels == thoraxlib.labels.build("nih15")
    assert len(thoraxlib.explain(model, np.zeros((50, 60), np.uint8))) == 1
    # the same call again finds nothing left to train
    main([*TINY, "--size", "32"])
    assert printed.splitlines()[3:] == capsys.readouterr().out.splitlines()[3:]


def test_ag_cnn_ablations(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    main = importlib.import_module("ag_cnn").main
    flags = [*TINY, "--size", "32", "--labels", "Mass", "Effusion", "--num-images", "24"]
    main([*flags, "--taus", "0.3", "0.8", "--statistics", "l1"])
    printed, folder = capsys.readouterr().out, tmp_path / "outputs" / "ag_cnn"
    assert re.search(r"^l1 > 0.3 +[\d.]+ +[\d.]+ +[\d.]+\nl1 > 0.8 ", printed, flags=re.MULTILINE)
    a, b = (thoraxlib.load_pretrained(folder / name / "model") for name in ("l1_0.3", "l1_0.8"))
    assert (a.crop.tau, b.crop.tau, a.crop.statistic) == (0.3, 0.8, "l1")
    pairs = zip(a.global_branch.state_dict().values(), b.global_branch.state_dict().values(), strict=True)
    assert all(torch.equal(one, other) for one, other in pairs)
    for order in ("GL_F", "G_L_F*"):
        main([*flags, "--order", order, "--output", order])
        assert (tmp_path / order / "model" / "model.safetensors").exists()


def test_ag_cnn_nih_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    root = nih_folder(tmp_path / "nih")
    flags = ["--data", "nih14", "--root", str(root), "--size", "64", "--backbone", "resnet10t"]
    importlib.import_module("ag_cnn").main([*TINY, *flags, "--labels", "Effusion", "Mass", "No Finding"])
    assert (tmp_path / "outputs" / "ag_cnn" / "attention.png").exists()


def imagenome_folder(root: Path) -> None:
    """Write synthetic images in the layout of Chest ImaGenome, with image files as in MIMIC-CXR-JPG."""
    silver = root / "silver_dataset"
    for folder in (silver / "scene_graph", silver / "splits", root / "images"):
        folder.mkdir(parents=True)
    images = thoraxlib.datasets.build("synthetic", size=64, length=36, balance=1.0, labels="imagenome9", masks=False)
    corners = ("original_x1", "original_y1", "original_x2", "original_y2")
    lists: dict[str, list[str]] = {"train": [], "valid": [], "test": []}
    for n, part in zip(range(36), [*["train"] * 16, *["valid"] * 8, *["test"] * 12], strict=True):
        sample, name = images[n], f"{n:08x}-00000000-11111111-22222222-33333333"
        boxes = dict(zip(images.region_names, sample["regions"].tolist(), strict=True))
        sentences_of = {
            region: [[f"anatomicalfinding|yes|{images.labels[k]}" for k in (row == 1).nonzero().flatten().tolist()]]
            for region, row in zip(images.region_names, sample["region_labels"], strict=True)
        }
        graph = {
            "image_id": name,
            "viewpoint": "PA",
            "patient_id": 10_000_000 + n,
            "study_id": 50_000_000 + n,
            "objects": [
                {"object_id": f"{name}_{region}", "bbox_name": region, **dict(zip(corners, box, strict=True))}
                for region, box in boxes.items()
            ],
            "attributes": [
                {"object_id": f"{name}_{region}", "bbox_name": region, "attributes": sentences}
                for region, sentences in sentences_of.items()
            ],
            "relationships": [],
        }
        (silver / "scene_graph" / f"{name}_SceneGraph.json").write_text(json.dumps(graph))
        Image.fromarray(sample["image"][0].numpy()).save(root / "images" / f"{name}.jpg")
        lists[part].append(f"{n},{10_000_000 + n},{50_000_000 + n},{name},files/x.dcm,PA")
    for part, rows in lists.items():
        text = "\n".join([",subject_id,study_id,dicom_id,path,ViewPosition", *rows])
        (silver / "splits" / f"{part}.csv").write_text(text + "\n")


ANAXNET = ["--size", "64", "--detector-epochs", "1", "--boxes", "given", "--head-batch-size", "8"]
ANAXNET += ["--minimum", "1"]


@pytest.mark.filterwarnings("ignore")  # few images
def test_anaxnet_on_synthetic_images(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    main = importlib.import_module("anaxnet").main
    flags = [*TINY, *ANAXNET, "--adjacency", "jaccard", "identity", "--global-view"]
    assert 0 <= main(flags) <= 1
    folder, printed = tmp_path / "outputs" / "anaxnet", capsys.readouterr().out
    assert re.search(r"^graph by jaccard: \d+ of 306 edges\ngraph by identity: 0 of 306 edges$", printed, re.MULTILINE)
    assert re.search(r"^graph jaccard - no graph, all regions at once: [+-][\d.]+ \(", printed, re.MULTILINE)
    assert "global view, AUROC of images" in printed
    assert (folder / "result.txt").read_text().strip() in printed
    assert np.asarray(Image.open(folder / "findings.png")).std() > 10
    model = thoraxlib.load_pretrained(folder / "model")
    assert model(torch.zeros(1, 1, 64, 64)).shape == (1, 18, 7)
    head = thoraxlib.load_pretrained(folder / "graph_jaccard" / "model")
    assert torch.equal(head.head.operator.matrix, model.head.operator.matrix)
    assert len(thoraxlib.explain(model, np.zeros((50, 60), np.uint8))) == 1
    # the same call again finds nothing left to train
    main(flags)
    assert capsys.readouterr().out.splitlines()[-30:] == printed.splitlines()[-30:]


@pytest.mark.filterwarnings("ignore")
def test_anaxnet_chest_imagenome_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    imagenome_folder(tmp_path / "release")
    flags = ["--data", "chest_imagenome", "--root", "release", "--images", "release/images"]
    flags += ["--labels", "atelectasis", "consolidation"]
    importlib.import_module("anaxnet").main(
        [*TINY, *ANAXNET, *flags, "--detector", "fasterrcnn_mobilenet_v3_large_fpn"]
    )
    model = thoraxlib.load_pretrained(tmp_path / "outputs" / "anaxnet" / "model")
    assert model.labels == ("atelectasis", "consolidation")


@pytest.mark.filterwarnings("ignore")  # few images
def test_leaderboard_on_synthetic_images(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    leaderboard = importlib.import_module("leaderboard")
    monkeypatch.setitem(leaderboard.SMALL_DETECTOR, "score_threshold", 0.0)  # after one epoch all scores are low
    models = ["segfusion_vangcn", "ag_cnn", "anaxnet"]
    flags = [*TINY, "--num-images", "24", "--size", "32", "--labels", "Mass", "Effusion", "Nodule", "--models", *models]
    trainer_of = leaderboard.trainer_of

    def broken(name: str) -> object:
        if name == "ag_cnn":
            raise RuntimeError("out of | memory")
        return trainer_of(name)

    monkeypatch.setattr(leaderboard, "trainer_of", broken)
    assert leaderboard.main(flags) == 1
    folder = tmp_path / "outputs" / "leaderboard"
    rows = {row["model"]: row for row in json.loads((folder / "leaderboard.json").read_text())["rows"]}
    assert set(rows) == set(models)
    assert [*rows][-1] == "ag_cnn"
    assert rows["ag_cnn"] == {"model": "ag_cnn", "error": "RuntimeError: out of | memory"}
    for name in ("segfusion_vangcn", "anaxnet"):
        row = rows[name]
        assert 0 <= row["low"] <= row["auroc"] <= row["high"] <= 1
        assert all(0 <= row[key] <= 1 for key in ("iou", "centre", "blind_iou", "blind_centre"))
        assert row["flops"] > 1e6
        assert row["images_per_second"] > 0
    assert rows["segfusion_vangcn"]["published"] == pytest.approx(0.915)
    assert rows["segfusion_vangcn"]["table"] in thoraxlib.describe("segfusion_vangcn").published
    assert "published" not in rows["anaxnet"]  # its card has no table
    assert rows["anaxnet"]["note"].startswith("detector 1 + head 1 epochs")
    text = (folder / "leaderboard.md").read_text()
    assert "| failed: RuntimeError: out of / memory |" in text
    assert "[1] abstract, NIH ChestX-ray14" in text
    assert (folder / "leaderboard.csv").read_text().count("\n") == 4
    assert np.asarray(Image.open(folder / "leaderboard.png")).std() > 10
    assert thoraxlib.load_pretrained(folder / "anaxnet" / "seed0" / "model").labels == ("Mass", "Effusion", "Nodule")

    # the same call again trains only the model that failed
    trained = []
    monkeypatch.setattr(leaderboard, "trainer_of", lambda name: trained.append(name) or trainer_of(name))
    assert leaderboard.main(flags) == 0
    assert trained == ["ag_cnn"]
    after = {row["model"]: row for row in json.loads((folder / "leaderboard.json").read_text())["rows"]}
    assert all(after[name] == rows[name] for name in ("segfusion_vangcn", "anaxnet"))
    assert after["ag_cnn"]["note"] == "global 1 + local 1 + fusion 1 epochs"
    with pytest.raises(ValueError, match="another protocol .num_images: 24 before, 23 now"):
        leaderboard.main([*flags, "--num-images", "23"])
    with pytest.raises(SystemExit):
        leaderboard.main([*flags, "nothing"])
    assert "--models: nothing are not among" in capsys.readouterr().err


@pytest.mark.filterwarnings("ignore")
def test_leaderboard_over_seeds_and_without_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    leaderboard = importlib.import_module("leaderboard")
    flags = [*TINY, "--num-images", "24", "--size", "32", "--labels", "Effusion", "--models", "van"]
    assert leaderboard.main([*flags, "--seeds", "2"]) == 0
    folder = tmp_path / "outputs" / "leaderboard"
    (row,) = json.loads((folder / "leaderboard.json").read_text())["rows"]
    each = [json.loads((folder / "van" / f"seed{k}" / "result.json").read_text())["auroc"] for k in (0, 1)]
    assert row["auroc"] == pytest.approx(np.mean(each))
    assert row["spread"] == pytest.approx(np.std(each, ddof=1))
    assert leaderboard.main([*flags, "classifier", "--no-train", "--backbone", "own", "--output", "costs"]) == 0
    rows = {row["model"]: row for row in json.loads((tmp_path / "costs" / "leaderboard.json").read_text())["rows"]}
    assert "auroc" not in rows["van"]
    assert rows["van"]["parameters"] > 3e6
    assert rows["classifier"]["parameters"] == 23_508_032 + 2049
    assert rows["classifier"]["backbone"] == "resnet50"


@pytest.mark.filterwarnings("ignore")
def test_leaderboard_names_what_real_images_need(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    flags = ["--data", "nih14", "--root", str(nih_folder(tmp_path / "nih")), "--labels", "Effusion", "Mass"]
    flags += ["--size", "64", "--backbone", "small", "--models", "anaxnet", "segfusion_van", "x_ray"]
    assert importlib.import_module("leaderboard").main([*TINY, *flags]) == 2
    rows = json.loads((tmp_path / "outputs" / "leaderboard" / "leaderboard.json").read_text())["rows"]
    assert [row["model"] for row in rows] == ["x_ray", "anaxnet", "segfusion_van"]
    assert "boxes and findings of regions, which nih14 does not have" in rows[1]["error"]
    assert "--organs" in rows[2]["error"]


@pytest.mark.filterwarnings("ignore")  # an untrained UNet's masks are empty
def test_leaderboard_builds_and_trains_every_documented_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each small model takes the images of the protocol, and has logits and heat maps of all labels."""
    leaderboard = importlib.import_module("leaderboard")
    monkeypatch.setattr(leaderboard.Board, "begin", lambda board: None)
    boards = []
    monkeypatch.setattr(leaderboard, "row", lambda board, name: boards.append(board) or {"model": name})
    monkeypatch.setattr(leaderboard, "publish", lambda board, rows: None)
    assert leaderboard.main([*TINY, "--num-images", "8", "--labels", "Mass", "Edema"]) == 0
    assert len(boards) == len(thoraxlib.models.registry.registered())
    image = np.random.default_rng(0).integers(0, 255, (64, 64), dtype=np.uint8)
    for name in thoraxlib.models.registry.registered():
        regional, staged = name == "anaxnet", name == "ag_cnn"
        masked = bool(thoraxlib.describe(name).options.get("segmenter"))
        expected = {regional: "regional", staged: "staged", masked: "masked"}.get(True, "plain")
        assert leaderboard.trainer_of(name) is getattr(leaderboard, expected), name
        model = leaderboard.build(boards[0], name).eval()
        assert tuple(model.labels) == ("Mass", "Edema"), name
        assert sum(p.numel() for p in model.parameters()) < 12e6, name
        assert leaderboard.of_images(model)(torch.rand(2, 3, 64, 64)).shape == (2, 2), name
        (shown,) = thoraxlib.explain(model, image, threshold=0.0)
        assert leaderboard.maps_of(shown, model.labels).shape == (1, 2, 64, 64), name


AVERAGES = r"^micro +[\d.]+ +[\d.]+ +[\d.]+$"


@pytest.mark.parametrize(
    "flags",
    [
        ["--size", "48", "--num-images", "96", "--find-lr", "20"],
        ["--size", "48", "--recipe", "jaydurant", "--backbone", "resnet50"],
        ["--size", "48", "--model", "chexnet", "--labels", "Mass", "Effusion", "--augmentation", "light"],
    ],
)
def test_padchest_openi_on_synthetic_images(
    flags: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    main = importlib.import_module("padchest_openi").main
    assert 0 <= main([*TINY, *flags]) <= 1
    folder, printed = tmp_path / "outputs" / "padchest_openi", capsys.readouterr().out
    assert len(re.findall(AVERAGES, printed, flags=re.MULTILINE)) == 2
    assert re.search(r"^images +\d+ +\d+ +\d+$", printed, flags=re.MULTILINE)
    assert ("learning rate: " in printed) == (folder / "learning_rate.json").exists() == ("--find-lr" in flags)
    assert set(json.loads((folder / "averages.json").read_text())) == {"0.5", "best on val"}
    assert np.asarray(Image.open(folder / "panel.png")).std() > 10
    model = thoraxlib.load_pretrained(folder / "model")
    assert model.labels == (("Mass", "Effusion") if "--labels" in flags else thoraxlib.labels.build("padchest_openi22"))
    # the same call again uses the same split and finds nothing left to train
    split = (folder / "split.csv").read_text()
    main([*TINY, *flags])
    assert (folder / "split.csv").read_text() == split
    assert printed.splitlines()[-8:] == capsys.readouterr().out.splitlines()[-8:]


def test_range_test_goes_on_after_losses_that_are_not_finite(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from thoraxlib import training

    padchest_openi = importlib.import_module("padchest_openi")
    model = thoraxlib.build("chexnet", backbone="resnet10t", labels=["Mass"], input_spec={"size": [32, 32]}).eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    parts = [thoraxlib.datasets.build("synthetic", size=32, length=16, labels=["Mass"], seed=k) for k in range(2)]
    take = transform_for(model.input_spec)
    images = training.DataModule(*parts, batch_size=4, train_transform=take, eval_transform=take)
    options = {"loss": "weighted_bce", "lr": 1e-3, "device": "cpu", "precision": "32-true", "find_lr": 24}
    objective = padchest_openi.Sweep.objective

    def unstable(task: Any, batch: dict[str, Any]) -> torch.Tensor:
        loss: torch.Tensor = objective(task, batch)
        return loss * math.nan if task.trainer.global_step >= 16 else loss

    monkeypatch.setattr(padchest_openi.Sweep, "objective", unstable)
    found = padchest_openi.range_test(model, argparse.Namespace(**options, output=tmp_path, progress=False), images)
    assert len(found["lr"]) == len(found["loss"]) == 24
    assert [math.isnan(loss) for loss in found["loss"]] == [False] * 16 + [True] * 8
    assert found["suggestion"] in found["lr"][10:16]
    assert found["lr"][0] == pytest.approx(1e-7)
    assert not model.training
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not list(tmp_path.iterdir())


def test_padchest_openi_on_folders_in_the_official_formats(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "datasets"))
    archives = importlib.import_module("archives")
    padchest = archives.padchest(tmp_path / "padchest", [archives.image(k) for k in range(60)])
    openi = archives.openi(tmp_path / "openi", [f"Report {k}." for k in range(12)])
    importlib.import_module("thoraxlib.datasets.openi").export_reports(openi, tmp_path / "reports.csv")
    rows = [{"No Finding": 1} if k % 2 else {"Cardiomegaly": 1, "Edema": -1} for k in range(12)]
    table = archives.labeller_table(tmp_path / "labeled.csv", rows, texts=[f"Report {k}." for k in range(12)])
    flags = ["--data", "padchest_openi", "--size", "64", "--backbone", "resnet10t"]
    main = importlib.import_module("padchest_openi").main
    with pytest.raises(SystemExit):
        main([*TINY, *flags])
    assert "--padchest" in capsys.readouterr().err
    flags += ["--padchest", str(padchest)]
    with pytest.raises(SystemExit):
        main([*TINY, *flags, "--openi", str(openi)])
    assert "--openi needs --labeler-csv" in capsys.readouterr().err
    both = [
        *flags,
        "--openi",
        str(openi),
        "--labeler-csv",
        str(table),
        "--labeler-ids",
        str(tmp_path / "reports_ids.csv"),
    ]
    main([*TINY, *both, "--views", "Frontal"])
    check_output(tmp_path / "outputs" / "padchest_openi")
    text = (tmp_path / "outputs" / "padchest_openi" / "split.csv").read_text()
    assert (text.count("padchest/9999"), text.count("openi/CXR1_1_IM-0001-1001")) == (30, 1)
    with pytest.raises(ValueError, match="is the split of another data set"):
        main([*TINY, *both])
    main([*TINY, *flags, "--overwrite", "--rule", "last_root"])  # PadChest alone
    assert "openi/" not in (tmp_path / "outputs" / "padchest_openi" / "split.csv").read_text()
