"""Searches and methods by name, as a stranger asks for them."""

from pathlib import Path

import pytest

import supermask as sm
from supermask.experiments.compare.methods import METHODS


def test_every_search_is_made_by_its_name(small_net):
    assert sm.list_searches() == sorted(sm.SEARCHES)
    for name in sm.list_searches():
        search = sm.create_search(name, sm.randomize_(small_net), density=0.5, lr=0.1)
        assert type(search) is sm.SEARCHES[name] and search.method == name


def test_an_unknown_search_is_refused_with_the_nearest_name(small_net):
    with pytest.raises(ValueError, match=r"no search is called 'edge-popp', but .*; did you mean edge-popup"):
        sm.create_search("edge-popp", small_net, density=0.5, lr=0.1)
    with pytest.raises(ValueError, match=r"no search is called 'q', but biprop, "):
        sm.create_search("q", small_net, density=0.5, lr=0.1)


def test_methods_are_the_searches_and_more():
    assert sm.list_methods() == sorted(METHODS)
    assert set(sm.list_searches()) < set(sm.list_methods())


def test_the_public_names_are_there_and_typed():
    assert set(sm.__all__) <= set(dir(sm))
    assert all(getattr(sm, name) is not None for name in sm.__all__)
    assert (Path(sm.__file__).parent / "py.typed").exists()
