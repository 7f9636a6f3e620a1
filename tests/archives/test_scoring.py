"""Archives scored: what is written, by several processes, killed and refused."""

from __future__ import annotations

import json
import os
import random
import resource
import signal
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parent))

from small import QUICK, Tiny, archive, image, rows

import thoraxlib
from thoraxlib import datasets, detection, localization
from thoraxlib.archives import Scored, listing, score_archive
from thoraxlib.input_spec import InputSpec

FORMATS = [
    pytest.param(
        "parquet",
        marks=pytest.mark.skipif(not __import__("importlib.util").util.find_spec("pyarrow"), reason="needs pyarrow"),
    ),
    "csv",
]


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)


def classifier(**options: Any) -> Any:
    torch.manual_seed(0)
    spec = {"size": 64, "resize": "pad", **options.pop("input_spec", {})}
    return thoraxlib.build("chexnet", backbone="resnet10t", labels=["Mass", "Edema"], input_spec=spec).eval()


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    return archive(tmp_path)


NAMES = sorted(
    [f"p{n % 2}/{n:02d}{'.jpg' if n == 7 else '.png'}" for n in range(15)]
    + [f"more/q/{n}.png" for n in range(15, 19)]
    + ["more/q/bad.png", "p0/broken.png"]
)


def test_rows_are_what_the_model_says(tree: Path, tmp_path: Path) -> None:
    model, training = classifier(), classifier().train()
    scored = score_archive(training, tree, tmp_path / "out", format="csv", **QUICK)
    assert training.training
    assert scored == Scored(tmp_path / "out", 21, 2, True)
    found = rows(tmp_path / "out")
    assert sorted(row["id"] for row in found) == NAMES
    for row in found:
        if row["error"] is not None:
            assert "no image that Pillow can read" in row["error"]
            assert row["height"] is row["Mass"] is None
            continue
        assert row["path"].endswith(row["id"] if "more" not in row["id"] else row["id"].replace("more/", "more.zip/"))
        number = int(Path(row["id"]).stem)
        if number != 7:  # a JPEG has lost something
            assert (row["height"], row["width"]) == image(number).size[::-1]
            expected = model.predict_proba(thoraxlib.preprocess_for(model)(image(number)))[0]
            torch.testing.assert_close(torch.tensor([row["Mass"], row["Edema"]]), expected, atol=1e-5, rtol=1e-5)
    about = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert about["complete"]
    assert about["failed"] == 2
    assert about["run"]["labels"] == ["Mass", "Edema"]
    assert about["run"]["fingerprint"] == thoraxlib.checkpoints.saving.fingerprint(model)
    assert about["model"]["name"] == "chexnet"
    assert {"thoraxlib", "torch", "python"} <= about["versions"].keys()
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"manifest.json", "listing.jsonl", "scores", ".lock"}


def test_parquet_and_csv_say_the_same(tree: Path, tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    for name in ("parquet", "csv"):
        score_archive(Tiny(), tree, tmp_path / name, format=name, **QUICK)  # type: ignore[arg-type]
        manifest = json.loads((tmp_path / name / "manifest.json").read_text())
        assert manifest["parts"]["1"]["failed"] == 1
        assert sum(row["error"] is not None for row in rows(tmp_path / name)) == manifest["failed"] == 2
    assert rows(tmp_path / "parquet") == rows(tmp_path / "csv")


# -- killed ----------------------------------------------------------------------------------------------


def started(tree: Path, folder: Path, form: str, shard: tuple[int, int], boxes: bool) -> int:
    """A process that scores its shard, slowly."""
    child = os.fork()
    if child:
        return child
    status = 1
    try:  # pragma: no cover
        torch.set_num_threads(1)
        at_once = listing._read

        def slowly(key: Any, **options: Any) -> Any:
            time.sleep(0.06)
            return at_once(key, **options)

        listing._read = slowly
        options = {**QUICK, "boxes": boxes, "threshold": 0.2}
        score_archive(Tiny(), tree, folder, format=form, shard=shard, **options)  # type: ignore[arg-type]
        status = 0
    finally:
        os._exit(status)


def killed(tree: Path, folder: Path, form: str, boxes: bool, rng: random.Random) -> bool:
    """Score in two processes, both killed some parts later; whether they were still at work."""

    def count() -> int:
        return len(list((folder / "scores").glob("[0-9]*")))

    goal = count() + 1
    children = [started(tree, folder, form, (i, 2), boxes) for i in range(2)]
    ended: dict[int, int] = {}
    while count() < goal and len(ended) < 2:
        time.sleep(0.0005)
        for child in children:
            if child not in ended:
                done, status = os.waitpid(child, os.WNOHANG)
                ended |= {child: status} if done else {}
    time.sleep(rng.uniform(0, 0.04))
    for child in children:
        if child not in ended:
            os.kill(child, signal.SIGKILL)
            ended[child] = os.waitpid(child, 0)[1]
    assert all(os.WIFSIGNALED(status) or status == 0 for status in ended.values())
    return any(os.WIFSIGNALED(status) for status in ended.values())


def test_what_a_process_killed_at_the_end_left_is_removed(tree: Path, tmp_path: Path) -> None:
    model, folder, options = Tiny(), tmp_path / "scores", {**QUICK, "boxes": True, "threshold": 0.2}
    score_archive(model, tree, folder, **options)
    manifest = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**manifest, "complete": False}))
    left = [folder / f".{name}.0123456789abcdef.part.json" for name in ("boxes", "manifest")]
    for path in left:
        path.write_text("{")
    assert score_archive(model, tree, folder, **options).complete
    assert not any(path.exists() for path in left)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("boxes", [False, True])
@pytest.mark.parametrize("form", FORMATS)
def test_killed_again_and_again_no_row_is_lost_or_doubled(tree: Path, tmp_path: Path, form: str, boxes: bool) -> None:
    torch.set_num_threads(1)
    model, options = Tiny(), {**QUICK, "boxes": boxes, "threshold": 0.2}
    score_archive(model, tree, tmp_path / "whole", format=form, **options)  # type: ignore[arg-type]
    folder, rng, kills = tmp_path / "killed", random.Random(form), 0
    while killed(tree, folder, form, boxes, rng):
        kills += 1
    assert kills >= 2
    scored = score_archive(model, tree, folder, format=form, **options)  # type: ignore[arg-type]
    assert scored == Scored(folder, 21, 2, True)
    found = rows(folder)
    assert sorted(row["id"] for row in found) == NAMES
    assert found == rows(tmp_path / "whole")
    files = {path.relative_to(folder) for path in folder.rglob("*")}
    assert {path for path in files if not path.name.startswith(".listing")} == {
        path.relative_to(tmp_path / "whole") for path in (tmp_path / "whole").rglob("*")
    }
    if boxes:
        assert json.loads((folder / "boxes.json").read_text())["annotations"]
        assert (folder / "boxes.json").read_bytes() == (tmp_path / "whole" / "boxes.json").read_bytes()


def test_shards_share_the_images_and_the_last_one_finishes(tree: Path, tmp_path: Path, monkeypatch: Any) -> None:
    score_archive(Tiny(), tree, tmp_path / "whole", format="csv", **QUICK)
    folder = tmp_path / "out"
    assert score_archive(Tiny(), tree, folder, format="csv", shard=(1, 3), **QUICK).complete is False
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "3")
    assert score_archive(Tiny(), tree, folder, format="csv", **QUICK).complete is False
    assert sorted(path.name for path in (folder / "scores").iterdir()) == [f"00000{n}.csv" for n in (0, 1, 3, 4)]
    assert not json.loads((folder / "manifest.json").read_text())["complete"]
    assert score_archive(Tiny(), tree, folder, format="csv", shard=(1, 2), **QUICK) == Scored(folder, 21, 0, False)
    (folder / "scores" / ".000002.0a0b.part.csv").write_text("half")
    assert score_archive(Tiny(), tree, folder, format="csv", shard=(0, 1), **QUICK) == Scored(folder, 21, 2, True)
    assert rows(folder) == rows(tmp_path / "whole")


# -- refused ---------------------------------------------------------------------------------------------


def test_another_model_other_images_or_settings_are_refused(tree: Path, tmp_path: Path) -> None:
    folder, options = tmp_path / "out", {**QUICK, "format": "csv"}
    score_archive(Tiny(), tree, folder, **options, shard=(0, 2))
    before = {path: path.read_bytes() for path in folder.rglob("*.*") if path.is_file()}
    for model, other, message in [
        (Tiny(seed=1), {}, "another model, or this one with other weights"),
        (Tiny(labels=("Edema", "Mass")), {}, r"labels=\['Mass', 'Edema'\] before, \['Edema', 'Mass'\] now"),
        (Tiny(side=24), {}, "other settings .*input_spec="),
        (Tiny(), {"format": "parquet"}, "format='csv' before, 'parquet' now"),
        (Tiny(), {"part_size": 5}, "part_size=4 before, 5 now"),
        (Tiny(), {"precision": "bf16-mixed"}, "precision='32-true' before, 'bf16-mixed' now"),
        (Tiny(), {"window": (1000, 2000)}, "window=None before"),
        (Tiny(), {"pattern": "1*"}, "other images, or some"),
    ]:
        if other.get("format") == "parquet":
            pytest.importorskip("pyarrow")
        with pytest.raises(ValueError, match=f"{message}.*overwrite"):
            score_archive(model, tree, folder, **{**options, **other})
    image(3, (50, 50)).save(tree / "p0" / "00.png")
    with pytest.raises(ValueError, match="other images, or some of them have changed"):
        score_archive(Tiny(), tree, folder, **options)
    assert {path: path.read_bytes() for path in folder.rglob("*.*") if path.is_file()} == before
    scored = score_archive(Tiny(seed=1), tree, folder, **options, overwrite=True)
    assert scored.complete
    score_archive(Tiny(seed=1), tree, tmp_path / "new", **options)
    assert rows(folder) == rows(tmp_path / "new")
    (folder / "manifest.json").unlink()
    with pytest.raises(ValueError, match="holds scores, but no manifest"):
        score_archive(Tiny(seed=1), tree, folder, **options)


def test_wrong_calls(tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for other, kind, message in [
        ({"format": "xlsx"}, ValueError, "format='xlsx': allowed are 'parquet', 'csv'"),
        ({"shard": (2, 2)}, ValueError, r"shard=\(2, 2\)"),
        ({"batch_size": 0}, ValueError, "batch_size=0"),
        ({"bits": 20}, ValueError, "bits must be"),
        ({"overwrite": True, "shard": (0, 2)}, ValueError, "overwrite with 2 processes"),
        ({"boxes": True, "threshold": 2}, ValueError, "threshold=2"),
        ({"source": tmp_path / "nowhere"}, FileNotFoundError, "nowhere"),
        ({"pattern": "*.bmp"}, FileNotFoundError, "no image"),
        ({"model": nn.Linear(1, 1)}, TypeError, "no input_spec or no labels"),
        ({"model": Tiny(labels=("path", "Mass"))}, ValueError, r"labels \['path'\]"),
    ]:
        with pytest.raises(kind, match=message):
            score_archive(
                **{"model": Tiny(), "source": tree, "output": tmp_path / "out", "format": "csv", **QUICK, **other}
            )
        assert not (tmp_path / "out" / "scores").exists()
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(ImportError, match=r'thoraxlib\[archive\].*"csv"'):
        score_archive(Tiny(), tree, tmp_path / "out", **QUICK)


# -- sources ---------------------------------------------------------------------------------------------


def test_patterns_tables_and_buckets(tree: Path, tmp_path: Path) -> None:
    import fsspec

    options = {**QUICK, "format": "csv"}
    score_archive(Tiny(), tree, tmp_path / "all", **options)
    expected = {row["id"]: row for row in rows(tmp_path / "all")}

    score_archive(Tiny(), f"{tree}/p*/*[02468].png", tmp_path / "pattern", **options)
    names = {row["id"] for row in rows(tmp_path / "pattern")}
    assert names == {f"p0/{n:02d}.png" for n in range(0, 15, 2)}
    score_archive(Tiny(), [f"{tree}/*.zip", tree / "p1"], tmp_path / "two", **options)
    assert {row["id"] for row in rows(tmp_path / "two")} == {
        name.removeprefix("p1/") for name in NAMES if not name.startswith("p0")
    }

    table = tmp_path / "list.csv"
    table.write_text(
        f"id,path,age\none,images/p0/02.png,3\ntwo,{tree}/more.zip/q/16.png,\n,images/p1/01.png,\nno,images/gone.png,\n"
        "none,images/more.zip/q/gone.png,\n"
    )
    score_archive(Tiny(), table, tmp_path / "table", **options)
    found = {row["id"]: row for row in rows(tmp_path / "table")}
    for own, name in (("one", "p0/02.png"), ("two", "more/q/16.png"), ("images/p1/01.png", "p1/01.png")):
        assert found[own]["Mass"] == pytest.approx(expected[name]["Mass"], abs=1e-6)
    assert "FileNotFoundError" in found["no"]["error"]
    assert "gone.png" in found["none"]["error"]
    # what was scored is a table of paths itself
    score_archive(Tiny(), tmp_path / "table" / "scores" / "000000.csv", tmp_path / "again", **options)
    assert [row["Mass"] for row in rows(tmp_path / "again")] == [row["Mass"] for row in rows(tmp_path / "table")][:4]
    table.write_text("file\na.png\n")
    with pytest.raises(ValueError, match=r"no column 'path'; its columns are \['file'\]"):
        score_archive(Tiny(), table, tmp_path / "x", **options)
    table.write_text("path\n")
    with pytest.raises(ValueError, match="has no rows"):
        score_archive(Tiny(), table, tmp_path / "x", **options)

    bucket = fsspec.filesystem("memory")
    bucket.pipe("/scored/images/a.zip", (tree / "more.zip").read_bytes())
    bucket.pipe("/scored/images/00.png", (tree / "p0/00.png").read_bytes())
    score_archive(Tiny(), "memory://scored/images", tmp_path / "bucket", **options)
    found = {row["id"]: row for row in rows(tmp_path / "bucket")}
    assert found["00.png"]["Mass"] == pytest.approx(expected["p0/00.png"]["Mass"], abs=1e-6)
    assert set(found) == {"00.png", *(f"a/q/{n}.png" for n in (15, 16, 17, 18)), "a/q/bad.png"}


def test_a_training_copy_gives_rows_and_boxes_of_the_images_themselves(tree: Path, tmp_path: Path) -> None:
    model = classifier()
    spec = InputSpec(size=64, resize="pad")
    with pytest.warns(UserWarning, match="2 of 21"):
        thoraxlib.prepare(tree, tmp_path / "copy", spec=spec, num_workers=0, progress=False)
    options = {**QUICK, "format": "csv", "boxes": True, "threshold": 0.3}
    for name in ("images", "copy"):
        scored = score_archive(model, tmp_path / name, tmp_path / f"of {name}", **options)
        assert (scored.images, scored.failed) == (21, 2)
    own, copied = ({row["id"]: row for row in rows(tmp_path / f"of {name}")} for name in ("images", "copy"))
    assert own.keys() == copied.keys()
    for name, row in own.items():
        for key in ("path", "height", "width", "error"):
            assert copied[name][key] == row[key]
        assert copied[name]["Mass"] == pytest.approx(row["Mass"], abs=0.01)
    boxes = [localization.read_coco(tmp_path / f"of {name}" / "boxes.json") for name in ("images", "copy")]
    assert dict(zip(boxes[0].ids, boxes[0].sizes, strict=True)) == dict(zip(boxes[1].ids, boxes[1].sizes, strict=True))
    largest = [each.boxes.xyxy.amax(dim=0) for each in boxes]
    torch.testing.assert_close(*largest, atol=4, rtol=0)
    with pytest.raises(ValueError, match="scored alone, not with 1 others"):
        score_archive(model, [tmp_path / "copy", tree], tmp_path / "x", **options)
    with pytest.raises(ValueError, match="bits, window and pattern say nothing"):
        score_archive(model, tmp_path / "copy", tmp_path / "x", **options, window="minmax")


# -- boxes and precision -----------------------------------------------------------------------------------


def test_boxes_are_those_of_explain(tree: Path, tmp_path: Path) -> None:
    model = classifier(input_spec={"resize": "crop", "crop_ratio": 0.9})
    options = {"method": "gradcam", "rule": {"name": "threshold", "levels": [150]}, "threshold": {"Mass": 0.2}}
    score_archive(model, tree, tmp_path / "out", format="csv", boxes=True, **options, **QUICK)
    found = localization.read_coco(tmp_path / "out" / "boxes.json")
    assert found.labels == ("Mass", "Edema")
    assert sorted(found.ids) == [name for name in NAMES if "b" not in Path(name).stem]
    assert len(found.boxes.xyxy)
    content = json.loads((tmp_path / "out" / "boxes.json").read_text())
    for key in ("images", "annotations"):
        assert [row["id"] for row in content[key]] == list(range(1, len(content[key]) + 1))
    for k, name in enumerate(found.ids):
        if name.startswith("more"):
            continue
        (expected,) = thoraxlib.explain(model, tree / name, **options)
        assert found.sizes[k] == expected.size
        here = found.boxes.where(found.boxes.image == k)
        for finding in expected.findings:
            own = here.where(here.label == found.labels.index(finding.label))
            own = own.where(own.score.argsort(descending=True))
            torch.testing.assert_close(own.xyxy, torch.tensor(finding.boxes).reshape(-1, 4), atol=0.01, rtol=0)
            torch.testing.assert_close(own.score, torch.tensor(finding.scores), atol=1e-4, rtol=0)
        assert len(here.xyxy) == sum(len(finding.boxes) for finding in expected.findings)


def test_a_model_of_regions(tree: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    detector = detection.build("template", backbone="resnet10t", input_spec={"size": 64})
    detector.fit(datasets.build("synthetic", size=64, length=2))
    model = thoraxlib.build("anaxnet", labels=["Mass", "Edema"], detector=detector).eval()
    score_archive(model, tree / "p0", tmp_path / "plain", format="csv", **QUICK)
    score_archive(model, tree / "p0", tmp_path / "boxes", format="csv", boxes=True, threshold=0.0, **QUICK)
    assert rows(tmp_path / "plain") == rows(tmp_path / "boxes")
    found = localization.read_coco(tmp_path / "boxes" / "boxes.json")
    (expected,) = thoraxlib.explain(model, tree / "p0" / "00.png", threshold=0.0)
    here = found.boxes.where(found.boxes.image == found.ids.index("00.png"))
    assert len(here.xyxy) == sum(len(finding.boxes) for finding in expected.findings)
    row = next(row for row in rows(tmp_path / "plain") if row["id"] == "00.png")
    assert row["Mass"] == pytest.approx(expected.probabilities["Mass"], abs=1e-5)


class _Lost(Tiny):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * float("nan")


def test_precision(tree: Path, tmp_path: Path) -> None:
    model = classifier()
    for name, precision in (("plain", "32-true"), ("half", "bf16-mixed")):
        score_archive(model, tree / "p1", tmp_path / name, format="csv", precision=precision, **QUICK)
    plain, half = (np.array([row["Mass"] for row in rows(tmp_path / name)]) for name in ("plain", "half"))
    assert np.abs(plain - half).max() < 0.02
    assert (plain != half).any()
    scored = score_archive(_Lost(), tree / "p1", tmp_path / "lost", format="csv", **QUICK)
    assert scored.failed == scored.images == 7
    assert {row["error"] for row in rows(tmp_path / "lost")} == {"the model's output is NaN: is the precision too low?"}


# -- memory ----------------------------------------------------------------------------------------------


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("boxes", [False, True])
def test_memory_does_not_grow_with_the_images(tmp_path: Path, boxes: bool) -> None:
    for number in range(340):
        path = tmp_path / ("few" if number < 40 else "many") / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        image(number).save(path)
    torch.set_num_threads(1)
    options = {**QUICK, "format": "csv", "boxes": boxes, "threshold": 0.2}
    score_archive(Tiny(side=128), tmp_path / "few", tmp_path / "warm", **options)

    def peak(source: Path) -> int:
        """Of a process, in kB."""
        receive, send = os.pipe()
        child = os.fork()
        if child == 0:  # pragma: no cover
            score_archive(Tiny(side=128), source, tmp_path / f"of {source.name}", **options)
            os.write(send, str(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss).encode())
            os._exit(0)
        os.waitpid(child, 0)
        return int(os.read(receive, 32))

    few, many = peak(tmp_path / "few"), peak(tmp_path / "many")
    # 260 images more, of 64 kB each as the model takes them
    assert many - few < 5000


def test_workers_change_nothing(tree: Path, tmp_path: Path) -> None:
    for workers in (0, 1):
        score_archive(Tiny(), tree, tmp_path / str(workers), format="csv", num_workers=workers, **QUICK)
    assert rows(tmp_path / "0") == rows(tmp_path / "1")


def test_no_more_is_read_ahead_than_a_batch(tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []

    class Watched(Tiny):
        def forward(self, x: Tensor) -> Tensor:
            events.append("scored")
            return super().forward(x)

    plain = listing.Listed.image

    def image(self: Any, *options: Any) -> Any:
        events.append("read")
        return plain(self, *options)

    monkeypatch.setattr(listing.Listed, "image", image)
    score_archive(Watched(), tree / "p1", tmp_path / "out", format="csv", **QUICK)
    events.remove("scored")  # the example of the optimisation
    assert events == ["read"] * 3 + ["scored"] + ["read", "scored"] + ["read"] * 3 + ["scored"]
