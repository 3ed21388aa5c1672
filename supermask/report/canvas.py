"""The drawing board: style without global state, PNG and inline SVG with the same bytes each time, labels."""

import contextlib
import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.transforms import ScaledTranslation, Transform, blended_transform_factory

from supermask.report.methods import DARK, Method

PAPER, INK, QUIET, GRID = "#ffffff", "#23282e", "#69727d", "#e4e7eb"
THEME = {PAPER: "#1c2127", INK: "#dfe4ea", QUIET: "#98a3af", GRID: "#343b44", **DARK}
"""Colours on light ground → on dark ground. In the page each is a CSS variable: figures follow the theme."""

WIDTH = 7.2
"""Inches: the text width of a paper."""
PNG_DPI = 300

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


@dataclass(frozen=True)
class Drawing:
    """A finished figure.

    Attributes:
        name: Stem of the PNG's file name.
        alt: What a reader who cannot see it should know.
        caption: What a reader who sees it should know.
        svg: An `<svg>` element to stand in a page.
    """

    name: str
    alt: str
    caption: str
    png: bytes
    svg: str


@contextlib.contextmanager
def style() -> Iterator[None]:
    """Within it figures look like ours, whatever the user's settings of matplotlib; afterwards those hold."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_STYLE)
        yield


def render(figure: Figure, name: str, alt: str, caption: str) -> Drawing:
    """Draw as PNG and SVG. Nothing in the bytes depends on date or chance."""
    with matplotlib.rc_context({"svg.hashsalt": name}):
        svg, png = io.BytesIO(), io.BytesIO()
        figure.savefig(svg, format="svg", metadata={"Date": None, "Creator": None})
        figure.savefig(png, format="png", dpi=PNG_DPI, metadata={"Software": None})
    return Drawing(name, alt, caption, png.getvalue(), inline_svg(svg.getvalue(), name, alt))


def inline_svg(document: bytes, name: str, alt: str) -> str:
    """A standalone SVG document as an element for a page: no prolog, unique ids, theme colours, a name."""
    root = ElementTree.fromstring(document)
    for parent in list(root.iter()):
        for child in list(parent):
            # Metadata names foreign addresses; matplotlib's <style> would apply to the whole page.
            if _local(child.tag) in ("metadata", "style"):
                parent.remove(child)
    for element in root.iter():
        element.tag = _local(element.tag)
        for key, value in list(element.attrib.items()):
            del element.attrib[key]
            element.set(_local(key), _attribute(_local(key), value, name))
    for size in ("width", "height", "version"):
        root.attrib.pop(size, None)
    root.set("role", "img")
    root.set("aria-label", alt)
    return ElementTree.tostring(root, encoding="unicode")


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
            axes.annotate(
                "", name.end, (left - 0.03, height), "axes fraction", at, leader, annotation_clip=False
            )
        axes.plot([left, right], [height] * 2, color=method.colour, ls=method.dash, lw=1.5, **here)
        if markers:
            axes.plot(
                [middle],
                [height],
                color=method.colour,
                marker=method.marker,
                ms=4,
                mec=PAPER,
                mew=0.3,
                **here,
            )
        weight = "normal" if small or method.group == "control" else "bold"
        axes.text(start, height, name.text, va="center", fontsize=size, weight=weight, transform=at)


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


def _local(name: str) -> str:
    return name.rpartition("}")[2]


def _attribute(key: str, value: str, prefix: str) -> str:
    if key == "id":
        return f"{prefix}-{value}"
    if key == "href":
        return value.replace("#", f"#{prefix}-", 1)
    if key in ("style", "fill", "stroke"):
        return re.sub(r"#[0-9a-f]{6}\b", lambda match: themed(match[0]), value)
    return value.replace("url(#", f"url(#{prefix}-")


def themed(colour: str) -> str:
    """A colour of the theme as CSS variable with itself as fallback; any other as it is."""
    return f"var(--c-{colour[1:]}, {colour})" if colour in THEME else colour
