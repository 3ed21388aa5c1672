"""Figures of the benchmarks, beside their JSON: timings as dots with quartiles, or speed-ups over rivals."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from supermask.report.figures.style import INK, QUIET, WIDTH, style


def plot_timings(
    path: Path, title: str, rows: Sequence[Mapping[str, Any]], label: Callable[[Mapping[str, Any]], str]
) -> None:
    """Write a PNG of all summaries of `interleave` in `rows`, on a logarithmic axis of milliseconds.

    Args:
        path: The file.
        title: What was timed, and with what.
        rows: Rows of a result; what has a `median_ms` is a candidate, in the order given.
        label: Heading of a row's group.
    """
    lines: list[tuple[str, Mapping[str, float] | None]] = []
    for row in rows:
        lines.append((label(row), None))
        lines += [(name, v) for name, v in row.items() if isinstance(v, Mapping) and "median_ms" in v]
    with style():
        figure = Figure(figsize=(WIDTH, 0.9 + 0.17 * len(lines)))
        axes = figure.add_subplot()
        for y, (_, timing) in enumerate(lines):
            if timing is None:
                continue
            axes.plot([timing["q1_ms"], timing["q3_ms"]], [y, y], color=QUIET, lw=2.5)
            axes.plot(timing["median_ms"], y, "o", color=INK, ms=4)
            place = (timing["q3_ms"], y)
            axes.annotate(
                _number(timing["median_ms"]), place, (6, 0), textcoords="offset points", va="center"
            )
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _number(value)))
        axes.margins(x=0.08)
        axes.set_ylim(len(lines) - 0.4, -0.6)
        axes.set_yticks(range(len(lines)), [name for name, _ in lines])
        for tick, (_, timing) in zip(axes.get_yticklabels(), lines, strict=True):
            tick.set_fontweight("bold" if timing is None else "normal")
        axes.tick_params(axis="y", length=0)
        axes.grid(False, axis="y")
        axes.set_xlabel("milliseconds: median (number), quartiles (bar)")
        axes.set_title(title)
        figure.savefig(path, dpi=150)


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def plot_speedups(speedups: Mapping[str, Mapping[str, float]], title: str, path: Path) -> None:
    """A line for each case, a mark for each rival, on a logarithmic axis; right of 1 is faster.

    Args:
        speedups: Case → rival → how many times faster than the rival ours is.
        title: What the axis shows.
        path: Where the PNG goes.
    """
    rivals = list(dict.fromkeys(rival for row in speedups.values() for rival in row))
    with style():
        figure = Figure(figsize=(WIDTH, 0.24 * len(speedups) + 1.1))
        axes = figure.add_subplot()
        for rival, marker in zip(rivals, "osD^vP*X", strict=False):
            places = [(row[rival], i) for i, row in enumerate(speedups.values()) if rival in row]
            axes.plot(*zip(*places, strict=True), marker, label=rival, alpha=0.8, ms=4.5, mec="none")
        axes.axvline(1, color=QUIET, lw=1)
        axes.set_xscale("log")
        axes.set_xlabel(title)
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}×"))
        axes.set_yticks(range(len(speedups)), list(speedups))
        axes.invert_yaxis()
        axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False)
        figure.savefig(path, dpi=200, metadata={"Software": None})
