"""The compiled kernels against the references, bit for bit, and what they do with wrong arguments."""

import copy
import itertools
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import supermask as sm
from supermask import ops
from supermask.ops import references
from supermask.search.signed_supermask import SignedSupermask
from tests.limited import limits

CPU = torch.device("cpu")
pytestmark = pytest.mark.skipif(
    not ops.is_native("select", CPU), reason="no compiled library; `make setup` builds it"
)

FLOATS = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
SIZES = st.sampled_from([1, 2, 15, 16, 17, 100, 2047, 2048, 2049, 4096, 4097, 16384, 16385, 40001])
KINDS = ("normal", "rounded", "equal", "zeros", "denormal", "ascending", "descending", "heavy", "skewed")
native = torch.ops.supermask


def same_bits(a: Tensor, b: Tensor) -> bool:
    integer = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[a.element_size()]
    return a.shape == b.shape and torch.equal(a.contiguous().view(integer), b.contiguous().view(integer))


def draw_scores(kind: str, size: int, seed: int, dtype: torch.dtype = torch.float32) -> Tensor:
    score = torch.randn(size, generator=torch.Generator().manual_seed(seed))
    if kind == "rounded":
        score = (score * 3).round()
    elif kind == "equal":
        score = torch.full((size,), -0.5)
    elif kind == "zeros":
        score = torch.zeros(size).copysign(score)
    elif kind == "denormal":
        score = score * 1e-44
    elif kind in ("ascending", "descending"):
        score = score.abs().sort(descending=kind == "descending").values
    elif kind == "heavy":
        score = (score**9).clamp(-6e4, 6e4)
    elif kind == "skewed":  # one stretch holds everything that matters
        score = torch.where(torch.arange(size) < size // 10, score + 10, score * 1e-3)
    return score.to(dtype)


# The generator.


@settings(max_examples=60, deadline=None)
@given(
    scheme=st.sampled_from(ops.SCHEMES),
    dtype=st.sampled_from(FLOATS),
    size=st.one_of(st.integers(0, 300), st.sampled_from([8191, 8192, 8193, 70001])),
    start=st.one_of(st.integers(0, 300), st.integers(0, 2**40)),
    key=st.integers(0, 2**64 - 1),
    scale=st.floats(-1e3, 1e3, width=32),
)
def test_the_generator_draws_the_reference_bits(scheme, dtype, size, start, key, scale):
    expected, out = torch.empty(size, dtype=dtype), torch.empty(size, dtype=dtype)
    references.KERNELS["fill_random"](expected, key, start, scheme, scale)
    assert same_bits(ops.fill_random(out, key, scheme, scale, start), expected)


@given(size=st.integers(0, 300), start=st.integers(0, 2**40), key=st.integers(0, 2**64 - 1))
def test_the_words_of_the_generator_are_those_of_the_reference(size, start, key):
    expected = torch.empty(size, dtype=torch.int64)
    references.KERNELS["fill_philox"](expected, key, start)
    assert torch.equal(ops.philox(key, start, size), expected)


def test_words_past_one_stretch():
    expected = torch.empty(40_001, dtype=torch.int64)
    references.KERNELS["fill_philox"](expected, 5, 8190)
    assert torch.equal(ops.philox(5, 8190, 40_001), expected)


# Selection.


@settings(max_examples=150, deadline=None)
@given(
    kind=st.sampled_from(KINDS),
    dtype=st.sampled_from(FLOATS),
    size=SIZES,
    seed=st.integers(0, 99),
    keep=st.one_of(st.sampled_from([0, 1, -1, -2]), st.floats(0, 1)),
)
def test_selection_equals_the_reference_whatever_the_hint(kind, dtype, size, seed, keep):
    score = draw_scores(kind, size, seed, dtype)
    count = round(keep * size) if isinstance(keep, float) else max(0, keep if keep >= 0 else size + 1 + keep)
    (expected,) = references.KERNELS["select"]([score], [count])
    assert torch.equal(ops.select([score], [count])[0], expected)
    cuts = ops.new_cuts([score])
    ops.select([score * 1.002], [count], cuts)
    assert torch.equal(ops.select([score], [count], cuts)[0], expected)
    assert torch.equal(ops.select([score], [count], cuts)[0], expected)
    nonsense = torch.randint(-(2**62), 2**62, (1, 2), generator=torch.Generator().manual_seed(seed))
    assert torch.equal(ops.select([score], [count], nonsense)[0], expected)


@settings(max_examples=40, deadline=None)
@given(
    kinds=st.lists(st.sampled_from(KINDS), min_size=1, max_size=4),
    sizes=st.lists(SIZES, min_size=4, max_size=4),
    seed=st.integers(0, 99),
    density=st.floats(0, 1),
)
def test_many_tensors_in_one_call(kinds, sizes, seed, density):
    scores = [draw_scores(kind, size, seed) for kind, size in zip(kinds, sizes, strict=False)]
    keep = [round(density * score.numel()) for score in scores]
    for mask, expected in zip(
        ops.select(scores, keep), references.KERNELS["select"](scores, keep), strict=True
    ):
        assert torch.equal(mask, expected)
    together = sum(keep)
    for mask, expected in zip(
        ops.select_global(scores, together),
        references.KERNELS["select_global"](scores, together),
        strict=True,
    ):
        assert torch.equal(mask, expected)


def stable_raw_mask(score: Tensor, keep: int) -> Tensor:
    """NumPy's stable sort by descending score, in float64, which holds every other type."""
    flat = score.contiguous().view(-1).double().numpy()
    mask = torch.zeros(flat.size, dtype=torch.bool)
    mask[torch.from_numpy(np.argsort(-flat, kind="stable")[:keep])] = True
    return mask.view(score.shape)


@settings(max_examples=100, deadline=None)
@given(
    kind=st.sampled_from(KINDS),
    dtype=st.sampled_from(FLOATS),
    size=SIZES,
    seed=st.integers(0, 99),
    density=st.floats(0, 1),
)
def test_raw_ranking_is_a_stable_sort_by_score(kind, dtype, size, seed, density):
    score, count = draw_scores(kind, size, seed, dtype), round(density * size)
    expected, cuts = stable_raw_mask(score, count), ops.new_cuts([score])
    reference = torch.empty(size, dtype=torch.bool)
    references.KERNELS["rank_into"]([reference], [score], [count], cuts.clone(), True)
    assert torch.equal(reference, expected)
    for _ in range(3):
        assert torch.equal(ops.select([score], [count], cuts, ranking="raw")[0], expected)
    nonsense = torch.randint(-(2**62), 2**62, (1, 2), generator=torch.Generator().manual_seed(seed))
    assert torch.equal(ops.select([score], [count], nonsense, ranking="raw")[0], expected)


@settings(max_examples=60, deadline=None)
@given(
    kinds=st.lists(st.sampled_from(KINDS), min_size=1, max_size=4),
    sizes=st.lists(SIZES, min_size=4, max_size=4),
    seed=st.integers(0, 99),
    density=st.floats(0, 1),
    raw=st.booleans(),
)
def test_a_warm_global_ranking_equals_one_over_everything(kinds, sizes, seed, density, raw):
    scores = [draw_scores(kind, size, seed) for kind, size in zip(kinds, sizes, strict=False)]
    everything, ranking = torch.cat(scores), "raw" if raw else "magnitude"
    count = round(density * len(everything))
    expected = stable_raw_mask(everything if raw else everything.abs(), count)
    cuts = ops.new_cuts(scores, together=True)
    for _ in range(3):
        assert torch.equal(torch.cat(ops.select_global(scores, count, cuts, ranking)), expected)
    reference = [torch.empty_like(score, dtype=torch.bool) for score in scores]
    references.KERNELS["rank_into"](reference, scores, [count], cuts, raw)
    assert torch.equal(torch.cat(reference), expected)


# N:M: one NumPy sort per group.


def n_of_m_by_hand(score: Tensor, n: int, m: int, raw: bool) -> Tensor:
    values = score.contiguous().double().numpy()
    values = values if raw else np.abs(values)
    mask = np.zeros(values.shape, dtype=bool)
    for place in np.ndindex(values.shape[0], *values.shape[2:]):
        row, kept = values[(place[0], slice(None), *place[1:])], np.zeros(values.shape[1], dtype=bool)
        for start in range(0, len(row), m):
            group = row[start : start + m]
            first = np.argsort(-group, kind="stable")[: math.ceil(n * len(group) / m)]
            kept[start + first] = True
        mask[(place[0], slice(None), *place[1:])] = kept
    return torch.from_numpy(mask)


@settings(max_examples=80, deadline=None)
@given(
    shape=st.sampled_from(
        [(7, 16), (5, 3), (1, 1), (3, 4, 3, 3), (6, 5, 2, 3), (2, 9, 5), (40, 130), (4, 0), (2, 1, 3, 3)]
    ),
    group=st.sampled_from([(2, 4), (1, 4), (4, 8), (1, 1), (3, 3), (2, 5), (1, 16), (3, 200)]),
    kind=st.sampled_from(KINDS),
    dtype=st.sampled_from(FLOATS),
    raw=st.booleans(),
)
def test_n_of_m_equals_a_sort_of_every_group(shape, group, kind, dtype, raw):
    (n, m), ranking = group, "raw" if raw else "magnitude"
    score = draw_scores(kind, math.prod(shape), 3, dtype).view(shape)
    expected = n_of_m_by_hand(score, n, m, raw)
    assert torch.equal(references.KERNELS["select_n_of_m"]([score], n, m, raw)[0], expected)
    both = ops.select_n_of_m([score, score[:1]], n, m, ranking)
    assert torch.equal(both[0], expected) and torch.equal(both[1], expected[:1])


@pytest.mark.parametrize(("shape", "m"), [((300, 4096), 4), ((64, 64, 3, 3), 4), ((2, 5000), 2048)])
def test_n_of_m_over_many_tiles_threads_and_strides(shape, m):
    score = draw_scores("rounded", math.prod(shape), 0).view(shape)
    (expected,) = references.KERNELS["select_n_of_m"]([score], m // 2, m, False)
    variants = strided_variants(score) if len(shape) == 4 else [score.t().contiguous().t()]
    for variant in (score, *variants):
        assert torch.equal(ops.select_n_of_m([variant], m // 2, m)[0], expected)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf"), -float("nan")])
@pytest.mark.parametrize("ranking", ops.RANKINGS)
def test_scores_that_are_not_finite_are_found_under_every_ranking(bad, ranking):
    for size, place in itertools.product((1, 17, 5000), (0, -1)):
        for dtype in (torch.float32, torch.float64):
            score = torch.ones(2, size, dtype=dtype)
            score[1, place] = bad
            for call in (
                lambda s: ops.select([s], [1], ranking=ranking),
                lambda s: ops.select_global([s, s], 2 * s.numel(), ranking=ranking),
                lambda s: ops.select_n_of_m([s], 2, 4, ranking),
            ):
                with pytest.raises(ValueError, match="not finite"):
                    call(score)


def strided_variants(tensor: Tensor) -> list[Tensor]:
    """The same 4-d tensor under other strides."""
    padded = torch.zeros(*tensor.shape[:-1], tensor.shape[-1] + 3, dtype=tensor.dtype)
    padded[..., : tensor.shape[-1]] = tensor
    return [
        tensor.clone(memory_format=torch.channels_last),
        tensor.permute(3, 1, 0, 2).contiguous().permute(2, 1, 3, 0),
        padded[..., : tensor.shape[-1]],
    ]


@pytest.mark.parametrize("dtype", FLOATS)
def test_selection_reads_any_strides(dtype):
    score = draw_scores("rounded", 9 * 31 * 3 * 5, 0, dtype).view(9, 31, 3, 5)
    (expected,) = references.KERNELS["select"]([score], [1000])
    for variant in strided_variants(score):
        assert torch.equal(ops.select([variant], [1000])[0], expected)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("size", [1, 17, 5000, 40001])
def test_a_score_that_is_not_finite_is_found_wherever_it_stands(bad, size):
    for place in {0, size // 2, size - 1}:
        score = torch.ones(size)
        score[place] = bad
        for keep in (0, 1, size):
            with pytest.raises(ValueError, match="not finite"):
                ops.select([torch.ones(3), score], [1, keep], ops.new_cuts([score, score]))


# The step.


def step_tensors(shape: tuple[int, ...], dtype: torch.dtype, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    grad, weight, score = (torch.randn(shape, generator=generator) for _ in range(3))
    wide = torch.promote_types(dtype, torch.float32)
    score.view(-1)[:2] = torch.tensor([0.0, -0.0])[: score.numel()]
    return grad.to(dtype), weight.to(wide), score.to(wide)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("shape", [(7, 5, 3, 3), (40, 33, 3, 3), (2, 1, 1, 1)])
def test_straight_through_gradients_and_masked_writes(dtype, shape):
    grad, weight, score = step_tensors(shape, dtype, 0)
    mask = torch.rand(shape, generator=torch.Generator().manual_seed(1)) < 0.5
    weight.view(-1)[0] = -0.0
    expected = references.KERNELS["straight_through"]([grad], [weight], [score])[0]
    for g in [grad, *strided_variants(grad)]:
        assert same_bits(ops.straight_through([g], [weight], [score])[0], expected)
    for out in [torch.full(shape, 7.0, dtype=dtype), *strided_variants(torch.full(shape, 7.0, dtype=dtype))]:
        wanted, strides = out.clone(), out.stride()
        references.KERNELS["write_masked"]([wanted], [weight], [mask])
        ops.write_masked([out], [weight], [mask])
        assert same_bits(out, wanted) and out.stride() == strides


def test_a_strided_write_stays_within_its_tensor():
    base = torch.full((4, 5, 3, 6), 7.0)
    ops.write_masked([base[..., :3]], [torch.ones(4, 5, 3, 3)], [torch.rand(4, 5, 3, 3) < 0.5])
    assert (base[..., 3:] == 7).all()


def test_writing_tells_autograd():
    weight = torch.ones(3, requires_grad=True)
    before = weight._version
    with torch.no_grad():
        ops.write_masked([weight], [torch.ones(3)], [torch.ones(3, dtype=torch.bool)])
    assert weight._version > before


OPTIONS = [
    {},
    {"momentum": 0.9},
    {"momentum": 0.9, "nesterov": True, "weight_decay": 1e-4},
    {"momentum": 0.7, "dampening": 0.2, "weight_decay": 0.01},
    {"weight_decay": 0.1},
]


def signed_gradients(grads, weights, scores):
    """W · dL/dW_eff."""
    return [g.to(s.dtype).contiguous() * w for g, w, s in zip(grads, weights, scores, strict=True)]


def turned(weight: Tensor, score: Tensor) -> Tensor:
    """Weights that change their sign where their score is negative."""
    return weight * torch.tensor(np.where(score.numpy() < 0, np.float32(-1), np.float32(1)))


FUSED: dict[str, tuple[Any, Any]] = {
    "edge_popup_sgd": (ops.straight_through, lambda weight, score: weight),
    "signed_supermask_sgd": (signed_gradients, turned),
}
"""Fused step → the gradients of its scores, and the weights that its mask then leaves."""


@pytest.mark.parametrize("fused", FUSED)
@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_fused_step_leaves_the_bits_of_torch_sgd(options, dtype, fused):
    gradients_of, weights_of = FUSED[fused]
    shapes = [(33, 17, 3, 3), (120, 77), (1, 1), (5, 3)]
    grads, weights, scores = map(list, zip(*(step_tensors(s, dtype, 3) for s in shapes), strict=True))
    theirs = [score.clone() for score in scores]
    rule = torch.optim.SGD(theirs, lr=0.05, **options)
    velocities = [torch.zeros_like(s) for s in scores]
    keep, cuts = [s.numel() // 3 + 1 for s in scores], ops.new_cuts(scores)
    out = [torch.full(s, float("nan"), dtype=dtype) for s in shapes]
    out[0] = out[0].to(memory_format=torch.channels_last)
    for step in range(6):
        gradients = [g * (1 + step) for g in grads]
        for score, gradient in zip(theirs, gradients_of(gradients, weights, theirs), strict=True):
            score.grad = gradient
        rule.step()
        if step == 0:  # SGD makes its momentum buffers in the first step
            for mine, score, velocity in zip(scores, theirs, velocities, strict=True):
                mine.copy_(score)
                if "momentum" in options:
                    velocity.copy_(rule.state[score]["momentum_buffer"])
            continue
        masks = getattr(ops, fused)(
            out, scores, velocities, gradients, weights, keep, cuts, lr=0.05, **options
        )
        for i, expected in enumerate(references.KERNELS["select"](theirs, keep)):
            effective = torch.empty_like(out[i])
            weight = weights_of(weights[i], theirs[i])
            references.KERNELS["write_masked"]([effective], [weight], [expected])
            assert same_bits(scores[i], theirs[i]) and torch.equal(masks[i], expected)
            assert same_bits(out[i], effective)


@pytest.mark.parametrize("fused", FUSED)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("dying", [False, True])
def test_the_fused_step_of_a_global_ranking_leaves_the_bits_of_its_parts(dtype, dying, fused):
    gradients_of, weights_of = FUSED[fused]
    shapes = [(33, 17, 3, 3), (120, 77), (1, 1), (5, 3)]
    grads, weights, scores = map(list, zip(*(step_tensors(s, dtype, 3) for s in shapes), strict=True))
    if dying:
        scores[3] *= 1e-6
    keep, cuts = sum(s.numel() for s in scores) // 3, ops.new_cuts(scores, together=True)
    theirs, velocities = [s.clone() for s in scores], [torch.zeros_like(s) for s in scores]
    rule = torch.optim.SGD(theirs, lr=0.05, momentum=0.9)
    for score in theirs:
        rule.state[score]["momentum_buffer"] = torch.zeros_like(score)
    out = [torch.empty(s, dtype=dtype) for s in shapes]
    for _ in range(4):
        for score, gradient in zip(theirs, gradients_of(grads, weights, theirs), strict=True):
            score.grad = gradient
        rule.step()
        masks = getattr(ops, fused)(
            out, scores, velocities, grads, weights, [keep], cuts, lr=0.05, momentum=0.9
        )
        wanted = [torch.empty_like(mask) for mask in masks]
        references.KERNELS["rank_into"](wanted, theirs, [keep], torch.zeros_like(cuts), False, True)
        assert all(mask.any() for mask in masks)
        for i, expected in enumerate(wanted):
            effective = torch.empty_like(out[i])
            weight = weights_of(weights[i], theirs[i])
            references.KERNELS["write_masked"]([effective], [weight], [expected])
            assert same_bits(scores[i], theirs[i]) and torch.equal(masks[i], expected)
            assert same_bits(out[i], effective)


@pytest.mark.parametrize("fused", FUSED)
def test_a_learning_rate_may_be_a_tensor(fused):
    grad, weight, score = step_tensors((40, 30), torch.float32, 3)
    results = []
    for lr in (0.05, torch.tensor(0.05), torch.tensor([0.05], dtype=torch.float64)):
        mine, out = score.clone(), torch.empty_like(score)
        getattr(ops, fused)([out], [mine], [], [grad], [weight], [400], ops.new_cuts([mine]), lr=lr)
        results.append((mine, out))
    rate = torch.tensor(0.05)  # as the operator itself takes it, here and in the reference
    for step in (getattr(native, fused), references.KERNELS[fused]):
        mine, out, mask = score.clone(), torch.empty_like(score), torch.empty_like(score, dtype=torch.bool)
        cuts = ops.new_cuts([mine])
        step([out], [mask], [mine], [], [grad], [weight], [400], cuts, 9.0, 0.0, 0.0, 0.0, False, rate)
        results.append((mine, out))
    for mine, out in results[1:]:
        assert same_bits(mine, results[0][0]) and same_bits(out, results[0][1])
    with pytest.raises(ValueError, match="lr must be a number or a tensor of one float"):
        ops.edge_popup_sgd([out], [mine], [], [grad], [weight], [400], cuts, lr=torch.ones(2))


# The fused step inside a search.


class PartsOnly(sm.EdgePopup):
    """A subclass may have changed anything, so its step runs in parts."""


class SignedPartsOnly(SignedSupermask):
    """Likewise."""


def run_search(algorithm: type[sm.search.Search], options: dict[str, Any], steps: int = 8) -> Any:
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 10, bias=False)
    ).to(memory_format=torch.channels_last)
    sm.randomize_(model, init="kaiming_normal", seed=1, train_norms=True)
    search = algorithm(model, density=0.3, train_norms=True, **options)
    generator = torch.Generator().manual_seed(0)
    images, labels = torch.randn(8, 3, 8, 8, generator=generator), torch.arange(8)
    for step in range(steps):
        if step == steps // 2:  # what a scheduler does
            search.param_groups[0]["lr"] = search.param_groups[0]["lr"] * 0.5
        nn.functional.cross_entropy(model(images), labels).backward()
        search.step()
        search.zero_grad()
    return search


SEARCHES = [{"lr": 0.1, **options} for options in OPTIONS]
SEARCHES += [{"lr": 0.1, "momentum": 0.9, "distribution": "global"}]
SEARCHES += [{"lr": torch.tensor(0.1), "momentum": 0.9, "weight_decay": 1e-3}]


SEARCHES += [{"lr": 0.02, "momentum": 0.9, "nesterov": True, "step_size": "relative"}]


@pytest.mark.parametrize("kinds", [(sm.EdgePopup, PartsOnly), (SignedSupermask, SignedPartsOnly)])
@pytest.mark.parametrize("options", SEARCHES, ids=str)
def test_a_search_takes_the_fused_step_and_keeps_its_bits(options, kinds, monkeypatch):
    fused: list[int] = []
    for name in FUSED:
        whole = getattr(ops, name)
        monkeypatch.setattr(ops, name, lambda *a, whole=whole, **k: fused.append(1) or whole(*a, **k))
    one = run_search(kinds[0], options)
    assert len(fused) >= 7
    other = run_search(kinds[1], options)
    assert len(fused) <= 8
    for name, score in one.scores.items():
        assert same_bits(score, other.scores[name]) and torch.equal(one.mask[name], other.mask[name])
    for a, b in zip(one.model.state_dict().values(), other.model.state_dict().values(), strict=True):
        assert torch.equal(a, b)


def test_fixed_thresholds_take_the_step_in_parts():
    search = run_search(SignedSupermask, {"lr": 0.1, "fixed_threshold": True})
    assert search.fused is None and copy.deepcopy(search).fused is None


@pytest.mark.parametrize("kind", [sm.EdgePopup, SignedSupermask])
def test_a_diverged_fused_step_leaves_the_last_good_weights(kind):
    search = run_search(kind, {"lr": 0.1})
    before = {name: p.detach().clone() for name, p in search.model.named_parameters()}
    for parameter in search.model.parameters():
        parameter.grad = torch.full_like(parameter, float("nan")) if parameter.dim() > 1 else None
    with pytest.raises(sm.masks.NonFiniteScoreError, match=r"0\.weight"):
        search.step()
    for name, parameter in search.model.named_parameters():
        assert torch.equal(parameter, before[name])


# Threads and instruction sets.


def test_the_number_of_threads_changes_nothing():
    scores = [draw_scores("normal", size, size) for size in (100_003, 40_001, 300)]
    keep = [s.numel() // 3 for s in scores]
    results = []
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            random = ops.fill_random(torch.empty(100_003), 5, "normal")
            masks = ops.select(scores, keep) + ops.select_global(scores, sum(keep))
            results.append([random, *masks, ops.pack_mask(masks[0])])
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(same_bits(a, b) for a, b in zip(results[0], other, strict=True))


@pytest.mark.own_isa
def test_every_instruction_set_gives_the_same_bits(capsys):
    code = (
        "import hashlib, torch; from supermask import ops; torch.set_num_threads(1);"
        "x = ops.fill_random(torch.empty(50001), 5, 'normal');"
        "h = ops.fill_random(torch.empty(999, dtype=torch.float16), 5, 'uniform');"
        "m = ops.pack_mask(ops.select([x], [17000])[0]);"
        "r = ops.pack_mask(ops.select([x], [17000], ranking='raw')[0]);"
        "g = ops.pack_mask(ops.select_n_of_m([x[:49920].view(52, 40, 4, 6)], 2, 4)[0]);"
        "p = ops.philox(7, 1, 999);"
        "print(hashlib.sha256(b''.join(t.numpy().tobytes() for t in (x, h, m, r, g, p))).hexdigest())"
    )
    exec(code, {})
    here = capsys.readouterr().out
    for capability in limits():
        environment = {**os.environ, "ATEN_CPU_CAPABILITY": capability}
        there = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment
        )
        assert here == there.stdout, capability


# Packing.


@settings(deadline=None)
@given(size=st.integers(0, 300), seed=st.integers(0, 9))
def test_packing_equals_the_reference(size, seed):
    mask = torch.rand(size, generator=torch.Generator().manual_seed(seed)) < 0.4
    packed = references.KERNELS["pack_mask"](mask)
    assert torch.equal(ops.pack_mask(mask), packed)
    assert torch.equal(ops.unpack_mask(packed, size), mask)
    strided = torch.stack([mask, ~mask], dim=1)[:, 0]
    assert torch.equal(ops.pack_mask(strided), packed)


@settings(deadline=None)
@given(
    size=st.integers(1, 300) | st.sampled_from([8192, 8193, 20_000]),
    density=st.floats(0, 1),
    seed=st.integers(0, 9),
)
def test_codes_of_masks_equal_the_reference(size, density, seed):
    mask = torch.rand(size, generator=torch.Generator().manual_seed(seed)) < density
    coded = references.KERNELS["encode_mask"](mask)
    assert torch.equal(ops.encode_mask(mask), coded)
    assert torch.equal(ops.decode_mask(coded, size), mask)
    assert torch.equal(references.KERNELS["decode_mask"](coded, size), mask)
    strided = torch.stack([mask, ~mask], dim=1)[:, 0]
    assert torch.equal(ops.encode_mask(strided), coded)


@settings(deadline=None)
@given(data=st.data())
def test_a_damaged_code_of_a_mask_is_refused_alike(data):
    size = data.draw(st.integers(1, 300) | st.just(8193))
    mask = torch.rand(size, generator=torch.Generator().manual_seed(size)) < data.draw(st.floats(0, 1))
    coded = bytearray(ops.encode_mask(mask).numpy().tobytes())
    kind = data.draw(st.sampled_from(["flip", "cut", "add", "other"]))
    if kind == "flip":
        coded[data.draw(st.integers(0, len(coded) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    elif kind == "cut":
        del coded[data.draw(st.integers(0, len(coded) - 1)) :]
    elif kind == "add":
        coded += data.draw(st.binary(min_size=1, max_size=9))
    else:
        coded = data.draw(st.binary(max_size=40))
    code = torch.tensor(list(coded), dtype=torch.uint8)
    said = []
    for decode in (torch.ops.supermask.decode_mask, references.KERNELS["decode_mask"]):
        try:
            said.append(decode(code, size))
        except RuntimeError as error:
            said.append(str(error))
    if isinstance(said[1], str):
        assert said[1] in str(said[0])
    else:  # another mask: the code of it, and of no other
        assert torch.equal(said[0], said[1]) and torch.equal(ops.encode_mask(said[0]), code)


# Wrong arguments, past the wrappers: an exception that names the argument, and no crash.


def _wrong_calls() -> dict[str, tuple[str, object]]:
    f, b = torch.ones(4), torch.ones(4, dtype=torch.bool)
    cuts = torch.zeros(1, 2, dtype=torch.int64)
    i = torch.ones(4, dtype=torch.int64)
    sgd = (0.1, 0.9, 0.0, 0.0, False)
    return {
        "fill int": ("out", lambda: native.fill_random(i, 0, 0, "sign", 1.0)),
        "fill strided": ("out", lambda: native.fill_random(torch.ones(4, 4)[:, 1], 0, 0, "sign", 1.0)),
        "fill scheme": ("scheme", lambda: native.fill_random(f, 0, 0, "cauchy", 1.0)),
        "fill start": ("start", lambda: native.fill_random(f, 0, -1, "sign", 1.0)),
        "select int": ("scores", lambda: native.select([i], [1])),
        "select counts": ("keep", lambda: native.select([f], [1, 2])),
        "select range": ("keep", lambda: native.select([f], [5])),
        "global range": ("keep", lambda: native.select_global([f, f], 9)),
        "n:m": ("n:m", lambda: native.select_n_of_m([torch.ones(2, 4)], 5, 4, False)),
        "n:m vector": ("scores", lambda: native.select_n_of_m([f], 2, 4, False)),
        "rank cuts": ("cuts", lambda: native.rank_into([b, b], [f, f], [3], torch.cat([cuts, cuts]), False)),
        "rank range": ("keep", lambda: native.rank_into([b, b], [f, f], [9], cuts, True)),
        "words dtype": ("out", lambda: native.fill_philox(f, 0, 0)),
        "words start": ("start", lambda: native.fill_philox(i, 0, -1)),
        "cuts shape": ("cuts", lambda: native.select_into([b], [f], [1], cuts[0])),
        "cuts dtype": ("cuts", lambda: native.select_into([b], [f], [1], cuts.float())),
        "mask dtype": ("masks", lambda: native.select_into([f], [f], [1], cuts)),
        "mask shape": ("masks", lambda: native.select_into([b[:3]], [f], [1], cuts)),
        "gradient shape": ("grads", lambda: native.straight_through([f[:3]], [f], [f])),
        "gradient count": ("grads", lambda: native.straight_through([], [f], [f])),
        "weight dtype": ("weights", lambda: native.straight_through([f], [f.double()], [f])),
        "write shape": ("weights", lambda: native.write_masked([f], [f[:3]], [b])),
        "write mask": ("masks", lambda: native.write_masked([f], [f], [f])),
        "write int": ("out", lambda: native.write_masked([i], [f], [b])),
        "sgd state": (
            "velocities",
            lambda: native.edge_popup_sgd([f], [b], [f], [f.double()], [f], [f], [1], cuts, *sgd),
        ),
        "sgd lists": (
            "velocities",
            lambda: native.edge_popup_sgd([f], [b], [f], [], [f], [f], [1], cuts, *sgd),
        ),
        "pack dtype": ("masks", lambda: native.pack_mask(f)),
        "unpack size": ("bytes", lambda: native.unpack_mask(torch.ones(2, dtype=torch.uint8), 17)),
        "encode dtype": ("masks", lambda: native.encode_mask(f)),
        "encode nothing": ("without bits", lambda: native.encode_mask(b[:0])),
        "decode dtype": ("uint8", lambda: native.decode_mask(f, 4)),
        "decode nothing": ("numel", lambda: native.decode_mask(torch.ones(6, dtype=torch.uint8), 0)),
        "decode size": ("6 bytes", lambda: native.decode_mask(torch.ones(5, dtype=torch.uint8), 4)),
        "unpack negative": ("numel", lambda: native.unpack_mask(torch.ones(0, dtype=torch.uint8), -1)),
    }


@pytest.mark.parametrize("name", _wrong_calls())
def test_wrong_arguments_raise_and_name_themselves(name):
    argument, call = _wrong_calls()[name]
    with pytest.raises(RuntimeError, match=argument):
        call()


OPCHECKS = {
    "select_into": lambda f: ([f > 0], [f], [3], torch.zeros(1, 2, dtype=torch.int64)),
    "rank_into": lambda f: ([f > 0, f > 0], [f, f], [3], torch.zeros(1, 2, dtype=torch.int64), True, True),
    "select_n_of_m": lambda f: ([f.repeat(2, 1)], 2, 4, False),
    "select_n_of_m_into": lambda f: (
        [f.repeat(2, 1) > 0],
        [f.repeat(2, 1)],
        *(2, 4, False),
        torch.zeros(1, 2, dtype=torch.int64),
    ),
    "fill_philox": lambda f: (torch.zeros(11, dtype=torch.int64), 7, 3),
    **dict.fromkeys(
        FUSED,
        lambda f: (
            [f.clone()],
            [f > 0],
            [f.clone()],
            [f.clone()],
            [f.clone()],
            [f.clone()],
            [3],
            torch.zeros(1, 2, dtype=torch.int64),
            *(0.1, 0.9, 0.0, 1e-4, True, torch.tensor(0.2)),
        ),
    ),
}


@pytest.mark.parametrize("name", OPCHECKS)
def test_operators_pass_opcheck(name):
    arguments = OPCHECKS[name](torch.randn(11, generator=torch.Generator().manual_seed(0)))
    torch.library.opcheck(getattr(native, name), arguments)


# Which backend serves.


def test_backends_are_reported():
    assert ops.backends()["select"].startswith("native (")
    assert ops.backends().keys() == references.KERNELS.keys()


@pytest.mark.own_isa
def test_a_library_that_is_there_but_does_not_load_is_an_error(tmp_path):
    package = tmp_path / "supermask"
    shutil.copytree(Path(sm.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__", "*.so"))
    (package / "_native.so").write_bytes(b"no library")
    # -S and a path of our own: the copy, not the installed package, is what gets imported.
    code = f"import sys; sys.path[:] = {[str(tmp_path), *filter(None, sys.path)]!r}; import supermask.ops"
    result = subprocess.run([sys.executable, "-S", "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert result.returncode != 0
    assert "OSError" in result.stderr and str(package / "_native.so") in result.stderr
    (package / "_native.so").unlink()
    result = subprocess.run([sys.executable, "-S", "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert result.returncode == 0 and "no compiled kernels" in result.stderr


@pytest.mark.own_isa
def test_references_serve_when_asked_for():
    code = "from supermask import ops; print(ops.backends()['select'])"
    environment = {**os.environ, "SUPERMASK_REFERENCE": "1"}
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment
    )
    assert result.stdout.strip() == "reference (SUPERMASK_REFERENCE is set)"
