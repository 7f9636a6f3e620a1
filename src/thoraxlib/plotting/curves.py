"""Plot ROC, precision-recall and reliability curves of labels or models, and label graphs (extra ``plot``)."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from itertools import cycle, product
from typing import TYPE_CHECKING, Any

from numpy.typing import ArrayLike

from thoraxlib.metrics.curves import Curve, macro_roc, micro_roc, precision_recall_curves, roc_curves
from thoraxlib.metrics.reliability import reliability_curves
from thoraxlib.metrics.weighted import BINS
from thoraxlib.utils.arguments import one_of
from thoraxlib.utils.arrays import array

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from thoraxlib.graphs import Graph

# Okabe and Ito's palette for colour-blind readers, without its yellow, which is too light for a line on white.
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00")
_DASHES = ("-", "--", ":", "-.")
_AXES = {
    "roc": ("False positive rate", "True positive rate"),
    "precision_recall": ("Recall", "Precision"),
    "reliability": ("Mean probability", "Share of positives"),
}
_NO_CURVE = "targets: no label has both 0 and 1, there is no curve to draw"  # reliability: no known target


def plot_roc(targets: ArrayLike, scores: ArrayLike, labels: Sequence[str]) -> Figure:
    """Plot the ROC curves of labels with their areas; for several labels also the micro and macro average.

    Parameters
    ----------
    targets, scores : array_like
        (N, K): targets are 1, 0, or NaN for unknown.
    labels : sequence of str
        The K labels. Labels without both classes are left out with a warning.

    Returns
    -------
    matplotlib.figure.Figure
        ``figure.savefig("roc.png")`` writes it; pyplot is not used. The numbers are those of
        :func:`thoraxlib.metrics.roc_curves`, :func:`~thoraxlib.metrics.micro_roc` and
        :func:`~thoraxlib.metrics.macro_roc`.

    Raises
    ------
    ImportError
        matplotlib is not installed.
    ValueError
        As :func:`thoraxlib.metrics.roc_curves`; no label has both classes.
    """
    curves = roc_curves(targets, scores, labels)
    figure, axes = _axes(curves, *_AXES["roc"])
    axes.plot([0, 1], [0, 1], color="0.7", linewidth=0.8)
    _draw(axes, curves)
    if len(labels) > 1:
        drawn = [k for k, label in enumerate(labels) if label in curves]
        averages = {
            "micro average": micro_roc(targets, scores),
            "macro average": macro_roc(array(targets)[:, drawn], array(scores)[:, drawn]),
        }
        _draw(axes, averages, color="black", linewidth=2)
    return figure


def plot_precision_recall(targets: ArrayLike, scores: ArrayLike, labels: Sequence[str]) -> Figure:
    """Plot precision-recall curves with their average precisions; parameters and errors as for :func:`plot_roc`."""
    curves = precision_recall_curves(targets, scores, labels)
    figure, axes = _axes(curves, *_AXES["precision_recall"])
    _draw(axes, curves, drawstyle="steps-pre")  # average precision is the area under these steps
    return figure


def plot_reliability(
    targets: ArrayLike, probabilities: ArrayLike, labels: Sequence[str], *, bins: int = BINS, binning: str = "width"
) -> Figure:
    """Plot the share of positives over the mean probability of each bin, with the labels' expected calibration errors.

    Below the diagonal, probabilities are too high. A point is larger the more images its bin has.

    Parameters
    ----------
    targets, probabilities, labels, bins, binning
        See :func:`thoraxlib.metrics.reliability_curves`, whose numbers are drawn. Labels without a known target are
        left out with a warning.

    Returns
    -------
    matplotlib.figure.Figure
        ``figure.savefig("reliability.png")`` writes it.

    Raises
    ------
    ImportError
        matplotlib is not installed.
    ValueError
        As :func:`thoraxlib.metrics.reliability_curves`; no label has a known target.
    """
    curves, images = _reliabilities(targets, probabilities, labels, bins=bins, binning=binning)
    figure, axes = _axes(curves, *_AXES["reliability"])
    axes.plot([0, 1], [0, 1], color="0.7", linewidth=0.8)
    _draw(axes, curves)
    _dots(axes, list(images.values()))
    return figure


def plot_models(
    targets: ArrayLike,
    models: Mapping[str, ArrayLike],
    labels: Sequence[str],
    kind: str = "roc",
    *,
    bins: int = BINS,
    binning: str = "width",
) -> Figure:
    """Plot the curves of several models, a panel for each label.

    Parameters
    ----------
    targets : array_like
        (N, K): 1, 0, or NaN for unknown.
    models : mapping of str to array_like
        Scores (N, K) of each model, by its name; for "reliability" they are probabilities.
    labels : sequence of str
        The K labels. Labels without a curve have no panel; a warning names them.
    kind : {"roc", "precision_recall", "reliability"}
        Curves; the legend has their area, average precision, or expected calibration error.
    bins, binning
        For "reliability", see :func:`thoraxlib.metrics.expected_calibration_error`.

    Returns
    -------
    matplotlib.figure.Figure
        ``figure.savefig("models.png")`` writes it.

    Raises
    ------
    ImportError
        matplotlib is not installed.
    ValueError
        No model, another kind, or no curve; see :func:`thoraxlib.metrics.roc_curves`.
    """
    one_of("kind", kind, _AXES)
    if not models:
        raise ValueError("models is empty: at least one, by its name")
    sizes: dict[str, dict[str, Any]] = {}
    curves: dict[str, dict[str, Curve]] = {}
    for number, (name, scores) in enumerate(models.items()):
        with warnings.catch_warnings():
            if number:  # all models have the same targets
                warnings.filterwarnings("ignore", "no score for labels")
            if kind == "reliability":
                curves[name], sizes[name] = _reliabilities(targets, scores, labels, bins=bins, binning=binning)
            else:
                curves[name] = (roc_curves if kind == "roc" else precision_recall_curves)(targets, scores, labels)
    shown = list(next(iter(curves.values())))
    if not shown:
        raise ValueError(_NO_CURVE)
    columns = min(4, math.ceil(math.sqrt(len(shown))))
    rows = math.ceil(len(shown) / columns)
    figure = new_figure((3.2 * columns + 0.6, 3.4 * rows + 0.4), layout="constrained")
    for place, label in enumerate(shown):
        axes = _square(figure.add_subplot(rows, columns, place + 1))
        axes.set_title(label.replace("_", " "), fontsize="medium")
        if kind != "precision_recall":
            axes.plot([0, 1], [0, 1], color="0.7", linewidth=0.8)
        _lines(
            axes,
            {name: of_model[label] for name, of_model in curves.items()},
            models=True,
            drawstyle="steps-pre" if kind == "precision_recall" else "default",
        )
        if kind == "reliability":
            _dots(axes, [of_model[label] for of_model in sizes.values()])
        corner = {"roc": "lower right", "precision_recall": "upper right", "reliability": "upper left"}[kind]
        axes.legend(loc=corner, fontsize="x-small", frameon=True, framealpha=0.8, edgecolor="none")
    x, y = _AXES[kind]
    figure.supxlabel(x, fontsize="medium")
    figure.supylabel(y, fontsize="medium")
    return figure


def plot_graph(graph: Graph) -> Figure:
    """Plot a graph: nodes on a circle, and an arrow for every edge, wider for larger weights.

    Nodes without an edge are grey. Loops are not drawn.

    Parameters
    ----------
    graph : Graph
        From :mod:`thoraxlib.graphs`.

    Returns
    -------
    matplotlib.figure.Figure
        ``figure.savefig("graph.png")`` writes it.

    Raises
    ------
    ImportError
        matplotlib is not installed.
    """
    figure = new_figure((7.0, 7.0))
    axes = figure.add_axes((0.2, 0.2, 0.6, 0.6))
    axes.set_axis_off()
    axes.set(xlim=(-1.1, 1.1), ylim=(-1.1, 1.1), aspect="equal")
    angles = [math.pi / 2 - 2 * math.pi * k / len(graph.nodes) for k in range(len(graph.nodes))]
    position = {node: (math.cos(a), math.sin(a)) for node, a in zip(graph.nodes, angles, strict=True)}
    alone, edges = graph.isolated(), graph.edges()
    heaviest = max((weight for _, _, weight in edges), default=1.0)
    for source, target, weight in edges:
        share = weight / heaviest
        arrow = {
            "arrowstyle": "-|>",
            "color": COLORS[0],
            "alpha": 0.3 + 0.6 * share,
            "linewidth": 0.5 + 2.5 * share,
            "shrinkA": 8,
            "shrinkB": 8,
            "connectionstyle": "arc3,rad=0.15",  # curved, so that the two directions are two arrows
        }
        axes.annotate("", xy=position[target], xytext=position[source], arrowprops=arrow)
    for node, (x, y) in position.items():
        node_color, text_color = ("0.6", "0.5") if node in alone else (COLORS[1], "black")
        axes.plot([x], [y], "o", markersize=10, color=node_color)
        across = "center" if abs(x) < 0.1 else "left" if x > 0 else "right"
        along = "center" if abs(y) < 0.9 else "bottom" if y > 0 else "top"
        axes.text(1.12 * x, 1.12 * y, node.replace("_", " "), ha=across, va=along, color=text_color)
    return figure


def new_figure(size: tuple[float, float], **options: Any) -> Figure:
    """Make an empty figure without pyplot.

    Raises
    ------
    ImportError
        matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError('plots need matplotlib: pip install "thoraxlib[plot]"') from error
    return Figure(figsize=size, **options)


def _axes(curves: Mapping[str, Curve], x: str, y: str) -> tuple[Figure, Any]:
    figure = new_figure((8, 5), layout="constrained")
    if not curves:
        raise ValueError(_NO_CURVE)
    return figure, _square(figure.add_subplot(xlabel=x, ylabel=y))


def _square(axes: Any) -> Any:
    """Set both axes to rates from 0 to 1."""
    axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), aspect="equal")
    axes.spines[["top", "right"]].set_visible(False)
    return axes


def _draw(axes: Any, curves: Mapping[str, Curve], **style: Any) -> None:
    """Draw lines with a legend beside the axes."""
    _lines(axes, curves, **style)
    axes.legend(loc="center left", bbox_to_anchor=(1.02, 0.5), frameon=False, fontsize="small")


def _lines(axes: Any, curves: Mapping[str, Curve], *, models: bool = False, **style: Any) -> None:
    """Draw lines of different colours, and of different dashes if the colours are used up or given.

    Lines of models differ in both: the curves of two models may be one.
    """
    colors = (style.pop("color"),) if "color" in style else COLORS
    looks = zip(cycle(_DASHES), cycle(colors), strict=False) if models else cycle(product(_DASHES, colors))
    for (name, curve), (dashes, color) in zip(curves.items(), looks, strict=False):
        name = f"{name.replace('_', ' ')} ({curve.area:.2f})"
        axes.plot(curve.x, curve.y, label=name, color=color, linestyle=dashes, **{"linewidth": 1.2, **style})


def _reliabilities(
    targets: ArrayLike, probabilities: ArrayLike, labels: Sequence[str], **options: Any
) -> tuple[dict[str, Curve], dict[str, Any]]:
    """Reliability curves as curves whose "area" is the calibration error, and the images of their bins, by label."""
    found = reliability_curves(targets, probabilities, labels, **options)
    curves = {label: Curve(curve.probability, curve.frequency, curve.error) for label, curve in found.items()}
    return curves, {label: curve.images for label, curve in found.items()}


def _dots(axes: Any, images: Sequence[Any]) -> None:
    """Draw a dot at each point of the last lines, its area in proportion to the images of the bin."""
    for line, counts in zip(axes.lines[-len(images) :], images, strict=True):
        axes.scatter(*line.get_data(), s=6 + 60 * counts / counts.sum(), color=line.get_color(), linewidths=0, zorder=3)
