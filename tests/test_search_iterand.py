"""IteRand: what is drawn again, when, and that nothing else changes."""

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import supermask as sm
from supermask import ops
from supermask.masks import keep_count
from supermask.weights.init import derive_key, init_of

from .test_search import KeepLargest, linear_net, train


def coins(purpose: str, seed: int, name: str, start: int, count: int) -> np.ndarray:
    """Uniform draws in (0, 1), from the words of the generator."""
    words = ops.philox(derive_key(purpose, seed, name), start, count).numpy()
    return (words >> 8).astype(np.float64) / 2**24 + 2.0**-25


def test_the_search_is_edge_popup_on_weights_that_are_drawn_again():
    """The autograd form, with algorithm 1's replacement of pruned weights written out in NumPy."""
    period, rate, density, weights_seed = 4, 0.3, 0.3, 11
    model = sm.randomize_(linear_net(), "kaiming_normal", seed=weights_seed)
    options = {"lr": 0.1, "momentum": 0.9, "weight_decay": 5e-4}
    search = sm.SEARCHES["iterand"](model, density=density, period=period, rate=rate, seed=5, **options)
    names = list(search.weights)
    weights = [weight.clone() for weight in search.weights.values()]
    scores = [nn.Parameter(score.clone()) for score in search.scores.values()]
    keeps = [keep_count(weight.numel(), density) for weight in weights]
    optimizer = torch.optim.SGD(scores, **options)
    generator = torch.Generator().manual_seed(0)
    replaced = 0
    for step in range(18):
        if (step + 1) % period == 0:
            generation = (step + 1) // period
            for i, name in enumerate(names):
                count = weights[i].numel()
                fresh = init_of(model).named()[name].weight(weights_seed, generation=generation)
                coin = coins("draw-again", 5, name, generation * count, count).reshape(weights[i].shape)
                kept = KeepLargest.apply(scores[i].detach().abs(), keeps[i]).bool().numpy()
                chosen = torch.from_numpy(~kept & (coin < rate))
                replaced += int(chosen.sum())
                weights[i] = torch.where(chosen, fresh, weights[i])
        x = torch.randn(16, 1, 8, 8, generator=generator)
        y = torch.randint(5, (16,), generator=generator)
        search.zero_grad()
        F.cross_entropy(model(x), y).backward()
        search.step()
        optimizer.zero_grad()
        masked = [w * KeepLargest.apply(s.abs(), k) for w, s, k in zip(weights, scores, keeps, strict=True)]
        F.cross_entropy(F.linear(F.relu(F.linear(x.flatten(1), masked[0])), masked[1]), y).backward()
        optimizer.step()
    for i, name in enumerate(names):
        assert torch.equal(search.scores[name], scores[i])
        assert torch.equal(search.weights[name], weights[i])
    pruned = sum(weight.numel() - keep for weight, keep in zip(weights, keeps, strict=True))
    assert abs(replaced / (4 * pruned) - rate) < 0.02


def test_a_rate_of_zero_is_edge_popup_and_of_one_replaces_every_pruned_weight(small_net, batch):
    def run(cls, steps, **options):
        model = sm.randomize_(copy.deepcopy(small_net), "kaiming_uniform", seed=0)
        search = cls(model, density=0.4, lr=0.1, momentum=0.9, **options)
        train(model, search, batch, steps)
        return search

    iterand, plain = sm.SEARCHES["iterand"], run(sm.EdgePopup, 12)
    still = run(iterand, 12, period=3, rate=0.0)
    for name in plain.scores:
        assert torch.equal(plain.scores[name], still.scores[name])
        assert torch.equal(plain.weights[name], still.weights[name])
    before = run(sm.EdgePopup, 2)
    after = run(iterand, 3, period=3, rate=1.0)
    for name, weight in after.weights.items():
        assert torch.equal(weight == before.weights[name], before.mask[name])


def test_the_fused_and_the_stepwise_update_agree(small_net, batch):
    iterand = sm.SEARCHES["iterand"]

    class InParts(iterand):
        """A subclass, which does not inherit the fused step."""

    searches = []
    for cls in (iterand, InParts):
        model = sm.randomize_(copy.deepcopy(small_net), "kaiming_uniform", seed=0)
        searches.append(cls(model, density=0.4, lr=0.1, momentum=0.9, period=2))
        train(model, searches[-1], batch, 9)
    for name in searches[0].scores:
        assert torch.equal(searches[0].scores[name], searches[1].scores[name])
        assert torch.equal(searches[0].weights[name], searches[1].weights[name])


@pytest.mark.parametrize("init", ["kaiming_normal", "signed_constant"])
def test_a_ticket_stores_generations_and_no_weight(small_net, batch, tmp_path, init):
    sm.randomize_(small_net, init, seed=3, density=0.3)
    search = sm.SEARCHES["iterand"](small_net, density=0.3, lr=0.5, momentum=0.9, period=2, rate=0.5)
    train(small_net, search, batch, 20)
    ticket = sm.Ticket.load(search.ticket().save(tmp_path / "net.ticket"))
    assert ticket.strong and not ticket.values
    derivations = {entry.name: entry.derivation for entry in ticket.entries if entry.masked}
    if init == "signed_constant":
        # A constant drawn again is the constant or its negative: one bit.
        assert any(found.flips is not None for found in derivations.values())
    else:
        assert (
            max(len(found.generations) for found in derivations.values() if found.generations is not None)
            <= 4
        )
    for name, parameter in small_net.named_parameters():
        assert torch.equal(ticket.weights()[name], parameter)
    # The rebuilt network makes the same ticket again, also after it was trained on from a checkpoint.
    twin = ticket.apply(copy.deepcopy(small_net))
    assert sm.Ticket.from_model(twin, ticket.mask()).checksum() == ticket.checksum()
    assert sm.Ticket.from_model(twin, ticket.mask()).strong


def test_a_resumed_search_draws_again_as_the_uninterrupted_one(small_net, batch):
    def start(seed):
        model = sm.randomize_(copy.deepcopy(small_net), "kaiming_uniform", seed=seed)
        search = sm.SEARCHES["iterand"](model, density=0.4, lr=0.1)
        search.plan(300, 10)
        return model, search

    model, search = start(0)
    assert search.period == 3
    train(model, search, batch, 4)
    saved, saved_model = copy.deepcopy(search.state_dict()), copy.deepcopy(model.state_dict())
    losses = train(model, search, batch, 6)
    twin, resumed = start(0)
    twin.load_state_dict(saved_model)
    resumed.load_state_dict(saved)
    assert train(twin, resumed, batch, 6) == losses
    assert all(torch.equal(search.weights[name], resumed.weights[name]) for name in search.weights)
    assert resumed.ticket().strong
    late = sm.SEARCHES["iterand"](sm.randomize_(twin), density=0.4, lr=0.1)
    with pytest.raises(ValueError, match=r"another period \(3\) than this search's \(300\)"):
        late.load_state_dict(saved)


def test_wrong_options_are_refused(small_net):
    iterand = sm.SEARCHES["iterand"]
    with pytest.raises(ValueError, match="randomize_ did not draw"):
        iterand(small_net, density=0.5, lr=0.1)
    sm.randomize_(small_net)
    with pytest.raises(ValueError, match="number of steps from 1 on, not 0"):
        iterand(small_net, density=0.5, lr=0.1, period=0)
    with pytest.raises(ValueError, match=r"rate must lie in \[0, 1\]"):
        iterand(small_net, density=0.5, lr=0.1, rate=1.5)
    given = iterand(small_net, density=0.5, lr=0.1, period=7)
    given.plan(10_000, 100)
    assert given.period == 7
