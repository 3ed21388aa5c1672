"""Pages of experiments other than comparisons: sections of figures and tables.

An experiment says what its page holds in a function from its document to a `Page`, registered under the
schema of the document.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from supermask.io import write_bytes, write_text
from supermask.report.canvas import Drawing
from supermask.report.html import render_template


@dataclass(frozen=True)
class Table:
    """A table; the first cell of a row names it.

    Attributes:
        folded: Whether the reader has to open it.
    """

    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    folded: bool = False


@dataclass(frozen=True)
class Section:
    """A part of a page: paragraphs, then figures, then tables."""

    title: str
    text: Sequence[str] = ()
    figures: Sequence[Drawing] = ()
    tables: Sequence[Table] = ()


@dataclass(frozen=True)
class Page:
    """What a page says.

    Attributes:
        title: What was done, in a few words.
        headline: What came out, in one or two sentences.
        sections: The evidence.
        notes: What a reader must know to read it right.
    """

    title: str
    headline: str
    sections: Sequence[Section]
    notes: Sequence[str] = ()


Author = Callable[[Mapping[str, Any]], Page]
PAGES: dict[str, Author] = {}


def register_page(command: str) -> Callable[[Author], Author]:
    """Decorator for the function that turns results of `command` into a page."""

    def register(author: Author) -> Author:
        PAGES[command] = author
        return author

    return register


def write_page(document: Mapping[str, Any], command: str, out: Path) -> Path:
    """Write `report.html` and every figure as PNG into `out`, and return the path of the page.

    Raises:
        ValueError: There is no page for results of `command`.
        OSError: `out` cannot be written.
    """
    if command not in PAGES:
        raise ValueError(f"there is no report for results of {command!r}")
    page = PAGES[command](document)
    text = render_template(
        "experiment.html.j2",
        command=command,
        title=page.title,
        headline=page.headline,
        notes=page.notes,
        sections=page.sections,
        command_line=document.get("command"),
        config=document.get("config") or {},
        machine=document.get("machine") or {},
    )
    out.mkdir(parents=True, exist_ok=True)
    for section in page.sections:
        for figure in section.figures:
            write_bytes(out / f"{figure.name}.png", figure.png)
    write_text(out / "report.html", text)
    return out / "report.html"
