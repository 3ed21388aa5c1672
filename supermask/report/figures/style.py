"""How figures look, without global state: colours that follow the theme of the page, sizes, fonts."""

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any

import matplotlib
from matplotlib.colors import LinearSegmentedColormap, to_hex

from supermask.report.methods.palette import DARK

PAPER, INK, QUIET, GRID = "#ffffff", "#23282e", "#69727d", "#e4e7eb"
THEME = {PAPER: "#1c2127", INK: "#dfe4ea", QUIET: "#98a3af", GRID: "#343b44", **DARK}
"""Colours on light ground → on dark ground. In the page each is a CSS variable: figures follow the theme."""

WIDTH = 7.2
"""Inches: the text width of a paper."""

_STYLE: dict[Any, Any] = {
    "axes.axisbelow": True,
    "axes.edgecolor": QUIET,
    "axes.facecolor": PAPER,
    "axes.grid": True,
    "axes.labelcolor": INK,
    "axes.labelsize": 8,
    "axes.linewidth": 0.6,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlecolor": INK,
    "axes.titlelocation": "left",
    "axes.titlesize": 8,
    "axes.titleweight": "bold",
    "figure.constrained_layout.use": True,
    "figure.facecolor": PAPER,
    "font.family": "DejaVu Sans",  # comes with matplotlib: the same figure on every machine
    "font.size": 7.5,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "lines.solid_capstyle": "round",
    "svg.fonttype": "none",  # text stays text: searchable, and in the font of the page
    "text.color": INK,
    "text.parse_math": False,  # a dollar sign in a name is a dollar sign
    "xtick.color": QUIET,
    "xtick.labelcolor": INK,
    "xtick.labelsize": 7.5,
    "xtick.major.width": 0.6,
    "xtick.minor.visible": False,
    "ytick.color": QUIET,
    "ytick.labelcolor": INK,
    "ytick.labelsize": 7.5,
    "ytick.major.width": 0.6,
}


@contextlib.contextmanager
def style() -> Iterator[None]:
    """Within it figures look like ours, whatever the user's settings of matplotlib; afterwards those hold."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_STYLE)
        yield


def themed(colour: str) -> str:
    """A colour of the theme as CSS variable with itself as fallback; any other as it is."""
    return f"var(--c-{colour[1:]}, {colour})" if colour in THEME else colour


_DENSE_TO_SPARSE = LinearSegmentedColormap.from_list("density", ["#2f6c9e", "#2a9d8f", "#d9a32b", "#c8442b"])
"""Cool to warm; no end vanishes on light or dark ground."""


def density_colours(densities: Iterable[float]) -> dict[float, str]:
    """Density → its own colour, from dense to sparse in equal steps, however the densities are spaced."""
    ordered = sorted(set(densities), reverse=True)
    last = max(1, len(ordered) - 1)
    return {density: to_hex(_DENSE_TO_SPARSE(index / last)) for index, density in enumerate(ordered)}
