"""Pages of experiments other than comparisons: sections of figures and tables."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from supermask.report.figures.drawing import Drawing
from supermask.report.methods.catalogue import methods_of
from supermask.report.pages.registry import Rendered
from supermask.report.pages.template import render_template


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
    """What a page says beside its headline.

    Attributes:
        title: What was done, in a few words.
        sections: The evidence.
        notes: What a reader must know to read it right.
    """

    title: str
    sections: Sequence[Section]
    notes: Sequence[str] = ()


def left_out(document: Mapping[str, Any]) -> list[str]:
    """A note for each method that was asked for and does not apply to the network."""
    reasons = {entry["method"]: entry["reason"] for entry in document.get("skipped") or ()}
    labels = methods_of(reasons)
    return [f"Left out is {labels[name].label}: {reason}." for name, reason in reasons.items()]


@dataclass(frozen=True)
class Experiment:
    """Author of the page of one experiment.

    Attributes:
        command: Name of the experiment.
        say: From its results to what came out, in one or two sentences.
        compose: From its results to the page.
    """

    command: str
    say: Callable[[Mapping[str, Any]], str]
    compose: Callable[[Mapping[str, Any]], Page]

    def headline(self, document: Mapping[str, Any]) -> str:
        """What came out."""
        return self.say(document)

    def render(self, document: Mapping[str, Any]) -> Rendered:
        """The page and its figures."""
        page = self.compose(document)
        html = render_template(
            "experiment.html.j2",
            command=self.command,
            title=page.title,
            headline=self.say(document),
            notes=page.notes,
            sections=page.sections,
            command_line=document.get("command"),
            config=document.get("config") or {},
            machine=document.get("machine") or {},
        )
        return Rendered(html, [figure for section in page.sections for figure in section.figures])
