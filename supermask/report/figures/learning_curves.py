"""The figure of learning curves: a quantity against the step, mean and spread over seeds."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import BoundaryNorm, ListedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from supermask.report.figures.drawing import Drawing, Series, mark, render, say
from supermask.report.figures.groups import TITLE_PAD, group_panels, label_panels, name_gap
from supermask.report.figures.line_names import Name, in_axes, name_lines
from supermask.report.figures.style import INK, WIDTH, density_colours
from supermask.report.formatting import density_text
from supermask.report.methods.method import GROUPS, Method, by_group, is_crowded
from supermask.report.results.model import LearningCurves
from supermask.report.results.rows import Curve

COLUMNS = 3
BELOW_CAPTION = " An arrow names what ends below the frame, with its last value."
SAID = 12
"""At up to so many steps a curve says its value when pointed at."""
BELOW = 6
"""So many lines that end below a panel are named in it."""


def draw_learning_curves(learning: LearningCurves) -> Drawing:
    """Validation accuracy or training loss against the step.

    With few densities there is a panel per density and a line per method; with many, a panel per method
    and a line per density. Many methods stand in a panel per group, at the lowest density only.
    """
    curves, loss = learning.curves, learning.quantity == "train_loss"
    if is_crowded(curves):
        return _draw_groups(curves, loss)
    scale = 1 if loss else 100
    dense = [curve for curve in curves if curve.method.group == "dense"]
    others = [curve for curve in curves if curve.method.group != "dense"]
    densities = sorted({curve.density for curve in others}, reverse=True)
    by_density = len(densities) <= COLUMNS
    colours = None if by_density else density_colours(densities)
    panels = _panels_of_densities(others, densities) if by_density else _panels_of_methods(others)
    figure, grid = _grid(len(panels))
    for axes, (title, members) in zip(grid, panels.items(), strict=True):
        axes.set_title(title)
        for curve in dense:
            _draw_curve(axes, curve, scale)
        for curve in members:
            _draw_curve(axes, curve, scale, None if colours is None else colours[curve.density])
    _scale(grid, curves, scale, loss)
    below = [
        _name_below(axes, dense + members, scale) for axes, members in zip(grid, panels.values(), strict=True)
    ]
    for axes in grid[::COLUMNS]:
        axes.set_ylabel(_y_label(loss))
    if colours is not None:
        _density_key(figure, grid, colours)
    else:
        _name_methods(grid[-1], dense + others, densities, scale)
    what = "Training loss" if loss else "Validation accuracy"
    panel = (
        "panel per density, one line per method" if by_density else "panel per method, one line per density"
    )
    alt, caption = _alt(what, curves, panel), _caption(what, curves, by_density, loss)
    if any(below):
        caption += BELOW_CAPTION
    return render(figure, "learning-curves", alt, caption)


def _draw_groups(curves: Sequence[Curve], loss: bool) -> Drawing:
    """A panel per group with a line per method at the lowest density, where methods differ most."""
    scale = 1 if loss else 100
    lowest = min(curve.density for curve in curves)
    dense = [curve for curve in curves if curve.method.group == "dense"]
    groups = by_group([curve for curve in curves if curve.density == lowest])
    figure, panels = group_panels(groups, shared=True)
    shown = [*dense, *(curve for members in groups.values() for curve in members)]
    _scale(list(panels.values()), shown, scale, loss)
    for group, axes in panels.items():
        axes.set_title(GROUPS[group], pad=TITLE_PAD)
        for curve in dense + groups[group]:
            _draw_curve(axes, curve, scale)
    label_panels(panels, "step", _y_label(loss))
    figure.draw_without_rendering()  # the height of the panels is only known now
    below = False
    for group, axes in panels.items():
        _name_methods(axes, dense + groups[group], [lowest], scale, name_gap(figure, axes), small=True)
        below |= _name_below(axes, dense + groups[group], scale)
    what = f"{'Training loss' if loss else 'Validation accuracy'} at density {density_text(lowest)}"
    caption = _caption(what, shown, by_density=True, loss=loss)
    caption += " A panel for each group of methods; results.json has the curves of the other densities."
    if below:
        caption += BELOW_CAPTION
    alt = _alt(what, shown, "panel per group of methods, one line per method")
    return render(figure, "learning-curves", alt, caption)


def _grid(count: int) -> tuple[Figure, list[Axes]]:
    """A figure with `count` panels on common axes, which are labelled at the left and below."""
    rows = math.ceil(count / COLUMNS)
    figure = Figure(figsize=(WIDTH, 3.1 if rows == 1 else 0.5 + 1.9 * rows))
    every = figure.subplots(rows, min(count, COLUMNS), sharex=True, sharey=True, squeeze=False).flat
    for axes in every[count:]:
        axes.remove()
    panels = list(every[:count])
    for index, axes in enumerate(panels):
        axes.label_outer()
        if index + COLUMNS >= count:  # nothing below it, even where the last row is not full
            axes.tick_params(axis="x", labelbottom=True)
            axes.set_xlabel("step")
    return figure, panels


def _panels_of_densities(curves: Sequence[Curve], densities: Sequence[float]) -> dict[str, list[Curve]]:
    panels = {
        f"density {density_text(density)}": [curve for curve in curves if curve.density == density]
        for density in densities
    }
    return panels or {"": []}  # only the dense network


def _panels_of_methods(curves: Sequence[Curve]) -> dict[str, list[Curve]]:
    panels: dict[str, list[Curve]] = {}
    for curve in curves:
        panels.setdefault(curve.method.label, []).append(curve)
    return panels


def _draw_curve(axes: Axes, curve: Curve, scale: float, colour: Any = None) -> None:
    """Mean and band; a `colour` of its own stands for the density and replaces the look of the method."""
    quiet = curve.method.group == "control"
    by_method = colour is None
    colour = curve.method.colour if by_method else colour
    low, mean, high = ([scale * value for value in values] for values in (curve.low, curve.mean, curve.high))
    look = curve.method if by_method else density_series(curve.density, colour)
    if low != high and by_method:
        band = axes.fill_between(curve.steps, low, high, color=colour, alpha=0.10 if quiet else 0.16, lw=0)
        mark(band, look)
    (line,) = axes.plot(
        curve.steps,
        mean,
        color=colour,
        ls=curve.method.dash if by_method else "solid",
        lw=1.0 if quiet or not by_method else 1.4,
        marker="." if len(mean) == 1 else "",  # a line through one point cannot be seen
    )
    mark(line, look)
    for index in _spaced(len(mean), SAID):
        value = f"{mean[index]:.3g}" if scale == 1 else f"{mean[index]:.2f} %"
        at = f"step {curve.steps[index]:,.0f}: {value}"
        at = (
            at
            if by_method and curve.method.group == "dense"
            else f"density {density_text(curve.density)}, {at}"
        )
        say(axes, curve.steps[index], mean[index], look, at if by_method else f"{curve.method.label}, {at}")


def density_series(density: float, colour: str) -> Series:
    """What the curves of one density have in common."""
    return Series(f"density {density!r}", f"density {density_text(density)}", colour)


def _spaced(count: int, most: int) -> list[int]:
    """Up to `most` indices below `count` at equal distances, with the last among them."""
    wanted = min(count, most)
    return [(count * (index + 1)) // wanted - 1 for index in range(wanted)]


def _name_below(axes: Axes, curves: Sequence[Curve], scale: float) -> bool:
    """Name at the foot of a panel what ends below it, with its last value; whether there was something."""
    bottom = min(axes.get_ylim())
    below = [curve for curve in curves if scale * curve.mean[-1] < bottom]
    for index, curve in enumerate(below[:BELOW]):
        text = f"↓ {curve.method.label} {scale * curve.mean[-1]:.1f} %"
        if index == BELOW - 1 and len(below) > BELOW:
            text = f"↓ {len(below) - index} more"
        written = axes.text(
            0.02, 0.02 + 0.06 * index, text, transform=axes.transAxes, fontsize=6, color=curve.method.colour
        )
        mark(written, curve.method)
    return bool(below)


def _scale(panels: Sequence[Axes], curves: Sequence[Curve], scale: float, loss: bool) -> None:
    """Common axes of all panels. The first steps may lie below the frame, or they would flatten the rest."""
    for axes in panels:
        axes.xaxis.set_major_locator(MaxNLocator(3, integer=True))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    if loss:
        if any(value > 0 for curve in curves for value in curve.mean):  # of one class it is 0 from the start
            panels[0].set_yscale("log")
        panels[0].yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        panels[0].yaxis.set_minor_formatter(FuncFormatter(lambda value, _: ""))
        return
    values = sorted(scale * value for curve in curves for value in curve.mean)
    low, high = values[len(values) // 10], max(scale * value for curve in curves for value in curve.high)
    pad = max(0.05 * (high - low), 0.25)
    panels[0].set_ylim(low - pad, high + pad)


def _y_label(loss: bool) -> str:
    return "training loss" if loss else "validation accuracy (%)"


def _name_methods(
    axes: Axes,
    curves: Sequence[Curve],
    densities: Sequence[float],
    scale: float,
    gap: float = 0.07,
    *,
    small: bool = False,
) -> None:
    """Names at the right of the last panel, also of methods that are only in the others."""
    names = []
    for curve in {curve.method: curve for curve in curves}.values():  # the sparsest of each: it came last
        end = in_axes(axes, curve.steps[-1], scale * curve.mean[-1])
        here = curve.method.group == "dense" or curve.density == densities[-1]
        in_sight = here and 0 <= end[1] <= 1
        names.append(Name(curve.method, curve.method.label, end[1], end if in_sight else None))
    name_lines(axes, names, gap=gap, markers=False, small=small)


def _density_key(figure: Figure, panels: Sequence[Axes], colours: Mapping[float, str]) -> None:
    """A key to the colours: a block for each density, dense on top, labelled at up to 17 of them."""
    count, names = len(colours), list(colours)
    blocks = ScalarMappable(BoundaryNorm(range(count + 1), count), ListedColormap(list(colours.values())))
    bar = figure.colorbar(blocks, ax=list(panels), label="density", aspect=30)
    bar.outline.set_visible(False)
    if bar.solids is not None:
        bar.solids.set_rasterized(False)  # with many densities matplotlib would put a bitmap into the SVG
    every = math.ceil(count / 17)
    bar.ax.invert_yaxis()
    bar.ax.yaxis.set_major_locator(FixedLocator([index + 0.5 for index in range(0, count, every)]))
    bar.ax.yaxis.set_minor_locator(NullLocator())
    bar.ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: density_text(names[int(value)])))
    bar.ax.tick_params(length=0)
    bar.ax.yaxis.label.set_color(INK)


def _alt(what: str, curves: Sequence[Curve], panels: str) -> str:
    methods: dict[Method, None] = dict.fromkeys(curve.method for curve in curves)
    last = max(step for curve in curves for step in curve.steps)
    names = ", ".join(method.label for method in methods)
    return f"{what} against the step, up to step {last:,.0f}. One {panels}: {names}."


def _caption(what: str, curves: Sequence[Curve], by_density: bool, loss: bool) -> str:
    text = f"{what} against the step"
    if any(curve.low != curve.high for curve in curves):
        text += ", mean over seeds" + (", with a band from the worst seed to the best" if by_density else "")
    text += "."
    if any(curve.method.group == "dense" for curve in curves):
        text += " The dense network is in every panel" + ("." if by_density else ", without colour.")
    if not loss:
        text += " The first steps may lie below the frame."
    return text
