"""Names of lines at the right of axes: legend and labels in one, kept apart."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.transforms import ScaledTranslation, Transform, blended_transform_factory

from supermask.report.figures.drawing import mark
from supermask.report.figures.style import PAPER, QUIET
from supermask.report.methods.method import Method


@dataclass(frozen=True)
class Name:
    """What `name_lines` writes.

    Attributes:
        height: Where it should stand, in axes fractions.
        end: End of its line in axes fractions; None when that is out of sight.
    """

    method: Method
    text: str
    height: float
    end: tuple[float, float] | None


def in_axes(axes: Axes, x: float, y: float) -> tuple[float, float]:
    """Data coordinates in fractions of the axes; limits and scales must be final."""
    across, up = axes.transAxes.inverted().transform(axes.transData.transform((x, y)))
    return float(across), float(up)


def beside(axes: Axes, vertical: Transform) -> Transform:
    """Coordinates at the right of `axes`: inches from its edge, and `vertical` for the height."""
    edge = axes.figure.dpi_scale_trans + ScaledTranslation(1, 0, axes.transAxes)  # type: ignore[arg-type]
    return blended_transform_factory(edge, vertical)


def name_lines(
    axes: Axes, names: Sequence[Name], gap: float, *, markers: bool = True, small: bool = False
) -> None:
    """Name lines at the right of `axes` in the order of their ends, `gap` apart: legend and labels in one."""
    size, left, middle, right, start = (6.3, 0.12, 0.23, 0.34, 0.39) if small else (7, 0.15, 0.275, 0.4, 0.46)
    at = beside(axes, axes.transAxes)
    here: dict[str, Any] = {"transform": at, "clip_on": False}
    names = sorted(names, key=lambda name: name.height)
    for name, height in zip(names, keep_apart([name.height for name in names], gap), strict=True):
        method = name.method
        if name.end is not None:
            leader = {"arrowstyle": "-", "color": QUIET, "lw": 0.4, "alpha": 0.8, "shrinkA": 0, "shrinkB": 0}
            pointer = axes.annotate(
                "", name.end, (left - 0.03, height), "axes fraction", at, leader, annotation_clip=False
            )
            if pointer.arrow_patch is not None:
                mark(pointer.arrow_patch, method)
        (handle,) = axes.plot(
            [left, right], [height] * 2, color=method.colour, ls=method.dash, lw=1.5, **here
        )
        mark(handle, method)
        if markers:
            (handle,) = axes.plot(
                [middle],
                [height],
                color=method.colour,
                marker=method.marker,
                ms=4,
                mec=PAPER,
                mew=0.3,
                **here,
            )
            mark(handle, method)
        weight = "normal" if small or method.group == "control" else "bold"
        label = axes.text(start, height, name.text, va="center", fontsize=size, weight=weight, transform=at)
        mark(label, method)


def keep_apart(wanted: Sequence[float], gap: float) -> list[float]:
    """Positions near the ascending `wanted` ones, at least `gap` apart, centred in [0, 1] where they crowd.

    Labels that would touch form a block that moves as one to the mean of what its members want, which is
    the least-squares solution (pool adjacent violators).
    """
    blocks: list[list[float]] = []  # each: wanted positions less the offset inside the whole stack
    for index, position in enumerate(wanted):
        blocks.append([position - index * gap])
        while len(blocks) > 1 and _mean(blocks[-2]) > _mean(blocks[-1]):
            last = blocks.pop()
            blocks[-1] += last
    stacked = [_mean(block) for block in blocks for _ in block]
    placed = [base + index * gap for index, base in enumerate(stacked)]
    # Into the frame without reordering: clamp from above, then from below. A stack that is taller than the
    # frame hangs over evenly.
    count = len(placed)
    slack = max(0.0, (count - 1) * gap - 1) / 2
    placed = [min(value, 1 + slack - (count - 1 - index) * gap) for index, value in enumerate(placed)]
    return [max(value, index * gap - slack) for index, value in enumerate(placed)]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
