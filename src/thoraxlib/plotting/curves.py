"""Figures of ROC and precision-recall curves, and of label graphs (extra ``plot``)."""

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


def plot_roc(targets: ArrayLike, scores: ArrayLike, labels: Sequence[str], *, only: str | None = None) -> Figure:
    """ROC curves with their areas: of all labels with micro and macro average, or of one.

    Parameters
    ----------
    targets, scores : array_like
        (N, K): 1, 0, or NaN for unknown; and scores.
    labels : sequence of str
        The K labels. Those without both classes are left out, and named in a warning.
    only : str, optional
        Draw this label alone.

    Returns
    -------
    matplotlib.figure.Figure
        ``figure.savefig("roc.png")`` writes it; pyplot is not touched. The numbers are those of
        :func:`thoraxlib.metrics.roc_curves`, :func:`~thoraxlib.metrics.micro_roc` and
        :func:`~thoraxlib.metrics.macro_roc`.

    Raises
    ------
    ImportError
        matplotlib is not installed.
    ValueError
        As :func:`thoraxlib.metrics.roc_curves`; no label has both classes; `only` is none of the labels.
    """
    targets, scores, labels = _chosen(targets, scores, labels, only)
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
    return _with_legend(figure, axes)


def plot_precision_recall(
    targets: ArrayLike, scores: ArrayLike, labels: Sequence[str], *, only: str | None = None
) -> Figure:
    """Precision-recall curves with their average precisions; parameters and errors as for :func:`plot_roc`."""
    targets, scores, labels = _chosen(targets, scores, labels, only)
    curves = precision_recall_curves(targets, scores, labels)
    figure, axes = _axes(curves, "Recall", "Precision")
    _draw(axes, curves, drawstyle="steps-pre")  # average precision is the area under these steps
    return _with_legend(figure, axes)


def plot_graph(graph: Graph) -> Figure:
    """A graph: its nodes on a circle, an arrow for every edge, the wider the heavier.

    Nodes without an edge are grey. Loops are not drawn.

    Parameters
    ----------
    graph : Graph
        Of :mod:`thoraxlib.graphs`.

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
    place = {node: (math.cos(a), math.sin(a)) for node, a in zip(graph.nodes, angles, strict=True)}
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
            "connectionstyle": "arc3,rad=0.15",  # there and back are two arrows
        }
        axes.annotate("", xy=place[target], xytext=place[source], arrowprops=arrow)
    for node, (x, y) in place.items():
        colour = "0.6" if node in alone else _COLORS[1]
        axes.plot([x], [y], "o", markersize=10, color=colour)
        side = "center" if abs(x) < 0.1 else "left" if x > 0 else "right"
        axes.text(
            1.12 * x,
            1.12 * y,
            node.replace("_", " "),
            horizontalalignment=side,
            verticalalignment="center" if abs(y) < 0.9 else "bottom" if y > 0 else "top",
            color="0.5" if node in alone else "black",
        )
    return figure


def _chosen(
    targets: ArrayLike, scores: ArrayLike, labels: Sequence[str], only: str | None
) -> tuple[ArrayLike, ArrayLike, Sequence[str]]:
    """All labels, or the columns of one."""
    if only is None:
        return targets, scores, labels
    if only not in labels:
        raise ValueError(f"only={only!r} is none of the labels {list(labels)}")
    k = list(labels).index(only)
    return array(targets)[:, k : k + 1], array(scores)[:, k : k + 1], [only]


def _figure(size: tuple[float, float], **options: Any) -> Figure:
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError('this is drawn with matplotlib: pip install "thoraxlib[plot]"') from error
    return Figure(figsize=size, **options)


def _axes(curves: Mapping[str, Curve], x: str, y: str) -> tuple[Figure, Any]:
    figure = _figure((8, 5), layout="constrained")
    if not curves:
        raise ValueError("targets: no label has both 0 and 1, there is no curve to draw")
    axes = figure.add_subplot(xlabel=x, ylabel=y, xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), aspect="equal")
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _draw(axes: Any, curves: Mapping[str, Curve], **style: Any) -> None:
    """Lines that differ in colour, and in dashes where the colours are used up or given."""
    colors = (style.pop("color"),) if "color" in style else _COLORS
    looks: Iterator[tuple[str, str]] = cycle(product(_DASHES, colors))
    for (name, curve), (dashes, color) in zip(curves.items(), looks, strict=False):
        name = f"{name.replace('_', ' ')} ({curve.area:.2f})"
        axes.plot(curve.x, curve.y, label=name, color=color, linestyle=dashes, **{"linewidth": 1.2, **style})


def _with_legend(figure: Figure, axes: Any) -> Figure:
    axes.legend(loc="center left", bbox_to_anchor=(1.02, 0.5), frameon=False, fontsize="small")
    return figure
