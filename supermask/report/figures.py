"""All figures of a report, and the first of them: accuracy against density.

Figures use matplotlib's object interface only: no pyplot, no display, nothing global.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from supermask.report.accuracy import (
    DensityAxis,
    close_up,
    draw_accuracies,
    name_methods,
    whole_range,
)
from supermask.report.canvas import GRID, QUIET, WIDTH, Drawing, render, style
from supermask.report.learning import draw_learning_curves
from supermask.report.methods import GROUPS
from supermask.report.panels import TITLE_PAD, by_group, group_panels, is_crowded, label_panels, name_gap
from supermask.report.sizes import draw_ticket_size
from supermask.report.summary import Line, lines_of
from supermask.report.text import density_text, percent


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
    """Test accuracy against density, spread over seeds as bars; many methods stand in a panel per group."""
    figure, caption = _by_group(lines) if is_crowded(lines) else _together(lines)
    best = max(lines, key=lambda line: line.mean)
    alt = (
        f"Test accuracy against density, on a logarithmic axis from dense to sparse, for "
        f"{_list(dict.fromkeys(line.method.label for line in lines))}. The highest mean is "
        f"{percent(best.mean)} %, {best.method.label} at density {density_text(best.true_density)}. "
        "The results table holds every number."
    )
    return render(figure, "accuracy-density", alt, caption)


def _together(lines: Sequence[Line]) -> tuple[Figure, str]:
    """All methods in one panel.

    Controls can be at chance while the tickets differ by tenths of a point. So where the whole range would
    press the top together it stands small at the left, and a close-up of the top beside it.
    """
    across, whole = DensityAxis.of(lines), whole_range(lines)
    window = close_up(lines, whole)
    figure = Figure(figsize=(WIDTH, 3.5 if len(lines) > 2 else 2.0))
    if window is None:
        close = figure.add_subplot()
        draw_accuracies(close, lines, across, whole)
    else:
        left, close = figure.subplots(1, 2, width_ratios=(1, 1.9))
        draw_accuracies(left, lines, across, whole, small=True)
        draw_accuracies(close, lines, across, window)
        left.set_title("whole range")
        close.set_title("close-up of the top")
        frame = Rectangle((0, window[0]), 1, window[1] - window[0], transform=left.get_yaxis_transform())
        frame.set(facecolor=GRID, edgecolor=QUIET, linewidth=0.5, alpha=0.45, zorder=0)
        left.add_patch(frame)
    figure.axes[0].set_ylabel("test accuracy (%)")
    figure.axes[0].set_xlabel("density")
    close.set_xlabel("density (fraction of weights kept), sparser to the right")
    return figure, _caption(lines, name_methods(close, lines, across, gap=0.052))


def _by_group(lines: Sequence[Line]) -> tuple[Figure, str]:
    """A panel for each group on common axes; a group of which little is at the top shows its whole range."""
    across = DensityAxis.of(lines)
    window = close_up(lines, whole_range(lines))
    dense = [line for line in lines if line.method.group == "dense"]
    groups = by_group(lines)
    figure, panels = group_panels(groups)
    wide = False
    for group, axes in panels.items():
        limits, title = window or whole_range(lines), GROUPS[group]
        inside = [line for line in groups[group] if 100 * line.mean >= limits[0]]
        if 2 * len(inside) < len(groups[group]):
            limits, title, wide = whole_range(dense + groups[group]), f"{title} (whole range)", True
        axes.set_title(title, pad=TITLE_PAD)
        draw_accuracies(axes, dense + groups[group], across, limits, small=True)
    label_panels(panels, "density", "test accuracy (%)")
    figure.draw_without_rendering()  # the height of the panels is only known now
    below = False
    for group, axes in panels.items():
        below |= name_methods(axes, dense + groups[group], across, name_gap(figure, axes), small=True)
    caption = _caption(lines, below, panels=True)
    if wide:
        caption += " The y axis is the same in all panels except those that say so."
    return figure, caption


def _caption(lines: Sequence[Line], below: bool, *, panels: bool = False) -> str:
    averaged = any(line.n > 1 for line in lines)
    methods = {line.method for line in lines}
    groups = {method.group for method in methods}
    text = "Test accuracy"
    text += (
        ", mean over seeds; bars reach from the worst seed to the best." if averaged else ", one seed each."
    )
    if len(methods) - ("dense" in groups) > 1:
        text += " Methods at one density stand side by side."
    if any(line.emerged for line in lines):
        text += " Where a method kept another density than it was asked for, the point stands at that one."
    if panels:
        text += " A panel for each group of methods; colours mean something else in each."
    elif "control" in groups and all(method.dash == "solid" for method in methods if method.is_ticket):
        text += " Tickets are solid, controls dashed."
    if "dense" in groups:
        text += " The line across is the dense network" + (
            ", its band the spread over seeds." if averaged else "."
        )
    if below:
        text += f" An arrow gives the mean of a line that ends below the {'panel' if panels else 'close-up'}."
    return text


def _list(names: Any) -> str:
    *most, last = names
    return f"{', '.join(most)} and {last}" if most else last
