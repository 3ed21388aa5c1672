"""The figure of accuracy against density."""

from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from supermask.report.figures.accuracy_panels import (
    DensityAxis,
    close_up,
    draw_accuracies,
    name_methods,
    whole_range,
)
from supermask.report.figures.drawing import Drawing, render
from supermask.report.figures.groups import TITLE_PAD, group_panels, label_panels, name_gap
from supermask.report.figures.style import GRID, QUIET, WIDTH
from supermask.report.formatting import density_text, percent
from supermask.report.methods.method import GROUPS, by_group
from supermask.report.results import Results
from supermask.report.results.rows import SummaryRow


def draw_accuracy_density(results: Results) -> Drawing:
    """Test accuracy against density, spread over seeds as bars; many methods stand in a panel per group."""
    rows = results.rows
    draw = _by_group if results.crowded else _together
    figure, caption = draw(rows, DensityAxis.of(rows))
    tickets = [row for row in rows if row.method.group != "dense"]
    several = len({row.true_density for row in tickets}) > 2  # with two points, both scales look alike
    linear = draw(rows, DensityAxis.of(rows, "linear"))[0] if several else None
    best = max(rows, key=lambda row: row.mean)
    alt = (
        f"Test accuracy against density, on a logarithmic axis from dense to sparse, for "
        f"{_list([method.label for method in results.methods])}. The highest mean is "
        f"{percent(best.mean)} %, {best.method.label} at density {density_text(best.true_density)}. "
        "The results table holds every number."
    )
    return render(figure, "accuracy-density", alt, caption, linear=linear)


def _together(rows: Sequence[SummaryRow], across: DensityAxis) -> tuple[Figure, str]:
    """All methods in one panel.

    Controls can be at chance while the tickets differ by tenths of a point. So where the whole range would
    press the top together it stands small at the left, and a close-up of the top beside it.
    """
    whole = whole_range(rows)
    window = close_up(rows, whole)
    figure = Figure(figsize=(WIDTH, 3.5 if len(rows) > 2 else 2.0))
    if window is None:
        close = figure.add_subplot()
        draw_accuracies(close, rows, across, whole)
    else:
        left, close = figure.subplots(1, 2, width_ratios=(1, 1.9))
        draw_accuracies(left, rows, across, whole, small=True)
        draw_accuracies(close, rows, across, window)
        left.set_title("whole range")
        close.set_title("close-up of the top")
        frame = Rectangle((0, window[0]), 1, window[1] - window[0], transform=left.get_yaxis_transform())
        frame.set(facecolor=GRID, edgecolor=QUIET, linewidth=0.5, alpha=0.45, zorder=0)
        left.add_patch(frame)
    figure.axes[0].set_ylabel("test accuracy (%)")
    figure.axes[0].set_xlabel("density")
    close.set_xlabel("density (fraction of weights kept), sparser to the right")
    return figure, _caption(rows, name_methods(close, rows, across, gap=0.052))


def _by_group(rows: Sequence[SummaryRow], across: DensityAxis) -> tuple[Figure, str]:
    """A panel for each group on common axes; a group of which little is at the top shows its whole range."""
    window = close_up(rows, whole_range(rows))
    dense = [row for row in rows if row.method.group == "dense"]
    groups = by_group(rows)
    figure, panels = group_panels(groups)
    wide = False
    for group, axes in panels.items():
        limits, title = window or whole_range(rows), GROUPS[group]
        inside = [row for row in groups[group] if 100 * row.mean >= limits[0]]
        if 2 * len(inside) < len(groups[group]):
            limits, title, wide = whole_range(dense + groups[group]), f"{title} (whole range)", True
        axes.set_title(title, pad=TITLE_PAD)
        draw_accuracies(axes, dense + groups[group], across, limits, small=True)
    label_panels(panels, "density", "test accuracy (%)")
    figure.draw_without_rendering()  # the height of the panels is only known now
    below = False
    for group, axes in panels.items():
        below |= name_methods(axes, dense + groups[group], across, name_gap(figure, axes), small=True)
    caption = _caption(rows, below, panels=True)
    if wide:
        caption += " The y axis is the same in all panels except those that say so."
    return figure, caption


def _caption(rows: Sequence[SummaryRow], below: bool, *, panels: bool = False) -> str:
    averaged = any(row.n > 1 for row in rows)
    methods = {row.method for row in rows}
    groups = {method.group for method in methods}
    text = "Test accuracy"
    text += (
        ", mean over seeds; bars reach from the worst seed to the best." if averaged else ", one seed each."
    )
    if len(methods) - ("dense" in groups) > 1:
        text += " Methods at one density stand side by side."
    if any(row.emerged for row in rows):
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
        text += f" An arrow gives the mean of a line that ends below the {'panel' if panels else 'close-up'},"
        text += " a triangle at the foot marks a mean that lies there."
    return text


def _list(names: Any) -> str:
    *most, last = names
    return f"{', '.join(most)} and {last}" if most else last
