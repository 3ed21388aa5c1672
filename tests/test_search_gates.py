"""Relaxed gates: closed forms against Monte Carlo and autograd, L0 gates and concrete ticket search."""

import copy
import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import supermask as sm
from supermask.masks import keep_count
from supermask.search.concrete import ConcreteTicketSearch, reverse_divergence
from supermask.search.l0_gates import L0Gates
from supermask.search.relaxations import Concrete, Gaussian, HardConcrete, logit_of

RELAXATIONS = [Gaussian(0.5), HardConcrete(2 / 3), Concrete(2 / 3)]
SCORES = torch.linspace(-2.0, 2.0, 41, dtype=torch.float64)
by_name = pytest.mark.parametrize("relaxation", RELAXATIONS, ids=lambda r: type(r).__name__)


def published(relaxation, score: Tensor, unit: Tensor) -> Tensor:
    """The gate as its paper writes it, for autograd; `unit` is e, or 2u − 1 for a uniform u."""
    if isinstance(relaxation, Gaussian):
        return torch.clamp(score + 0.5 * unit, 0, 1)
    u = (unit + 1) / 2
    noise = torch.log(u) - torch.log(1 - u)
    if isinstance(relaxation, Concrete):
        log_alpha = score * (2 / 3)
        return torch.sigmoid((noise + log_alpha) / (2 / 3))
    s = torch.sigmoid((noise + score) / (2 / 3))
    return torch.clamp(s * 1.2 - 0.1, min=0).clamp(max=1)


def units(relaxation, count: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    if relaxation.scheme == "normal":
        return torch.randn(count, len(SCORES), generator=generator, dtype=torch.float64)
    return torch.rand(count, len(SCORES), generator=generator, dtype=torch.float64) * 2 - 1


@by_name
def test_a_drawn_gate_and_its_slope_are_those_of_the_paper_under_autograd(relaxation):
    unit = units(relaxation, 200)
    score = SCORES.expand(200, -1).clone().requires_grad_(True)
    reference = published(relaxation, score, unit)
    reference.sum().backward()
    gate, slope = relaxation.sample(score.detach(), unit)
    torch.testing.assert_close(gate, reference.detach(), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(slope, score.grad, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("relaxation", RELAXATIONS[:2], ids=lambda r: type(r).__name__)
def test_the_openness_is_the_frequency_of_open_gates(relaxation):
    count = 40_000
    gate, _ = relaxation.sample(SCORES.expand(count, -1), units(relaxation, count))
    frequency = (gate > 0).double().mean(dim=0)
    openness, _ = relaxation.openness(SCORES)
    assert (frequency - openness).abs().max() < 5 * 0.5 / count**0.5


@by_name
def test_the_slope_of_the_openness_is_its_derivative(relaxation):
    score = SCORES.clone().requires_grad_(True)
    openness, slope = relaxation.openness(score)
    (derivative,) = torch.autograd.grad(openness.sum(), score)
    torch.testing.assert_close(slope.detach(), derivative, rtol=1e-12, atol=1e-14)
    step = 1e-6
    difference = relaxation.openness(SCORES + step)[0] - relaxation.openness(SCORES - step)[0]
    torch.testing.assert_close(slope.detach(), difference / (2 * step), rtol=1e-6, atol=1e-8)


@by_name
@pytest.mark.parametrize("openness", [0.01, 0.3, 0.5, 0.95])
def test_a_score_of_an_openness_has_it(relaxation, openness):
    score = torch.tensor([relaxation.score_of(openness)], dtype=torch.float64)
    assert relaxation.openness(score)[0].item() == pytest.approx(openness, rel=1e-12)


def test_the_closed_forms_of_the_papers():
    # Yamada et al.: Φ(μ/σ) by the error function. Louizos et al.: sigmoid(log α − β log(−γ/ζ)).
    for score in (-0.7, 0.0, 0.5):
        at = torch.tensor([score], dtype=torch.float64)
        normal = 0.5 * (1 + math.erf(score / (0.5 * math.sqrt(2))))
        assert Gaussian().openness(at)[0].item() == pytest.approx(normal, rel=1e-13)
        logistic = 1 / (1 + math.exp(-(score - 2 / 3 * math.log(0.1 / 1.1))))
        assert HardConcrete().openness(at)[0].item() == pytest.approx(logistic, rel=1e-13)


def test_the_logit_is_finite_at_the_ends_of_the_generator():
    ends = torch.tensor([1 - 2.0**-24, -(1 - 2.0**-24)])
    assert torch.isfinite(logit_of(ends)).all()
    u = torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)
    torch.testing.assert_close(logit_of(2 * u - 1), torch.log(u / (1 - u)))


def net() -> nn.Module:
    return nn.Sequential(nn.Linear(20, 50, bias=False), nn.ReLU(), nn.Linear(50, 10, bias=False)).double()


def batch(step: int) -> tuple[Tensor, Tensor]:
    x = torch.randn(32, 20, generator=torch.Generator().manual_seed(step), dtype=torch.float64)
    return x, x[:, :10].argmax(dim=1)


def train(model: nn.Module, search: sm.Search, steps: range) -> None:
    for step in steps:
        search.zero_grad()
        x, y = batch(step)
        F.cross_entropy(model(x), y).backward()
        search.step()


@pytest.mark.parametrize("relaxation", ["gaussian", "hard-concrete"])
@pytest.mark.parametrize("gates", ["weight", "neuron"])
@pytest.mark.parametrize("penalty", [0.7, None])
def test_a_step_is_the_gradient_of_loss_and_expected_density(relaxation, gates, penalty):
    model = sm.randomize_(net(), seed=0)
    search = L0Gates(
        model, density=0.4, start=0.8, lr=1.0, relaxation=relaxation, gates=gates, penalty=penalty
    )
    form = search.relaxation
    scores = {name: score.clone().requires_grad_(True) for name, score in search.scores.items()}
    gated = list(scores) if gates == "weight" else ["0.weight"]
    effective, opened = {}, []
    for name, score in scores.items():
        if name not in gated:
            effective[name] = search.weights[name]
            continue
        unit = search.noise("gates", name, score.detach(), form.scheme)
        effective[name] = search.weights[name] * published(form, score, unit)
        if relaxation == "gaussian":
            probability = 0.5 * (1 + torch.erf(score / (0.5 * 2**0.5)))
        else:
            probability = torch.sigmoid(score - 2 / 3 * math.log(0.1 / 1.1))
        opened.append(probability.expand_as(effective[name]).flatten())
    x, y = batch(0)
    logits = F.linear(F.relu(F.linear(x, effective["0.weight"])), effective["2.weight"])
    density = torch.cat(opened).mean()
    torch.testing.assert_close(density.item(), search.expected_density())
    if penalty is None:
        regularizer = 5.0 * (density / 0.4 - 1).clamp(min=0) ** 2
    else:
        regularizer = penalty * density
    (F.cross_entropy(logits, y) + regularizer).backward()
    torch.testing.assert_close(model(x).detach(), logits.detach(), rtol=1e-10, atol=1e-10)
    before = {name: score.clone() for name, score in search.scores.items()}
    train(model, search, range(1))
    for name in gated:
        torch.testing.assert_close(before[name] - search.scores[name], scores[name].grad)


@pytest.mark.parametrize("relaxation", ["gaussian", "hard-concrete"])
def test_the_expected_density_is_held_and_the_final_one_exact(relaxation):
    model = sm.randomize_(net(), seed=0, density=0.3)
    search = L0Gates(model, density=0.3, lr=0.1, base="adam", relaxation=relaxation)
    train(model, search, range(150))
    assert abs(search.expected_density() - 0.3) < 0.05
    search.settle()
    for name, mask in search.mask.items():
        assert int(mask.sum()) == keep_count(mask.numel(), 0.3)
        best = search.scores[name][mask].min()
        assert best >= search.scores[name][~mask].max()
    x, y = batch(999)
    assert (model(x).argmax(dim=1) == y).double().mean() > 0.4


def test_a_layer_keeps_one_gate_under_any_penalty():
    model = sm.randomize_(net(), seed=0)
    search = L0Gates(model, density=0.3, lr=1.0, base="adam", penalty=1e6)
    train(model, search, range(5))
    search.settle()
    assert all(int(mask.sum()) == 1 for mask in search.mask.values())


def test_smoothed_labels_reach_the_loss_of_a_concrete_search(small_net, batch):
    sm.randomize_(small_net, seed=0)
    search = ConcreteTicketSearch(small_net, density=0.3, lr=0.1)
    inputs, labels = batch
    for smoothing in (0.0, 0.1):
        expected = F.cross_entropy(small_net(inputs), labels, label_smoothing=smoothing)
        assert torch.equal(search.objective(small_net, inputs, labels, smoothing), expected)
    divergence = ConcreteTicketSearch(copy.deepcopy(small_net), density=0.3, lr=0.1, objective="kl")
    with pytest.raises(ValueError, match=r"leave label_smoothing=0\.1 out"):
        divergence.objective(small_net, inputs, labels, 0.1)


def test_a_given_penalty_lets_the_density_emerge():
    def density(penalty: float) -> float:
        model = sm.randomize_(net(), seed=0)
        search = L0Gates(model, density=0.3, start=0.8, lr=0.1, base="adam", penalty=penalty)
        train(model, search, range(100))
        search.settle()
        for name, mask in search.mask.items():
            assert torch.equal(mask, search.scores[name] > 0.5)
        return sum(int(m.sum()) for m in search.mask.values()) / 1500

    light, heavy = density(0.1), density(3.0)
    assert heavy < 0.7 * light


def test_neuron_gates_keep_whole_units_and_never_close_a_class():
    model = sm.randomize_(net(), seed=0)
    search = L0Gates(model, density=0.4, lr=0.1, base="adam", gates="neuron")
    train(model, search, range(20))
    search.settle()
    rows = search.mask["0.weight"].sum(dim=1)
    assert set(rows.tolist()) == {0, 20} and int((rows == 20).sum()) == 20
    assert search.mask["2.weight"].all()
    with pytest.raises(ValueError, match=r"gates=.neuron. needs a hidden layer"):
        L0Gates(sm.randomize_(nn.Linear(4, 3)), density=0.5, lr=0.1, gates="neuron")


@pytest.mark.parametrize("make", [L0Gates, ConcreteTicketSearch])
def test_gates_continue_bit_for_bit_and_differ_by_step(make):
    def fresh() -> tuple[nn.Module, sm.Search]:
        model = sm.randomize_(net(), seed=0)
        return model, make(model, density=0.3, lr=0.1, base="adam")

    model, search = fresh()
    seen = [search.state[next(iter(model.parameters()))]["gate"].clone()]
    train(model, search, range(5))
    seen.append(search.state[next(iter(model.parameters()))]["gate"].clone())
    assert (seen[0] != seen[1]).any()
    other_model, other = fresh()
    other.load_state_dict(copy.deepcopy(search.state_dict()))
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other_model.parameters(), strict=True))
    train(model, search, range(5, 15))
    train(other_model, other, range(5, 15))
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), other_model.parameters(), strict=True))


def test_gradbalance_follows_the_ratio_of_the_norms():
    # Written from the published code: λ ← 0.99 λ + 0.01 ‖g_loss‖/‖g_density‖ while above 1.1 · density.
    model = sm.randomize_(net(), seed=0)
    search = ConcreteTicketSearch(model, density=0.2, start=0.25, lr=0.1)
    multiplier = None
    for step in range(12):
        x, y = batch(step)
        search.zero_grad()
        F.cross_entropy(model(x), y).backward()
        flat = torch.cat([score.flatten() for score in search.scores.values()])
        open_ = torch.sigmoid(flat)
        g_density = open_ * (1 - open_) / 1500
        g_loss = torch.cat(
            [
                (
                    p.grad * search.weights[name] * search.state[p]["gate"] * (1 - search.state[p]["gate"])
                ).flatten()
                for name, p in model.named_parameters()
            ]
        )
        target = g_loss.norm() / g_density.norm() if open_.mean() > 1.1 * 0.2 else torch.zeros(())
        multiplier = target if multiplier is None else 0.99 * multiplier + 0.01 * target
        search.step()
        moved = flat - torch.cat([score.flatten() for score in search.scores.values()])
        torch.testing.assert_close(moved, 0.1 * (g_loss + multiplier * g_density))
        assert search.balance.item() == pytest.approx(float(multiplier))


def test_concrete_search_starts_at_the_density_and_ranks_the_whole_network():
    model = sm.randomize_(net(), seed=0)
    search = ConcreteTicketSearch(model, density=0.2, lr=0.1, base="adam", distribution="global")
    assert abs(search.expected_density() - 0.2) < 0.001
    train(model, search, range(60))
    search.settle()
    flat = torch.cat([score.flatten() for score in search.scores.values()])
    kept = torch.cat([mask.flatten() for mask in search.mask.values()])
    assert int(kept.sum()) == 300 and flat[kept].min() >= flat[~kept].max()


def test_the_reverse_divergence_by_its_definition():
    logits, teacher = batch(0)[0][:, :5], batch(1)[0][:, :5]
    p, q = logits.softmax(1), teacher.softmax(1)
    expected = sum(
        float(p[i, j] * (math.log(p[i, j]) - math.log(q[i, j]))) for i in range(32) for j in range(5)
    )
    assert reverse_divergence(logits, teacher).item() == pytest.approx(expected / 32)


def test_the_divergence_objective_draws_the_gated_outputs_to_the_dense_ones(small_net):
    images = torch.randn(64, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    labels = torch.zeros(64, dtype=torch.int64)
    sm.randomize_(small_net, seed=0)
    search = ConcreteTicketSearch(small_net, density=0.3, lr=0.1, base="adam", objective="kl")
    with search.dense():
        assert all(
            torch.equal(p, search.weights[n]) for n, p in small_net.named_parameters() if n in search.mask
        )
        statistics = small_net.norm.running_mean.clone()
        small_net(images)
        assert torch.equal(small_net.norm.running_mean, statistics)
    assert small_net.norm.track_running_stats
    gates = {n: search.state[p]["gate"] for n, p in small_net.named_parameters() if n in search.mask}
    assert all(torch.equal(small_net.get_parameter(n), search.weights[n] * g) for n, g in gates.items())
    losses: list[float] = []

    def objective(*arguments) -> Tensor:
        loss = search.objective(*arguments)
        losses.append(loss.item())
        return loss

    sm.fit(
        small_net,
        search,
        lambda step: (images, labels),
        steps=80,
        objective=objective,
    )
    first, last = (sum(part) / 10 for part in (losses[:10], losses[-10:]))
    assert last < 0.5 * first


def test_wrong_options_are_refused():
    model = sm.randomize_(net())
    with pytest.raises(ValueError, match="gaussian, hard-concrete, not 'laplace'"):
        L0Gates(model, density=0.5, lr=0.1, relaxation="laplace")
    with pytest.raises(ValueError, match="weight, neuron, not 'channel'"):
        L0Gates(model, density=0.5, lr=0.1, gates="channel")
    with pytest.raises(ValueError, match="penalty multiplies"):
        L0Gates(model, density=0.5, lr=0.1, penalty=-1.0)
    with pytest.raises(ValueError, match="start is a probability"):
        L0Gates(model, density=0.5, lr=0.1, start=1.0)
    with pytest.raises(ValueError, match="loss, kl, not 'mse'"):
        ConcreteTicketSearch(model, density=0.5, lr=0.1, objective="mse")
    with pytest.raises(ValueError, match="temperature"):
        ConcreteTicketSearch(model, density=0.5, lr=0.1, temperature=0.0)
    with pytest.raises(ValueError, match="slack"):
        ConcreteTicketSearch(model, density=0.5, lr=0.1, slack=0.0)
