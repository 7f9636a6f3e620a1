"""Plot scores of subgroups with their intervals (extra ``plot``)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from thoraxlib.metrics.groups import Subgroups
from thoraxlib.metrics.weighted import weighted
from thoraxlib.plotting.curves import COLORS, new_figure
from thoraxlib.utils.arguments import one_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def plot_subgroups(subgroups: Subgroups, label: str = "mean") -> Figure:
    """Plot the scores of a label in every group as points with their intervals, one line a group.

    Parameters
    ----------
    subgroups : Subgroups
        From :func:`thoraxlib.metrics.subgroups`.
    label : str
        A label, or "mean".

    Returns
    -------
    matplotlib.figure.Figure
        ``figure.savefig("subgroups.png")`` writes it. The gaps stand beside the attributes' names; groups without a
        score have the reason instead of a point.

    Raises
    ------
    ImportError
        matplotlib is not installed.
    ValueError
        Another label.
    """
    one_of("label", label, dict.fromkeys(row.label for row in subgroups.rows))
    gaps = {gap.attribute: gap for gap in subgroups.gaps if gap.label == label}
    rows = [row for row in subgroups.rows if row.label == label]
    attributes = list(dict.fromkeys(row.attribute for row in rows))
    figure = new_figure((7.0, 1.2 + 0.32 * (len(rows) + 1.5 * len(attributes))), layout="constrained")
    title = f"{weighted(subgroups.metric).title}, {label.replace('_', ' ')} ({100 * subgroups.level:g} % interval)"
    axes = figure.add_subplot(xlabel=title)
    axes.spines[["top", "right", "left"]].set_visible(False)
    ticks: dict[float, str] = {}
    height = 0.0
    for number, attribute in enumerate(attributes):
        gap = gaps.get(attribute)
        text = "" if gap is None else f"   gap {gap.gap:.3f} ({gap.low:.3f} to {gap.high:.3f})"
        across = axes.get_yaxis_transform()  # x from 0 to 1 over the axes
        axes.text(0, height, f"{attribute}{text}", transform=across, va="center", fontweight="bold", fontsize="small")
        for row in rows:
            if row.attribute != attribute:
                continue
            height += 1
            ticks[height] = f"{row.group} (n = {row.images})"
            if np.isnan(row.score):
                axes.text(0, height, row.note, transform=across, va="center", color="0.5", fontsize="small")
                continue
            color = COLORS[number % len(COLORS)]
            axes.plot([row.low, row.high], [height] * 2, color=color, linewidth=1.5)
            axes.plot([row.score], [height], "o", color=color, markersize=5)
        height += 1.5
    axes.set_yticks(list(ticks), labels=list(ticks.values()), fontsize="small")
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(height - 0.5, -0.8)  # the first group on top
    axes.grid(axis="x", color="0.9")
    axes.set_axisbelow(True)
    return figure
