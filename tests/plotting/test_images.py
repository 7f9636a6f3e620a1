"""Pictures: sizes, colours where they belong, nothing written half."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from thoraxlib import plotting


def image(size: int = 64) -> torch.Tensor:
    return (torch.linspace(0, 1, size)[None, None] * 200).expand(1, size, size).byte()


def test_overlay_colours_what_is_hot_and_leaves_what_is_cold() -> None:
    heat = torch.zeros(4, 4)
    heat[1, 2] = 5.0
    plain, mixed = (
        np.asarray(picture, int)
        for picture in (plotting.overlay(image(), torch.ones(4, 4)), plotting.overlay(image(), heat))
    )
    change = np.abs(mixed - plain).sum(axis=2)
    assert (np.asarray(plain)[..., 0] == image()[0].numpy()).all()
    y, x = np.unravel_index(change.argmax(), change.shape)
    assert (y // 16, x // 16) == (1, 2)
    assert change[48:, :16].max() == 0
    assert (np.asarray(plotting.overlay(image(), heat, alpha=0.0)) == plain).all()


@pytest.mark.parametrize("make", [
    lambda x: x, lambda x: x[0], lambda x: x.float() / 255, lambda x: x.expand(3, -1, -1), lambda x: x[0].numpy(),
    lambda x: x.expand(3, -1, -1).permute(1, 2, 0).numpy(), lambda x: Image.fromarray(x[0].numpy()),
])  # fmt: skip
def test_kinds_of_images(make) -> None:
    expected = np.asarray(plotting.panel([image()]))
    assert (np.asarray(plotting.panel([make(image())])) == expected).all()


def test_boxes_are_drawn_on_their_pixels() -> None:
    picture = np.asarray(plotting.draw_boxes(image(300), [[50, 60, 200, 220]], color="#ff0000"), int)
    red = (picture == [255, 0, 0]).all(axis=2)
    rows, columns = np.flatnonzero(red.any(axis=1)), np.flatnonzero(red.any(axis=0))
    assert (rows[0], rows[-1], columns[0], columns[-1]) == (60, 219, 50, 199)
    assert not red[100:180, 80:160].any()
    with_text = np.asarray(plotting.draw_boxes(image(300), [[50, 60, 200, 220]], ["Mass 0.93"], color="#ff0000"), int)
    assert (with_text == [255, 0, 0]).all(axis=2)[:60].any()
    at_the_edge = plotting.draw_boxes(image(300), torch.tensor([[250.0, 0.0, 300.0, 40.0]]), ["Cardiomegaly"])
    assert at_the_edge.size == (300, 300)
    assert (
        np.asarray(plotting.draw_boxes(image(), torch.zeros(0, 4))) == np.asarray(plotting.draw_boxes(image(), []))
    ).all()


def test_no_box_crosses_a_text() -> None:
    boxes, texts = [[50, 100, 200, 220], [60, 90, 210, 230]], ["Mass 0.93", ""]
    both = np.asarray(plotting.draw_boxes(image(300), boxes, texts, color=["#ff0000", "#00ff00"]), int)
    one = np.asarray(plotting.draw_boxes(image(300), boxes[:1], texts[:1], color="#ff0000"), int)
    letters = (one[..., 0] > 128) & (one[..., 1] == 0)
    letters[98:] = False
    assert letters.sum() > 20
    assert (both[letters] == one[letters]).all()


def test_lines_are_thin_at_every_size() -> None:
    for size, expected in ((224, 1), (512, 2), (1024, 3)):
        box = [[size / 4, size / 4, size / 2, size / 2]]
        red = (np.asarray(plotting.draw_boxes(image(size), box, color="#ff0000")) == [255, 0, 0]).all(axis=2)
        assert red[size * 3 // 8].sum() == 2 * expected


def test_input_is_not_drawn_on() -> None:
    image = Image.new("RGB", (64, 64))
    plotting.draw_boxes(image, [[1, 1, 40, 40]])
    assert np.asarray(image).max() == 0


def test_panel() -> None:
    picture = plotting.panel([image(), image(128), np.zeros((40, 80), np.uint8)], ["a", "b", "c"], columns=2, side=100)
    assert picture.size == (2 * 102 + 2, 2 * 112 + 2)
    assert plotting.panel([image()], columns=4, side=100).size == (104, 104)


def test_save_makes_folders_and_keeps_the_old_file_on_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "new" / "panel.png"
    plotting.save(Image.new("L", (3, 3)), path)
    assert Image.open(path).size == (3, 3)

    def fails(self: Image.Image, target: Path) -> None:
        Path(target).write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(Image.Image, "save", fails)
    with pytest.raises(OSError, match="disk full"):
        plotting.save(Image.new("L", (5, 5)), path)
    assert Image.open(path).size == (3, 3)


def test_long_titles_stay_in_their_place() -> None:
    cells, title = [image(), image()], "a_very_long_file_name_of_a_study.1.2.840.113654.2.55.1.2.3.4.5"
    for side in (100, 400):
        long, plain = (np.asarray(plotting.panel(cells, ["", text], side=side)) for text in (title, ""))
        changed = np.flatnonzero((long != plain).any(axis=(0, 2)))
        assert len(changed) > side / 3
        gap = max(side // 40, 2)
        assert 2 * gap + side - 1 <= changed.min()
        assert changed.max() < 2 * (gap + side) + 1


def test_legend() -> None:
    plain, with_legend = (np.asarray(plotting.panel([image()], side=240, legend=legend)) for legend in (False, True))
    assert with_legend.shape[0] > plain.shape[0]
    assert (with_legend[: len(plain)] == plain).all()
    strip = with_legend[len(plain) :].reshape(-1, 3).tolist()
    assert [0x56, 0xB4, 0xE9] in strip
    assert [0x2E, 0xE6, 0xA8] in strip


def test_fit() -> None:
    assert plotting.fit(image(64), 100).size == (100, 100)
    assert plotting.fit(np.zeros((40, 80), np.uint8), 20).size == (20, 10)
    assert plotting.fit(np.zeros((1, 999), np.uint8), 20).size == (20, 1)


def test_errors() -> None:
    with pytest.raises(ValueError, match=r"in \[0, 1\]"):
        plotting.overlay(torch.randn(1, 8, 8), torch.zeros(2, 2))
    with pytest.raises(TypeError, match="int64"):
        plotting.overlay(torch.zeros(1, 8, 8).long(), torch.zeros(2, 2))
    with pytest.raises(ValueError, match=r"\(2, 8, 8\)"):
        plotting.overlay(image().expand(2, -1, -1)[:, :8, :8], torch.zeros(2, 2))
    with pytest.raises(ValueError, match=r"heat must be \(h, w\)"):
        plotting.overlay(image(), torch.zeros(1, 2, 2))
    with pytest.raises(ValueError, match="heat holds NaN"):
        plotting.overlay(image(), torch.full((2, 2), float("nan")))
    height, width = image().shape[-2:]
    for box in ([0, 0, width + 2, 5], [-3, 0, 5, 5], [5, 5, 2, 9]):
        with pytest.raises(ValueError, match=f"does not lie in the image of {width} x {height} pixels"):
            plotting.draw_boxes(image(), [box])
    with pytest.raises(ValueError, match="alpha=2"):
        plotting.overlay(image(), torch.zeros(2, 2), alpha=2)
    with pytest.raises(ValueError, match="1 boxes"):
        plotting.draw_boxes(image(), [[0, 0, 1, 1]], ["a", "b"])
    with pytest.raises(ValueError, match="cells is empty"):
        plotting.panel([])
    with pytest.raises(ValueError, match="1 cells, but 2 titles"):
        plotting.panel([image()], ["a", "b"])


def test_true_boxes_can_be_told_apart_without_colours() -> None:
    blank = torch.zeros(1, 400, 400, dtype=torch.uint8)
    box = [[50.0, 60.0, 350.0, 300.0]]
    detected, true = (
        np.asarray(plotting.draw_boxes(blank, box, truth=truth)).max(axis=2) > 100 for truth in (False, True)
    )
    upper = slice(59, 62), slice(60, 340)
    assert detected[upper].any(axis=0).all()  # a whole line
    assert 0.4 < true[upper].any(axis=0).mean() < 0.9  # dashes
    assert detected.sum() > true.sum() > 0
