"""Name → method of `compare`."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from supermask.experiments.spec import RunSpec

if TYPE_CHECKING:  # the configuration lists the methods, and a comparison knows the configuration
    from supermask.experiments.compare.comparison import Comparison

Rows = Callable[["Comparison"], Iterable[RunSpec]]
METHODS: dict[str, Rows] = {}


def register_method(name: str) -> Callable[[Rows], Rows]:
    """Decorator for a function from a `Comparison` to the rows of the method, made by that comparison."""

    def register(rows: Rows) -> Rows:
        METHODS[name] = rows
        return rows

    return register
