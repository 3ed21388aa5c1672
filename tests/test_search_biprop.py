"""Multi-prize tickets: binary weights against the autograd form, α against its definition."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import supermask as sm
from supermask.masks import keep_count
from supermask.packed import PackedLinear

from .test_search import KeepLargest, linear_net, train


@pytest.mark.parametrize("density", [0.5, 0.1])
def test_the_optimizer_form_equals_the_autograd_form(density):
    model = sm.randomize_(linear_net().double(), "kaiming_normal", seed=3)
    options = {"lr": 0.1, "momentum": 0.9, "weight_decay": 1e-4}
    search = sm.SEARCHES["biprop"](model, density=density, **options)
    weights = [weight.clone() for weight in search.weights.values()]
    scores = [nn.Parameter(score.clone()) for score in search.scores.values()]
    keeps = [keep_count(weight.numel(), density) for weight in weights]
    optimizer = torch.optim.SGD(scores, **options)

    def binary(weight, score, keep):
        masked = weight * KeepLargest.apply(score.abs(), keep)
        alpha = masked.abs().sum() / keep
        # Forward: α times signs. Backward: as if it were the masked weights, α left out.
        return masked + (alpha * masked.sign() - masked).detach()

    generator = torch.Generator().manual_seed(0)
    for _ in range(30):
        x = torch.randn(16, 1, 8, 8, generator=generator, dtype=torch.float64)
        y = torch.randint(5, (16,), generator=generator)
        search.zero_grad()
        F.cross_entropy(model(x), y).backward()
        search.step()
        optimizer.zero_grad()
        hidden = F.relu(F.linear(x.flatten(1), binary(weights[0], scores[0], keeps[0])))
        F.cross_entropy(F.linear(hidden, binary(weights[1], scores[1], keeps[1])), y).backward()
        optimizer.step()
    for ours, theirs in zip(search.scores.values(), scores, strict=True):
        assert torch.allclose(ours, theirs.detach(), rtol=1e-5, atol=1e-7)  # α is rounded to float32


@pytest.mark.parametrize("distribution", ["uniform", "global", "erk"])
def test_alpha_is_the_mean_magnitude_of_the_kept_weights(small_net, batch, distribution):
    sm.randomize_(small_net, "kaiming_normal", seed=1)
    search = sm.SEARCHES["biprop"](small_net, density=0.3, lr=0.1, distribution=distribution)
    train(small_net, search, batch)
    for name, mask in search.mask.items():
        weight = search.weights[name].double().numpy()[mask.numpy()]
        standing = small_net.get_parameter(name).detach().numpy()[mask.numpy()]
        alpha = np.float32(np.abs(weight).mean())
        assert np.array_equal(standing, np.where(weight < 0, -alpha, alpha).astype(np.float32))
        assert not small_net.get_parameter(name).detach()[~mask].any()


def test_a_single_kept_weight_stands_as_it_is():
    # The authors' α divides by int(k · n), which is 0 here: NaN.
    model = sm.randomize_(nn.Linear(4, 4, bias=False), "kaiming_normal")
    search = sm.SEARCHES["biprop"](model, density=0.05, lr=0.1)
    assert int(search.mask["weight"].sum()) == 1
    assert torch.equal(model.weight.detach(), search.weights["weight"] * search.mask["weight"])


@pytest.mark.parametrize(
    ("method", "init"),
    [
        ("biprop", "kaiming_normal"),
        ("biprop", "signed_constant"),
        ("signed-supermask", "elus"),
        ("zhou", "glorot_constant"),
    ],
)
def test_weights_of_one_magnitude_are_packed(method, init):
    # Smaller layers stay dense.
    model = nn.Sequential(nn.Linear(64, 1024), nn.ReLU(), nn.Linear(1024, 5))
    sm.randomize_(model, init, seed=3)
    search = sm.SEARCHES[method](model, density=0.4, lr=0.1)
    x = torch.randn(5, 64, generator=torch.Generator().manual_seed(0))
    for _ in range(3):
        search.zero_grad()
        F.cross_entropy(model(x), torch.arange(5)).backward()
        search.step()
    search.settle()
    packed = sm.pack(model, search.ticket())
    assert any(isinstance(layer, PackedLinear) for layer in packed.modules())
    assert torch.allclose(packed(x), model(x), rtol=1e-4, atol=1e-5)
