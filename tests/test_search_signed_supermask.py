"""Signed supermasks: ternary masks against the autograd form, exact counts and fixed thresholds."""

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import supermask as sm
from supermask.masks import keep_count

from .test_search import linear_net, train


class Ternary(torch.autograd.Function):
    """sign(m) where |m| is among the `keep` largest, else 0; the gradient passes to every m unchanged."""

    @staticmethod
    def forward(ctx, m, keep):
        order = m.abs().flatten().argsort(descending=True, stable=True)[:keep]
        mask = torch.zeros(m.numel(), dtype=m.dtype)
        mask[order] = torch.sign(m.flatten()[order])
        return mask.view_as(m)

    @staticmethod
    def backward(ctx, grad):
        return grad, None


@pytest.mark.parametrize("density", [0.5, 0.1])
@pytest.mark.parametrize("init", ["elus", "kaiming_normal"])
def test_the_optimizer_form_equals_the_autograd_form_bitwise(density, init):
    model = sm.randomize_(linear_net(), init, seed=3)
    options = {"lr": 0.1, "momentum": 0.9, "weight_decay": 3e-4, "nesterov": True}
    search = sm.SEARCHES["signed-supermask"](model, density=density, **options)
    weights = [weight.clone() for weight in search.weights.values()]
    scores = [nn.Parameter(score.clone()) for score in search.scores.values()]
    keeps = [keep_count(weight.numel(), density) for weight in weights]
    optimizer = torch.optim.SGD(scores, **options)
    generator = torch.Generator().manual_seed(0)
    started = [score.detach().clone() for score in scores]
    for _ in range(50):
        x = torch.randn(16, 1, 8, 8, generator=generator)
        y = torch.randint(5, (16,), generator=generator)
        search.zero_grad()
        F.cross_entropy(model(x), y).backward()
        search.step()
        optimizer.zero_grad()
        hidden = F.relu(F.linear(x.flatten(1), weights[0] * Ternary.apply(scores[0], keeps[0])))
        F.cross_entropy(F.linear(hidden, weights[1] * Ternary.apply(scores[1], keeps[1])), y).backward()
        optimizer.step()
    for ours, theirs, first in zip(search.scores.values(), scores, started, strict=True):
        assert torch.equal(ours, theirs)
        assert bool(((ours < 0) != (first < 0)).any())


def test_scores_start_as_glorot_uniform():
    model = sm.randomize_(nn.Linear(400, 200, bias=False), "elus", seed=0)
    search = sm.SEARCHES["signed-supermask"](model, density=0.5, lr=0.1)
    bound = (6 / 600) ** 0.5
    score = search.scores["weight"]
    assert 0.999 * bound < score.abs().max() < bound
    assert abs(score.std().item() / (bound / 3**0.5) - 1) < 0.01
    # ELUS: ± sqrt(2 / fan_in) · sqrt(1.5).
    assert torch.allclose(search.weights["weight"].abs(), torch.tensor((2 / 400) ** 0.5 * 1.5**0.5))


def test_kept_weights_are_inverted_where_the_score_is_negative(small_net, batch):
    sm.randomize_(small_net, "kaiming_normal")
    search = sm.SEARCHES["signed-supermask"](small_net, density=0.4, lr=0.1)
    train(small_net, search, batch)
    for name, score in search.scores.items():
        expected = (search.weights[name] * score.sign() * search.mask[name]).numpy() + 0.0
        assert np.array_equal(small_net.get_parameter(name).detach().numpy(), expected)
        assert (score[search.mask[name]] < 0).any() and (score[search.mask[name]] > 0).any()


def test_the_fixed_threshold_is_the_authors(small_net, batch):
    sm.randomize_(small_net, "elus", seed=2)
    search = sm.SEARCHES["signed-supermask"](small_net, density=0.6, lr=0.3, fixed_threshold=True)
    first = {name: 0.4 * float(score.abs().max()) for name, score in search.scores.items()}
    # Uniform scores: 60% of them lie above 0.4 of the largest.
    assert abs(search.mask["hidden.weight"].float().mean().item() - 0.6) < 0.04
    train(small_net, search, batch, 20)
    counts = []
    for name, score in search.scores.items():
        expected = score.abs().double().numpy() > first[name] * (1 + 1e-7)
        disagree = expected != search.mask[name].numpy()
        assert not disagree[np.abs(score.abs().numpy() / first[name] - 1) > 1e-6].any()
        counts.append(int(expected.sum()) - keep_count(score.numel(), 0.6))
    assert any(counts), "the density has not moved"
    assert search.ticket().strong
    search.scores["hidden.weight"].mul_(1e-6)
    assert search.select()["hidden.weight"].sum() == 1


def test_the_threshold_survives_a_checkpoint(small_net, batch):
    cls = sm.SEARCHES["signed-supermask"]
    sm.randomize_(small_net, "elus")
    search = cls(small_net, density=0.6, lr=0.3, fixed_threshold=True)
    train(small_net, search, batch, 3)
    saved = search.state_dict()
    twin = sm.randomize_(copy.deepcopy(small_net), "elus")
    other = cls(twin, density=0.6, lr=0.3, seed=9, fixed_threshold=True)
    other.load_state_dict(saved)
    for name in search.scores:
        assert torch.equal(search.select()[name], other.select()[name])
