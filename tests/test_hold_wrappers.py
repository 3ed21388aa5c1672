"""`hold` through wrappers of optimizers, on sparse gradients, and in deep copies of model and optimizer."""

import copy

import pytest
import torch
from torch import nn

import supermask as sm
from supermask.prune.dynamic import Rewire


class Wrapped(torch.optim.Optimizer):
    """As accelerate's: it never calls Optimizer.__init__."""

    def __init__(self, optimizer) -> None:
        self.optimizer = optimizer

    param_groups = property(lambda self: self.optimizer.param_groups)
    state = property(lambda self: self.optimizer.state)

    def step(self, closure=None):
        return self.optimizer.step(closure)

    def zero_grad(self, set_to_none=True):
        self.optimizer.zero_grad(set_to_none)


def steps(model: nn.Module, optimizer, count: int = 3) -> None:
    generator = torch.Generator().manual_seed(0)
    for _ in range(count):
        optimizer.zero_grad()
        model(torch.randn(9, 8, generator=generator)).square().sum().backward()
        optimizer.step()


def mask() -> torch.Tensor:
    return torch.rand(4, 8, generator=torch.Generator().manual_seed(1)) > 0.5


def test_a_wrapper_without_hooks_is_looked_through():
    model, kept = nn.Linear(8, 4), mask()
    optimizer = Wrapped(Wrapped(torch.optim.Adam(model.parameters(), 0.1)))
    handle = sm.hold(optimizer, {"weight": kept}, model)
    steps(model, optimizer)
    assert not model.weight[~kept].any() and model.weight[kept].all()
    handle.remove()
    steps(model, optimizer)
    assert model.weight[~kept].any()


def test_what_is_no_optimizer_is_refused():
    model = nn.Linear(8, 4)
    with pytest.raises(TypeError, match="Wrapped was not; give the optimizer inside"):
        sm.hold(Wrapped(None), {"weight": mask()}, model)


def test_names_of_data_parallel_parameters_are_known_without_the_model():
    model = nn.DataParallel(nn.Linear(8, 4))
    sm.hold(torch.optim.SGD(model.named_parameters(), 0.1), {"weight": mask()})
    assert not model.module.weight[~mask()].any()


def test_a_deep_copy_holds_what_the_original_holds_and_each_may_end():
    model, kept = nn.Linear(8, 4), mask()
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    handle = sm.hold(optimizer, {"weight": kept}, model)
    steps(model, optimizer, 1)
    before = optimizer.state_dict()["state"][0]["momentum_buffer"].clone()
    twin_model, twin = copy.deepcopy((model, optimizer))
    further_model, further = copy.deepcopy((twin_model, twin))
    assert torch.equal(before, optimizer.state_dict()["state"][0]["momentum_buffer"])
    assert twin.state_dict().keys() == {"state", "param_groups"}
    for network, rule in ((twin_model, twin), (further_model, further), (model, optimizer)):
        steps(network, rule)
        assert not network.weight[~kept].any() and not network.weight.grad[~kept].any()
        assert not rule.state[network.weight]["momentum_buffer"][~kept].any()
    assert torch.equal(model.weight, twin_model.weight)
    handle.remove()
    steps(model, optimizer)
    steps(twin_model, twin)
    assert model.weight[~kept].any() and not twin_model.weight[~kept].any()


def test_a_moving_mask_moves_on_in_a_copy_by_itself():
    model = nn.Linear(8, 4)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    handle = Rewire(optimizer, {"weight": mask()}, model, every=2, until=100)
    twin_model, twin = copy.deepcopy((model, optimizer))
    steps(twin_model, twin, 4)
    assert handle.state["step"] == 0 and torch.equal(handle.mask["weight"], mask())
    assert twin.state[Rewire.KEY]["step"] == 4
    assert not torch.equal(twin.state[Rewire.KEY]["mask"]["weight"], mask())
    steps(model, optimizer, 4)
    assert torch.equal(model.weight, twin_model.weight)


def test_sparse_gradients_are_held_like_dense_ones():
    kept = torch.rand(20, 8, generator=torch.Generator().manual_seed(1)) > 0.5
    ids, results = torch.tensor([1, 2, 3, 3]), []
    for sparse in (False, True):
        torch.manual_seed(0)
        model = nn.Embedding(20, 8, sparse=sparse)
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        sm.hold(optimizer, {"weight": kept}, model)
        for _ in range(3):
            optimizer.zero_grad()
            model(ids).square().sum().backward()
            assert not model.weight.grad.to_dense()[~kept].any() and model.weight.grad.is_sparse == sparse
            optimizer.step()
        results.append(model.weight.detach())
    assert torch.allclose(*results, rtol=1e-6) and not results[1][~kept].any()


def test_another_mask_is_checked_like_the_first():
    model, kept = nn.Linear(8, 4), mask()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    hold = sm.hold(optimizer, {"weight": kept}, model)
    for wrong, match in (
        ({"weight": torch.ones(4, 8, dtype=torch.uint8)}, "must be bool of shape"),
        ({"weight": torch.ones(8, dtype=torch.bool)}, "must be bool of shape"),
        ({"bias": torch.ones(4, dtype=torch.bool)}, "the mask must name the same, not bias"),
        ({}, "the hold is of weight"),
    ):
        with pytest.raises(ValueError, match=match):
            hold.set_mask(wrong)
    assert torch.equal(hold.mask["weight"], kept)
