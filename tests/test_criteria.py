"""Mask criteria and actions against plain NumPy, and what Zhou's definitions imply."""

import numpy as np
import pytest
import torch
from torch import nn

import supermask as sm
from supermask.prune import CRITERIA, PRUNED, best, by_criterion, criterion_names, pruned_values, signs
from supermask.prune.criteria import SIGNS

# The definitions once more, in NumPy: scores from initial and final weights.
FORMULAS = {
    "large-final": lambda i, f: np.abs(f),
    "small-final": lambda i, f: -np.abs(f),
    "large-init": lambda i, f: np.abs(i),
    "small-init": lambda i, f: -np.abs(i),
    "large-init-large-final": lambda i, f: np.minimum(2.0 * np.abs(f), np.abs(i)),
    "small-init-small-final": lambda i, f: -np.maximum(2.0 * np.abs(f), np.abs(i)),
    "magnitude-increase": lambda i, f: np.abs(f) - np.abs(i),
    "movement": lambda i, f: np.abs(f - i),
}


def weights(seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    # Few distinct values, so that there are ties, zeros of both signs among them.
    drawn = {name: torch.randint(-4, 5, shape, generator=generator) / 2 for name, shape in SHAPES.items()}
    return {name: value.float() for name, value in drawn.items()}


SHAPES = {"a": (7, 9), "b": (3, 4, 2, 2)}


def reference(scores: dict[str, np.ndarray], eligible: dict[str, np.ndarray], keep) -> dict[str, np.ndarray]:
    """Stable sort by (eligible, score), best first."""

    def first(score, able, count):
        order = np.lexsort((np.arange(score.size), -score, ~able))
        kept = np.zeros(score.size, bool)
        kept[order[:count]] = True
        return kept

    if isinstance(keep, dict):
        return {n: first(scores[n].ravel(), eligible[n].ravel(), keep[n]).reshape(SHAPES[n]) for n in scores}
    flat = first(
        np.concatenate([scores[n].ravel() for n in scores]),
        np.concatenate([eligible[n].ravel() for n in scores]),
        keep,
    )
    parts = np.split(flat, np.cumsum([scores[n].size for n in scores])[:-1])
    return {n: part.reshape(SHAPES[n]) for n, part in zip(scores, parts, strict=True)}


def test_every_criterion_has_its_formula_here():
    assert FORMULAS.keys() == CRITERIA.keys()


@pytest.mark.parametrize("sign", [None, *SIGNS])
@pytest.mark.parametrize("criterion", FORMULAS)
@pytest.mark.parametrize("keep", [{"a": 20, "b": 30}, 61])
def test_a_criterion_keeps_what_numpy_keeps(criterion, sign, keep):
    initial, final = weights(1), weights(2)
    name = criterion if sign is None else f"{criterion}-{sign}"
    mask = by_criterion(name, initial, final, keep, alpha=2.0)
    arrays = {n: (initial[n].numpy(), final[n].numpy()) for n in SHAPES}
    same = {n: np.signbit(i) == np.signbit(f) for n, (i, f) in arrays.items()}
    eligible = {n: s if sign == "same-sign" else ~s if sign else np.ones_like(s) for n, s in same.items()}
    expected = reference({n: FORMULAS[criterion](*pair) for n, pair in arrays.items()}, eligible, keep)
    for n in SHAPES:
        assert np.array_equal(mask[n].numpy(), expected[n])


def test_a_pruned_weight_never_returns():
    initial, final = weights(1), weights(2)
    first = by_criterion("large-final", initial, final, {"a": 30, "b": 20})
    for criterion in criterion_names():
        second = by_criterion(criterion, initial, final, {"a": 10, "b": 5}, first)
        assert all(not (second[name] & ~first[name]).any() for name in first)
        assert [int(second[name].sum()) for name in second] == [10, 5]


def test_random_is_a_function_of_the_seed():
    initial, final = weights(1), weights(2)
    draws = [by_criterion("random", initial, final, 50, seed=seed)["a"] for seed in (0, 0, 1)]
    assert torch.equal(draws[0], draws[1]) and not torch.equal(draws[0], draws[2])


@pytest.mark.parametrize("name", ["largest", "random-same-sign", "large-final-same", ""])
def test_an_unknown_criterion_is_refused_with_the_choice(name):
    with pytest.raises(ValueError, match=r"unknown criterion .* choose one of"):
        by_criterion(name, weights(1), weights(2), 10)


def test_weights_and_scores_that_are_not_finite_are_refused():
    bad = weights(2) | {"b": torch.full(SHAPES["b"], torch.nan)}
    with pytest.raises(ValueError, match="weights of b are not finite"):
        by_criterion("movement", weights(1), bad, 10)
    with pytest.raises(ValueError, match="scores of b are not finite"):
        best(bad, 10)


def test_best_ranks_by_sign_and_breaks_ties_by_index():
    mask = best({"a": torch.tensor([-3.0, 1.0, -1.0, 1.0, -1.0])}, {"a": 3})
    assert mask["a"].tolist() == [False, True, True, True, False]


def test_pruned_weights_are_frozen_where_the_action_says():
    initial = {"a": torch.tensor([1.0, -2.0, 0.5])}
    final = {"a": torch.tensor([0.5, -3.0, -0.5])}
    expected = {"final": [0.5, -3.0, -0.5], "init": [1.0, -2.0, 0.5], "init-unless-shrunk": [0.0, -2.0, 0.5]}
    assert pruned_values("zero", initial, final) is None
    for action in PRUNED[1:]:
        assert pruned_values(action, initial, final)["a"].tolist() == expected[action]
    with pytest.raises(ValueError, match="unknown action 'nowhere'"):
        pruned_values("nowhere", initial, final)


def test_signs_are_the_layer_deviation():
    constant = signs({"a": torch.tensor([1.0, -1.0, 3.0])})["a"]
    assert constant.tolist() == pytest.approx([2.0, -2.0, 2.0])


@pytest.mark.parametrize("rule", ["sgd", "adam"])
def test_held_weights_stay_at_their_values(rule):
    model = nn.Linear(6, 4)
    start = model.weight.detach().clone()
    kept = torch.zeros(4, 6, dtype=torch.bool)
    kept[0] = True
    options = {"lr": 0.1, "weight_decay": 0.1} | ({"momentum": 0.9} if rule == "sgd" else {})
    optimizer = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}[rule](model.parameters(), **options)
    sm.hold(optimizer, {"weight": kept}, model, values={"weight": start})
    for _ in range(3):
        optimizer.zero_grad()
        model(torch.ones(2, 6)).square().sum().backward()
        optimizer.step()
    assert torch.equal(model.weight[1:], start[1:]) and not torch.equal(model.weight[0], start[0])
    with pytest.raises(ValueError, match="values holds weight"):
        sm.hold(optimizer, {"weight": kept}, model, values={"weight": start[:2]})
