"""The figure of what tickets weigh: bytes of their files beside the dense weights."""

import math
import re
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from supermask.report.canvas import INK, QUIET, WIDTH, Drawing, beside, render
from supermask.report.summary import Line
from supermask.report.text import bytes_text, density_text, ratio_text


def draw_ticket_size(lines: Sequence[Line]) -> Drawing:
    """Bytes of each ticket beside the dense weights; controls only where there is nothing else to show."""
    sized = [line for line in lines if line.ticket_bytes and line.method.group != "dense"]
    tickets = [line for line in sized if line.method.is_ticket] or sized
    dense = max(line.dense_bytes or line.ticket_bytes or 0 for line in lines)
    sizes = [dense, *(line.ticket_bytes or 0 for line in tickets)]
    # A little air where another method begins.
    heights = [-index - 0.5 * len({line.method for line in tickets[:index]}) for index in range(len(sizes))]
    figure = Figure(figsize=(WIDTH, 0.8 + 0.19 * len(sizes)))
    axes = figure.add_subplot()
    axes.barh(heights, sizes, height=0.74, color=[INK, *(line.method.colour for line in tickets)])
    axes.axvline(dense, color=INK, lw=0.7, ls=(0, (2, 2)), zorder=0)
    axes.set_xscale("log")
    axes.set_xlim(_round_below(min(sizes) / 1.5), max(sizes) * 1.04)
    axes.set_ylim(heights[-1] - 0.7, heights[0] + 0.7)
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if max(sizes) < 15 * min(sizes) else (1,)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: re.sub(r"\.0+ ", " ", bytes_text(value))))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("bytes, logarithmic")
    axes.grid(False, axis="y")
    axes.tick_params(axis="y", length=0)
    axes.set_yticks(heights, ["dense weights", *_bar_names(tickets)])
    ratios = ["", *(ratio_text(line.ratio) for line in tickets)]
    _write_column(axes, 0.62, "size", heights, [bytes_text(size) for size in sizes])
    _write_column(axes, 1.25, "smaller by", heights, ratios)
    caption = (
        "The file of each ticket, by method and density, on a logarithmic axis; the dotted line is the size "
        "of the dense weights."
    )
    if len(tickets) < len(sized):
        caption += " Controls are in the table."
    return render(figure, "ticket-size", _size_alt(tickets, dense), caption)


def _bar_names(tickets: Sequence[Line]) -> list[str]:
    """Method and density; the method only where it begins."""
    names, previous = [], None
    for line in tickets:
        name = "" if line.method == previous else f"{line.method.label}\N{EM SPACE}"
        names.append(name + density_text(line.density))
        previous = line.method
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


def _size_alt(tickets: Sequence[Line], dense: float) -> str:
    smallest = min(tickets, key=lambda line: line.ticket_bytes or 0, default=None)
    text = f"Bars of file sizes on a logarithmic axis. The dense weights take {bytes_text(dense)}"
    if smallest is None:
        return f"{text}."
    return (
        f"{text}, the smallest ticket {bytes_text(smallest.ticket_bytes)} "
        f"({smallest.method.label} at density {density_text(smallest.density)}). "
        "The results table holds every number."
    )
