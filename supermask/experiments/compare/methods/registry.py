"""Name → method of `compare`."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

from supermask.experiments.spec import RunSpec
from supermask.search.description import describe

if TYPE_CHECKING:  # the configuration lists the methods, and a comparison knows the configuration
    from supermask.experiments.compare.comparison import ComparisonBuilder

Rows = Callable[["ComparisonBuilder"], Iterable[RunSpec]]
METHODS: dict[str, Rows] = {}


def register_method(name: str, **description: Any) -> Callable[[Rows], Rows]:
    """Decorator for a function from a `ComparisonBuilder` to the rows of the method, made by that comparison.

    Args:
        name: As in commands and results.
        description: Fields of `Description`: label, group, sentence, look, and what it is a variant of.
    """
    describe(name, **description)
    return partial(add_method, name)


def add_method(name: str, rows: Rows) -> Rows:
    """Add a method that is described already, such as a search."""
    METHODS[name] = rows
    return rows


class MethodNames(Collection[str]):
    """`all` and every method, as registered when they are asked for."""

    def __iter__(self) -> Iterator[str]:
        return iter(("all", *METHODS))

    def __len__(self) -> int:
        return 1 + len(METHODS)

    def __contains__(self, name: object) -> bool:
        return name == "all" or name in METHODS


def list_methods() -> list[str]:
    """Names of all methods that `supermask compare` can put side by side."""
    return sorted(METHODS)
