"""Curves as pictures: small, and the same bytes for the same numbers."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, StrMethodFormatter

from benchmarks.sheet import Curve


def draw(curve: Curve, path: Path) -> None:
    """Write a curve as SVG, both axes logarithmic, the vertical one from a power of ten that leaves flat what is flat."""
    mpl.rcParams.update({"svg.hashsalt": "function-runtime", "svg.fonttype": "none", "path.simplify": True, "font.size": 9})
    figure = Figure(figsize=(5, 2.8), layout="constrained")
    axes = figure.subplots()
    for label, points in curve.lines.items():
        axes.plot([x for x, _ in points], [y for _, y in points], marker="o", markersize=4, label=label)
    axes.set(xscale="log", yscale="log", xlabel=curve.x, ylabel=curve.y)
    values = [y for points in curve.lines.values() for _, y in points]
    axes.set_ylim(min(values) / 4, max(values) * 4)
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
    axes.minorticks_off()
    axes.grid(visible=True, linewidth=0.3)
    axes.legend(frameon=False)
    figure.savefig(path, format="svg", metadata={"Date": None, "Creator": None})
