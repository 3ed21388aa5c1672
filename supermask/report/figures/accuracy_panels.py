"""What panels of accuracy against density are drawn from: their axes, their points, their names."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from supermask.report.figures.drawing import bars_to, mark, say
from supermask.report.figures.line_names import Name, in_axes, name_lines
from supermask.report.figures.style import PAPER
from supermask.report.formatting import density_text, percent
from supermask.report.methods.method import Method
from supermask.report.results.rows import SummaryRow

CLOSE = 0.10
"""The close-up shows what lies within this much of the best mean."""

Range = tuple[float, float]


@dataclass(frozen=True)
class DensityAxis:
    """The x axis: dense at the left as in the papers.

    Attributes:
        densities: Densities asked for, from dense to sparse; that of the dense network only if there is no
            other.
        limits: The ends of the axis, which also hold densities that came out elsewhere.
        scale: `log`, or `linear`.
    """

    densities: Sequence[float]
    limits: Range
    scale: str = "log"

    @classmethod
    def of(cls, rows: Sequence[SummaryRow], scale: str = "log") -> "DensityAxis":
        """The axis that `rows` need."""
        tickets = [row for row in rows if row.method.group != "dense"]
        found = {row.density for row in tickets} or {1.0}
        shown = {row.true_density for row in tickets} or {1.0}
        first, last = max(shown), min(shown)
        densities = sorted(found, reverse=True)
        if scale == "linear":
            edge = max(0.02, 0.06 * (first - last))
            return cls(densities, (first + edge, last - edge), scale)
        pad = math.exp(max(0.15, 0.09 * math.log(first / last)))
        return cls(densities, (first * pad, last / pad))

    def between(self, more: float, less: float) -> float:
        """How far apart two densities are on the axis."""
        return more - less if self.scale == "linear" else math.log(more / less)

    def aside(self, density: float, distance: float) -> float:
        """What stands at a distance from a density, to the left."""
        return density + distance if self.scale == "linear" else density * math.exp(distance)

    def shift(self, count: int) -> float:
        """How far apart `count` methods stand at one density, so that bars do not touch."""
        width = self.between(*self.limits)
        gaps = [self.between(more, less) for more, less in pairwise(self.densities)]
        if not gaps:
            return width / (count + 1)
        return min(min(gaps) / (2.2 * max(count, 1)), 0.012 * width)

    def ticks(self, least: float) -> list[float]:
        """Densities to print below the axis: both ends, and between them what keeps its distance.

        Args:
            least: Distance that labels need, as a fraction of the axis.
        """
        first, last = self.densities[0], self.densities[-1]
        room = least * self.between(first, last)
        kept = [first]
        for density in self.densities[1:-1]:
            if self.between(kept[-1], density) >= room and self.between(density, last) >= room:
                kept.append(density)
        return [*kept, last]


def draw_accuracies(
    axes: Axes, rows: Sequence[SummaryRow], across: DensityAxis, limits: Range, *, small: bool = False
) -> None:
    """The dense band, a line with bars for each method, and the axes."""
    for row in rows:
        if row.method.group == "dense":
            band = axes.axhspan(100 * row.min, 100 * row.max, color=row.method.colour, alpha=0.13, lw=0)
            mark(band, row.method)
            mark(axes.axhline(100 * row.mean, color=row.method.colour, lw=1.3), row.method, value_of(row))
    for method, points in series(rows, across).items():
        quiet = method.group == "control"
        ends = [[100 * getattr(row, end) for _, row in points] for end in ("mean", "min", "max")]
        bars = axes.errorbar(
            [x for x, _ in points],
            ends[0],
            yerr=bars_to(*ends),
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
        for artist in bars.get_children():
            mark(artist, method)
        for x, row in points:
            if 100 * row.mean < limits[0]:
                look: dict[str, Any] = {
                    "color": method.colour,
                    "marker": "v",
                    "ms": 3,
                    "mew": 0,
                    "clip_on": False,
                }
                mark(axes.plot([x], [limits[0]], **look)[0], method, value_of(row))
            else:
                say(axes, x, 100 * row.mean, method, value_of(row))
    axes.set_xscale(across.scale)
    axes.set_xlim(*across.limits)
    axes.set_ylim(*limits)
    axes.grid(False, axis="x")
    axes.xaxis.set_major_locator(FixedLocator(across.ticks(0.25 if small else 0.09)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: density_text(value)))
    axes.xaxis.set_minor_locator(NullLocator())


def name_methods(
    axes: Axes, rows: Sequence[SummaryRow], across: DensityAxis, gap: float, *, small: bool = False
) -> bool:
    """Names at the right, `gap` apart; a line that ends below the axes is named at the foot with its mean.

    Returns:
        Whether there was such a line.
    """

    def suffix(row: SummaryRow) -> str:
        """With one density there is no line to follow, and room for the number."""
        return f"  {percent(row.mean)} %" if len(across.densities) == 1 else ""

    names = []
    for row in rows:
        if row.method.group == "dense":
            height = in_axes(axes, 1, 100 * row.mean)[1]
            names.append(Name(row.method, row.method.label + suffix(row), height, (1.0, height)))
    for method, points in series(rows, across).items():
        x, last = points[-1]
        end = in_axes(axes, x, 100 * last.mean)
        if end[1] >= 0:
            names.append(Name(method, method.label + suffix(last), end[1], end))
        else:
            names.append(Name(method, f"{method.label} ↓ {percent(last.mean)} %", end[1], None))
    name_lines(axes, names, gap=gap, small=small)
    return any(name.end is None for name in names)


def series(rows: Sequence[SummaryRow], across: DensityAxis) -> dict[Method, list[tuple[float, SummaryRow]]]:
    """Method → its points from dense to sparse, each with where it stands on the x axis.

    Methods at one density stand side by side, or nobody could tell their bars apart; a density that came out
    elsewhere stands where it is.
    """
    methods: dict[Method, list[SummaryRow]] = {}
    for row in rows:
        if row.method.group != "dense":
            methods.setdefault(row.method, []).append(row)
    shift = across.shift(len(methods))
    placed = {}
    for index, (method, members) in enumerate(methods.items()):
        aside = ((len(methods) - 1) / 2 - index) * shift
        points = [
            (row.true_density if row.emerged else across.aside(row.density, aside), row) for row in members
        ]
        placed[method] = sorted(points, key=lambda point: point[0], reverse=True)
    return placed


def value_of(row: SummaryRow) -> str:
    """What a point says: density, mean, extremes and number of seeds."""
    text = f"{percent(row.mean, 2)} %"
    if row.n > 1:
        text += f" ({percent(row.min, 2)} to {percent(row.max, 2)}, {row.n} seeds)"
    return text if row.method.group == "dense" else f"density {density_text(row.true_density)}: {text}"


def whole_range(rows: Sequence[SummaryRow]) -> Range:
    """From the worst seed to the best, in percent."""
    return _padded(100 * min(row.min for row in rows), 100 * max(row.max for row in rows))


def close_up(rows: Sequence[SummaryRow], whole: Range) -> Range | None:
    """The range of the close-up in percent, or None where the whole range is legible as it is."""
    floor = max(row.mean for row in rows) - CLOSE
    low = min(max(row.min, floor) for row in rows if row.mean >= floor)
    window = _padded(100 * low, 100 * max(row.max for row in rows))
    return window if window[1] - window[0] < 0.5 * (whole[1] - whole[0]) else None


def _padded(low: float, high: float) -> Range:
    pad = max(0.06 * (high - low), 0.25)
    return low - pad, high + pad
