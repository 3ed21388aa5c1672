"""Counts, distributions, selection by name, distance, random masks."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from supermask import mask as masks
from supermask.mask import LayerCollapseWarning, NonFiniteScoreError

densities = st.floats(1e-6, 1.0)


@given(n=st.integers(1, 10**7), density=densities)
def test_keep_count_is_the_nearest_integer_and_at_least_one(n, density):
    k = masks.keep_count(n, density)
    assert 1 <= k <= n
    assert abs(k - density * n) <= 0.5 or k == 1


@pytest.mark.parametrize("n", [100, 1000, 10_000])
def test_whole_products_are_met_exactly(n):
    # int((1 - k) n) misses by one in 51 of these 297 cases.
    assert [masks.keep_count(n, percent / 100) for percent in range(1, 100)] == [
        n * percent // 100 for percent in range(1, 100)
    ]


@pytest.mark.parametrize("density", [0.0, -0.1, 1.01, math.nan, "0.3", True, None])
def test_densities_outside_the_range_are_refused(density):
    with pytest.raises(ValueError, match="fraction of weights kept"):
        masks.keep_count(10, density)


shape = st.lists(st.integers(1, 30), min_size=2, max_size=4)


@given(shapes=st.lists(shape, min_size=1, max_size=6), density=densities)
def test_erk_spends_the_budget_and_follows_its_formula(shapes, density):
    named = {str(i): tuple(s) for i, s in enumerate(shapes)}
    sizes = {name: math.prod(s) for name, s in named.items()}
    counts = masks.allocate(named, density, "erk")
    assert all(1 <= counts[name] <= sizes[name] for name in named)
    assert sum(counts.values()) == max(masks.keep_count(sum(sizes.values()), density), sum(map(bool, shapes)))
    # Among layers that are neither whole nor at the floor, count / (sum of the shape) is constant.
    free = [name for name in named if 2 < counts[name] < sizes[name]]
    ratios = [(counts[name] / sum(named[name]), 1.0 / sum(named[name])) for name in free]
    for value, slack in ratios:
        assert abs(value - ratios[0][0]) <= 2 * (slack + ratios[0][1])


def test_uniform_gives_each_layer_the_density():
    counts = masks.allocate({"a": (10, 10), "b": (3,)}, 0.3)
    assert counts == {"a": 30, "b": 1}
    with pytest.raises(ValueError, match="'even'"):
        masks.allocate({"a": (2,)}, 0.5, "even")


def test_a_layer_never_vanishes_in_a_global_ranking():
    scores = {"big": torch.rand(100) + 1, "small": torch.rand(10) * 1e-3, "tiny": torch.rand(4) * 1e-6}
    mask = masks.select(scores, 20)
    assert {name: int(m.sum()) for name, m in mask.items()} == {"big": 18, "small": 1, "tiny": 1}
    assert int(mask["tiny"].nonzero()) == int(scores["tiny"].argmax())
    assert mask["big"][scores["big"].argsort(descending=True)[:18]].all()
    with pytest.raises(ValueError, match="raise the density"):
        masks.select(scores, 2)


def test_non_finite_scores_are_refused_by_name():
    scores = {"fine": torch.rand(4), "features.0.weight": torch.tensor([1.0, math.nan])}
    with pytest.raises(NonFiniteScoreError, match=r"features\.0\.weight.*Lower lr"):
        masks.select(scores, {"fine": 2, "features.0.weight": 1})


def test_thin_layers_are_warned_about_by_name():
    mask = {"wide": torch.ones(100, 10, dtype=torch.bool), "thin": torch.zeros(100, 10, dtype=torch.bool)}
    mask["thin"][0, 0] = True
    with pytest.warns(LayerCollapseWarning, match=r"thin \(1 of 1000\)"):
        masks.warn_of_collapse(mask)


def test_density_and_distance():
    a = {"x": torch.tensor([True, False, True, True])}
    b = {"x": torch.tensor([True, True, False, True])}
    assert masks.density(a) == 0.75 and masks.distance(a, b) == 0.5 and masks.distance(a, a) == 0
    with pytest.raises(ValueError, match="same layers"):
        masks.distance(a, {"y": b["x"]})


def test_random_masks_are_exact_seeded_and_uniform():
    shapes, keep = {"w": (40, 50)}, {"w": 500}
    first, again, other = (masks.random_mask(shapes, keep, seed)["w"] for seed in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)
    total = sum(masks.random_mask(shapes, keep, seed)["w"].long() for seed in range(200))
    assert int(total.sum()) == 200 * 500
    # Each entry is kept Binomial(200, 1/4) times: within five standard deviations of 50.
    assert (total - 50).abs().max() < 5 * math.sqrt(200 * 0.25 * 0.75)


@given(count=st.integers(0, 300), seed=st.integers(0, 2**64 - 1))
def test_permutation_is_one(count, seed):
    order = masks.permutation(count, seed, "test")
    assert order.sort().values.tolist() == list(range(count))
