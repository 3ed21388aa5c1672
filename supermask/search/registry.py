"""The searches that there are, by name."""

from collections.abc import Callable
from typing import Any

from supermask.search.base import Search
from supermask.search.description import describe

SEARCHES: dict[str, type[Search]] = {}


def register_search(name: str, **description: Any) -> Callable[[type[Search]], type[Search]]:
    """Class decorator: make a search known by name to commands, `compare`, reports and contract tests.

    Args:
        name: As in commands and results.
        description: Fields of `Description`: label, sentence and look. By default a search is a strong ticket
            called by its name.
    """

    def register(cls: type[Search]) -> type[Search]:
        SEARCHES[name] = cls
        cls.method = name
        about = "A mask searched over frozen random weights; the weights are never trained."
        describe(name, **{"about": about, "group": "strong", "search": name, **description})
        for call in _watchers:
            call(name)
        return cls

    return register


def for_every_search(call: Callable[[str], object]) -> None:
    """Call with the name of every search: those there are now, and those that are registered later."""
    for name in SEARCHES:
        call(name)
    _watchers.append(call)


_watchers: list[Callable[[str], object]] = []
