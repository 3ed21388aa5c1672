"""The size of a layer's gradients by the kernels, against float64, over types, layouts and threads."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import supermask as sm
from supermask import ops
from supermask.ops import references

DECAY = 0.95
SHAPES = [(1,), (7, 3), (100, 41), (33, 17, 3, 3), (2048,), (50, 100)]
native = torch.ops.supermask


def draws(shape: tuple[int, ...], seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def sizes(count: int) -> list[Tensor]:
    return [torch.tensor([0.5 + i, 0.1 * (i + 1), 0.0, 0.0]) for i in range(count)]


def in_float64(steps: list[list[Tensor]]) -> list[float]:
    """Factors after some steps, from the formula."""
    factors = []
    for i, size in enumerate(sizes(len(steps[0]))):
        square = 0.0
        for grads in steps:
            mean = float(grads[i].double().square().mean()) * float(size[1]) ** 2
            square = DECAY * square + (1 - DECAY) * mean
        factors.append(float(size[0]) / math.sqrt(square / (1 - DECAY ** len(steps))))
    return factors


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("layout", ["contiguous", "transposed", "every other", "channels last"])
def test_factors_are_those_of_float64(dtype, layout):
    def laid(t: Tensor) -> Tensor:
        t = t.to(dtype)
        if layout == "transposed" and t.dim() == 2:
            return t.t().contiguous().t()
        if layout == "every other":
            return t.repeat_interleave(2, dim=0)[::2]
        return (
            t.contiguous(memory_format=torch.channels_last)
            if layout[:8] == "channels" and t.dim() == 4
            else t
        )

    steps = [[laid(draws(shape, 10 * step + i)) for i, shape in enumerate(SHAPES)] for step in range(3)]
    known, plain = sizes(len(SHAPES)), sizes(len(SHAPES))
    for grads in steps:
        units = ops.units_of_layers(grads, known, DECAY)
        other = references.KERNELS["units_of_layers"](grads, plain, DECAY)
    torch.testing.assert_close(units.double(), torch.tensor(in_float64(steps)).double(), rtol=2e-6, atol=0)
    torch.testing.assert_close(units, other, rtol=2e-6, atol=0)
    for mine, theirs in zip(known, plain, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=2e-6, atol=0)


def test_factors_have_the_same_bits_on_any_number_of_threads_and_in_any_order_in_memory():
    grads = [draws((300, 784)), draws((64, 32, 3, 3), 1)]
    turned = [grads[0], grads[1].to(memory_format=torch.channels_last)]
    before = torch.get_num_threads()
    found = []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found += [ops.units_of_layers(g, sizes(2), DECAY) for g in (grads, turned)]
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(found[0], other) for other in found)


@pytest.mark.parametrize("fill", [0.0, 1e-38])
def test_a_layer_without_gradients_is_not_divided_by_nothing(fill):
    units = ops.units_of_layers([torch.full((3, 4), fill), torch.empty(0, 4)], sizes(2), DECAY)
    assert units.isfinite().all() and units[0] == sizes(1)[0][0] / 1e-18
    for bad in (math.nan, math.inf):
        assert not ops.units_of_layers([torch.tensor([1.0, bad])], sizes(1), DECAY)[0] > 0


@pytest.mark.parametrize("size", [10.0**-power for power in range(4, 41, 4)])
def test_no_gradient_however_small_becomes_larger_than_first_scores(size):
    """Sizes whose square is no float any more would be divided by nothing."""
    grads = [draws((20, 30)) * size]
    (unit,) = ops.units_of_layers(grads, [torch.tensor([1.0, 1.0, 0.0, 0.0])], DECAY)
    share = float((unit * grads[0]).norm()) / 600**0.5
    assert share == pytest.approx(1.0, rel=0.1) if size > 1e-16 else share <= 1.1


@pytest.mark.skipif(not ops.is_native("units_of_layers", torch.device("cpu")), reason="no compiled library")
@pytest.mark.parametrize(
    ("grads", "known", "reason"),
    [
        ([torch.ones(3)], [], "sizes"),
        ([torch.ones(3)], [torch.zeros(3)], "sizes"),
        ([torch.ones(3)], [torch.zeros(4, dtype=torch.float64)], "sizes"),
        ([torch.ones(3, dtype=torch.int64)], [torch.zeros(4)], "grads"),
    ],
)
def test_wrong_arguments_are_named(grads, known, reason):
    with pytest.raises(RuntimeError, match=reason):
        native.units_of_layers(grads, known, DECAY)


@pytest.mark.parametrize("method", ["edge-popup", "signed-supermask"])
@pytest.mark.parametrize("last", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_fused_relative_step_leaves_the_bits_of_its_parts(method, last, dtype, monkeypatch):
    def searched() -> sm.search.Search:
        model = torch.nn.Sequential(
            torch.nn.Conv2d(2, 6, 3, bias=False), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(96, 5)
        )
        model = sm.randomize_(model, "kaiming_normal", seed=1).to(dtype).to(memory_format=last)
        rule = {"lr": 0.02, "step_size": "relative", "momentum": 0.9, "nesterov": True}
        search = sm.SEARCHES[method](model, density=0.4, **rule)
        for step in range(6):
            loss = F.cross_entropy(model(draws((8, 2, 6, 6), step).to(dtype)), torch.arange(8) % 5)
            loss.backward()
            search.step()
            search.zero_grad()
        return search

    fused = searched()
    monkeypatch.setattr(sm.SEARCHES[method], "fused", None)
    parts = searched()
    for name, score in fused.scores.items():
        assert torch.equal(score, parts.scores[name]) and torch.equal(fused.mask[name], parts.mask[name])
    for one, other in zip(fused.model.parameters(), parts.model.parameters(), strict=True):
        assert torch.equal(one, other)


def test_the_factor_counts_in_the_kernels_of_the_step():
    """Units of 2 are gradients of twice the size, to the bit."""
    grads, weights = [draws((40, 60))], [draws((40, 60), 1)]
    found = []
    for factor in (1.0, 2.0):
        scores, out = [draws((40, 60), 2)], [torch.empty(40, 60)]
        units = torch.full((1,), factor)
        given = [grads[0] * (2.0 / factor)]
        rule = {"lr": 0.1, "momentum": 0.0, "units": units}
        ops.edge_popup_sgd(out, scores, [], given, weights, [900], ops.new_cuts(scores), **rule)
        found.append((scores[0], out[0]))
    assert torch.equal(found[0][0], found[1][0]) and torch.equal(found[0][1], found[1][1])
