"""Command → who writes the page of its results."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from supermask.report.figures.drawing import Drawing


@dataclass(frozen=True)
class Rendered:
    """A page and the figures that lie beside it.

    Attributes:
        html: The page.
        drawings: Its figures.
        possible: Names of figures that pages of this kind may have; those that an earlier report left and
            this one lacks are removed.
    """

    html: str
    drawings: Sequence[Drawing]
    possible: Sequence[str] = ()


class Author(Protocol):
    """Turns the results of a command into words and a page."""

    def headline(self, document: Mapping[str, Any]) -> str:
        """What came out, in one or two sentences."""
        ...

    def render(self, document: Mapping[str, Any]) -> Rendered:
        """The page and its figures."""
        ...


PAGES: dict[str, Author] = {}


def register_page(command: str, author: Author) -> Author:
    """Make `author` the one who writes pages of `command`, the second part of the schema of its results."""
    PAGES[command] = author
    return author


def author_of(document: Mapping[str, Any]) -> Author:
    """Who writes the page of a document.

    Raises:
        ValueError: The document is of no experiment known here.
    """
    schema = document.get("schema")
    parts = str(schema).split("/")
    if len(parts) != 3 or parts[1] not in PAGES:
        raise ValueError(
            f"no report for a document of schema {schema!r}; give the results.json that supermask "
            f"{', '.join(sorted(PAGES))} wrote"
        )
    return PAGES[parts[1]]
