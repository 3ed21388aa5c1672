"""Operators against NumPy, published vectors and stable sorts."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from supermask import ops

# Random123's kat_vectors for philox4x32-10: counter, key, result.
KNOWN_ANSWERS = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


def philox(counter: tuple[int, ...], key: tuple[int, int]) -> tuple[int, ...]:
    """Philox4x32-10 with Python integers."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        p0, p1 = 0xD2511F53 * c0, 0xCD9E8D57 * c2
        c0, c1, c2, c3 = (p1 >> 32) ^ c1 ^ k0, p1 % 2**32, (p0 >> 32) ^ c3 ^ k1, p0 % 2**32
        k0, k1 = (k0 + 0x9E3779B9) % 2**32, (k1 + 0xBB67AE85) % 2**32
    return c0, c1, c2, c3


@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN_ANSWERS)
def test_the_oracle_gives_the_published_vectors(counter, key, expected):
    assert philox(counter, key) == expected


@given(key=st.integers(0, 2**64 - 1), block=st.integers(0, 2**60), offset=st.integers(0, 3))
def test_philox_equals_the_oracle(key, block, offset):
    expected = []
    for index in range(block, block + 2):
        counter = (index % 2**32, index >> 32, 0, 0)
        expected += philox(counter, (key % 2**32, key >> 32))
    words = ops.philox(key, 4 * block + offset, 8 - offset)
    assert words.tolist() == expected[offset:]


def words_of(key: int, count: int) -> NDArray[np.uint32]:
    blocks = [philox((i, 0, 0, 0), (key % 2**32, key >> 32)) for i in range(-(-count // 4))]
    return np.array(blocks, dtype=np.uint32).reshape(-1)[:count]


def test_signs_are_consecutive_bits_of_the_stream():
    drawn = ops.fill_random(torch.empty(1000), 99, "sign")
    bits = np.unpackbits(words_of(99, 32).view(np.uint8), bitorder="little")[:1000]
    assert np.array_equal(drawn.numpy(), 1.0 - 2.0 * bits)


def test_uniforms_are_odd_multiples_of_2_to_the_minus_24():
    drawn = ops.fill_random(torch.empty(1000), 5, "uniform")
    odd = 2 * (words_of(5, 1000) >> 8).astype(np.float64) + 1 - 2**24
    assert np.array_equal(drawn.double().numpy(), odd * 2.0**-24)


def test_normals_are_box_muller_of_the_words():
    drawn = ops.fill_random(torch.empty(4000), 17, "normal").double().numpy()
    words = words_of(17, 4000).astype(np.int64)
    radius = np.sqrt(-2 * np.log((words[0::2] | 1) / 2.0**32))
    # The top two bits count quarter turns; the others turn by -45 to +45 degrees within one.
    angle = ((words[1::2] & 0x3FFFFFFF) + 0.5) * 2.0**-30 * math.pi / 2 - math.pi / 4
    angle += (words[1::2] >> 30) * math.pi / 2
    expected = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=1).reshape(-1)
    assert np.abs(drawn - expected).max() < 2e-6


def test_normals_are_normal():
    from scipy import stats

    drawn = ops.fill_random(torch.empty(200_000), 3, "normal").numpy()
    assert stats.kstest(drawn, "norm").pvalue > 0.01
    assert abs(drawn.mean()) < 0.01 and abs(drawn.std() - 1) < 0.01
    # The two values of a pair are independent: their product has mean 0.
    assert abs((drawn[0::2] * drawn[1::2]).mean()) < 0.01


@settings(max_examples=60)
@given(
    scheme=st.sampled_from(ops.SCHEMES),
    start=st.integers(0, 5000),
    count=st.integers(1, 700),
    key=st.integers(0, 9),
)
def test_any_slice_drawn_alone_equals_the_slice_of_the_whole(scheme, start, count, key):
    whole = ops.fill_random(torch.empty(6000), key, scheme, 0.7)
    assert torch.equal(
        ops.fill_random(torch.empty(count), key, scheme, 0.7, start=start), whole[start : start + count]
    )


def test_chunks_do_not_show():
    whole = ops.fill_random(torch.empty(4 * (1 << 15) + 1000), 1, "uniform")
    tail = ops.fill_random(torch.empty(2000), 1, "uniform", start=len(whole) - 2000)
    assert torch.equal(tail, whole[-2000:])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_dtypes_are_the_float32_values_cast(dtype):
    single = ops.fill_random(torch.empty(500), 8, "normal", 0.1)
    assert torch.equal(ops.fill_random(torch.empty(500, dtype=dtype), 8, "normal", 0.1), single.to(dtype))


def test_bad_draws_are_refused():
    with pytest.raises(ValueError, match="'gauss'"):
        ops.fill_random(torch.empty(3), 0, "gauss")
    with pytest.raises(ValueError, match="contiguous"):
        ops.fill_random(torch.empty(4, 4).t()[:, :3], 0, "sign")


# Selection: a stable sort by descending |score| is the oracle.


def stable_mask(score: torch.Tensor, keep: int) -> NDArray[np.bool_]:
    flat = np.abs(score.detach().contiguous().numpy().reshape(-1))
    mask = np.zeros(flat.size, dtype=bool)
    mask[np.argsort(-flat.astype(np.float64), kind="stable")[:keep]] = True
    return mask.reshape(score.shape)


special = st.sampled_from([0.0, -0.0, 1.0, -1.0, 1e-45, -1e-45, 1e-40, 3.4e38, 0.5])


@settings(max_examples=200)
@given(
    values=st.lists(
        st.one_of(special, st.floats(width=32, allow_nan=False, allow_infinity=False)), min_size=1
    ),
    fraction=st.floats(0, 1),
)
def test_select_equals_a_stable_sort(values, fraction):
    score = torch.tensor(values, dtype=torch.float32)
    keep = round(fraction * len(values))
    (mask,) = ops.select([score], [keep])
    assert np.array_equal(mask.numpy(), stable_mask(score, keep))
    reference = ops.reference("select")([score], [keep])[0]
    assert torch.equal(reference, mask)


@pytest.mark.parametrize("keep", [0, 1, 500, 999, 1000])
@pytest.mark.parametrize("score", [torch.zeros(1000), torch.full((1000,), -2.5), torch.full((1000,), 1e-42)])
def test_all_equal_scores_keep_the_first(score, keep):
    (mask,) = ops.select([score], [keep])
    assert mask.tolist() == [True] * keep + [False] * (1000 - keep)


def test_denormal_scores_are_ranked_even_when_flushed():
    score = torch.tensor([1, 3, 2, 0], dtype=torch.int32).view(torch.float32)
    torch.set_flush_denormal(True)
    try:
        (mask,) = ops.select([score], [2])
    finally:
        torch.set_flush_denormal(False)
    assert mask.tolist() == [False, True, True, False]


def test_ties_follow_the_logical_order_in_any_memory_format():
    score = torch.randint(0, 3, (4, 6, 3, 3)).float()
    (plain,) = ops.select([score], [100])
    (last,) = ops.select([score.to(memory_format=torch.channels_last)], [100])
    (strided,) = ops.select([score.permute(3, 1, 0, 2).contiguous().permute(2, 1, 3, 0)], [100])
    assert torch.equal(plain, last) and torch.equal(plain, strided)


@given(seed=st.integers(0, 1000), fraction=st.floats(0, 1))
def test_select_global_ranks_all_tensors_together(seed, fraction):
    generator = torch.Generator().manual_seed(seed)
    scores = [torch.randint(-4, 5, shape, generator=generator).float() for shape in [(7, 3), (5,), (2, 2, 2)]]
    keep = round(fraction * 34)
    masks = ops.select_global(scores, keep)
    together = torch.cat([s.flatten() for s in scores])
    expected = stable_mask(together, keep)
    assert np.array_equal(torch.cat([m.flatten() for m in masks]).numpy(), expected)
    assert [m.shape for m in masks] == [s.shape for s in scores]


@pytest.mark.parametrize("ranking", ops.RANKINGS)
@given(
    seed=st.integers(0, 1000), keep=st.integers(4, 40), dtype=st.sampled_from([torch.float32, torch.float64])
)
def test_with_a_floor_every_tensor_keeps_its_first(ranking, seed, keep, dtype):
    generator = torch.Generator().manual_seed(seed)
    sizes = (21, 5, 8, 6)
    scores = [
        torch.randint(-3, 4, (size,), generator=generator).to(dtype) * 10**i for i, size in enumerate(sizes)
    ]
    # Plainly: the first of each, then the best of the rest, by (value, index).
    values = np.concatenate([(s if ranking == "raw" else s.abs()).numpy() for s in scores])
    order = sorted(range(len(values)), key=lambda i: (-values[i], i))
    ends = np.cumsum((0, *sizes))
    firsts = [next(i for i in order if a <= i < b) for a, b in pairwise(ends)]
    expected = np.zeros(len(values), dtype=bool)
    expected[[*firsts, *[i for i in order if i not in firsts]][:keep]] = True
    cuts = ops.new_cuts(scores, together=True)
    masks = [torch.empty(size, dtype=torch.bool) for size in sizes]
    ops.reference("rank_into")(masks, scores, [keep], cuts.clone(), ranking == "raw", True)
    for found in (
        ops.select_global(scores, keep, ranking=ranking, floor=True),
        ops.select_global(scores, keep, cuts, ranking, floor=True),
        ops.select_global(scores, keep, cuts, ranking, floor=True),
        masks,
    ):
        assert np.array_equal(torch.cat(found).numpy(), expected)


def test_a_floor_needs_one_weight_for_every_tensor():
    scores = [torch.ones(3)] * 4
    with pytest.raises(ValueError, match="3 weights cannot keep one in each of 4 layers"):
        ops.select_global(scores, 3, floor=True)
    cuts, masks = ops.new_cuts(scores, together=True), [torch.empty(3, dtype=torch.bool) for _ in scores]
    with pytest.raises((RuntimeError, ValueError), match="one"):
        torch.ops.supermask.rank_into(masks, [s * 0.0 for s in scores], [3], cuts, False, True)


def test_n_of_m_takes_cuts_and_reports_as_select_does():
    scores = [torch.arange(16.0).view(2, 8), torch.arange(8.0).view(1, 8)]
    cuts = ops.new_cuts(scores)
    for mask, plain in zip(
        ops.select_n_of_m(scores, 2, 4, cuts=cuts), ops.select_n_of_m(scores, 2, 4), strict=True
    ):
        assert torch.equal(mask, plain)
    scores[1][0, 3] = float("nan")
    with pytest.raises(ValueError, match="not finite"):
        ops.select_n_of_m(scores, 2, 4, cuts=cuts)


def test_select_global_ranks_mixed_types_by_value():
    scores = [torch.linspace(0.1, 2, 50), torch.linspace(0.1, 2, 50).bfloat16()]
    for ordered in (scores, scores[::-1]):
        expected = stable_mask(torch.cat([s.float() for s in ordered]), 40)
        for masks in (ops.select_global(ordered, 40), ops.reference("select_global")(ordered, 40)):
            assert np.array_equal(torch.cat(list(masks)).numpy(), expected)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("keep", [0, 2, 5])
def test_scores_that_are_not_finite_are_refused(bad, keep):
    score = torch.tensor([1.0, 2.0, bad, 3.0, 4.0])
    with pytest.raises(ValueError, match="finite"):
        ops.select([score], [keep])
    with pytest.raises(ValueError, match="finite"):
        ops.select_global([torch.ones(3), score], keep)


def test_impossible_counts_are_refused():
    with pytest.raises(ValueError, match="keep"):
        ops.select([torch.ones(3)], [4])
    with pytest.raises(ValueError, match="keep"):
        ops.select([torch.ones(3)], [-1])
    with pytest.raises(ValueError, match="2 score tensors but 1"):
        ops.select([torch.ones(3), torch.ones(3)], [1])


# The step and the bits.


def test_straight_through_is_sign_times_weight_times_gradient():
    g, w, s = (np.random.default_rng(i).normal(size=(5, 7)) for i in range(3))
    s[0, 0] = 0.0
    tensors = [torch.tensor(x) for x in (g, w, s)]
    (out,) = ops.straight_through([tensors[0]], [tensors[1]], [tensors[2]])
    assert np.array_equal(out.numpy(), np.sign(s) * w * g)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_write_masked_keeps_format_and_writes_positive_zeros(dtype):
    weight = -torch.rand(4, 3, 2, 2, dtype=torch.promote_types(dtype, torch.float32)) - 0.1
    mask = torch.rand(4, 3, 2, 2) < 0.5
    out = torch.full((4, 3, 2, 2), 7.0, dtype=dtype).to(memory_format=torch.channels_last)
    ops.write_masked([out], [weight], [mask])
    assert out.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(out, torch.where(mask, weight, 0.0).to(dtype))
    assert not torch.signbit(out[~mask]).any()


@given(bits=st.lists(st.booleans(), max_size=70))
def test_packing_is_least_significant_bit_first(bits):
    mask = torch.tensor(bits, dtype=torch.bool)
    packed = ops.pack_mask(mask)
    assert packed.tolist() == np.packbits(np.array(bits, dtype=bool), bitorder="little").tolist()
    assert torch.equal(ops.unpack_mask(packed, len(bits)), mask)


def test_packing_refuses_what_is_no_mask():
    with pytest.raises(TypeError, match="bool"):
        ops.pack_mask(torch.ones(8))
    with pytest.raises(ValueError, match="2 bytes"):
        ops.unpack_mask(torch.zeros(3, dtype=torch.uint8), 9)


@pytest.mark.parametrize(
    ("op", "arguments"),
    [
        ("fill_philox", (torch.zeros(9, dtype=torch.int64), 7, 3)),
        ("fill_random", (torch.empty(10), 7, 0, "normal", 1.0)),
        ("select", ([torch.rand(6), torch.rand(2, 3)], [2, 3])),
        ("select_global", ([torch.rand(6), torch.rand(2, 3)], 5)),
        ("straight_through", ([torch.rand(6)], [torch.rand(6)], [torch.rand(6)])),
        ("write_masked", ([torch.rand(6)], [torch.rand(6)], [torch.rand(6) < 0.5])),
        ("pack_mask", (torch.rand(11) < 0.5,)),
        ("unpack_mask", (torch.tensor([3, 1], dtype=torch.uint8), 11)),
        ("encode_mask", (torch.rand(11) < 0.5,)),
        ("decode_mask", (ops.encode_mask(torch.arange(11) < 3), 11)),
    ],
)
def test_operators_pass_opcheck(op, arguments):
    torch.library.opcheck(getattr(torch.ops.supermask, op), arguments)
