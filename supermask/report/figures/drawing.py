"""Finished figures: PNG and inline SVG, with the same bytes each time."""

import io
import re
from dataclasses import dataclass
from xml.etree import ElementTree

import matplotlib
from matplotlib.figure import Figure

from supermask.report.figures.style import themed

PNG_DPI = 300


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
