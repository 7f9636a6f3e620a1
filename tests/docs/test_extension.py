"""Test the site's own directives: pages of subpackages, tables of models, diagrams."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

import thoraxlib

pytest.importorskip("sphinx", reason="needs the extra docs")
EXTENSION = Path(__file__).parents[2] / "docs" / "_ext"


@pytest.fixture(autouse=True)
def _importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(EXTENSION))
    for path in EXTENSION.glob("*.py"):
        sys.modules.pop(path.stem, None)


def test_every_registry_has_its_page() -> None:
    import components

    found = components.subpackages()
    assert {"backbones", "cams", "graphs", "heads", "images", "models", "layers"} <= set(found)
    assert found["heads"] == ["heads", "heads.regions"]
    assert found["images"] == ["images.augmentations"]
    assert len(found["graphs"]) == 4
    assert "training" not in found
    page = components.page("layers", found["layers"], "# Layers\n\nWhat to do.\n")
    assert page.startswith("# Layers\n")
    for line in (".. registry:: layers.pooling", "What to do.", ".. automodule:: thoraxlib.layers.pooling"):
        assert line in page
    own = components.page("layers", found["layers"], "# Layers\n\n.. registry:: layers.pooling\n")
    assert own.count(".. registry:: layers.pooling") == 1
    page = components.page("localization", found["localization"], "")
    assert ".. autoclass:: thoraxlib.localization.crops.CropRule" in page  # of a package inside the subpackage


def test_texts_belong_to_existing_subpackages() -> None:
    import components

    assert {path.stem for path in (EXTENSION.parent / "_components").glob("*.md")} <= set(components.subpackages())


def test_published_files_have_known_layouts_and_models() -> None:
    from published import FILES

    assert set(FILES) == set(thoraxlib.checkpoints.registry.registered())
    assert {name for source in FILES.values() for name in source.models} <= set(thoraxlib.names())


def test_published_scores_are_side_by_side() -> None:
    import cards

    labels = thoraxlib.labels.build("nih14")
    assert cards._number(0.8094) == ".8094"
    assert cards._number(None) == ""
    table = cards.Published._table(None, labels, {"A": dict.fromkeys(labels, 0.5), "B": {"Mass": 0.25}})  # type: ignore[arg-type]
    cells = [line.strip() for line in table]
    assert cells[cells.index("* - Mass") :][:3] == ["* - Mass", "- .5000", "- .2500"]
    assert cells[cells.index("* - **mean**") :][:3] == ["* - **mean**", "- .5000", "- .2500"]


def test_flow_diagram() -> None:
    from flow import Cell, _draw

    cells = {"a": Cell(0, 0, "Image", None, "3 x 8 x 8"), "b": Cell(0, 1, "Neck & head", "backbones")}
    svg = _draw(cells, [("a", "b")], "alt", "../")
    assert svg.count('class="arrow"') == 1
    assert 'href="../components/backbones.html"' in svg
    assert "Neck &amp; head" in svg
    assert "3 x 8 x 8" in svg


def test_plain_converts_the_text_of_a_card() -> None:
    from rst import plain

    assert plain("a_b* by `backbone`, arXiv 1711.05225v3") == (
        "a\\_b\\* by ``backbone``, `arXiv 1711.05225v3 <https://arxiv.org/abs/1711.05225v3>`__"
    )
