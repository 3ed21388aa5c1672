"""Holding, magnitude pruning, IMP and its rewinds, controls."""

import copy
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

import supermask as sm
from supermask.masks import distance, random_mask
from supermask.models import create_model
from supermask.prune import apply_mask, density_path, imp, magnitude, round_counts, shuffle, snapshot
from supermask.weights.roles import masked


def half_mask(model: nn.Module) -> dict[str, torch.Tensor]:
    shapes = {info.name: info.tensor.shape for info in masked(model)}
    return random_mask(shapes, {name: int(np.prod(shape)) // 2 for name, shape in shapes.items()}, seed=0)


def train_steps(model, optimizer, batch, steps=5):
    for _ in range(steps):
        optimizer.zero_grad()
        F.cross_entropy(model(batch[0]), batch[1]).backward()
        optimizer.step()


OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=1e-2),
    "adam": lambda p: torch.optim.Adam(p, lr=0.01, weight_decay=1e-2),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.1),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.01, momentum=0.9),
}


@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_held_weights_and_their_state_stay_at_zero(small_net, batch, make):
    optimizer = make(small_net.parameters())
    train_steps(small_net, optimizer, batch)  # momentum exists before the hold begins
    mask = half_mask(small_net)
    handle = sm.hold(optimizer, mask, small_net)
    before = small_net.hidden.weight.clone()
    for _ in range(3):
        train_steps(small_net, optimizer, batch)
        for name, parameter in small_net.named_parameters():
            if name not in mask:
                continue
            assert not parameter[~mask[name]].any()
            for value in optimizer.state[parameter].values():
                if isinstance(value, torch.Tensor) and value.shape == parameter.shape:
                    assert not value[~mask[name]].any()
    assert not torch.equal(before, small_net.hidden.weight)
    handle.remove()
    train_steps(small_net, optimizer, batch)
    assert small_net.hidden.weight[~mask["hidden.weight"]].any()


def test_held_training_equals_training_with_the_mask_in_forward(small_net, batch):
    """Plain SGD with momentum: zeroing after the step is masking the gradient."""
    masked_net = copy.deepcopy(small_net)
    mask = half_mask(small_net)
    optimizer = torch.optim.SGD(small_net.parameters(), lr=0.1, momentum=0.9)
    sm.hold(optimizer, mask, small_net)
    apply_mask(masked_net, mask)
    other = torch.optim.SGD(masked_net.parameters(), lr=0.1, momentum=0.9)
    for name, parameter in masked_net.named_parameters():
        if name in mask:
            parameter.register_hook(lambda grad, kept=mask[name]: grad * kept)
    train_steps(small_net, optimizer, batch, 10)
    train_steps(masked_net, other, batch, 10)
    for a, b in zip(small_net.parameters(), masked_net.parameters(), strict=True):
        assert torch.equal(a, b)


def test_clipping_sees_the_kept_weights_only(small_net, batch):
    mask = half_mask(small_net)
    optimizer = torch.optim.SGD(small_net.parameters(), lr=0.1)
    handle = sm.hold(optimizer, mask, small_net)
    F.cross_entropy(small_net(batch[0]), batch[1]).backward()
    assert not small_net.hidden.weight.grad[~mask["hidden.weight"]].any()
    assert small_net.hidden.weight.grad[mask["hidden.weight"]].any()
    handle.remove()
    F.cross_entropy(small_net(batch[0]), batch[1]).backward()
    assert small_net.hidden.weight.grad[~mask["hidden.weight"]].any()


def test_hold_knows_names_from_named_parameters(small_net):
    mask = half_mask(small_net)
    sm.hold(torch.optim.SGD(small_net.named_parameters(), lr=0.1), mask)
    assert not small_net.hidden.weight[~mask["hidden.weight"]].any()
    with pytest.raises(ValueError, match="pass model="):
        sm.hold(torch.optim.SGD(small_net.parameters(), lr=0.1), mask)
    with pytest.raises(ValueError, match="no parameter of the model"):
        sm.hold(torch.optim.SGD(small_net.parameters(), lr=0.1), {"x": mask["conv.weight"]}, small_net)
    with pytest.raises(ValueError, match="not among the parameters of the optimizer"):
        sm.hold(torch.optim.SGD([small_net.conv.bias], lr=0.1), mask, small_net)
    with pytest.raises(ValueError, match=r"bool of shape \(6, 1, 3, 3\)"):
        sm.hold(torch.optim.SGD(small_net.parameters(), lr=0.1), {"conv.weight": torch.ones(2)}, small_net)


# Magnitude pruning.


@given(seed=st.integers(0, 500), first=st.floats(0.2, 1.0), then=st.floats(0.05, 1.0))
def test_magnitude_keeps_the_largest_survivors_exactly_and_monotonely(seed, first, then):
    generator = torch.Generator().manual_seed(seed)
    # Few distinct values, zeros among them: ties everywhere.
    weights = {
        name: torch.randint(-3, 4, shape, generator=generator).float()
        for name, shape in {"a": (9, 5), "b": (31,)}.items()
    }
    keep = {name: max(1, round(first * w.numel())) for name, w in weights.items()}
    one = magnitude(weights, keep)
    fewer = {name: max(1, round(then * count)) for name, count in keep.items()}
    two = magnitude(weights, fewer, one)
    for name, weight in weights.items():
        assert int(one[name].sum()) == keep[name] and int(two[name].sum()) == fewer[name]
        assert not (two[name] & ~one[name]).any()
        flat, survivors = weight.flatten().numpy(), np.flatnonzero(one[name].flatten().numpy())
        order = survivors[np.argsort(-np.abs(flat[survivors]), kind="stable")][: fewer[name]]
        assert np.array_equal(np.sort(order), np.flatnonzero(two[name].flatten().numpy()))


def test_a_layer_never_vanishes_in_global_pruning():
    weights = {"big": torch.rand(500) + 1, "small": torch.rand(30) * 1e-3}
    mask = magnitude(weights, 100)
    assert {name: int(m.sum()) for name, m in mask.items()} == {"big": 99, "small": 1}
    assert mask["small"][weights["small"].argmax()]


def test_global_magnitude_ranks_all_layers_together():
    weights = {"a": torch.tensor([5.0, 1.0, 4.0]), "b": torch.tensor([[3.0, -6.0]])}
    mask = magnitude(weights, 3)
    assert mask["a"].tolist() == [True, False, True] and mask["b"].tolist() == [[False, True]]
    with pytest.raises(ValueError, match="only 3 survive"):
        magnitude(weights, 4, mask)
    with pytest.raises(ValueError, match="only 2 survive"):
        magnitude(weights, {"a": 3, "b": 1}, mask)
    with pytest.raises(ValueError, match="b are not finite"):
        magnitude({**weights, "b": torch.tensor([[float("nan"), 1.0]])}, 2)


def test_published_densities_of_lenet():
    # Frankle and Carbin: 51.3, 21.1, 13.5, 7.0 and 3.6 % after 3, 7, 9, 12 and 15 rounds, with the output
    # layer pruned at half the rate.
    infos = masked(create_model("lenet-300-100", in_channels=1, image_size=28))
    for rounds, percent in ((3, 51.3), (7, 21.1), (9, 13.5), (12, 7.0), (15, 3.6)):
        counts = round_counts(infos, rounds, 0.2, output_rate=0.1)
        assert round(100 * sum(counts.values()) / 266_200, 1) == percent


def test_published_densities_of_conv_networks():
    # Best learning speed of Conv-2 and Conv-4 at 8.8 and 9.2 %: 11 and 12 rounds at 10 % for convolutions
    # and the output, 20 % for the other linear layers.
    for name, rounds, percent in (("conv-2", 11, 8.8), ("conv-4", 12, 9.2)):
        model = create_model(name)
        infos = masked(model)
        counts = round_counts(infos, rounds, 0.2, conv_rate=0.1, output_rate=0.1)
        assert round(100 * sum(counts.values()) / sum(i.tensor.numel() for i in infos), 1) == percent


def test_rates_and_scopes_are_checked():
    infos = masked(create_model("lenet-300-100", in_channels=1, image_size=28))
    assert round_counts(infos, 15, 0.2, scope="global") == round(266_200 * 0.8**15)
    with pytest.raises(ValueError, match="not 1"):
        round_counts(infos, 1, 1.0)
    with pytest.raises(ValueError, match="'channel'"):
        round_counts(infos, 1, scope="channel")
    with pytest.raises(ValueError, match="one rate"):
        round_counts(infos, 1, scope="global", output_rate=0.1)


@given(targets=st.lists(st.floats(0.01, 1.0), min_size=1, max_size=4, unique=True), rate=st.floats(0.1, 0.5))
def test_density_path_goes_through_its_targets(targets, rate):
    path = density_path(targets, rate)
    assert all(target in path for target in targets if target < 1)
    for before, after in pairwise([1.0, *path]):
        assert before > after
    assert len(density_path([0.8**15])) == 15


# IMP.


class Trainer:
    """A training function that records what IMP asks of it."""

    def __init__(self, batch, steps=12):
        self.batch, self.steps, self.calls = batch, steps, []

    def __call__(self, model, mask, *, start, on_step):
        self.calls.append({"start": start, "weights": snapshot(model), "mask": mask})
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        sm.hold(optimizer, mask, model)
        for step in range(start, self.steps):
            train_steps(model, optimizer, self.batch, 1)
            on_step(step + 1)
        return len(self.calls)


@pytest.mark.parametrize("scope", ["layerwise", "global"])
def test_imp_rewinds_to_initialization_under_monotone_masks(small_net, batch, scope):
    trainer, initial = Trainer(batch), snapshot(small_net)
    rounds = list(imp(small_net, trainer, rounds=4, rate=0.3, scope=scope))
    assert [r.result for r in rounds] == [1, 2, 3, 4, 5]
    for r, call in zip(rounds, trainer.calls, strict=True):
        assert abs(r.density - 0.7**r.round) < 0.005
        assert call["start"] == 0
        for name, value in call["weights"].items():
            expected = torch.where(r.mask[name], initial[name], 0.0) if name in r.mask else initial[name]
            assert torch.equal(value, expected)
    for before, after in pairwise(rounds):
        assert all(not (after.mask[name] & ~before.mask[name]).any() for name in after.mask)


def test_imp_rewinds_to_a_step_and_resumes_the_schedule_there(small_net, batch):
    trainer, twin = Trainer(batch), copy.deepcopy(small_net)
    reference = Trainer(batch, steps=5)
    reference(twin, {}, start=0, on_step=lambda _: None)
    early = snapshot(twin)
    for r in imp(small_net, trainer, rounds=2, rewind_to=5):
        call = trainer.calls[-1]
        assert call["start"] == (5 if r.round else 0)
        if r.round:
            assert torch.equal(
                call["weights"]["hidden.weight"],
                torch.where(r.mask["hidden.weight"], early["hidden.weight"], 0.0),
            )
            # Buffers and unmasked parameters go back too.
            assert torch.equal(call["weights"]["norm.running_mean"], early["norm.running_mean"])
            assert torch.equal(call["weights"]["conv.bias"], early["conv.bias"])


def test_learning_rate_rewinding_keeps_the_weights(small_net, batch):
    trainer = Trainer(batch)
    final = None
    for r in imp(small_net, trainer, rounds=2, rewind="lr"):
        if final is not None:
            kept = torch.where(r.mask["hidden.weight"], final["hidden.weight"], 0.0)
            assert torch.equal(trainer.calls[-1]["weights"]["hidden.weight"], kept)
        final = snapshot(small_net)


def test_imp_leaves_whole_what_is_excluded(small_net, batch):
    *_, last = imp(small_net, Trainer(batch), rounds=2, exclude=["output.*"])
    assert set(last.mask) == {"conv.weight", "hidden.weight"}
    assert torch.count_nonzero(small_net.output.weight) == small_net.output.weight.numel()


def test_imp_refuses_what_cannot_be(small_net, batch):
    with pytest.raises(ValueError, match="ended before step 99"):
        list(imp(small_net, Trainer(batch), rounds=1, rewind_to=99))
    trainer = Trainer(batch)
    for options in ({"rate": 1.5}, {"rounds": -1}, {"rewind": "both"}, {"scope": "x"}):
        with pytest.raises(ValueError):
            list(imp(small_net, trainer, **{"rounds": 1, **options}))
    assert not trainer.calls


# Controls.


def test_a_shuffled_mask_keeps_counts_and_changes_places(small_net):
    mask = half_mask(small_net)
    mixed = shuffle(mask, seed=1)
    assert {n: int(m.sum()) for n, m in mixed.items()} == {n: int(m.sum()) for n, m in mask.items()}
    assert 0.4 < distance(mask, mixed) < 0.6
    assert distance(mixed, shuffle(mask, seed=1)) == 0 < distance(mixed, shuffle(mask, seed=2))
