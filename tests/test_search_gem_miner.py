"""Gem-Miner: published arithmetic, the autograd form, freezing."""

import copy
import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import supermask as sm
from supermask.search.gem_miner import GemMiner, freezing_rate


class Round(torch.autograd.Function):
    """1[s > 1/2], identity backward."""

    @staticmethod
    def forward(ctx, score):
        return (score > 0.5).to(score.dtype)

    @staticmethod
    def backward(ctx, grad):
        return grad


def net() -> nn.Module:
    return nn.Sequential(nn.Linear(12, 30, bias=False), nn.ReLU(), nn.Linear(30, 4, bias=False)).double()


def data(step: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(step)
    x = torch.randn(16, 12, generator=generator, dtype=torch.float64)
    return x, (x[:, :4].argmax(dim=1))


@pytest.mark.parametrize(("density", "rate"), [(0.0372, 0.1073), (0.0144, 0.1360), (0.0059, 0.1622)])
def test_the_published_rates_of_freezing(density, rate):
    search = GemMiner(sm.randomize_(net()), density=density, lr=0.1, period=5)
    search.plan(steps=150 * 391, steps_per_epoch=391)
    assert search.freezings == 29 and search.freeze_every == 5 * 391
    assert search.rate == freezing_rate(density, 29)
    assert round(search.rate, 4) == rate


def test_it_equals_the_published_form_under_autograd():
    # 40 steps of 4 an epoch, freezing every 2 epochs: 4 freezings, the reference written with NumPy.
    model = sm.randomize_(net(), seed=1)
    options = {"lr": 0.5, "momentum": 0.9}
    search = GemMiner(model, density=0.2, period=2, penalty=1e-3, **options)
    search.plan(steps=40, steps_per_epoch=4)
    assert search.freezings == 4
    weights = [w.clone() for w in search.weights.values()]
    scores = [nn.Parameter(s.clone()) for s in search.scores.values()]
    flags = [torch.ones_like(w) for w in weights]
    twin = torch.optim.SGD(scores, **options)
    for step in range(40):
        x, y = data(step)
        for parameters in (model.parameters(), scores):
            for p in parameters:
                p.grad = None
        F.cross_entropy(model(x), y).backward()
        search.step()
        first, second = (w * Round.apply(s) * f for w, s, f in zip(weights, scores, flags, strict=True))
        loss = F.cross_entropy(F.linear(F.relu(F.linear(x, first)), second), y)
        (loss + 1e-3 * sum((s**2).sum() for s in scores)).backward()
        twin.step()
        with torch.no_grad():
            for s in scores:
                s.clamp_(0, 1)
        if (step + 1) % 8 == 0 and (step + 1) // 8 <= 4:
            flat = torch.cat([s.detach().flatten() for s in scores]).numpy()
            alive = np.flatnonzero(torch.cat([f.flatten() for f in flags]).numpy())
            gone = math.ceil((1 - 0.2**0.25) * len(alive))
            order = np.lexsort((-alive, flat[alive]))  # the lowest first; of equal ones the later
            whole = torch.cat([f.flatten() for f in flags])
            whole[alive[order[:gone]]] = 0
            flags = [part.view_as(w) for part, w in zip(whole.split([360, 120]), weights, strict=True)]
    for ours, theirs, free, flag in zip(
        search.scores.values(), scores, search.free.values(), flags, strict=True
    ):
        assert torch.equal(free, flag.bool())
        torch.testing.assert_close(ours, theirs.detach(), rtol=0, atol=1e-9)
    assert all(
        torch.equal(mask, (score > 0.5) & free)
        for mask, score, free in zip(
            search.mask.values(), search.scores.values(), search.free.values(), strict=True
        )
    )


def test_freezing_is_permanent_and_ends_at_the_density():
    model = sm.randomize_(net(), seed=0)
    search = GemMiner(model, density=0.1, lr=0.2, restore=True)
    search.plan(steps=60, steps_per_epoch=10)
    assert search.freeze_every == 2 and search.freezings == 29
    before = search.free
    counts = []
    for step in range(60):
        search.zero_grad()
        x, y = data(step)
        F.cross_entropy(model(x), y).backward()
        search.step()
        assert not any((after & ~before[name]).any() for name, after in search.free.items())
        before = {name: free.clone() for name, free in search.free.items()}
        assert all(score.min() >= 0 and score.max() <= 1 for score in search.scores.values())
        counts.append(sum(int(free.sum()) for free in before.values()))
    expected = 480
    for _ in range(29):
        expected -= math.ceil(search.rate * expected)
    assert counts[-1] == expected <= 48
    assert sum(int(m.sum()) for m in search.mask.values()) <= expected
    search.settle()
    assert sum(int(m.sum()) for m in search.mask.values()) == expected


def test_a_search_in_the_middle_of_freezing_continues_bit_for_bit():
    def planned() -> tuple[nn.Module, GemMiner]:
        model = sm.randomize_(net(), seed=0)
        search = GemMiner(model, density=0.1, lr=0.2, momentum=0.9, period=1)
        search.plan(steps=40, steps_per_epoch=4)
        return model, search

    def run(model, search, steps):
        for step in steps:
            search.zero_grad()
            x, y = data(step)
            F.cross_entropy(model(x), y).backward()
            search.step()

    model, search = planned()
    run(model, search, range(18))
    resumed_model, resumed = planned()
    resumed.load_state_dict(copy.deepcopy(search.state_dict()))
    run(model, search, range(18, 40))
    run(resumed_model, resumed, range(18, 40))
    for name in search.mask:
        assert torch.equal(search.mask[name], resumed.mask[name])
        assert torch.equal(search.free[name], resumed.free[name])
        assert torch.equal(search.scores[name], resumed.scores[name])


def test_scores_start_uniform_on_the_unit_interval():
    search = GemMiner(sm.randomize_(nn.Linear(300, 100, bias=False)), density=0.5, lr=0.1)
    score = search.scores["weight"]
    assert 0 <= score.min() and score.max() <= 1
    assert abs(score.mean() - 0.5) < 0.01 and abs(score.std() - 12**-0.5) < 0.01


def test_wrong_options_are_refused():
    with pytest.raises(ValueError, match="penalty"):
        GemMiner(net(), density=0.5, lr=0.1, penalty=-1.0)
    with pytest.raises(ValueError, match="period"):
        GemMiner(net(), density=0.5, lr=0.1, period=0)
    search = GemMiner(sm.randomize_(net()), density=0.5, lr=0.1, period=5)
    with pytest.raises(ValueError, match="of 3 epochs ends before the first freezing, after 5;"):
        search.plan(steps=30, steps_per_epoch=10)


def test_a_layer_keeps_its_best_free_weight_under_any_penalty():
    model = sm.randomize_(net(), seed=0)
    search = GemMiner(model, density=0.3, lr=0.5, penalty=100.0)
    for _ in range(5):
        search.zero_grad()
        model(torch.randn(4, 12).double()).square().sum().backward()
        search.step()
    assert all(int(mask.sum()) == 1 for mask in search.mask.values())
