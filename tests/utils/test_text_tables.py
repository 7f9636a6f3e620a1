"""Tables of results as text, Markdown and CSV, and in files."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import numpy as np
import pytest
import torch

from thoraxlib import datasets, detection, localization, metrics, segmentation
from thoraxlib.utils.text_tables import Table

NAN = float("nan")
LABELS = ("Mass", "Edema")
TARGETS, SCORES = np.array([[0, 1], [1, 0], [1, NAN]]), np.array([[0.1, 0.9], [0.7, 0.2], [0.6, 0.5]])
BOX = localization.Boxes.from_lists([torch.tensor([[0.0, 0.0, 4.0, 4.0]])], [torch.tensor([1])])
ONE, TWO = torch.ones(1, 2), torch.tensor([3, 2])
TABLES: dict[str, Table] = {
    "metrics": metrics.evaluate(TARGETS, SCORES, LABELS, n_bootstrap=5),
    "regions": metrics.evaluate_regions(
        TARGETS[:, None], SCORES[:, None], regions=["heart"], labels=LABELS, n_bootstrap=5
    ),
    "masks": segmentation.MaskReport(("heart", "lungs"), 0.5 * ONE, ONE, ["a"]),
    "detection": detection.RegionReport(("heart", "trachea"), 0.5 * ONE, ONE, ONE.bool(), ["a"], ["p"]),
    "localization": localization.localization_table(BOX, BOX, LABELS, rows=[("iou", 0.5)], n_bootstrap=5),
    "prevalence": datasets.Prevalence(LABELS, {"train": 4}, {"train": 3}, {"train": TWO}, {"train": TWO + 1}),
    "region_statistics": datasets.RegionStatistics(("heart",), LABELS, 4, 3, TWO[:1], TWO[None], TWO[None]),
}


@pytest.mark.parametrize("name", TABLES)
def test_a_table_is_shown_and_saved(name: str, tmp_path: Path) -> None:
    table = TABLES[name]
    table.save(tmp_path / "new")
    files = {path.name: path.read_text(encoding="utf-8") for path in (tmp_path / "new").iterdir()}
    assert files == {f"{name}.csv": table.to_csv(), f"{name}.md": table.to_markdown(), f"{name}.txt": f"{table}\n"}
    heading, rule, *rows = (
        [cell.strip() for cell in line[1:-1].split("|")] for line in files[f"{name}.md"].splitlines()
    )
    assert {len(row) for row in rows} == {len(heading)} == {len(rule)}
    assert all(cell in str(table) for row in (heading, *rows) for cell in row)
    assert table.to_csv(tmp_path / "x.csv") == (tmp_path / "x.csv").read_text(encoding="utf-8")
    assert len({len(row) for row in csv.reader(io.StringIO(table.to_csv()))}) == 1


def test_cells_of_tables() -> None:
    heading, *rows = csv.reader(io.StringIO(TABLES["masks"].to_csv()))
    assert heading == ["1 images", "Dice (95 %)", "IoU"]
    assert rows == [[name, "0.500 (0.500 to 0.500)", "1.000"] for name in ("heart", "lungs", "mean")]
    assert TABLES["prevalence"].to_markdown().splitlines()[-1] == "| Edema | 2 (66.7 %) | 0.0 % |"
    assert str(TABLES["region_statistics"]).startswith("4 images, 3 with all 1 regions; positives:\n")
    assert list(csv.reader(io.StringIO(TABLES["regions"].to_csv())))[1:] == [
        ["Mass", "heart", "2", "1.0"],
        ["Edema", "heart", "1", "1.0"],
    ]
