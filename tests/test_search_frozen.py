"""Partially frozen networks: the pattern, its counts, and the search between."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

import supermask as sm
from supermask.masks import allocate, keep_count
from supermask.search.frozen import Frozen


def net() -> nn.Module:
    return nn.Sequential(nn.Linear(20, 50, bias=False), nn.ReLU(), nn.Linear(50, 10, bias=False))


def steps(model: nn.Module, search: sm.Search, count: int) -> None:
    generator = torch.Generator().manual_seed(0)
    for _ in range(count):
        search.zero_grad()
        x = torch.randn(32, 20, generator=generator)
        F.cross_entropy(model(x), x[:, :10].argmax(dim=1)).backward()
        search.step()


@pytest.mark.parametrize("distribution", ["uniform", "global", "erk", "epl"])
def test_frozen_weights_never_change_and_count_towards_the_density(distribution):
    model = sm.randomize_(net(), seed=0)
    search = Frozen(model, density=0.4, lr=0.5, distribution=distribution, pruned=0.3, locked=0.2, seed=3)
    first = {name: mask.clone() for name, mask in search.mask.items()}
    steps(model, search, 20)
    moved = 0
    for name, mask in search.mask.items():
        pattern = search.pattern[name]
        assert mask[pattern > 0].all() and not mask[pattern < 0].any()
        moved += int((mask != first[name]).sum())
    assert moved > 0
    assert sum(int(m.sum()) for m in search.mask.values()) == keep_count(1500, 0.4)


def test_the_searched_weights_are_those_of_largest_score():
    model = sm.randomize_(net(), seed=0)
    search = Frozen(model, density=0.4, lr=0.5, pruned=0.3, locked=0.2)
    steps(model, search, 5)
    for name, mask in search.mask.items():
        pattern, score = search.pattern[name].numpy().ravel(), search.scores[name].abs().numpy().ravel()
        searched = np.flatnonzero(pattern == 0)
        left = keep_count(mask.numel(), 0.4) - int((pattern > 0).sum())
        best = searched[np.argsort(-score[searched], kind="stable")[:left]]
        assert set(np.flatnonzero(mask.numpy().ravel() & (pattern == 0))) == set(best)


def test_the_pattern_has_the_fractions_asked_for_and_follows_the_seed():
    patterns = [
        Frozen(sm.randomize_(net()), density=0.5, lr=0.1, pruned=0.4, locked=0.1, seed=seed).pattern
        for seed in (0, 0, 1)
    ]
    assert all(torch.equal(patterns[0][name], patterns[1][name]) for name in patterns[0])
    assert any(not torch.equal(patterns[0][name], patterns[2][name]) for name in patterns[0])
    for pattern in patterns[0].values():
        assert int((pattern < 0).sum()) == round(0.4 * pattern.numel())
        assert int((pattern > 0).sum()) == round(0.1 * pattern.numel())


def test_half_of_the_room_is_frozen_by_default():
    search = Frozen(sm.randomize_(net()), density=0.3, lr=0.1)
    assert (search.pruned, search.locked) == (0.35, 0.15)
    searched = sum(int((pattern == 0).sum()) for pattern in search.pattern.values())
    assert searched == 750


def test_nothing_frozen_is_edge_popup():
    ours, theirs = net(), net()
    for model in (ours, theirs):
        sm.randomize_(model, seed=0)
    search = Frozen(ours, density=0.4, lr=0.5, pruned=0.0, locked=0.0, momentum=0.9)
    twin = sm.EdgePopup(theirs, density=0.4, lr=0.5, momentum=0.9)
    steps(ours, search, 10)
    steps(theirs, twin, 10)
    assert all(torch.equal(search.mask[name], twin.mask[name]) for name in twin.mask)


def test_fractions_without_room_are_refused():
    with pytest.raises(ValueError, match=r"pruned must lie in \[0, 0.7\]"):
        Frozen(sm.randomize_(net()), density=0.3, lr=0.1, pruned=0.8)
    with pytest.raises(ValueError, match=r"not 0\.1 and 0\.5"):
        Frozen(sm.randomize_(net()), density=0.3, lr=0.1, pruned=0.1, locked=0.5)
    with pytest.raises(ValueError, match=r"2\.weight keeps 150 weights, but the layout 'epl' locks"):
        Frozen(sm.randomize_(net()), density=0.3, lr=0.1, locked=0.3, pruned=0.6, layout="epl")


shape = st.tuples(st.integers(1, 40), st.integers(1, 40))


@given(shapes=st.lists(shape, min_size=1, max_size=6), density=st.floats(0.01, 1.0))
def test_equal_edges_per_layer_with_overflow_redistributed(shapes, density):
    named = {str(i): s for i, s in enumerate(shapes)}
    sizes = {name: a * b for name, (a, b) in named.items()}
    counts = allocate(named, density, "epl")
    assert sum(counts.values()) == max(keep_count(sum(sizes.values()), density), len(shapes))
    assert all(1 <= counts[name] <= sizes[name] for name in named)
    # Layers that are not whole have as many as each other, and no whole layer has more.
    free = [count for name, count in counts.items() if count < sizes[name]]
    if free:
        assert max(free) - min(free) <= 1 or min(free) == 1
        assert max(counts.values()) <= max(free) + 1
