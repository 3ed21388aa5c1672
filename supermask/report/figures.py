"""All figures of a report, and the first of them: accuracy against density.

Figures use matplotlib's object interface only: no pyplot, no display, nothing global.
"""

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from supermask.report.canvas import (
    GRID,
    PAPER,
    QUIET,
    WIDTH,
    Drawing,
    Name,
    in_axes,
    name_lines,
    render,
    style,
)
from supermask.report.learning import draw_learning_curves
from supermask.report.methods import Method
from supermask.report.sizes import draw_ticket_size
from supermask.report.summary import Line, lines_of
from supermask.report.text import density_text, percent

CLOSE = 0.10
"""The close-up shows what lies within this much of the best mean."""


def draw_figures(document: Mapping[str, Any]) -> dict[str, Drawing]:
    """Name → figure; one that the document has no data for is left out."""
    lines = lines_of(document)
    drawings = {}
    with style():
        drawings["accuracy-density"] = draw_accuracy_density(lines)
        if any(line.ticket_bytes for line in lines):
            drawings["ticket-size"] = draw_ticket_size(lines)
        if (curves := draw_learning_curves(document)) is not None:
            drawings["learning-curves"] = curves
    return drawings


def draw_accuracy_density(lines: Sequence[Line]) -> Drawing:
    """Test accuracy against density, dense at the left as in the papers, spread over seeds as bars.

    Controls can be at chance while the tickets differ by tenths of a point. So where the whole range would
    press the top together it stands small at the left, and a close-up of the top beside it.
    """
    whole = _padded(100 * min(line.min for line in lines), 100 * max(line.max for line in lines))
    window = _close_up(lines, whole)
    figure = Figure(figsize=(WIDTH, 3.5 if len(lines) > 2 else 2.0))
    if window is None:
        close = figure.add_subplot()
        _draw_accuracies(close, lines, whole)
    else:
        left, close = figure.subplots(1, 2, width_ratios=(1, 1.9))
        _draw_accuracies(left, lines, whole, small=True)
        _draw_accuracies(close, lines, window)
        left.set_title("whole range")
        close.set_title("close-up of the top")
        frame = Rectangle((0, window[0]), 1, window[1] - window[0], transform=left.get_yaxis_transform())
        frame.set(facecolor=GRID, edgecolor=QUIET, linewidth=0.5, alpha=0.45, zorder=0)
        left.add_patch(frame)
    figure.axes[0].set_ylabel("test accuracy (%)")
    figure.axes[0].set_xlabel("density")
    close.set_xlabel("density (fraction of weights kept), sparser to the right")
    below = _name_methods(close, lines)
    best = max(lines, key=lambda line: line.mean)
    alt = (
        f"Test accuracy against density, on a logarithmic axis from dense to sparse, for "
        f"{_list(dict.fromkeys(line.method.label for line in lines))}. The highest mean is "
        f"{percent(best.mean)} %, {best.method.label} at density {density_text(best.density)}. "
        "The results table holds every number."
    )
    return render(figure, "accuracy-density", alt, _accuracy_caption(lines, below))


def _draw_accuracies(
    axes: Axes, lines: Sequence[Line], limits: tuple[float, float], *, small: bool = False
) -> None:
    for line in lines:
        if line.method.group == "dense":
            axes.axhspan(100 * line.min, 100 * line.max, color=line.method.colour, alpha=0.13, lw=0)
            axes.axhline(100 * line.mean, color=line.method.colour, lw=1.3)
    for method, points in _series(lines).items():
        quiet = method.group == "control"
        axes.errorbar(
            [x for x, _ in points],
            [100 * line.mean for _, line in points],
            yerr=[
                [100 * (line.mean - line.min) for _, line in points],
                [100 * (line.max - line.mean) for _, line in points],
            ],
            color=method.colour,
            ls=method.dash,
            lw=(1.0 if quiet else 1.6) * (0.7 if small else 1),
            elinewidth=0.8,
            marker=method.marker,
            ms=(4.0 if quiet else 4.6) * (0.6 if small else 1),
            mec=PAPER,
            mew=0.4,
            zorder=2 if quiet else 3,
        )
    densities = _densities(lines)
    axes.set_xscale("log")
    axes.set_xlim(*_density_limits(densities))
    axes.set_ylim(*limits)
    axes.grid(False, axis="x")
    axes.xaxis.set_major_locator(FixedLocator(_ticks(densities, 0.25 if small else 0.09)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: density_text(value)))
    axes.xaxis.set_minor_locator(NullLocator())


def _name_methods(axes: Axes, lines: Sequence[Line]) -> bool:
    """Names at the right; a line that ends below the axes is named at the foot with its mean.

    Returns:
        Whether there was such a line.
    """

    def suffix(line: Line) -> str:
        """With one density there is no line to follow, and room for the number."""
        return f"  {percent(line.mean)} %" if len(_densities(lines)) == 1 else ""

    names = []
    for line in lines:
        if line.method.group == "dense":
            height = in_axes(axes, 1, 100 * line.mean)[1]
            names.append(Name(line.method, line.method.label + suffix(line), height, (1.0, height)))
    for method, points in _series(lines).items():
        x, last = points[-1]
        end = in_axes(axes, x, 100 * last.mean)
        if end[1] >= 0:
            names.append(Name(method, method.label + suffix(last), end[1], end))
        else:
            names.append(Name(method, f"{method.label} ↓ {percent(last.mean)} %", end[1], None))
    name_lines(axes, names, gap=0.052)
    return any(name.end is None for name in names)


def _series(lines: Sequence[Line]) -> dict[Method, list[tuple[float, Line]]]:
    """Method → its points from dense to sparse, each with where it stands on the x axis.

    Methods at one density stand side by side, or nobody could tell their bars apart.
    """
    methods: dict[Method, list[Line]] = {}
    for line in lines:
        if line.method.group != "dense":
            methods.setdefault(line.method, []).append(line)
    shift = _shift(_densities(lines), len(methods))
    return {
        method: [
            (line.density * math.exp(((len(methods) - 1) / 2 - index) * shift), line) for line in members
        ]
        for index, (method, members) in enumerate(methods.items())
    }


def _accuracy_caption(lines: Sequence[Line], below: bool) -> str:
    averaged = any(line.n > 1 for line in lines)
    groups = {line.method.group for line in lines}
    text = "Test accuracy"
    text += (
        ", mean over seeds; bars reach from the worst seed to the best." if averaged else ", one seed each."
    )
    if len(_series(lines)) > 1:
        text += " Methods at one density stand side by side."
    if "control" in groups:
        text += " Tickets are solid, controls dashed."
    if "dense" in groups:
        text += " The line across is the dense network" + (
            ", its band the spread over seeds." if averaged else "."
        )
    if below:
        text += " An arrow gives the mean of a line that ends below the close-up."
    return text


def _densities(lines: Sequence[Line]) -> list[float]:
    """Densities of the x axis, dense to sparse; that of the dense network only if there is no other."""
    found = {line.density for line in lines if line.method.group != "dense"}
    return sorted(found or {1.0}, reverse=True)


def _density_limits(densities: Sequence[float]) -> tuple[float, float]:
    pad = math.exp(max(0.15, 0.09 * math.log(densities[0] / densities[-1])))
    return densities[0] * pad, densities[-1] / pad


def _shift(densities: Sequence[float], count: int) -> float:
    """How far apart, in log density, methods stand at one density, so that their bars can be told apart."""
    left, right = _density_limits(densities)
    gaps = [math.log(more / less) for more, less in pairwise(densities)]
    if not gaps:
        return math.log(left / right) / (count + 1)
    return min(min(gaps) / (2.2 * max(count, 1)), 0.012 * math.log(left / right))


def _ticks(densities: Sequence[float], least: float) -> list[float]:
    """Densities to print below the axis: both ends, and between them what keeps its distance.

    Args:
        least: Distance that labels need, as a fraction of the axis.
    """
    first, last = densities[0], densities[-1]
    room = least * math.log(first / last)
    kept = [first]
    for density in densities[1:-1]:
        if math.log(kept[-1] / density) >= room and math.log(density / last) >= room:
            kept.append(density)
    return [*kept, last]


def _close_up(lines: Sequence[Line], whole: tuple[float, float]) -> tuple[float, float] | None:
    """The range of the close-up in percent, or None where the whole range is legible as it is."""
    floor = max(line.mean for line in lines) - CLOSE
    low = min(max(line.min, floor) for line in lines if line.mean >= floor)
    window = _padded(100 * low, 100 * max(line.max for line in lines))
    return window if window[1] - window[0] < 0.5 * (whole[1] - whole[0]) else None


def _padded(low: float, high: float) -> tuple[float, float]:
    pad = max(0.06 * (high - low), 0.25)
    return low - pad, high + pad


def _list(names: Any) -> str:
    *most, last = names
    return f"{', '.join(most)} and {last}" if most else last
