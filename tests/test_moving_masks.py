"""Masks that change while weights train: SET and RigL step by step in NumPy, early-bird's draw, resuming."""

import copy
import json
import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from supermask.cli import main
from supermask.io import load_tree, save_tree
from supermask.masks import distance, random_mask
from supermask.prune import EarlyBird, Rewire
from supermask.weights.roles import masked


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(10, 16), nn.ReLU(), nn.Linear(16, 4))


def quarter(model: nn.Module) -> dict[str, torch.Tensor]:
    shapes = {info.name: info.tensor.shape for info in masked(model)}
    return random_mask(shapes, {name: math.prod(shape) // 4 for name, shape in shapes.items()}, seed=3)


def train(model: nn.Module, optimizer: torch.optim.Optimizer, first: int, last: int) -> None:
    for step in range(first, last):
        generator = torch.Generator().manual_seed(step)
        x, y = torch.randn(16, 10, generator=generator), torch.randint(4, (16,), generator=generator)
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()
        optimizer.step()


RULES = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
    "adam": lambda p: torch.optim.Adam(p, lr=0.01),
}


@pytest.mark.parametrize("make", RULES.values(), ids=RULES)
@pytest.mark.parametrize("rule", ["set", "rigl"])
def test_rewiring_keeps_the_counts_and_pruned_weights_at_zero(rule, make):
    model = network()
    optimizer, mask = make(model.parameters()), quarter(model)
    handle = Rewire(optimizer, mask, model, rule=rule, every=3, until=20)
    counts = {name: int(m.sum()) for name, m in mask.items()}
    changes, before = 0, handle.mask
    for step in range(30):
        train(model, optimizer, step, step + 1)
        now = handle.mask
        assert {name: int(m.sum()) for name, m in now.items()} == counts
        for name, m in now.items():
            parameter = model.get_parameter(name)
            assert not parameter[~m].any()
            for value in optimizer.state[parameter].values():
                if isinstance(value, torch.Tensor) and value.shape == parameter.shape:
                    assert not value[~m].any()
        changed = distance(now, before) > 0
        assert not changed or ((step + 1) % 3 == 0 and step + 1 < 20)
        changes, before = changes + changed, now
    assert changes >= 4


def test_rigl_drops_the_smallest_and_grows_by_the_gradient():
    model = network()
    optimizer, mask = torch.optim.SGD(model.parameters(), lr=0.1), quarter(model)
    handle = Rewire(optimizer, mask, model, rule="rigl", every=2, until=8, fraction=0.5)
    train(model, optimizer, 0, 1)
    generator = torch.Generator().manual_seed(1)
    x, y = torch.randn(16, 10, generator=generator), torch.randint(4, (16,), generator=generator)
    optimizer.zero_grad()
    F.cross_entropy(model(x), y).backward()
    dense = {name: model.get_parameter(name).grad.clone().numpy() for name in mask}
    old = {name: m.numpy() for name, m in handle.mask.items()}
    moved = {
        name: (model.get_parameter(name).detach().numpy() - np.float32(0.1) * dense[name]) * old[name]
        for name in mask
    }
    optimizer.step()
    share = 0.5 * 0.5 * (1 + math.cos(math.pi * 2 / 8))
    for name in mask:
        kept = int(old[name].sum())
        drop = round(share * kept)
        assert drop > 0
        sizes = np.where(old[name], np.abs(moved[name]), np.inf).ravel()
        expected = old[name].ravel().copy()
        expected[np.argsort(sizes, kind="stable")[:drop]] = False
        free = np.where(expected, -1.0, np.abs(dense[name]).ravel())
        grown = np.argsort(-free, kind="stable")[:drop]
        expected[grown] = True
        assert np.array_equal(handle.mask[name].numpy().ravel(), expected)
        assert not model.get_parameter(name).detach().numpy().ravel()[grown].any()


class Linear:
    """Least squares by SGD with momentum under a mask that moves, in NumPy."""

    LR, MOMENTUM = 0.05, 0.9

    def __init__(self, weight: np.ndarray, mask: np.ndarray) -> None:
        self.mask, self.weight = mask, weight * mask
        self.velocity = np.zeros_like(weight)

    def step(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """One step; the gradient of all weights, pruned ones too."""
        gradient = 2 * (x @ self.weight.T - y).T @ x / y.size
        self.velocity = self.MOMENTUM * self.velocity + gradient * self.mask
        self.weight = self.weight - self.LR * self.velocity * self.mask
        return gradient

    def dropped(self, share: float) -> tuple[np.ndarray, int]:
        """What stays when the smallest of the kept weights go, and how many those are."""
        count = round(share * int(self.mask.sum()))
        kept = np.flatnonzero(self.mask)
        smallest = kept[np.argsort(np.abs(self.weight.ravel()[kept]), kind="stable")[:count]]
        stays = self.mask.copy().ravel()
        stays[smallest] = False
        return stays.reshape(self.mask.shape), count

    def grow(self, stays: np.ndarray, grown: np.ndarray) -> None:
        self.mask = stays | grown
        for values in (self.weight, self.velocity):
            values[grown | ~self.mask] = 0


@pytest.mark.parametrize("rule", ["set", "rigl"])
def test_a_training_that_drops_and_grows_is_that_of_numpy(rule):
    generator = np.random.default_rng(8)
    x, y = generator.normal(size=(9, 24, 7)), generator.normal(size=(9, 24, 6))
    mask = np.isin(np.arange(42), generator.permutation(42)[:17]).reshape(6, 7)
    model = nn.Linear(7, 6, bias=False).double()
    reference = Linear(model.weight.detach().numpy().copy(), mask)
    optimizer = torch.optim.SGD(model.parameters(), lr=Linear.LR, momentum=Linear.MOMENTUM)
    kept = {"weight": torch.from_numpy(mask)}
    handle = Rewire(optimizer, kept, model, rule=rule, every=2, until=7, fraction=0.4)
    changed, both = 0, 0
    for number in range(9):
        optimizer.zero_grad()
        (model(torch.from_numpy(x[number])) - torch.from_numpy(y[number])).square().mean().backward()
        optimizer.step()
        gradient = reference.step(x[number], y[number])
        found, step = handle.mask["weight"].numpy(), number + 1
        if step % 2 == 0 and step < 7:
            before = reference.mask
            share = 0.4 * (0.5 * (1 + math.cos(math.pi * step / 7)) if rule == "rigl" else 1)
            stays, count = reference.dropped(share)
            if rule == "rigl":
                free = np.flatnonzero(~stays)
                best = free[np.argsort(-np.abs(gradient.ravel()[free]), kind="stable")[:count]]
                grown = np.isin(np.arange(42), best).reshape(6, 7)
            else:  # where chance says, but as many, and only where nothing stays
                grown = found & ~stays
                assert (found & stays == stays).all() and grown.sum() == count
            both += int((grown & before).sum())
            reference.grow(stays, grown)
            changed += 1
        assert np.array_equal(found, reference.mask), step
        assert np.allclose(model.weight.detach().numpy(), reference.weight, rtol=1e-9, atol=1e-13), step
        momentum = optimizer.state[model.weight]["momentum_buffer"].numpy()
        assert np.allclose(momentum, reference.velocity, rtol=1e-9, atol=1e-13), step
    assert changed == 3 and both  # some were dropped and grown in one change: they start at zero, too


def test_set_grows_everywhere_alike():
    """Over seeds every free place is grown equally often, those that were just dropped among them."""
    often, weight = np.zeros((4, 10)), torch.arange(1.0, 41.0).view(4, 10)
    for seed in range(400):
        model = nn.Linear(10, 4, bias=False)
        with torch.no_grad():
            model.weight.copy_(weight)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
        kept = {"weight": weight > 20}  # of twenty the fraction 0.3 is dropped: those up to 26
        handle = Rewire(optimizer, kept, model, rule="set", every=1, until=3, seed=seed)
        model.weight.grad = torch.zeros_like(model.weight)
        optimizer.step()
        often += handle.mask["weight"].numpy()
    assert (often[weight.numpy() > 26] == 400).all()
    share = 6 / 26
    assert np.abs(often[weight.numpy() <= 26] / 400 - share).max() < 5 * (share * (1 - share) / 400) ** 0.5


def test_set_grows_by_the_seed():
    masks = []
    for seed in (0, 0, 1):
        model = network()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        handle = Rewire(optimizer, quarter(model), model, rule="set", every=1, until=9, seed=seed)
        train(model, optimizer, 0, 3)
        masks.append(handle.mask)
    assert distance(masks[0], masks[1]) == 0 < distance(masks[0], masks[2])


@pytest.mark.parametrize("kind", ["set", "rigl", "early-bird"])
def test_a_resumed_training_goes_on_with_the_same_masks(kind, tmp_path):
    def made():
        model = network()
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
        if kind == "early-bird":
            return model, optimizer, EarlyBird(optimizer, model, density=0.3, every=2, until=25)
        return model, optimizer, Rewire(optimizer, quarter(model), model, rule=kind, every=3, until=25)

    model, optimizer, handle = made()
    train(model, optimizer, 0, 17)
    save_tree(tmp_path / "state", {"model": dict(model.state_dict()), "optimizer": optimizer.state_dict()})
    train(model, optimizer, 17, 30)
    other, resumed, follower = made()
    saved = load_tree(tmp_path / "state")
    other.load_state_dict(saved["model"])
    resumed.load_state_dict(saved["optimizer"])
    train(other, resumed, 17, 30)
    assert distance(handle.mask, follower.mask) == 0
    ours, theirs = model.state_dict(), other.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_the_early_bird_is_drawn_when_five_masks_agree():
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-6)  # nothing moves: the masks agree at once
    handle = EarlyBird(optimizer, model, density=0.25, every=2, until=100)
    weights = torch.cat([info.tensor.detach().flatten() for info in masked(model)])
    cut = weights.abs().sort(descending=True).values[round(0.25 * len(weights)) - 1]
    train(model, optimizer, 0, 9)
    assert handle.drawn is None and all(bool(m.all()) for m in handle.mask.values())
    assert handle.agreed is None
    train(model, optimizer, 9, 12)
    assert handle.drawn == 10 and handle.agreed is True
    for info in masked(model):
        assert torch.equal(handle.mask[info.name], info.tensor.detach() != 0)
        assert info.tensor.detach()[handle.mask[info.name]].abs().min() >= cut - 1e-4
    assert sum(int(m.sum()) for m in handle.mask.values()) == round(0.25 * len(weights))


def test_the_early_bird_is_drawn_at_the_end_of_patience():
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=3.0)
    handle = EarlyBird(optimizer, model, density=0.1, every=1, until=7)
    train(model, optimizer, 0, 7)
    assert handle.drawn == 7 and handle.agreed is False


def watched(masks: list[np.ndarray], density: float, **options) -> EarlyBird:
    """The early bird of a network of 10×20 weights whose largest are where each mask says, look by look."""
    model = nn.Linear(20, 10, bias=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    handle = EarlyBird(optimizer, model, density=density, every=1, until=len(masks) + 1, **options)
    for mask in masks:
        with torch.no_grad():
            model.weight.copy_(torch.from_numpy(np.where(mask, 2.0, 1.0)).view(10, 20))
        model.weight.grad = torch.zeros_like(model.weight)
        optimizer.step()
    return handle


def places(*kept: int) -> np.ndarray:
    return np.isin(np.arange(200), kept)


@pytest.mark.parametrize(("moved", "agreed"), [(10, True), (11, None)])
def test_masks_agree_that_differ_in_a_tenth_and_no_more(moved, agreed):
    first = places(*range(60))  # of 200; the last has `moved` others, so that 2 · moved entries differ
    last = places(*range(moved, 60 + moved))
    assert (first != last).mean() == pytest.approx(moved / 100)
    assert watched([first] * 4 + [last], 0.3).agreed is agreed


@pytest.mark.parametrize(("moved", "agreed"), [(1, True), (2, None)])
@pytest.mark.parametrize("density", [0.05, 0.95])
def test_where_all_masks_are_near_the_fewer_entries_count(density, moved, agreed):
    first, last = places(*range(10)), places(*range(moved, 10 + moved))  # a tenth of ten entries is one
    if density > 0.5:
        first, last = ~first, ~last
    handle = watched([first] * 4 + [last], density)
    assert handle.among == "kept" and handle.agreed is agreed


def test_the_papers_distance_is_refused_where_it_says_nothing():
    strangers = [places(*range(10 * i, 10 * i + 10)) for i in range(5)]  # no two have an entry in common
    assert max((a != b).mean() for a in strangers for b in strangers) <= 0.1
    assert watched(strangers, 0.05).agreed is None
    for density in (0.05, 0.03, 0.95, 1.0):
        with pytest.raises(ValueError, match=r"any five agree within 0\.1; take among='kept'"):
            watched([], density, among="all")
    assert watched([], 0.055).among == watched([], 0.945, among="all").among == "all"
    assert watched([places(*range(200))] * 5, 1.0).agreed is True
    with pytest.raises(ValueError, match="among must be one of all, kept, not 'most'"):
        watched([], 0.3, among="most")


def test_channels_lose_scale_and_shift_and_pay_for_the_scale():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(10, 8, bias=False), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 4))
    twin = copy.deepcopy(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    handle = EarlyBird(optimizer, model, density=0.5, units="channels", every=1, until=3)
    plain = torch.optim.SGD(twin.parameters(), lr=0.1)
    train(model, optimizer, 0, 1)
    train(twin, plain, 0, 1)
    assert torch.allclose(model[1].weight, twin[1].weight - 0.1 * 1e-4, atol=1e-7)
    assert torch.equal(model[1].bias, twin[1].bias)
    train(model, optimizer, 1, 6)
    kept = handle.mask["1.weight"]
    assert int(kept.sum()) == 4 and torch.equal(kept, handle.mask["1.bias"])
    assert not model[1].weight[~kept].any() and not model[1].bias[~kept].any()


@pytest.mark.parametrize("scale", [1.0, 1024.0])
def test_the_penalty_is_paid_once_for_each_step(scale):
    """However many batches are accumulated, and though gradients were scaled in between."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(10, 8, bias=False), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 4))
    twin = copy.deepcopy(model)
    optimizers = [torch.optim.SGD(net.parameters(), lr=0.1) for net in (model, twin)]
    EarlyBird(optimizers[0], model, density=0.5, units="channels", every=1, until=3)
    inputs = torch.randn(4, 16, 10)
    for net, optimizer in zip((model, twin), optimizers, strict=True):
        for part in inputs:
            (net(part).square().mean() * scale).backward()
        for parameter in net.parameters():
            parameter.grad /= scale  # as a GradScaler does before the step
        optimizer.step()
    assert torch.allclose(model[1].weight, twin[1].weight - 0.1 * 1e-4, rtol=0, atol=1e-6)


def test_bad_requests_are_refused_with_the_reason():
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(ValueError, match="rule must be one of set, rigl"):
        Rewire(optimizer, quarter(model), model, rule="deep-r", until=3)
    with pytest.raises(ValueError, match="every must be a whole number from 1 on"):
        Rewire(optimizer, quarter(model), model, every=0, until=3)
    with pytest.raises(ValueError, match="need a network with norms"):
        EarlyBird(optimizer, model, density=0.5, units="channels", every=1, until=3)
    with pytest.raises(ValueError, match="units must be one of"):
        EarlyBird(optimizer, model, density=0.5, units="filters", every=1, until=3)
    Rewire(optimizer, quarter(model), model, until=3)
    with pytest.raises(ValueError, match="already holds a mask that changes"):
        EarlyBird(optimizer, model, density=0.5, every=1, until=3)


@pytest.mark.parametrize(("epochs", "by"), [(12, "agreement"), (8, "patience")])
def test_results_say_why_a_ticket_was_drawn(epochs, by, tmp_path):
    flags = ["--methods", "early-bird", "--densities", "0.5", "--seeds", "0", "--lr", "1e-6", "--jobs", "1"]
    assert main(["compare", *flags, "--epochs", str(epochs), "--out", str(tmp_path)]) == 0
    (row,) = json.loads((tmp_path / "results.json").read_text())["rows"]
    per_epoch = row["steps"] // epochs
    # Nothing moves, so that masks agree at the fifth look; half of eight epochs is over before.
    assert (row["drawn_by"], row["drawn_at"]) == (by, per_epoch * (5 if by == "agreement" else 4))
    assert "drawn_by" in (tmp_path / "results.csv").read_text().splitlines()[0]
    assert ("half of the training was over" in (tmp_path / "report.html").read_text()) == (by == "patience")
