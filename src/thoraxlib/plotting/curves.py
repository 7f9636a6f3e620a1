"""Plot ROC and precision-recall curves, and label graphs (extra ``plot``)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import cycle, product
from typing import TYPE_CHECKING, Any

from numpy.typing import ArrayLike

from thoraxlib.metrics.curves import Curve, macro_roc, micro_roc, precision_recall_curves, roc_curves
from thoraxlib.utils.arrays import array

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from thoraxlib.graphs import Graph

# Okabe and Ito's palette for colour-blind readers, without its yellow, which is too light for a line on white.
_COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00")
_DASHES = ("-", "--", ":", "-.")


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
    figure, axes = _axes(curves, "False positive rate", "True positive rate")
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
    figure, axes = _axes(curves, "Recall", "Precision")
    _draw(axes, curves, drawstyle="steps-pre")  # average precision is the area under these steps
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
    figure = _figure((7.0, 7.0))
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
            "color": _COLORS[0],
            "alpha": 0.3 + 0.6 * share,
            "linewidth": 0.5 + 2.5 * share,
            "shrinkA": 8,
            "shrinkB": 8,
            "connectionstyle": "arc3,rad=0.15",  # curved, so that the two directions are two arrows
        }
        axes.annotate("", xy=position[target], xytext=position[source], arrowprops=arrow)
    for node, (x, y) in position.items():
        node_color, text_color = ("0.6", "0.5") if node in alone else (_COLORS[1], "black")
        axes.plot([x], [y], "o", markersize=10, color=node_color)
        across = "center" if abs(x) < 0.1 else "left" if x > 0 else "right"
        along = "center" if abs(y) < 0.9 else "bottom" if y > 0 else "top"
        axes.text(1.12 * x, 1.12 * y, node.replace("_", " "), ha=across, va=along, color=text_color)
    return figure


def _figure(size: tuple[float, float], **options: Any) -> Figure:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError('plots need matplotlib: pip install "thoraxlib[plot]"') from error
    return Figure(figsize=size, **options)


def _axes(curves: Mapping[str, Curve], x: str, y: str) -> tuple[Figure, Any]:
    figure = _figure((8, 5), layout="constrained")
    if not curves:
        raise ValueError("targets: no label has both 0 and 1, there is no curve to draw")
    axes = figure.add_subplot(xlabel=x, ylabel=y, xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), aspect="equal")
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _draw(axes: Any, curves: Mapping[str, Curve], **style: Any) -> None:
    """Draw lines of different colours, and of different dashes if the colours are used up or given; with a legend."""
    colors = (style.pop("color"),) if "color" in style else _COLORS
    styles: Iterator[tuple[str, str]] = cycle(product(_DASHES, colors))
    for (name, curve), (dashes, color) in zip(curves.items(), styles, strict=False):
        name = f"{name.replace('_', ' ')} ({curve.area:.2f})"
        axes.plot(curve.x, curve.y, label=name, color=color, linestyle=dashes, **{"linewidth": 1.2, **style})
    axes.legend(loc="center left", bbox_to_anchor=(1.02, 0.5), frameon=False, fontsize="small")
