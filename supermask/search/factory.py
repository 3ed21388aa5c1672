"""Searches by name, as `models` has networks by name."""

from typing import Any

from torch import nn

from supermask.search.base import Search
from supermask.search.registry import SEARCHES
from supermask.suggest import ending


def list_searches() -> list[str]:
    """Names of all registered searches."""
    return sorted(SEARCHES)


def create_search(name: str, model: nn.Module, /, **options: Any) -> Search:
    """Make the search of that name over a model.

    Args:
        name: One of `list_searches()`.
        model: The network, its weights drawn; see `randomize_`.
        **options: `density`, `lr` and whatever else the search takes; see `Search` and its own class.

    Raises:
        TypeError: `name` is no text, or `model` no module.
        ValueError: No search has that name, or it refuses an option or has none of that name.
    """
    if not isinstance(name, str):
        raise TypeError(f"give the name of a search and then the model; the name is no {type(name).__name__}")
    if name not in SEARCHES:
        all_names = ", ".join(list_searches())
        raise ValueError(f"no search is called {name!r}, but {all_names}{ending(name, SEARCHES)}")
    return SEARCHES[name](model, **options)
