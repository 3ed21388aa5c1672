"""Counts, distributions, selection by name, distance, random masks."""

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from supermask import masks
from supermask.masks import LayerCollapseWarning, NonFiniteScoreError

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


@given(
    shape=st.lists(st.integers(1, 9), min_size=2, max_size=4),
    n=st.integers(1, 5),
    more=st.integers(0, 5),
)
def test_counts_of_n_of_m_are_what_the_selection_keeps(shape, n, more):
    m = n + more
    counts = masks.allocate({"w": shape}, n / m, f"{n}:{m}")
    kept = masks.select_n_of_m({"w": torch.rand(shape)}, n, m)["w"]
    assert int(kept.sum()) == counts["w"]
    if shape[1] % m == 0:
        assert counts["w"] * m == math.prod(shape) * n
    # A group filled up with zeros to m has n of m at most, and none is empty.
    for group in kept.split(m, dim=1):
        assert 1 <= group.sum(dim=1).min() and group.sum(dim=1).max() <= n


@pytest.mark.parametrize("distribution", ["4:2", "0:4", "2:4:8", "2/4", "2:", " 2:4", "1:5000", "", None, 24])
def test_groups_that_make_no_sense_are_refused(distribution):
    with pytest.raises(ValueError, match="N:M"):
        masks.allocate({"w": (4, 4)}, 0.5, distribution)


def test_a_group_fixes_the_density():
    with pytest.raises(ValueError, match=r"'2:4' fixes the density at 0\.5, so it cannot be 0\.3"):
        masks.allocate({"w": (4, 4)}, 0.3, "2:4")
    assert masks.allocate({"w": (4, 6)}, 1 / 3, "1:3") == {"w": 8}


@given(density=densities, steps=st.integers(1, 50))
def test_the_cubic_schedule_falls_from_dense_to_the_density(density, steps):
    path = [masks.scheduled_density(density, step, steps) for step in range(steps + 3)]
    assert path[0] == pytest.approx(1) and path[steps:] == [density] * 3
    assert all(a >= b for a, b in itertools.pairwise(path))


def test_the_cubic_schedule_has_the_published_values():
    # Multi-prize tickets, pruned fraction 0.8: 0.5 at first, 0.7625 after 5 of 10 epochs.
    assert masks.scheduled_density(0.2, 0, 10, initial=0.5) == pytest.approx(0.5)
    assert masks.scheduled_density(0.2, 5, 10, initial=0.5) == pytest.approx(1 - 0.7625)
    assert masks.scheduled_density(0.1, 50, 100) == pytest.approx(0.1 + 0.9 / 8)
    assert masks.scheduled_density(0.2, 3, 10, "constant") == 0.2
    with pytest.raises(ValueError, match="'linear'"):
        masks.scheduled_density(0.2, 3, 10, "linear")


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


def test_random_groups_are_exact_seeded_and_uniform():
    shapes = {"w": (40, 12, 3)}
    keep = masks.allocate(shapes, 0.25, "1:4")
    draws = [masks.random_mask(shapes, keep, seed, "1:4")["w"] for seed in range(100)]
    assert torch.equal(draws[0], masks.random_mask(shapes, keep, 0, "1:4")["w"])
    for mask in draws:
        assert (mask.view(40, 3, 4, 3).sum(dim=2) == 1).all()
    total = sum(mask.long() for mask in draws)
    assert (total - 25).abs().max() < 5.5 * math.sqrt(100 * 0.25 * 0.75)
    with pytest.raises(ValueError, match="does not keep 5"):
        masks.random_mask(shapes, {"w": 5}, 0, "1:4")


@given(count=st.integers(0, 300), seed=st.integers(0, 2**64 - 1))
def test_permutation_is_one(count, seed):
    order = masks.permutation(count, seed, "test")
    assert order.sort().values.tolist() == list(range(count))
