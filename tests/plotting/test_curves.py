"""Figures of curves: the numbers that they draw."""

from __future__ import annotations

import subprocess
import sys
import warnings
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


def probabilities(scores: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-scores))


def test_reliability_has_the_bins() -> None:
    targets, scores = case(3)
    labels = ["Mass", "Edema", "Pleural_Thickening"]
    p = probabilities(scores)
    figure = plotting.plot_reliability(targets, p, labels, bins=6, binning="mass")
    curves = metrics.reliability_curves(targets, p, labels, bins=6, binning="mass")
    lines = drawn(figure)
    assert list(lines) == [f"{name.replace('_', ' ')} ({curve.error:.2f})" for name, curve in curves.items()]
    dots = figure.axes[0].collections
    for (x, y), curve, points in zip(lines.values(), curves.values(), dots, strict=True):
        np.testing.assert_array_equal(x, curve.probability)
        np.testing.assert_array_equal(y, curve.frequency)
        np.testing.assert_array_equal(points.get_offsets(), np.stack([x, y], axis=1))
    wide = metrics.reliability_curves(targets, p, labels)["Mass"]
    sizes = plotting.plot_reliability(targets, p, labels).axes[0].collections[0].get_sizes()
    assert sizes.argmax() == wide.images.argmax()
    targets[:, 1] = np.nan
    with pytest.warns(UserWarning, match="without a known target: Edema"):
        assert len(drawn(plotting.plot_reliability(targets, p, labels))) == 2
    with pytest.raises(ValueError, match="are they logits"):
        plotting.plot_reliability(targets, scores, labels)


@pytest.mark.parametrize("kind", ["roc", "precision_recall", "reliability"])
def test_a_panel_for_each_label_has_a_line_for_each_model(kind: str) -> None:
    targets, scores = case(3)
    targets[:, 1] = 0
    labels = ["Mass", "Edema", "Hernia"]
    models = {"one": probabilities(scores), "two": probabilities(2 * scores + 1), "same": probabilities(scores)}
    of = {
        "roc": lambda s: metrics.roc_curves(targets, s, labels),
        "precision_recall": lambda s: metrics.precision_recall_curves(targets, s, labels),
        "reliability": lambda s: metrics.reliability_curves(targets, s, labels),
    }[kind]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        figure = plotting.plot_models(targets, models, labels, kind)
    shown = labels if kind == "reliability" else ["Mass", "Hernia"]  # Edema has no positives
    assert [str(w.message) for w in caught] == ["no score for labels without both classes: Edema"] * (shown != labels)
    assert [axes.get_title() for axes in figure.axes] == shown
    for axes in figure.axes:
        lines = {line.get_label(): line for line in axes.lines if not str(line.get_label()).startswith("_")}
        for (shown_name, line), (name, scores_of_model) in zip(lines.items(), models.items(), strict=True):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)
                x, y, *_ = curve = of(scores_of_model)[axes.get_title()]
            assert shown_name == f"{name} ({curve[-1]:.2f})"
            np.testing.assert_array_equal(line.get_xdata(), x)
            np.testing.assert_array_equal(line.get_ydata(), y)
        assert len({(line.get_color(), line.get_linestyle()) for line in lines.values()}) == 3
        assert len({line.get_linestyle() for line in lines.values()}) == 3  # one curve under the other is seen


def test_models_need_a_curve() -> None:
    targets, scores = case(2)
    with pytest.raises(ValueError, match="kind='pr'"):
        plotting.plot_models(targets, {"a": scores}, ["a", "b"], "pr")
    with pytest.raises(ValueError, match="models is empty"):
        plotting.plot_models(targets, {}, ["a", "b"])
    with pytest.warns(UserWarning, match="a, b"), pytest.raises(ValueError, match="no curve to draw"):
        plotting.plot_models(np.zeros((120, 2)), {"a": scores}, ["a", "b"])


def test_subgroups_have_points_intervals_and_reasons() -> None:
    targets, scores = case(2)
    groups = {"sex": ["F", "M"] * 60, "view": ["LL"] * 2 + ["PA"] * 118}
    found = metrics.subgroups(targets, scores, groups, ["Mass", "Hernia"], minimum=3, n_bootstrap=20)
    for label in ("Mass", "mean"):
        (axes,) = plotting.plot_subgroups(found, label).axes
        rows = [row for row in found.rows if row.label == label]
        ticks = dict(zip([t.get_text() for t in axes.get_yticklabels()], axes.get_yticks(), strict=True))
        assert list(ticks) == [f"{row.group} (n = {row.images})" for row in rows]
        segments = {line.get_ydata()[0]: sorted(line.get_xdata()) for line in axes.lines if len(line.get_xdata()) == 2}
        points = {line.get_ydata()[0]: line.get_xdata()[0] for line in axes.lines if len(line.get_xdata()) == 1}
        texts = [text.get_text() for text in axes.texts]
        for row, height in zip(rows, ticks.values(), strict=True):
            if row.group == "LL":
                assert row.note in texts
                assert height not in points
            else:
                assert points[height] == row.score
                assert segments[height] == [row.low, row.high]
        gap = next(gap for gap in found.gaps if gap.label == label)
        assert f"sex   gap {gap.gap:.3f} ({gap.low:.3f} to {gap.high:.3f})" in texts
        assert "view" in texts
    with pytest.raises(ValueError, match="label='Edema': allowed are 'Mass', 'Hernia', 'mean'"):
        plotting.plot_subgroups(found, "Edema")


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
