"""Zhou et al.'s supermasks: the gradient against autograd, the draws against their probabilities."""

import copy

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import supermask as sm

from .test_search import linear_net, train


def loss_of_autograd_form(
    x: Tensor, y: Tensor, weights: list[Tensor], scores: list[Tensor], drawn: list[Tensor], rescale: bool
) -> Tensor:
    """The paper's network: m has the drawn value and the gradient of σ(v); c = N / Σm is in the graph."""
    x = x.flatten(1)
    for i, (weight, score, mask) in enumerate(zip(weights, scores, drawn, strict=True)):
        probability = torch.sigmoid(score)
        m = mask.to(probability.dtype) + probability - probability.detach()
        factor = m.numel() / m.sum() if rescale else 1.0
        x = F.linear(x, factor * weight * m)
        x = F.relu(x) if i < len(weights) - 1 else x
    return F.cross_entropy(x, y)


@pytest.mark.parametrize("rescale", [True, False])
@pytest.mark.parametrize("density", [0.5, 0.2])
def test_the_gradient_is_that_of_the_autograd_form(rescale, density):
    model = sm.randomize_(linear_net().double(), "glorot_normal", seed=1)
    search = sm.SEARCHES["zhou"](model, density=density, lr=10.0, dynamic_rescale=rescale)
    generator = torch.Generator().manual_seed(0)
    for _ in range(5):
        x = torch.randn(16, 1, 8, 8, generator=generator, dtype=torch.float64)
        y = torch.randint(5, (16,), generator=generator)
        before = {name: score.clone().requires_grad_() for name, score in search.scores.items()}
        weights, drawn = list(search.weights.values()), list(search.mask.values())
        loss = loss_of_autograd_form(x, y, weights, list(before.values()), drawn, rescale)
        expected = torch.autograd.grad(loss, list(before.values()))
        search.zero_grad()
        ours = F.cross_entropy(model(x), y)
        ours.backward()
        search.step()
        assert ours.item() == pytest.approx(loss.item(), rel=1e-6)
        for (name, score), gradient in zip(search.scores.items(), expected, strict=True):
            # The factor c is rounded to float32, which a ticket can store.
            assert torch.allclose((before[name] - score) / 10, gradient, rtol=1e-5, atol=1e-9)
            assert gradient.abs().max() > 1e-4


@pytest.mark.parametrize("density", [0.1, 0.5, 0.9])
def test_a_draw_keeps_a_weight_with_its_probability(density):
    model = sm.randomize_(nn.Linear(300, 200, bias=False), "glorot_constant")
    search = sm.SEARCHES["zhou"](model, density=density, lr=0.0)
    drawn = []
    for _ in range(20):
        drawn.append(search.mask["weight"])
        model.weight.grad = torch.zeros_like(model.weight)
        search.step()
    kept = torch.stack(drawn).double()
    spread = (density * (1 - density) / kept.numel()) ** 0.5
    assert abs(kept.mean().item() - density) < 5 * spread
    # Independent from step to step: two masks agree as often as two coins.
    agree = (kept[1:] == kept[:-1]).double().mean().item()
    assert abs(agree - (density**2 + (1 - density) ** 2)) < 0.005
    # Each weight by its own probability.
    search.scores["weight"][:100] = 2.0
    model.weight.grad = torch.zeros_like(model.weight)
    search.step()
    assert abs(search.mask["weight"][:100].double().mean().item() - 1 / (1 + np.exp(-2))) < 0.01
    assert abs(search.mask["weight"][100:].double().mean().item() - density) < 0.015


def test_the_rescaled_network_has_the_whole_networks_scale():
    # At p = 1/2 the layer computes with N / Σm, about 2, times the kept weights.
    model = sm.randomize_(nn.Linear(400, 300, bias=False), "glorot_constant", seed=4)
    search = sm.SEARCHES["zhou"](model, density=0.5, lr=1.0)
    mask, weight = search.mask["weight"], search.weights["weight"]
    factor = np.float32(120_000 / int(mask.sum()))
    assert np.array_equal(model.weight.detach().numpy(), (weight * mask).numpy() * factor)
    assert torch.allclose(weight.abs(), torch.full_like(weight, (2 / 700) ** 0.5))


def test_evaluation_samples_and_mode(small_net, batch):
    sm.randomize_(small_net, "glorot_constant", seed=0)
    search = sm.SEARCHES["zhou"](small_net, density=0.5, lr=100.0)
    train(small_net, search, batch, 10)
    training = {name: p.clone() for name, p in small_net.named_parameters()}
    drawn = []
    for number in search.samples(3):
        assert number == len(drawn)
        drawn.append(small_net.hidden.weight.clone())
    assert not torch.equal(drawn[0], drawn[1]) and not torch.equal(drawn[0], training["hidden.weight"])
    for number in search.samples(3):
        assert torch.equal(small_net.hidden.weight, drawn[number])
    with search.evaluating():
        likely = search.scores["hidden.weight"] > 0
        assert torch.equal(small_net.hidden.weight != 0, likely)
        assert torch.equal(search.mask["hidden.weight"], likely)
        assert search.ticket().kept["hidden.weight"] == int(likely.sum())
    assert all(torch.equal(p, training[name]) for name, p in small_net.named_parameters())
    # A ticket is the mode's also while a sample stands in the model.
    assert torch.equal(search.ticket().mask()["hidden.weight"], likely)
    search.settle()
    assert torch.equal(small_net.hidden.weight != 0, likely)


def test_looking_at_samples_does_not_change_the_training(small_net, batch):
    def run(look: bool) -> list[float]:
        model = sm.randomize_(copy.deepcopy(small_net), "glorot_constant", seed=0)
        search = sm.SEARCHES["zhou"](model, density=0.5, lr=100.0)
        losses = []
        for _ in range(4):
            losses += train(model, search, batch, 3)
            if look:
                for _ in search.samples(2):
                    pass
        return losses

    assert run(True) == run(False)


def test_no_layer_is_ever_empty(small_net):
    sm.randomize_(small_net)
    search = sm.SEARCHES["zhou"](small_net, density=0.3, lr=1.0)
    search.scores["hidden.weight"].fill_(-1e4)
    search.scores["hidden.weight"][3, 7] = -9e3
    for mask in (search.select(), search.mode()):
        assert mask["hidden.weight"].nonzero().tolist() == [[3, 7]]
    # At the start no weight is more likely kept than not; the mode of a layer is one weight.
    assert search.mode()["conv.weight"].sum() == 1


def test_a_density_of_one_and_scores_that_are_not_finite_are_refused(small_net):
    from supermask.masks import NonFiniteScoreError

    sm.randomize_(small_net)
    with pytest.raises(ValueError, match="must be below 1, not 1"):
        sm.SEARCHES["zhou"](small_net, density=1, lr=1.0)
    search = sm.SEARCHES["zhou"](small_net, density=0.5, lr=1.0)
    search.scores["conv.weight"][0] = float("nan")
    with pytest.raises(NonFiniteScoreError, match=r"conv\.weight"):
        search.settle()
