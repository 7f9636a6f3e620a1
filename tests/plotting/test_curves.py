"""Figures of curves: the numbers that they draw."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from thoraxlib import labels as label_sets
from thoraxlib import metrics, plotting

LABELS = label_sets.build("nih14")


def case(k: int = 14) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    targets = (rng.random((120, k)) < 0.3).astype(float)
    targets[3, :] = np.nan
    return targets, rng.normal(size=(120, k)) + np.nan_to_num(targets)


def drawn(figure: object) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Text of the legend -> x, y of its line."""
    (axes,) = figure.axes  # type: ignore[attr-defined]
    shown = [text.get_text() for text in axes.get_legend().get_texts()]
    lines = {line.get_label(): line.get_data() for line in axes.lines}
    return {name: lines[name] for name in shown}


@pytest.mark.parametrize(
    ("plot", "curves_of"),
    [(plotting.plot_roc, metrics.roc_curves), (plotting.plot_precision_recall, metrics.precision_recall_curves)],
)
def test_the_lines_are_the_curves(plot, curves_of) -> None:
    targets, scores = case()
    curves = curves_of(targets, scores, LABELS)
    if plot is plotting.plot_roc:
        curves["micro average"], curves["macro average"] = (
            average(targets, scores) for average in (metrics.micro_roc, metrics.macro_roc)
        )
    figure = plot(targets, scores, LABELS)
    lines = drawn(figure)
    assert list(lines) == [f"{name.replace('_', ' ')} ({curve.area:.2f})" for name, curve in curves.items()]
    for (x, y), curve in zip(lines.values(), curves.values(), strict=True):
        np.testing.assert_array_equal(x, curve.x)
        np.testing.assert_array_equal(y, curve.y)
    looks = [(line.get_color(), line.get_linestyle()) for line in figure.axes[0].lines]
    assert len(set(looks)) == len(looks)

    hernia = list(LABELS).index("Hernia")
    one = drawn(plot(targets[:, [hernia]], scores[:, [hernia]], ["Hernia"]))
    assert list(one) == [f"Hernia ({curves['Hernia'].area:.2f})"]
    np.testing.assert_array_equal(next(iter(one.values())), curves["Hernia"][:2])


def test_the_steps_enclose_the_average_precision() -> None:
    targets, scores = case(1)
    figure = plotting.plot_precision_recall(targets, scores, ["Mass"])
    (line,) = figure.axes[0].lines
    assert line.get_drawstyle() == "steps-pre"  # a point's height holds to its left
    x, y = line.get_data()
    assert (np.diff(x) * y[1:]).sum() == pytest.approx(metrics.average_precision(targets, scores)[0])


def test_labels_without_both_classes_are_left_out() -> None:
    targets, scores = case(3)
    targets[:, 1] = 0
    for plot in (plotting.plot_roc, plotting.plot_precision_recall):
        with pytest.warns(UserWarning, match="without both classes: Edema") as caught:
            names = drawn(plot(targets, scores, ["Mass", "Edema", "Hernia"]))
        assert len(caught) == 1
        assert not any("Edema" in name for name in names)
        with pytest.warns(UserWarning, match="Edema"), pytest.raises(ValueError, match="no curve to draw"):
            plot(targets[:, 1:2], scores[:, 1:2], ["Edema"])


def test_a_figure_is_written_without_pyplot(tmp_path: Path) -> None:
    code = (
        "import sys, numpy as np; from thoraxlib import plotting; assert 'matplotlib' not in sys.modules; "
        "plotting.plot_roc([[0, 1], [1, 0], [1, 1]], np.eye(3, 2), ['a', 'b']).savefig(sys.argv[1]); "
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    path = tmp_path / "roc.png"
    subprocess.run([sys.executable, "-c", code, str(path)], check=True)
    assert Image.open(path).size == (800, 500)


def test_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r'pip install "thoraxlib\[plot\]"'):
        plotting.plot_roc(*case(2), ["Mass", "Edema"])
