"""Finished figures: PNG and inline SVG, with the same bytes each time.

In the SVG, what `mark` marked belongs to a series that a reader can switch off, and says a value when
pointed at: a `<title>`, which browsers show without scripts.
"""

import io
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol
from xml.etree import ElementTree

import matplotlib
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from supermask.report.figures.style import themed

PNG_DPI = 300
_MARK = "mark:"


class HasLook(Protocol):
    """What a series is of: a method, as a rule."""

    @property
    def name(self) -> str:
        """Tells it from the others of the figure."""
        ...

    @property
    def label(self) -> str:
        """As the reader knows it."""
        ...

    @property
    def colour(self) -> str:
        """On light ground."""
        ...


@dataclass(frozen=True)
class Series:
    """What a reader can switch off in a figure."""

    name: str
    label: str
    colour: str


@dataclass(frozen=True)
class Drawing:
    """A finished figure.

    Attributes:
        name: Stem of the PNG's file name.
        alt: What a reader who cannot see it should know.
        caption: What a reader who sees it should know.
        svg: An `<svg>` element to stand in a page.
        linear: The same with a linear axis where `svg` has a logarithmic one, if there is such a choice.
        series: What can be switched off, in the order of drawing.
    """

    name: str
    alt: str
    caption: str
    png: bytes
    svg: str
    linear: str | None = None
    series: Sequence[Series] = ()


def mark(artist: Artist, series: HasLook, value: str | None = None) -> None:
    """Make `artist` part of a series; pointed at, it says the name of the series and `value`."""
    said = None if value is None else f"{series.label}, {value}"
    artist.set_gid(_MARK + json.dumps([series.name, series.label, series.colour, said]))


def say(axes: Axes, x: float, y: float, series: HasLook, value: str) -> None:
    """Let the point at (x, y) say `value`: an invisible disk that is easier to point at than a marker."""
    (disk,) = axes.plot([x], [y], "o", ms=11, color=series.colour, mew=0, alpha=0, zorder=9)
    mark(disk, series, value)


def bars_to(
    means: Sequence[float], lows: Sequence[float], highs: Sequence[float]
) -> tuple[list[float], list[float]]:
    """Error bars from means down to the least and up to the greatest values, as matplotlib takes them.

    The mean of equal numbers can be a rounding outside them; a bar of negative length is an error there.
    """
    down = [max(0.0, mean - low) for mean, low in zip(means, lows, strict=True)]
    return down, [max(0.0, high - mean) for mean, high in zip(means, highs, strict=True)]


def render(figure: Figure, name: str, alt: str, caption: str, *, linear: Figure | None = None) -> Drawing:
    """Draw as PNG and SVG. Nothing in the bytes depends on date or chance.

    Args:
        figure: What to draw.
        name: Stem of file names.
        alt: For readers who cannot see it.
        caption: For those who can.
        linear: The same figure on a linear axis, for the page alone.
    """
    png = io.BytesIO()
    figure.savefig(png, format="png", dpi=PNG_DPI, metadata={"Software": None})
    svg, series = _svg(figure, name, alt)
    other = None if linear is None else _svg(linear, f"{name}-linear", alt)[0]
    return Drawing(name, alt, caption, png.getvalue(), svg, other, series)


def _svg(figure: Figure, name: str, alt: str) -> tuple[str, Sequence[Series]]:
    svg = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": name}):
        figure.savefig(svg, format="svg", metadata={"Date": None, "Creator": None})
    return inline_svg(svg.getvalue(), name, alt)


def inline_svg(document: bytes, name: str, alt: str) -> tuple[str, Sequence[Series]]:
    """A standalone SVG document as an element for a page: no prolog, unique ids, theme colours, a name.

    Returns:
        The element, and the series that are marked in it.
    """
    root = ElementTree.fromstring(document)
    for parent in list(root.iter()):
        for child in list(parent):
            # Metadata names foreign addresses; matplotlib's <style> would apply to the whole page.
            if _local(child.tag) in ("metadata", "style"):
                parent.remove(child)
    series: dict[str, Series] = {}
    for element in list(root.iter()):
        element.tag = _local(element.tag)
        if element.get("id", "").startswith(_MARK):
            found = _read_mark(element)
            series.setdefault(found.name, found)
        for key, value in list(element.attrib.items()):
            del element.attrib[key]
            element.set(_local(key), _attribute(_local(key), value, name))
    for size in ("width", "height", "version"):
        root.attrib.pop(size, None)
    root.set("role", "img")
    root.set("aria-label", alt)
    return ElementTree.tostring(root, encoding="unicode"), tuple(series.values())


def _read_mark(element: Any) -> Series:
    """Turn the mark in the id of an element into attributes and a title; returns its series."""
    name, label, colour, said = json.loads(element.attrib.pop("id").removeprefix(_MARK))
    element.set("data-series", name)
    if said is not None:
        element.set("class", "says")
        title = ElementTree.Element("title")
        title.text = said
        element.insert(0, title)
    return Series(name, label, colour)


def _local(name: str) -> str:
    return name.rpartition("}")[2]


def _attribute(key: str, value: str, prefix: str) -> str:
    if key == "id":
        return f"{prefix}-{value}"
    if key == "href":
        return value.replace("#", f"#{prefix}-", 1)
    if key in ("style", "fill", "stroke"):
        return re.sub(r"#[0-9a-f]{6}\b", lambda match: themed(match[0]), value)
    return value if key == "data-series" else value.replace("url(#", f"url(#{prefix}-")
