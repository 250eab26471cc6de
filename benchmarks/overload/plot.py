"""The results as a plot: overload.png."""

from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.overload.cells import name_of
from benchmarks.overload.results import Measured, Results

#: Least goodput over peak that an overloaded service should keep.
LEAST_RATIO = 0.9
MARKERS, COLOURS = "osD^v", ("silver", "tab:cyan", "tab:blue", "tab:purple", "tab:red")
STYLE: Any = {"font.size": 9, "axes.spines.top": False, "axes.spines.right": False}


def draw(results: Results, path: Path) -> None:
    """Write the goodput over the peak: a panel for each arrangement, a row for each cell, a dot for each factor."""
    drawn = {name: found for name, found in results.arrangements.items() if any(found.points.values())}
    if not drawn:
        return
    factors = sorted({point.wanted for found in drawn.values() for points in found.points.values() for point in points})
    heights = [max(1, len(found.points)) for found in drawn.values()]
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(8, 1.4 + sum(0.75 + 0.34 * rows for rows in heights)), dpi=110, layout="constrained")
        axes = figure.subplots(len(drawn), 1, sharex=True, squeeze=False, height_ratios=[1 + rows for rows in heights])
        for axis, (name, found) in zip(axes[:, 0], drawn.items(), strict=True):
            panel(axis, found, factors)
            axis.set_title(name, loc="left", fontweight="bold")
        axes[-1, 0].set_xlabel("goodput / peak of the same cell (factor 1: / offered)")
        handles = axes[0, 0].get_legend_handles_labels()
        figure.legend(*handles, loc="outside upper right", ncols=len(factors) + 1, frameon=False)
        figure.savefig(path)


def panel(axis: Axes, found: Measured, factors: list[float]) -> None:
    """Draw one arrangement."""
    names = list(found.points)
    step = 0.5 / max(1, len(factors) - 1)  # dots of one cell do not hide each other
    for index, wanted in enumerate(factors):
        style: Any = {"marker": MARKERS[index % len(MARKERS)], "color": COLOURS[index % len(COLOURS)]}
        places = [
            (found.ratio(point), row - 0.25 + index * step)
            for row, cell in enumerate(names)
            for point in found.points[cell]
            if point.wanted == wanted
        ]
        axis.plot(
            *zip(*places, strict=True) if places else ([], []),
            linestyle="none",
            label=f"{wanted:g} x peak",
            markersize=7,
            markeredgecolor="black",
            markeredgewidth=0.4,
            **style,
        )
    for row in range(len(names) - 1):
        axis.axhline(row + 0.5, color="0.9", linewidth=0.8)
    axis.axvline(LEAST_RATIO, zorder=1, color="tab:red", linewidth=1, linestyle="--", label=f"{LEAST_RATIO:g}")
    axis.set_yticks(range(len(names)), [name_of(cell) for cell in names])
    axis.set_ylim(len(names) - 0.5, -0.5)
    axis.set_xlim(0, max(1.1, *(0.05 + found.ratio(point) for points in found.points.values() for point in points)))
    axis.grid(axis="x", color="0.9")
    axis.set_axisbelow(True)
