"""Relative steps of scores: no scale of the loss is felt, and the arithmetic is that of a plain loop."""

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import supermask as sm
from supermask.search.relative_steps import BETA2, default_rate, first_sizes, in_units_of_layers


def net() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, bias=False),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(144, 20, bias=False),
        nn.ReLU(),
        nn.Linear(20, 5, bias=False),
    )


def batches(count: int) -> list[tuple[torch.Tensor, torch.Tensor]]:
    generator = torch.Generator().manual_seed(0)
    return [
        (torch.randn(16, 1, 8, 8, generator=generator), torch.randint(5, (16,), generator=generator))
        for _ in range(count)
    ]


def trained(factor: float, init: str = "signed_constant", steps: int = 12, **options) -> sm.EdgePopup:
    model = sm.randomize_(net(), init, seed=1)
    search = sm.EdgePopup(model, density=0.4, **options)
    for x, y in batches(steps):
        (factor * F.cross_entropy(model(x), y)).backward()
        search.step()
        search.zero_grad()
    return search


@pytest.mark.parametrize("power", [-12, -1, 3, 12])
def test_a_power_of_two_on_the_loss_changes_no_bit(power):
    plain, scaled = trained(1.0), trained(2.0**power)
    for name, score in plain.scores.items():
        assert torch.equal(score, scaled.scores[name])
        assert torch.equal(plain.mask[name], scaled.mask[name])


@pytest.mark.parametrize("init", ["signed_constant", "kaiming_normal"])
def test_any_factor_on_the_loss_changes_scores_by_rounding_alone(init):
    plain, scaled = trained(1.0, init), trained(1 / 9, init)
    for name, score in plain.scores.items():
        torch.testing.assert_close(score, scaled.scores[name], rtol=1e-3, atol=1e-5)
    absolute = [trained(factor, init, lr=0.1) for factor in (1.0, 1 / 9)]  # the published rule feels it
    name = "3.weight"
    assert (absolute[0].scores[name] - absolute[1].scores[name]).abs().max() > 1e-3


@pytest.mark.parametrize("init", ["signed_constant", "kaiming_normal"])
def test_steps_are_those_of_a_plain_loop_in_float64(init):
    model = sm.randomize_(net(), init, seed=1)
    search = sm.EdgePopup(model, density=0.4, lr=0.02, step_size="relative", momentum=0.8, weight_decay=0.01)
    weights = {name: w.double().numpy() for name, w in search.weights.items()}
    scores = {name: s.double().numpy() for name, s in search.scores.items()}
    rms = {name: np.sqrt((s**2).mean()) for name, s in scores.items()}
    squares, velocities = dict.fromkeys(scores, 0.0), dict.fromkeys(scores, 0.0)
    for step, (x, y) in enumerate(batches(6), start=1):
        F.cross_entropy(model(x), y).backward()
        for name, parameter in search.masked_parameters.items():
            grad, weight = parameter.grad.double().numpy(), weights[name]
            mean = (grad**2).mean() * (weight**2).mean()
            squares[name] = BETA2 * squares[name] + (1 - BETA2) * mean
            root = np.sqrt(squares[name] / (1 - BETA2**step))
            moved = np.sign(scores[name]) * weight * grad * rms[name] / root + 0.01 * scores[name]
            velocities[name] = 0.8 * velocities[name] + moved if step > 1 else moved
            scores[name] = scores[name] - 0.02 * velocities[name]
        search.step()
        search.zero_grad()
    for name, score in search.scores.items():
        np.testing.assert_allclose(score.numpy(), scores[name], rtol=2e-4, atol=2e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_size_of_short_gradients_is_neither_rounded_nor_infinite(dtype):
    """Beside a float64 gradient; the norm of the largest is 90,000, more than float16 has."""
    generator = torch.Generator().manual_seed(0)
    draws = [torch.randn(30, 20, generator=generator), torch.full((300, 300), 300.0)]
    grads = [*(draw.to(dtype) for draw in draws), draws[0].double()]
    weights = [torch.ones(grad.shape) for grad in grads]
    units = in_units_of_layers(
        grads, [first_sizes("relative", weight, weight)["sizes"] for weight in weights]
    )
    for grad, unit in zip(grads, units, strict=True):
        exact = grad.double() / grad.double().square().mean().sqrt()
        torch.testing.assert_close(unit.double(), exact, rtol=2e-6, atol=0)


def test_a_first_step_is_a_share_of_the_first_scores():
    search = trained(1.0, steps=1, lr=0.05, step_size="relative")
    fresh = sm.EdgePopup(sm.randomize_(net(), seed=1), density=0.4).scores
    for name, score in search.scores.items():
        share = (score - fresh[name]).norm() / fresh[name].norm()
        assert float(share) == pytest.approx(0.05, rel=1e-4)


def test_a_given_rate_means_what_it_always_meant_and_none_means_relative_steps():
    by_rate = sm.EdgePopup(sm.randomize_(net()), density=0.4, lr=0.3)
    assert by_rate.step_size == "absolute" and by_rate.param_groups[0]["momentum"] == 0
    assert "sizes" not in next(iter(by_rate.state.values()))
    untuned = sm.EdgePopup(sm.randomize_(net()), density=0.4)
    group = untuned.param_groups[0]
    assert untuned.step_size == "relative" and group["lr"] == 0.005
    assert group["momentum"] == 0.9 and group["nesterov"] is True
    assert sm.EdgePopup(net(), density=0.4, momentum=0.0).param_groups[0]["nesterov"] is False


@pytest.mark.parametrize(
    ("norm", "rate"),
    [
        (nn.BatchNorm1d(20), 0.02),
        (nn.BatchNorm1d(20, affine=False), 0.02),
        (nn.SyncBatchNorm(20), 0.02),
        (nn.LayerNorm(20), 0.005),
        (nn.Identity(), 0.005),
    ],
)
def test_the_rate_that_stands_in_is_larger_behind_batch_norms(norm, rate):
    model = sm.randomize_(nn.Sequential(nn.Linear(30, 20), norm, nn.ReLU(), nn.Linear(20, 5)))
    assert sm.EdgePopup(model, density=0.4).param_groups[0]["lr"] == rate


@pytest.mark.parametrize(("layers", "rate"), [(1, 0.02), (7, 0.02), (14, 0.01), (56, 0.0025)])
def test_it_falls_with_the_depth_of_a_network_with_batch_norms(layers, rate):
    deep = nn.Sequential(nn.BatchNorm1d(8), *(nn.Linear(8, 8, bias=False) for _ in range(layers)))
    assert default_rate(deep) == pytest.approx(rate)
    assert default_rate(deep[1:]) == 0.005
    searched = sm.EdgePopup(
        sm.randomize_(deep), density=0.5, exclude=[f"{i}.*" for i in range(8, layers + 1)]
    )
    assert searched.defaults["lr"] == 0.02  # of the layers that this search masks


def test_a_parametrized_layer_that_is_left_out_is_no_obstacle():
    plain = nn.Linear(8, 8, bias=False), nn.BatchNorm1d(8), nn.Linear(8, 8, bias=False)
    model = nn.Sequential(*plain, nn.utils.parametrizations.weight_norm(nn.Linear(8, 8)))
    assert sm.EdgePopup(model, density=0.5, exclude=["3.*"]).defaults["lr"] == 0.02


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_another_default_type_of_tensors_is_no_obstacle(dtype):
    before = torch.get_default_dtype()
    plain = trained(1.0)
    model = sm.randomize_(net(), seed=1)
    torch.set_default_dtype(dtype)
    try:
        search = sm.EdgePopup(model, density=0.4)
        for x, y in [(x.float(), y) for x, y in batches(12)]:
            F.cross_entropy(model(x), y).backward()
            search.step()
            search.zero_grad()
    finally:
        torch.set_default_dtype(before)
    assert all(sizes.dtype == torch.float32 for sizes in (state["sizes"] for state in search.state.values()))
    assert plain.scores.keys() == search.scores.keys()


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"step_size": "relativ"}, "absolute, relative"),
        ({"base": "adam"}, "give lr="),
        ({"step_size": "absolute"}, "give lr="),
    ],
)
def test_what_has_no_default_asks_for_a_rate(options, reason):
    with pytest.raises(ValueError, match=reason):
        sm.EdgePopup(net(), density=0.4, **options)


@pytest.mark.parametrize("method", sm.SEARCHES)
def test_every_search_has_a_default_rate_or_asks_for_one(method):
    model = sm.randomize_(net())
    if method in ("edge-popup", "iterand", "frozen"):
        assert sm.SEARCHES[method](model, density=0.5).step_size == "relative"
    else:
        with pytest.raises(ValueError, match=f"{method} has no default learning rate; give lr="):
            sm.SEARCHES[method](model, density=0.5)


def test_the_fused_step_leaves_the_bits_of_the_parts(monkeypatch):
    fused = trained(1.0, "kaiming_normal", weight_decay=1e-3)
    monkeypatch.setattr(sm.EdgePopup, "fused", None)
    parts = trained(1.0, "kaiming_normal", weight_decay=1e-3)
    for name, score in fused.scores.items():
        assert torch.equal(score, parts.scores[name])


def test_a_state_goes_on_bit_for_bit_and_refuses_the_other_step_size():
    search = trained(1.0)
    state = copy.deepcopy(search.state_dict())
    again = sm.EdgePopup(sm.randomize_(net(), seed=1), density=0.4)
    again.load_state_dict(state)
    for one in (search, again):
        for x, y in batches(3):
            F.cross_entropy(one.model(x), y).backward()
            one.step()
            one.zero_grad()
    for name, score in search.scores.items():
        assert torch.equal(score, again.scores[name])
    published = sm.EdgePopup(sm.randomize_(net(), seed=1), density=0.4, lr=0.1)
    with pytest.raises(ValueError, match="another step_size"):
        published.load_state_dict(state)


def test_scores_that_start_at_zero_and_layers_without_gradient_can_move_later():
    model = sm.randomize_(net(), seed=1)
    first = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    search = sm.EdgePopup(model, density=0.4, ranking="raw", scores=first)
    for p in model.parameters():
        p.grad = torch.zeros_like(p)
    search.step()
    assert all(not score.any() for score in search.scores.values())
    search.zero_grad()
    search.step()  # no gradient at all
    x, y = batches(1)[0]
    F.cross_entropy(model(x), y).backward()
    search.step()
    assert all(score.isfinite().all() and score.any() for score in search.scores.values())


def test_searches_trained_together_move_as_each_does_alone():
    together = sm.Ensemble([sm.randomize_(net(), seed=1), sm.randomize_(net(), seed=1)])
    searches = [
        sm.EdgePopup(member, density=d) for member, d in zip(together.members, (0.4, 0.2), strict=True)
    ]
    both = sm.EnsembleSearch(together, searches)
    for x, y in batches(5):
        together.losses(torch.stack([x, x]), torch.stack([y, y])).sum().backward()
        both.step()
        both.zero_grad()
    alone = trained(1.0, steps=5)
    for name, score in alone.scores.items():
        torch.testing.assert_close(searches[0].scores[name], score, rtol=1e-3, atol=1e-5)


def test_a_signed_search_takes_relative_steps_too():
    searches = []
    for factor in (1.0, 2.0**-6):
        model = sm.randomize_(net(), seed=1)
        options = {"density": 0.4, "lr": 0.01, "step_size": "relative", "momentum": 0.9}
        search = sm.SEARCHES["signed-supermask"](model, **options)
        for x, y in batches(6):
            (factor * F.cross_entropy(model(x), y)).backward()
            search.step()
            search.zero_grad()
        searches.append(search)
    for name, score in searches[0].scores.items():
        assert torch.equal(score, searches[1].scores[name])
