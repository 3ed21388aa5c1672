"""Small multiples for many methods: a panel for each group, with the names of its lines at its right."""

import math
from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from supermask.report.figures.style import WIDTH
from supermask.report.methods.method import HasMethod

COLUMNS = 2
LINE = 0.128
"""Inches between two names."""
TITLE_PAD = 8
"""Points above a panel: a name may stand at its very top."""


def group_panels(
    groups: Mapping[str, Sequence[HasMethod]], *, shared: bool = False
) -> tuple[Figure, dict[str, Axes]]:
    """A figure with a panel for each group, as high as the names of its methods need.

    Args:
        shared: Whether the panels share both axes.
    """
    counts = [len({item.method for item in items}) + 1 for items in groups.values()]  # with the dense network
    rows = math.ceil(len(groups) / COLUMNS)
    heights = [max(1.25, LINE * max(counts[COLUMNS * row : COLUMNS * (row + 1)])) for row in range(rows)]
    figure = Figure(figsize=(WIDTH, 0.4 + sum(height + 0.4 for height in heights)))
    every = figure.subplots(
        rows, COLUMNS, sharex=shared, sharey=shared, squeeze=False, height_ratios=heights
    ).flat
    for axes in every[len(groups) :]:
        axes.remove()
    panels = dict(zip(groups, every, strict=False))
    for index, axes in enumerate(panels.values()):
        axes.tick_params(axis="x", labelbottom=index + COLUMNS >= len(groups))
    return figure, panels


def label_panels(panels: Mapping[str, Axes], below: str, beside: str) -> None:
    """Write what the axes mean, below the last panel of each column and beside the first of each row."""
    for index, axes in enumerate(panels.values()):
        if index + COLUMNS >= len(panels):
            axes.set_xlabel(below)
        if index % COLUMNS == 0:
            axes.set_ylabel(beside)


def name_gap(figure: Figure, axes: Axes) -> float:
    """The distance of two names as a fraction of the axes' height."""
    return LINE / (axes.get_position().height * figure.get_figheight())
