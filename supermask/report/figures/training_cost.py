"""The figure of what a ticket cost: accuracy against all training steps that stand behind it."""

from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from supermask.report.figures.accuracy_panels import value_of
from supermask.report.figures.drawing import Drawing, mark, render, say
from supermask.report.figures.style import WIDTH
from supermask.report.formatting import count_text, density_text
from supermask.report.results import Results
from supermask.report.results.rows import SummaryRow

UNEQUAL = 1.5
"""From this ratio of steps on, the figure says something that accuracy against density does not."""


def has_unequal_costs(results: Results) -> bool:
    """Whether some results took clearly more steps than the rest, and there are few enough methods."""
    steps = [row.total_steps for row in _costly(results.rows) if row.total_steps]
    return not results.crowded and bool(steps) and max(steps) >= UNEQUAL * min(steps)


def draw_training_cost(results: Results) -> Drawing:
    """A point for each method and density that was trained: all steps behind it, and its accuracy."""
    rows = _costly(results.rows)
    figure = Figure(figsize=(WIDTH, 3.2))
    axes = figure.add_subplot()
    for method in dict.fromkeys(row.method for row in rows):
        own = [row for row in rows if row.method == method]
        x, y = [row.total_steps or 0 for row in own], [100 * row.mean for row in own]
        marker = method.marker or "o"
        look: dict[str, Any] = {"color": method.colour, "marker": marker, "ms": 4, "lw": 1, "ls": method.dash}
        (line,) = axes.plot(x, y, label=method.label, **look)
        mark(line, method)
        lows, highs = [100 * row.min for row in own], [100 * row.max for row in own]
        mark(axes.vlines(x, lows, highs, color=method.colour, lw=0.8), method)
        for row, across, up in zip(own, x, y, strict=True):
            say(axes, across, up, method, f"{count_text(across)} steps, {value_of(row)}")
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: count_text(value)))
    axes.set_xlabel("all training steps behind it, logarithmic")
    axes.set_ylabel("test accuracy (%)")
    axes.legend(frameon=False, fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))
    caption = (
        "Test accuracy against all steps that a result rests on, for IMP those of the rounds before it too. "
        "The points of a method are its densities, joined from dense to sparse."
    )
    return render(figure, "training-cost", _alt(rows), caption)


def _costly(rows: Sequence[SummaryRow]) -> list[SummaryRow]:
    return [row for row in rows if row.total_steps]


def _alt(rows: Sequence[SummaryRow]) -> str:
    dearest = max(rows, key=lambda row: row.total_steps or 0)
    return (
        f"Test accuracy against training steps. The dearest is {dearest.method.label} at density "
        f"{density_text(dearest.true_density)} with {count_text(dearest.total_steps)} steps. The results "
        "table holds every number."
    )
