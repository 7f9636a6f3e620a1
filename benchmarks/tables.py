"""Compare opening an archive by its table with pandas' reading of the same table."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from benchmarks.timing import Row, compare, optional
from thoraxlib import datasets

PACKAGES = ("pandas", "pyarrow", "numpy")
ROWS, LABELS, PRESENT = 400_000, 14, 100
OPTIONS = {"image": "Path", "patient": "Patient", "age": "Age", "sex": "Sex", "view": "View", "missing": "skip"}


def write_table(folder: Path) -> Path:
    """Write a made-up table of an archive: paths, patients, age, sex, view, and a column for each label."""
    rng = np.random.default_rng(0)
    number = np.arange(ROWS)
    names = [f"train/patient{k // 4:06d}/study{k % 4}/view1_frontal.png" for k in number.tolist()]
    columns = [names, [f"patient{k // 4:06d}" for k in number.tolist()], rng.integers(18, 90, ROWS).tolist()]
    columns += [rng.choice(values, ROWS).tolist() for values in (["Male", "Female"], ["PA", "AP"])]
    cells = np.array(["", "1.0", "0.0", "-1.0"])
    columns += [cells[rng.choice(4, ROWS, p=(0.8, 0.1, 0.07, 0.03))].tolist() for _ in range(LABELS)]
    header = ["Path", "Patient", "Age", "Sex", "View", *(f"Finding {k}" for k in range(LABELS))]
    lines = [",".join(map(str, row)) for row in zip(*columns, strict=True)]
    path = folder / "train.csv"
    path.write_text("\n".join([",".join(header), *lines]) + "\n", encoding="utf-8")
    for name in names[:PRESENT]:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (8, 8)).save(folder / name)
    return path


def run(device: torch.device) -> Iterator[Row]:
    with tempfile.TemporaryDirectory() as folder:
        path = write_table(Path(folder))
        warnings.filterwarnings("ignore", message=".*are missing or cut off.*")
        yield from optional("table of an archive", "pandas", _against_pandas(path))


def _against_pandas(path: Path) -> Iterator[Row]:
    import pandas

    def ours() -> datasets.ChestDataset:
        return datasets.build("csv", table=path, **OPTIONS)

    if len(ours()) != PRESENT or ours().labels != tuple(pandas.read_csv(path, nrows=1).columns[5:]):
        raise RuntimeError("the two implementations read different tables")
    conditions = f"{ROWS:,} rows, {LABELS} labels, all images but {PRESENT} absent; reference: read_csv alone"
    reason = "reading alone takes as long as pandas; the rest makes Python text of paths and looks them up"
    given = {"target": 3, "conditions": conditions, "reason": reason}
    yield compare("table of an archive", "pandas", ours, lambda: pandas.read_csv(path), **given)
