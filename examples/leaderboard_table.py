"""Draw the leaderboard as a table and as a figure."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

HITS = {"iou": "IoU > 0.1", "centre": "centre inside"}
HEADING = ["model", "backbone", "AUROC (95 %)", *HITS.values(), "heat map", "parameters", "MFLOPs", "images/s"]
HEADING += ["published", "notes"]


def ranked(rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Sort the rows: highest AUROC first, failures last."""
    return sorted(rows, key=lambda each: ("error" in each, -each.get("auroc", 0.0), each.get("flops", 0)))


def cells(rows: Sequence[Mapping[str, Any]]) -> tuple[list[list[str]], list[str]]:
    """Return the table with its heading, and the titles of the published tables to which numbers in brackets refer."""
    titles = list(dict.fromkeys(each["table"] for each in ranked(rows) if "table" in each))

    def number(each: Mapping[str, Any], key: str, form: str = ".3f") -> str:
        value = each.get(key, math.nan)
        return "-" if math.isnan(value) else format(value, form)

    table = [HEADING]
    for each in ranked(rows):
        auroc = number(each, "auroc")
        if "auroc" in each:
            auroc += f" ± {each['spread']:.3f}" if "spread" in each else ""
            auroc += f" ({each['low']:.3f}-{each['high']:.3f})"
        published = f"{each['published']:.3f} [{titles.index(each['table']) + 1}]" if "table" in each else "-"
        table.append(
            [
                each["model"],
                each.get("backbone", "-"),
                auroc,
                *(number(each, key) for key in HITS),
                each.get("heat_map", "-"),
                number(each, "parameters", ",d"),
                f"{each['flops'] / 1e6:,.1f}" if "flops" in each else "-",
                number(each, "images_per_second", ",.0f"),
                published,
                f"failed: {each['error']}".replace("|", "/") if "error" in each else each.get("note", ""),
            ]
        )
    return table, titles


def plot(rows: Sequence[Mapping[str, Any]]) -> Any:
    """Draw models by AUROC with intervals, localisation and FLOPs."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullLocator

    shown = [each for each in ranked(rows) if "error" not in each][::-1]
    wanted = {"auroc": "AUROC, mean over findings", "iou": "share of true boxes hit", "flops": "MFLOPs of one image"}
    panels = {key: title for key, title in wanted.items() if any(key in each for each in shown)}
    figure = Figure(figsize=(2.6 + 2.4 * len(panels), 1.5 + 0.22 * len(shown)), layout="constrained")
    if not panels:
        return figure
    blue, orange = "#0072b2", "#d55e00"
    grid = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axes, (key, title) in zip(grid, panels.items(), strict=True):
        measured = [(row, each) for row, each in enumerate(shown) if key in each]
        at, values = [row for row, _ in measured], [each[key] for _, each in measured]
        axes.set(xlabel=title, yticks=range(len(shown)), yticklabels=[each["model"] for each in shown])
        axes.set_ylim(-0.6, len(shown) - 0.4)
        axes.grid(color="0.92")
        axes.set_axisbelow(True)
        axes.tick_params(length=0)
        axes.spines[["top", "right", "left"]].set_visible(False)
        if key == "auroc":
            ends = [
                [each["auroc"] - each["low"] for _, each in measured],
                [each["high"] - each["auroc"] for _, each in measured],
            ]
            axes.errorbar(values, at, xerr=ends, fmt="o", color=blue, ecolor="0.65", markersize=5)
        elif key == "iou":
            for (name, label), (marker, color) in zip(HITS.items(), (("o", blue), ("D", orange)), strict=True):
                axes.plot([each[name] for _, each in measured], at, marker, color=color, markersize=4.5, label=label)
            axes.set_xlim(left=-0.02)
            axes.legend(fontsize="small", loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2, frameon=False)
        else:
            axes.plot([value / 1e6 for value in values], at, "o", color=blue, markersize=5)
            axes.set_xscale("log")
            axes.xaxis.set_major_locator(LogLocator(subs=(1, 3)))
            axes.xaxis.set_minor_locator(NullLocator())
            axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    return figure
