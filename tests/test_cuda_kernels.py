"""On a GPU: compiled kernels leave the bits of the references, wait for nothing and live in CUDA graphs."""

import copy
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import supermask as sm
from supermask import ops
from supermask.ops import references

from .test_native import (
    KINDS,
    OPTIONS,
    PartsOnly,
    draw_scores,
    same_bits,
    step_tensors,
    strided_variants,
)

pytestmark = pytest.mark.cuda
CUDA = torch.device("cuda")
FLOATS = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
SIZES = (1, 2, 31, 255, 256, 2047, 2048, 2049, 8192, 8193, 16384, 40_001, 1_000_003)


@pytest.fixture(autouse=True)
def _compiled() -> None:
    assert ops.is_native("select", CUDA), "a machine with a GPU and nvcc must have the compiled kernels"


@contextmanager
def no_waiting() -> Iterator[None]:
    """Within, whatever waits for the device is an error."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def poison(*tensors: Tensor) -> None:
    for tensor in tensors:
        tensor.fill_(1 if tensor.dtype == torch.bool else -77)


def strided_on_cuda(tensor: Tensor) -> list[Tensor]:
    """The same 4-d tensor on the GPU under several strides; `cuda()` alone would make them dense."""
    variants = [tensor, *strided_variants(tensor)]
    return [torch.empty_strided(v.shape, v.stride(), dtype=v.dtype, device=CUDA).copy_(v) for v in variants]


# The generator and packing.


@pytest.mark.parametrize("scheme", ops.SCHEMES)
@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("start", [0, 1, 5, 130, 2**33 + 3])
def test_the_generator_draws_the_reference_bits(scheme, dtype, start):
    for size in (0, 1, 3, 127, 129, 8193, 70_001):
        expected = torch.empty(size, dtype=dtype)
        references.KERNELS["fill_random"](expected, 11, start, scheme, 0.3)
        room = torch.full((size + 2,), -77, dtype=dtype, device=CUDA)
        ops.fill_random(room[1:-1], 11, scheme, 0.3, start)  # not aligned, and its neighbours stay
        assert same_bits(room[1:-1].cpu(), expected)
        assert room[0] == room[-1] == -77
        assert same_bits(ops.fill_random(room[:size], 11, scheme, 0.3, start).cpu(), expected)


@pytest.mark.parametrize("start", [0, 1, 6, 2**35 + 1])
def test_words_of_the_generator(start):
    for size in (0, 1, 4, 1023, 50_001):
        expected = torch.empty(size, dtype=torch.int64)
        references.KERNELS["fill_philox"](expected, 11, start)
        assert torch.equal(ops.philox(11, start, size, "cuda").cpu(), expected)


@pytest.mark.parametrize("size", [0, 1, 7, 8, 9, 1023, 100_001])
def test_packing(size):
    mask = torch.rand(size, generator=torch.Generator().manual_seed(size)) < 0.3
    packed = ops.pack_mask(mask.cuda())
    assert torch.equal(packed.cpu(), references.KERNELS["pack_mask"](mask))
    assert torch.equal(ops.unpack_mask(packed, size).cpu(), mask)
    wide = torch.stack([mask, ~mask], dim=1)  # strided and, from the second element on, not aligned
    assert torch.equal(ops.pack_mask(wide.cuda()[1:, 0]).cpu(), references.KERNELS["pack_mask"](mask[1:]))


# Selection.


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", FLOATS)
def test_selection_equals_the_reference_whatever_the_hint(kind, dtype):
    for seed, size in enumerate(SIZES):
        score = draw_scores(kind, size, seed, dtype)
        on_gpu = score.cuda()
        for keep in sorted({0, 1, size // 3, size - 1, size}):
            (expected,) = references.KERNELS["select"]([score], [keep])
            assert torch.equal(ops.select([on_gpu], [keep])[0].cpu(), expected)
            cuts = ops.new_cuts([on_gpu])
            ops.select([on_gpu * 1.002], [keep], cuts)
            for _ in range(3):
                assert torch.equal(ops.select([on_gpu], [keep], cuts)[0].cpu(), expected)
            nonsense = torch.randint(-(2**62), 2**62, (1, 2), generator=torch.Generator().manual_seed(seed))
            assert torch.equal(ops.select([on_gpu], [keep], nonsense.cuda())[0].cpu(), expected)


def test_many_tensors_in_one_call():
    scores = [draw_scores(KINDS[i % len(KINDS)], SIZES[i % len(SIZES)], i) for i in range(150)]
    keep = [score.numel() // 3 for score in scores]
    on_gpu = [score.cuda() for score in scores]
    cuts = ops.new_cuts(on_gpu)
    for masks in (ops.select(on_gpu, keep), ops.select(on_gpu, keep, cuts), ops.select(on_gpu, keep, cuts)):
        for mask, expected in zip(masks, references.KERNELS["select"](scores, keep), strict=True):
            assert torch.equal(mask.cpu(), expected)
    for density in (0, 0.1, 0.9, 1):
        together = round(density * sum(score.numel() for score in scores))
        expected = references.KERNELS["select_global"](scores, together)
        for mask, theirs in zip(ops.select_global(on_gpu, together), expected, strict=True):
            assert torch.equal(mask.cpu(), theirs)


@pytest.mark.parametrize("ranking", ops.RANKINGS)
@pytest.mark.parametrize("dtype", FLOATS)
def test_rankings_over_tensors_and_within_groups(ranking, dtype):
    shapes = [(16, 8), (5, 7, 3, 3), (300, 40), (1, 1)]
    for kind in KINDS:
        scores = [
            draw_scores(kind, math.prod(shape), seed, dtype).view(shape) for seed, shape in enumerate(shapes)
        ]
        on_gpu = [score.cuda() for score in scores]
        total = sum(score.numel() for score in scores)
        for keep in (0, 1, total // 3, total):
            expected = ops.select_global(scores, keep, ranking=ranking)
            cuts = ops.new_cuts(on_gpu, together=True)
            for mask, theirs in zip(ops.select_global(on_gpu, keep, cuts, ranking), expected, strict=True):
                assert torch.equal(mask.cpu(), theirs)
        counts = [score.numel() // 2 for score in scores]
        expected = ops.select(scores, counts, ranking=ranking)
        for mask, theirs in zip(ops.select(on_gpu, counts, ranking=ranking), expected, strict=True):
            assert torch.equal(mask.cpu(), theirs)
        for n, m in ((2, 4), (1, 3), (5, 8), (4, 4)):
            expected = ops.select_n_of_m(scores, n, m, ranking)
            for mask, theirs in zip(ops.select_n_of_m(on_gpu, n, m, ranking), expected, strict=True):
                assert torch.equal(mask.cpu(), theirs)
    on_gpu[2][7, 3] = -float("inf")
    with pytest.raises(ValueError, match="not finite"):
        ops.select_n_of_m(on_gpu, 2, 4, ranking)
    cuts = ops.new_cuts(on_gpu, together=True)
    ops.select_global(on_gpu, 100, cuts, ranking)
    assert ops.not_finite(cuts) == [0]


@pytest.mark.parametrize("ranking", ops.RANKINGS)
@pytest.mark.parametrize("dtype", FLOATS)
def test_with_a_floor_every_tensor_keeps_its_first(ranking, dtype):
    scores = [draw_scores("normal", size, i, dtype) * 8.0**-i for i, size in enumerate((40_001, 3000, 1, 17))]
    on_gpu = [score.cuda() for score in scores]
    cuts = ops.new_cuts(on_gpu, together=True)
    for keep in (4, 5, 1000, sum(score.numel() for score in scores)):
        expected = ops.select_global(scores, keep, ranking=ranking, floor=True)
        with no_waiting():
            masks = ops.select_global(on_gpu, keep, cuts, ranking, floor=True)
        for mask, theirs in zip(masks, expected, strict=True):
            assert torch.equal(mask.cpu(), theirs)


def test_n_of_m_with_cuts_does_not_wait():
    scores = [torch.randn(8, 40, device=CUDA), torch.randn(0, 4, device=CUDA), torch.randn(5, 9, device=CUDA)]
    cuts = ops.new_cuts(scores)
    scores[2][4, 8] = float("nan")
    with no_waiting():
        masks = ops.select_n_of_m(scores, 2, 4, cuts=cuts)
    assert torch.equal(masks[0], ops.select_n_of_m(scores[:1], 2, 4)[0]) and ops.not_finite(cuts) == [2]


@pytest.mark.parametrize("kind", ["normal", "rounded"])
def test_many_blocks_rank_what_a_window_missed(kind):
    sizes = (1 << 19, 700_001, 40_001, 2_000_003)  # from 2^19 on
    scores = [draw_scores(kind, size, seed) for seed, size in enumerate(sizes)]
    on_gpu, keep = [score.cuda() for score in scores], [size // 3 for size in sizes]
    expected = references.KERNELS["select"](scores, keep)
    cuts = ops.new_cuts(on_gpu)
    for factor in (1.0, 4.0, 1.0, 0.125):  # each a miss
        with no_waiting():
            masks = ops.select([score * factor for score in on_gpu], keep, cuts)
        for mask, theirs in zip(masks, expected, strict=True):
            assert torch.equal(mask.cpu(), theirs)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        masks = ops.select(on_gpu, keep, cuts)
    for _ in range(2):
        graph.replay()
        cuts.zero_()
        for mask, theirs in zip(masks, expected, strict=True):
            assert torch.equal(mask.cpu(), theirs)


@pytest.mark.parametrize("dtype", FLOATS)
def test_selection_reads_any_strides(dtype):
    score = draw_scores("rounded", 9 * 31 * 3 * 5, 0, dtype).view(9, 31, 3, 5)
    (expected,) = references.KERNELS["select"]([score], [1000])
    for variant in strided_on_cuda(score):
        assert torch.equal(ops.select([variant], [1000])[0].cpu(), expected)
        assert torch.equal(ops.select([variant], [1000], ops.new_cuts([variant]))[0].cpu(), expected)
    many = score.unflatten(1, (31, 1)).permute(4, 3, 2, 1, 0)  # five dimensions that no merging shortens
    (expected,) = references.KERNELS["select"]([many], [1000])
    assert torch.equal(ops.select([many.cuda()], [1000])[0].cpu(), expected)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("size", [1, 17, 5000, 40_001])
def test_a_score_that_is_not_finite_is_reported(bad, size):
    for place in {0, size // 2, size - 1}:
        score = torch.ones(size, device=CUDA)
        score[place] = bad
        good = torch.ones(3, device=CUDA)
        for keep in (0, 1, size):
            with pytest.raises(ValueError, match="not finite"):
                ops.select([good, score], [1, keep])
            cuts = ops.new_cuts([good, score])
            assert int(ops.select([good, score], [1, keep], cuts)[1].sum()) == keep
            assert ops.not_finite(cuts) == [1]
            ops.select([good, torch.ones_like(score)], [1, keep], cuts)
            assert ops.not_finite(cuts) == [1]  # until somebody has seen it


# The step.


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("shape", [(7, 5, 3, 3), (40, 33, 3, 3), (2, 1, 1, 1)])
def test_straight_through_gradients_and_masked_writes(dtype, shape):
    grad, weight, score = step_tensors(shape, dtype, 0)
    mask = torch.rand(shape, generator=torch.Generator().manual_seed(1)) < 0.5
    weight.view(-1)[0] = -0.0
    expected = references.KERNELS["straight_through"]([grad], [weight], [score])[0]
    for variant in strided_on_cuda(grad):
        assert same_bits(ops.straight_through([variant], [weight.cuda()], [score.cuda()])[0].cpu(), expected)
    wanted = torch.empty(shape, dtype=dtype)
    references.KERNELS["write_masked"]([wanted], [weight], [mask])
    for out in strided_on_cuda(torch.full(shape, 7.0, dtype=dtype)):
        strides = out.stride()
        ops.write_masked([out], [weight.cuda()], [mask.cuda()])
        assert same_bits(out.cpu().contiguous(), wanted) and out.stride() == strides


def test_a_strided_write_stays_within_its_tensor():
    base = torch.full((4, 5, 3, 6), 7.0, device=CUDA)
    ops.write_masked(
        [base[..., :3]], [torch.ones(4, 5, 3, 3).cuda()], [(torch.rand(4, 5, 3, 3) < 0.5).cuda()]
    )
    assert (base[..., 3:] == 7).all()


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_fused_step_leaves_the_bits_of_torch_sgd(options, dtype):
    shapes = [(33, 17, 3, 3), (120, 77), (1, 1), (5, 3), (300, 200)]
    parts = [[t.cuda() for t in step_tensors(shape, dtype, 3)] for shape in shapes]
    grads, weights, scores = map(list, zip(*parts, strict=True))
    theirs = [score.clone() for score in scores]
    rule = torch.optim.SGD(theirs, lr=0.05, **options)
    velocities = [torch.zeros_like(s) for s in scores]
    keep, cuts = [s.numel() // 3 + 1 for s in scores], ops.new_cuts(scores)
    out = [torch.empty(shape, dtype=dtype, device=CUDA) for shape in shapes]
    out[0] = out[0].to(memory_format=torch.channels_last)
    for step in range(6):
        gradients = [g * (1 + step) for g in grads]
        for score, gradient in zip(theirs, ops.straight_through(gradients, weights, theirs), strict=True):
            score.grad = gradient
        rule.step()
        if step == 0:  # SGD makes its momentum buffers in the first step
            for mine, score, velocity in zip(scores, theirs, velocities, strict=True):
                mine.copy_(score)
                if "momentum" in options:
                    velocity.copy_(rule.state[score]["momentum_buffer"])
            continue
        poison(*out)
        with no_waiting():
            masks = ops.edge_popup_sgd(
                out, scores, velocities, gradients, weights, keep, cuts, lr=0.05, **options
            )
        for i, expected in enumerate(references.KERNELS["select"](theirs, keep)):
            effective = torch.empty_like(out[i])
            references.KERNELS["write_masked"]([effective], [weights[i]], [expected])
            assert same_bits(scores[i], theirs[i]) and torch.equal(masks[i], expected)
            assert same_bits(out[i], effective)


def test_the_fused_step_with_one_cut_over_all_tensors():
    shapes = [(33, 17, 3, 3), (120, 77), (5, 3)]
    parts = [[t.cuda() for t in step_tensors(shape, torch.float32, 3)] for shape in shapes]
    grads, weights, scores = map(list, zip(*parts, strict=True))
    velocities, out = [torch.zeros_like(s) for s in scores], [torch.empty_like(s) for s in scores]
    cuts, keep = ops.new_cuts(scores, together=True), sum(s.numel() for s in scores) // 3
    theirs, their_velocities = [s.clone() for s in scores], [v.clone() for v in velocities]
    for _ in range(3):
        poison(*out)
        with no_waiting():
            masks = ops.edge_popup_sgd(
                out, scores, velocities, grads, weights, [keep], cuts, lr=0.1, momentum=0.9
            )
        gradients = ops.straight_through(grads, weights, theirs)
        for score, velocity, gradient in zip(theirs, their_velocities, gradients, strict=True):
            velocity.mul_(0.9).add_(gradient)
            score.add_(velocity, alpha=-0.1)
        wanted = [torch.empty_like(mask) for mask in masks]
        references.KERNELS["rank_into"](wanted, theirs, [keep], torch.zeros_like(cuts), False, True)
        for i, expected in enumerate(wanted):
            assert same_bits(scores[i], theirs[i]) and torch.equal(masks[i], expected)
            assert same_bits(out[i], weights[i] * expected + 0.0)


@pytest.mark.parametrize(
    ("call", "word"),
    [
        (lambda t: ops.select([t, t.cpu()], [1, 1]), "scores must be on"),
        (lambda t: ops.select([t], [1], torch.zeros(1, 2, dtype=torch.int64)), "cuts must be on"),
        (lambda t: ops.select([t.int()], [1]), "scores must be a float32"),
        (lambda t: ops.write_masked([t], [t.cpu()], [t > 0]), "weights must be on"),
        (lambda t: ops.write_masked([t], [t[:3]], [t > 0]), "do not fit"),
        (lambda t: ops.straight_through([t], [t], [t.half()]), "both be float32"),
    ],
)
def test_wrong_arguments_are_named(call, word):
    with pytest.raises((RuntimeError, ValueError, TypeError), match=word):
        call(torch.ones(5, device=CUDA))


# A search.


def make_search(algorithm: type[sm.EdgePopup], options: dict[str, Any]) -> tuple[nn.Module, sm.EdgePopup]:
    model = nn.Sequential(
        nn.Conv2d(3, 64, 3), nn.ReLU(), nn.Flatten(), nn.Linear(64 * 36, 100), nn.ReLU(), nn.Linear(100, 10)
    )
    model = sm.randomize_(model.to(CUDA, memory_format=torch.channels_last), "kaiming_normal", seed=1)
    return model, algorithm(model, **{"density": 0.3, "lr": 0.1, **options})


def set_gradients(model: nn.Module, step: int) -> None:
    generator = torch.Generator(CUDA).manual_seed(step)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.grad = torch.randn(parameter.shape, device=CUDA, generator=generator)


def assert_equal_searches(a: sm.EdgePopup, b: sm.EdgePopup) -> None:
    for name in a.scores:
        assert same_bits(a.scores[name], b.scores[name]) and torch.equal(a.mask[name], b.mask[name])
        assert same_bits(
            a.masked_parameters[name].detach().contiguous(), b.masked_parameters[name].detach().contiguous()
        )


def test_searches_of_every_distribution_do_not_wait():
    for options in ({"distribution": "global"}, {"distribution": "2:4"}):
        for algorithm in (sm.EdgePopup, PartsOnly):
            density = {"global": 0.3, "2:4": 0.5}[options["distribution"]]
            net, search = make_search(algorithm, {"momentum": 0.9, "density": density, **options})
            for step in range(4):
                set_gradients(net, step)
                with no_waiting():
                    search.step()
            assert all(bool(mask.any()) for mask in search.mask.values())


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_the_fused_step_and_its_parts_agree_and_do_not_wait(options):
    nets, searches = zip(*(make_search(kind, options) for kind in (sm.EdgePopup, PartsOnly)), strict=True)
    for step in range(6):
        for net, search in zip(nets, searches, strict=True):
            set_gradients(net, step)
            with no_waiting():
                search.step()
    assert_equal_searches(*searches)


@pytest.mark.parametrize("algorithm", [sm.EdgePopup, PartsOnly])
def test_a_graphed_step_equals_an_eager_one(algorithm):
    options = {"momentum": 0.9, "weight_decay": 1e-4}
    net, eager = make_search(algorithm, options)
    twin, graphed = make_search(algorithm, options)
    for step in range(3):
        for model, search in ((net, eager), (twin, graphed)):
            set_gradients(model, step)
            search.step()
    gradients = [p.grad for p in twin.parameters() if p.grad is not None]
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        graphed.step()
    for step in range(3, 9):
        set_gradients(net, step)
        eager.step()
        generator = torch.Generator(CUDA).manual_seed(step)
        for gradient in gradients:
            gradient.copy_(torch.randn(gradient.shape, device=CUDA, generator=generator))
        graph.replay()
    assert_equal_searches(eager, graphed)


def test_a_graphed_step_follows_a_learning_rate_on_the_device():
    options = {"momentum": 0.9, "weight_decay": 1e-4}
    (net, eager), (twin, graphed) = make_search(sm.EdgePopup, options), make_search(sm.EdgePopup, options)
    rate = torch.tensor(0.1, device=CUDA)
    for model, search in ((net, eager), (twin, graphed)):
        set_gradients(model, 0)
        search.step()
    graphed.param_groups[0]["lr"] = rate
    gradients = [p.grad for p in twin.parameters() if p.grad is not None]
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        graphed.step()
    for step in range(1, 6):
        set_gradients(net, step)
        eager.param_groups[0]["lr"] = 0.1 / step
        eager.step()
        generator = torch.Generator(CUDA).manual_seed(step)
        for gradient in gradients:
            gradient.copy_(torch.randn(gradient.shape, device=CUDA, generator=generator))
        rate.fill_(0.1 / step)
        graph.replay()
    assert_equal_searches(eager, graphed)


def test_a_diverged_search_says_so_where_its_mask_is_read():
    net, search = make_search(sm.EdgePopup, {"momentum": 0.9})
    good = copy.deepcopy(search.state_dict())
    for step in range(4):
        set_gradients(net, step)
        if step == 2:
            net[3].weight.grad[0, 0] = float("nan")
        with no_waiting():
            search.step()
    assert all(parameter.isfinite().all() for parameter in net.parameters())
    for read in (lambda: search.mask, search.ticket, search.state_dict):
        with pytest.raises(sm.masks.NonFiniteScoreError, match=r"3\.weight"):
            read()
    search.load_state_dict(good)
    assert int(search.mask["3.weight"].sum()) == search.keep["3.weight"]
