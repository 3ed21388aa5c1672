"""The figure of what tickets weigh: bytes of their files beside the dense weights."""

import math
import re
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from supermask.report.figures.drawing import Drawing, Series, mark, render
from supermask.report.figures.line_names import beside
from supermask.report.figures.style import INK, QUIET, WIDTH
from supermask.report.formatting import bytes_text, density_text, ratio_text
from supermask.report.methods.method import GROUPS
from supermask.report.results import Results
from supermask.report.results.rows import SummaryRow

DENSE = Series("dense", "dense weights", INK)
UNTRAINED, TRAINED = "#d55e00", "#0072b2"
"""Colours of groups: what a ticket weighs depends on whether it holds weights."""


@dataclass(frozen=True)
class Bar:
    """A ticket, or several tickets of one group and density, by their median.

    Attributes:
        series: What the bar belongs to, a method or a group; bars of one stand together.
        ratio: Dense bytes over ticket bytes.
        least: Bytes of the smallest of the tickets.
        most: Bytes of the largest.
    """

    series: str
    density: float
    colour: str
    size: float
    ratio: float | None
    least: float
    most: float

    @property
    def look(self) -> Series:
        """What is switched on and off together."""
        return Series(self.series, self.series, self.colour)

    @property
    def value(self) -> str:
        """What the bar says when pointed at."""
        text = f"density {density_text(self.density)}: {bytes_text(self.size)}"
        if self.least < self.most:
            text += f" ({bytes_text(self.least)} to {bytes_text(self.most)})"
        return text if self.ratio is None else f"{text}, {ratio_text(self.ratio)} smaller"


def draw_ticket_size(results: Results) -> Drawing:
    """Bytes of each ticket beside the dense weights; controls only where there is nothing else to show.

    Of many methods there is a bar per group and density: within a group the files hardly differ.
    """
    rows, crowded = results.rows, results.crowded
    sized = [row for row in rows if row.ticket_bytes and row.method.group != "dense"]
    tickets = [row for row in sized if row.method.is_ticket] or sized
    bars = _bars_of_groups(tickets) if crowded else [_bar([row], row.method.label) for row in tickets]
    dense = max(row.dense_bytes or row.ticket_bytes or 0 for row in rows)
    caption = "The file of the median ticket, by group" if crowded else "The file of each ticket, by method"
    caption += " and density; the dotted line is the size of the dense weights."
    if crowded:
        caption += " Thin lines reach from the smallest ticket of the group to the largest."
    if len(tickets) < len(sized):
        caption += " Controls are in the table."
    alt, linear = _size_alt(tickets, dense), _draw_bars(bars, dense, "linear")
    return render(_draw_bars(bars, dense, "log"), "ticket-size", alt, caption, linear=linear)


def _draw_bars(bars: Sequence[Bar], dense: float, scale: str) -> Figure:
    sizes = [dense, *(bar.size for bar in bars)]
    # A little air where another series begins.
    heights = [-index - 0.5 * len({bar.series for bar in bars[:index]}) for index in range(len(sizes))]
    figure = Figure(figsize=(WIDTH, 0.8 + 0.19 * len(sizes)))
    axes = figure.add_subplot()
    drawn = axes.barh(heights, sizes, height=0.74, color=[INK, *(bar.colour for bar in bars)])
    mark(drawn[0], DENSE, bytes_text(dense))
    for height, bar, patch in zip(heights[1:], bars, drawn[1:], strict=True):
        mark(patch, bar.look, bar.value)
        if bar.least < bar.most:
            (reach,) = axes.plot([bar.least, bar.most], [height] * 2, color=INK, lw=1.0, marker="|", ms=4)
            mark(reach, bar.look)
    axes.axvline(dense, color=INK, lw=0.7, ls=(0, (2, 2)), zorder=0)
    extremes = [*sizes, *(bar.least for bar in bars), *(bar.most for bar in bars)]
    axes.set_xscale(scale)
    if scale == "log":
        axes.set_xlim(_round_below(min(extremes) / 1.5), max(extremes) * 1.04)
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if max(sizes) < 15 * min(sizes) else (1,)))
        axes.xaxis.set_minor_locator(NullLocator())
    else:
        axes.set_xlim(0, max(extremes) * 1.04)
    axes.set_ylim(heights[-1] - 0.7, heights[0] + 0.7)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: re.sub(r"\.0+ ", " ", bytes_text(value))))
    axes.set_xlabel("bytes, logarithmic" if scale == "log" else "bytes")
    axes.grid(False, axis="y")
    axes.tick_params(axis="y", length=0)
    axes.set_yticks(heights, ["dense weights", *_bar_names(bars)])
    _write_column(axes, 0.62, "size", heights, [bytes_text(size) for size in sizes])
    _write_column(axes, 1.25, "smaller by", heights, ["", *(ratio_text(bar.ratio) for bar in bars)])
    return figure


def _bars_of_groups(tickets: Sequence[SummaryRow]) -> list[Bar]:
    """The tickets of one group at one density as one bar."""
    bars = []
    for group, members in groupby(tickets, key=lambda row: row.method.group):
        colour = UNTRAINED if group == "strong" else TRAINED
        same = sorted(members, key=lambda row: -row.density)
        for _, together in groupby(same, key=lambda row: row.density):
            bars.append(_bar(list(together), GROUPS[group].partition(":")[0], colour))
    return bars


def _bar(tickets: Sequence[SummaryRow], series: str, colour: str | None = None) -> Bar:
    sizes = [row.ticket_bytes or 0 for row in tickets]
    ratios = [row.ratio for row in tickets if row.ratio is not None]
    first = tickets[0]
    return Bar(
        series=series,
        density=first.true_density if len(tickets) == 1 else first.density,
        colour=colour or first.method.colour,
        size=statistics.median(sizes),
        ratio=statistics.median(ratios) if ratios else None,
        least=min(sizes),
        most=max(sizes),
    )


def _bar_names(bars: Sequence[Bar]) -> list[str]:
    """Series and density; the series only where it begins."""
    names, previous = [], None
    for bar in bars:
        name = "" if bar.series == previous else f"{bar.series}\N{EM SPACE}"
        names.append(name + density_text(bar.density))
        previous = bar.series
    return names


def _write_column(
    axes: Axes, inches: float, title: str, heights: Sequence[float], texts: Sequence[str]
) -> None:
    """Text flush right, `inches` to the right of the axes, one per bar."""
    transform = beside(axes, axes.transData)
    for height, text in zip(heights, texts, strict=True):
        axes.text(inches, height, text, transform=transform, ha="right", va="center", fontsize=7)
    axes.text(inches, heights[0] + 1, title, transform=transform, ha="right", fontsize=7, color=QUIET)


def _round_below(value: float) -> float:
    """The next of 1, 2, 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(value))
    return max(digit * power for digit in (1, 2, 5) if digit * power <= value)


def _size_alt(tickets: Sequence[SummaryRow], dense: float) -> str:
    smallest = min(tickets, key=lambda row: row.ticket_bytes or 0, default=None)
    text = f"Bars of file sizes on a logarithmic axis. The dense weights take {bytes_text(dense)}"
    if smallest is None:
        return f"{text}."
    return (
        f"{text}, the smallest ticket {bytes_text(smallest.ticket_bytes)} "
        f"({smallest.method.label} at density {density_text(smallest.true_density)}). "
        "The results table holds every number."
    )
