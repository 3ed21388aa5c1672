"""Layers that compute from packed masks: the same function as the dense ones, from fewer bits."""

import copy
import itertools
import pickle
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import supermask as sm
from supermask import ops
from supermask.ops import layouts, references
from supermask.packed import PackedLinear, linear, pack, tuning

needs_native = pytest.mark.skipif(
    not ops.is_native("linear_from_triples", torch.device("cpu")),
    reason="no compiled library; `make setup` builds it",
)
native = torch.ops.supermask
OPERATORS = tuple(name for name in layouts.LINEAR_LAYOUTS if name != "linear_int8")  # which rounds
PACK = {
    "linear_from_triples": lambda weights: (layouts.triples_of_signs(weights),),
    "linear_from_planes": lambda weights: (layouts.planes_of_signs(weights),),
    "linear_from_lists": layouts.lists_of_signs,
    "linear_from_pairs": layouts.pairs_of_signs,
    "linear_from_values": lambda weights: layouts.values_of_weights(weights.float()),
    "linear_from_places": lambda weights: layouts.places_of_weights(weights.float()),
}


def draw_signs(outputs: int, inputs: int, density: float, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    signs = torch.randint(0, 2, (outputs, inputs), generator=generator) * 2 - 1
    return (signs * (torch.rand(outputs, inputs, generator=generator) < density)).to(torch.int8)


def draw_weights(outputs: int, inputs: int, density: float, seed: int = 0) -> Tensor:
    """Small integers, so that sums are exact in any order, half of them with a fraction of 1/2."""
    generator = torch.Generator().manual_seed(seed)
    weights = torch.randint(1, 9, (outputs, inputs), generator=generator) / 2
    return weights * draw_signs(outputs, inputs, density, seed)


sizes = st.one_of(st.integers(1, 70), st.sampled_from([127, 128, 129, 300]))
batches = st.sampled_from([0, 1, 2, 3, 4, 5, 8, 15, 16, 17, 32, 33, 64, 65, 130])


# --- layouts -----------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(outputs=sizes, inputs=sizes, density=st.floats(0, 1), seed=st.integers(0, 9))
def test_layouts_hold_every_weight(outputs, inputs, density, seed):
    signs, weights = draw_signs(outputs, inputs, density, seed), draw_weights(outputs, inputs, density, seed)
    assert torch.equal(layouts.signs_of_fields(layouts.fields_of_signs(signs), outputs, inputs), signs)
    for operator in OPERATORS:
        unpack = layouts.LINEAR_LAYOUTS[operator]
        expected = weights if operator in ("linear_from_values", "linear_from_places") else signs
        packed = PACK[operator](expected)
        assert torch.equal(unpack(*packed, outputs, inputs), expected)


def test_the_codes_of_triples_are_as_written_down():
    signs = torch.zeros(17, 19, dtype=torch.int8)
    signs[3, 0:3] = torch.tensor([1, -1, 1])  # 1 - 3 + 9 = 7
    signs[3, 9:12] = torch.tensor([-1, 0, -1])  # -1 - 9 = -10
    signs[16, 18] = -1  # group 1, word 1
    words = layouts.triples_of_signs(signs).view(2, 2, 16)  # word, group, lane
    assert words[0, 0, 3] == 7 | (16 + 10) << 16
    assert words[1, 1, 0] == 17
    assert words.count_nonzero() == 2


def test_the_lists_of_pairs_are_as_written_down():
    signs = torch.zeros(514, 130, dtype=torch.int8)
    signs[0, :2] = torch.tensor([-1, 1])  # - of the difference of pair 0
    signs[0, 127] = -1  # - of the second input of pair 63
    signs[1, 2:6] = torch.tensor([1, 1, 1, 0])  # + of the sum of pair 1, + of the first input of pair 2
    signs[511, 0] = 1  # + of the first input of pair 0
    signs[513, 128:] = torch.tensor([1, -1])  # of the second block
    starts, entries, order = layouts.pairs_of_signs(signs)
    assert entries.tolist() == [3, 4 * 63 + 1, 0, 4 + 2, 8, 3]
    order = order.view(2, 514)
    assert order[0].tolist() == [*range(2, 511), 0, 511, 1, 0, 1], "few + first, then few -, then by output"
    assert order[1].tolist() == [*range(512), 0, 1]
    lengths = starts.diff().view(2, 514, 2)  # of + and - of each list
    assert lengths[0, 509:512].tolist() == [[0, 2], [1, 0], [2, 0]] and lengths[0].count_nonzero() == 3
    assert lengths[1, 513].tolist() == [1, 0] and lengths[1].count_nonzero() == 1


def test_pairs_take_fewer_entries_than_there_are_weights():
    signs = draw_signs(600, 1024, 0.3)
    entries = layouts.pairs_of_signs(signs)[1]
    assert len(entries) == signs.view(600, 512, 2).any(dim=-1).sum()
    assert len(entries) / signs.count_nonzero() == pytest.approx((1 - 0.7**2) / 0.6, abs=0.01)


@pytest.mark.parametrize("shape", [(0, 5), (5, 0), (0, 0)])
def test_pairs_of_no_weights_are_none(shape):
    signs = torch.zeros(shape, dtype=torch.int8)
    layout = layouts.pairs_of_signs(signs)
    assert len(layout[1]) == 0 and layouts.signs_of_pairs(*layout, *shape).shape == shape


def test_triples_take_less_than_two_bits_a_weight():
    codes = layouts.triples_of_signs(draw_signs(160, 180, 0.5))
    assert codes.element_size() * 8 * codes.numel() / (160 * 180) == pytest.approx(32 / 18)


# --- kernels -----------------------------------------------------------------------------------------


@needs_native
@settings(max_examples=80, deadline=None)
@given(
    outputs=sizes,
    inputs=sizes,
    batch=batches,
    density=st.sampled_from([0.0, 0.1, 0.5, 1.0]),
    bias=st.booleans(),
    seed=st.integers(0, 9),
)
def test_kernels_are_exact_on_integers(outputs, inputs, batch, density, bias, seed):
    signs = draw_signs(outputs, inputs, density, seed)
    generator = torch.Generator().manual_seed(seed)
    x = torch.randint(-9, 10, (batch, inputs), generator=generator).float()
    b = torch.randint(-9, 10, (outputs,), generator=generator).float() if bias else None
    expected = x @ signs.float().t() * 0.5 + (0 if b is None else b)
    for operator in OPERATORS:
        arguments = (x, *PACK[operator](signs), outputs, 0.5, b)
        assert torch.equal(getattr(native, operator)(*arguments), expected)
        assert torch.equal(references.KERNELS[operator](*arguments), expected)


@needs_native
@pytest.mark.parametrize("outputs", [511, 512, 513, 1100])
@pytest.mark.parametrize("density", [0.05, 0.4])
def test_pairs_of_several_groups_of_outputs_are_exact(outputs, density):
    signs = draw_signs(outputs, 259, density)
    packed, x = layouts.pairs_of_signs(signs), torch.randint(-9, 10, (150, 259)).float()
    assert torch.equal(layouts.signs_of_pairs(*packed, outputs, 259), signs)
    for batch in (1, 16, 31, 33, 63, 65, 150):
        expected = x[:batch] @ signs.float().t() * 2
        assert torch.equal(native.linear_from_pairs(x[:batch], *packed, outputs, 2.0, None), expected)


@needs_native
@settings(max_examples=40, deadline=None)
@given(outputs=sizes, inputs=sizes, batch=batches, density=st.floats(0, 1), seed=st.integers(0, 9))
def test_values_are_exact_in_both_types(outputs, inputs, batch, density, seed):
    weights = draw_weights(outputs, inputs, density, seed)
    generator = torch.Generator().manual_seed(seed)
    x = torch.randint(-9, 10, (batch, inputs), generator=generator).float()
    for dtype in (torch.float32, torch.bfloat16):
        packed = layouts.values_of_weights(weights.to(dtype))
        assert torch.equal(native.linear_from_values(x, *packed, outputs, 2.0, None), x @ weights.t() * 2)
        packed = layouts.places_of_weights(weights.to(dtype))
        assert torch.equal(native.linear_from_places(x, *packed, outputs, 2.0, None), x @ weights.t() * 2)


@needs_native
@pytest.mark.parametrize("operator", OPERATORS)
def test_inputs_of_any_shape_strides_and_type(operator):
    signs, bias = draw_signs(77, 300, 0.4), torch.arange(77.0)
    x = torch.randint(-9, 10, (3, 5, 300)).float()
    call = lambda x, b=bias: getattr(native, operator)(x, *PACK[operator](signs), 77, 0.5, b)  # noqa: E731
    expected = torch.nn.functional.linear(x, signs * 0.5, bias)
    assert torch.equal(call(x), expected)
    assert torch.equal(call(x[0, 0]), expected[0, 0])
    assert torch.equal(call(x.transpose(0, 1)), expected.transpose(0, 1))
    assert torch.equal(call(x[:, :0]), expected[:, :0])
    assert torch.equal(call(x.flip(-1).contiguous().flip(-1)[:, ::2]), expected[:, ::2])
    assert torch.equal(call(x, bias.bfloat16()), expected)
    for dtype in (torch.bfloat16, torch.float16, torch.float64):
        result = call(x.to(dtype))
        assert result.dtype == dtype and torch.equal(result, expected.to(dtype))


@needs_native
@pytest.mark.parametrize("density", [0.05, 0.3])  # few lists are added up for more inputs at once
@pytest.mark.parametrize("operator", OPERATORS)
def test_results_depend_neither_on_threads_nor_on_the_rest_of_the_batch(operator, density):
    signs, x = draw_signs(1000, 1000, density), torch.randn(70, 1000)
    call = lambda x: getattr(native, operator)(x, *PACK[operator](signs), 1000, 0.5, None)  # noqa: E731
    threads = torch.get_num_threads()
    try:
        results = []
        for count in (1, 2, 3, 7):
            torch.set_num_threads(count)
            results.append(call(x))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(results[0], other) for other in results[1:])
    for inputs in (1, 3, 4, 11, 12, 31, 64):
        assert torch.equal(call(x[:inputs]), results[0][:inputs])


@needs_native
def test_wrong_arguments_raise_and_name_themselves():
    signs, x = draw_signs(5, 9, 0.5), torch.ones(2, 9)
    (codes,), (starts, entries) = PACK["linear_from_triples"](signs), PACK["linear_from_lists"](signs)
    masks, firsts, values = PACK["linear_from_values"](signs)
    firsts_of_pairs, codes_of_pairs, order = (part.flatten() for part in PACK["linear_from_pairs"](signs))
    triples, lists, kept = native.linear_from_triples, native.linear_from_lists, native.linear_from_values
    pairs, few = native.linear_from_pairs, native.linear_from_places
    first_few, places, some = PACK["linear_from_places"](signs)
    wrong = [
        ("x must", lambda: triples(x.long(), codes, 5, 1.0, None)),
        ("x must", lambda: triples(torch.ones(()), codes, 5, 1.0, None)),
        ("codes", lambda: triples(x, codes[3:], 5, 1.0, None)),
        ("planes must", lambda: native.linear_from_planes(x, codes, 5, 1.0, None)),
        ("codes", lambda: triples(x, codes.long(), 5, 1.0, None)),
        ("codes", lambda: triples(torch.ones(2, 19), codes, 5, 1.0, None)),
        ("outputs", lambda: triples(x, codes, -1, 1.0, None)),
        ("bias", lambda: triples(x, codes, 5, 1.0, torch.ones(4))),
        ("bias", lambda: triples(x, codes, 5, 1.0, torch.ones(5).int())),
        ("starts must", lambda: lists(x, starts[1:], entries, 5, 1.0, None)),
        ("starts do not fit", lambda: lists(x, starts.flip(0), entries, 5, 1.0, None)),
        ("entries", lambda: lists(x, starts, entries.int(), 5, 1.0, None)),
        ("starts must", lambda: pairs(x, firsts_of_pairs[1:], codes_of_pairs, order, 5, 1.0, None)),
        ("starts do not fit", lambda: pairs(x, -firsts_of_pairs, codes_of_pairs, order, 5, 1.0, None)),
        ("order must", lambda: pairs(x, firsts_of_pairs, codes_of_pairs, order[1:], 5, 1.0, None)),
        ("order must", lambda: pairs(x, firsts_of_pairs, codes_of_pairs, order.int(), 5, 1.0, None)),
        ("places in groups", lambda: pairs(x, firsts_of_pairs, codes_of_pairs, order + 1, 5, 1.0, None)),
        ("places in groups", lambda: pairs(x, firsts_of_pairs, codes_of_pairs, order - 1, 5, 1.0, None)),
        ("masks", lambda: kept(x, masks[1:], firsts, values, 5, 1.0, None)),
        ("starts", lambda: kept(x, masks, firsts.int(), values, 5, 1.0, None)),
        ("values", lambda: kept(x, masks, firsts, values.double(), 5, 1.0, None)),
        ("values", lambda: kept(x, masks, firsts, values[:31], 5, 1.0, None)),
        ("starts must", lambda: few(x, first_few.int(), places, some, 5, 1.0, None)),
        ("starts do not fit", lambda: few(x, first_few + 1, places, some, 5, 1.0, None)),
        ("starts do not fit", lambda: few(x, first_few.flip(0), places, some, 5, 1.0, None)),
        ("places must", lambda: few(x, first_few, places.int(), some, 5, 1.0, None)),
        ("values must", lambda: few(x, first_few, places, some[1:], 5, 1.0, None)),
        ("at most", lambda: few(torch.ones(1, (1 << 15) + 1), first_few, places, some, 5, 1.0, None)),
    ]
    for words, call in wrong:
        with pytest.raises(RuntimeError, match=words):
            call()


@needs_native
def test_damaged_layouts_read_nothing_outside():
    signs, x = draw_signs(5, 200, 0.5), torch.ones(2, 200)
    (codes,), (starts, entries) = PACK["linear_from_triples"](signs), PACK["linear_from_lists"](signs)
    masks, firsts, values = PACK["linear_from_values"](signs)
    (planes,) = PACK["linear_from_planes"](signs)
    native.linear_from_planes(x, torch.full_like(planes, -1), 5, 1.0, None)
    native.linear_from_triples(x, torch.full_like(codes, -1), 5, 1.0, None)
    native.linear_from_lists(x, starts, torch.full_like(entries, 255), 5, 1.0, None)
    starts, entries, order = PACK["linear_from_pairs"](signs)
    native.linear_from_pairs(
        x, starts, torch.full_like(entries, 255), torch.full_like(order, 4), 5, 1.0, None
    )
    firsts_of_few, places, some = PACK["linear_from_places"](signs)
    for place in (-1, 1 << 14):
        native.linear_from_places(x, firsts_of_few, torch.full_like(places, place), some, 5, 1.0, None)
        native.linear_from_places(x[0], firsts_of_few, torch.full_like(places, place), some, 5, 1.0, None)
    for first in (-(1 << 62), 0, 1 << 62):
        damaged = torch.full_like(firsts, first)
        native.linear_from_values(x, torch.full_like(masks, -1), damaged, values, 5, 1.0, None)


@needs_native
@pytest.mark.parametrize("others", [1, 2, 8])
@pytest.mark.parametrize("batch", [1, 2])
def test_places_beyond_the_inputs_find_nothing_of_another_call(others, batch):
    few, starts, ones = native.linear_from_places, torch.tensor([0, 3]), torch.ones(3)
    few(torch.full((others, 1 << 15), 7.0), starts, torch.tensor([0, 1, 2]).short(), ones, 1, 1.0, None)
    places = torch.tensor([0, 10, (1 << 15) - 1]).short()  # of ten inputs
    assert few(torch.ones(batch, 10), starts, places, ones, 1, 1.0, None).tolist() == [[1.0]] * batch


def test_places_name_no_more_inputs_than_they_can():
    weights = torch.zeros(1, layouts.MOST_PLACES)
    weights[0, -1] = 3
    packed = layouts.places_of_weights(weights)
    assert torch.equal(layouts.weights_of_places(*packed, *weights.shape), weights)
    with pytest.raises(ValueError, match="at most 32768 inputs"):
        layouts.places_of_weights(torch.zeros(1, layouts.MOST_PLACES + 1))


@needs_native
@pytest.mark.parametrize("value", [torch.inf, -torch.inf, torch.nan])
@pytest.mark.parametrize("batch", [1, 40])
@pytest.mark.parametrize("operator", OPERATORS)
def test_inputs_that_are_not_finite_reach_the_outputs_that_keep_them(operator, batch, value):
    signs, x = draw_signs(100, 300, 0.3), torch.randn(batch, 300)
    column = torch.arange(batch) * 7
    x[torch.arange(batch), column] = value
    finite = getattr(native, operator)(x, *PACK[operator](signs), 100, 0.5, None).isfinite()
    kept = signs.t()[column] != 0
    assert not finite[kept].any()
    if operator in ("linear_from_lists", "linear_from_pairs", "linear_from_places"):
        assert finite[~kept].all()


@needs_native
@pytest.mark.parametrize("shape", [(3, 40), (2, 0, 40)])
@pytest.mark.parametrize("operator", OPERATORS)
def test_operators_pass_opcheck(operator, shape):
    signs, x = draw_signs(5, 40, 0.5), torch.randn(shape, requires_grad=True)
    bias = torch.randn(5, requires_grad=True)
    torch.library.opcheck(getattr(native, operator), (x, *PACK[operator](signs), 5, 0.5, bias))


# --- layers ------------------------------------------------------------------------------------------


def make_layer(scheme: str, density: float, outputs: int = 77, inputs: int = 300) -> PackedLinear:
    bias = torch.randn(outputs, generator=torch.Generator().manual_seed(1))
    if scheme == "sign":
        return PackedLinear(draw_signs(outputs, inputs, density), 0.1, bias)
    return PackedLinear(draw_weights(outputs, inputs, density) * 0.1, None, bias)


@pytest.mark.parametrize("scheme", ["sign", "normal"])
@pytest.mark.parametrize("density", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("shape", [(300,), (0, 300), (1, 300), (7, 300), (2, 30, 300)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_packed_layer_is_its_dense_layer(scheme, density, shape, dtype):
    layer, x = make_layer(scheme, density), torch.randn(shape).to(dtype)
    signed = draw_signs(77, 300, density) if scheme == "sign" else draw_weights(77, 300, density)
    expected = nn.functional.linear(x.double(), signed.double() * 0.1, layer.bias.double())
    result = layer(x)
    assert result.shape == expected.shape and result.dtype == dtype
    assert torch.allclose(result.double(), expected, atol=1e-4 if dtype == torch.float32 else 0.3, rtol=0.02)
    assert torch.allclose(layer.weight(x).double(), signed.double() * 0.1, rtol=0.005)


@needs_native
@pytest.mark.parametrize("scheme", ["sign", "normal"])
@pytest.mark.parametrize(("instructions", "few"), [("avx512", "triples"), ("avx2", "planes")])
def test_each_number_of_inputs_has_its_operator(scheme, instructions, few, monkeypatch):
    monkeypatch.setattr(linear.ops, "instruction_set", lambda: instructions)
    layer = make_layer(scheme, 0.1, 512, 600)
    names = [layer.kernel(torch.empty(inputs, 600)) for inputs in (1, 4, 5, 64)]
    if scheme == "sign":
        assert names == [f"linear_from_{few}"] * 3 + ["linear_from_pairs"]
    else:
        assert names == ["linear_from_places"] * 4
        halves = torch.bfloat16
        names = [layer.kernel(torch.empty(inputs, 600, dtype=halves)) for inputs in (8, 9)]
        assert names == ["linear_from_places", "dense" if instructions == "avx512" else "linear_from_places"]
        layer = make_layer(scheme, 0.3, 512, 600)
        names = [layer.kernel(torch.empty(inputs, 600)) for inputs in (1, 4, 5, 64)]
        assert names == ["linear_from_values"] * 2 + ["dense"] * 2


@needs_native
@pytest.mark.parametrize("instructions", ["avx512", "avx2"])
def test_lists_serve_layers_from_one_block_of_inputs_on(instructions, monkeypatch):
    monkeypatch.setattr(linear.ops, "instruction_set", lambda: instructions)
    for shape, kind in (((128, 300), "pairs"), ((300, 128), "pairs"), ((127, 300), "triples")):
        layer, x = make_layer("sign", 0.3, *shape), torch.randn(64, shape[1])
        assert layer.kernel(x) == f"linear_from_{kind}"
        dense = nn.functional.linear(x, layer.weight(x), layer.bias)
        assert torch.allclose(layer(x), dense, atol=1e-4)


@needs_native
@pytest.mark.parametrize(("instructions", "few"), [("avx512", "triples"), ("avx2", "planes")])
def test_many_inputs_meet_triples_where_lists_would_be_long(instructions, few, monkeypatch):
    monkeypatch.setattr(linear.ops, "instruction_set", lambda: instructions)
    layer = make_layer("sign", 0.5, 512, 600)
    for dtype in (torch.float32, torch.bfloat16):
        assert layer.kernel(torch.empty(1, 600, dtype=dtype)) == f"linear_from_{few}"
        assert layer.kernel(torch.empty(64, 600, dtype=dtype)) == "linear_from_triples"


@needs_native
@pytest.mark.parametrize("instructions", ["avx512", "avx2"])
def test_a_small_layer_is_packed_for_many_inputs_and_for_those_of_16_bits(instructions, monkeypatch):
    monkeypatch.setattr(linear.ops, "instruction_set", lambda: instructions)
    model = sm.randomize_(nn.Sequential(nn.Linear(300, 100)), seed=1)
    ticket = sm.EdgePopup(model, density=0.3, lr=0.1).ticket()
    layer = pack(model, ticket)[0]
    kinds = {
        (dtype, inputs): layer.kernel(torch.empty(inputs, 300, dtype=dtype))
        for dtype in (torch.float32, torch.bfloat16)
        for inputs in (1, 64)
    }
    assert kinds.pop((torch.float32, 1)) == "dense"
    assert all(kind.startswith("linear_from_") for kind in kinds.values())
    rounding = pack(model, ticket, activations="int8")[0]
    assert type(rounding) is nn.Linear, "rounding gains nothing there"


@needs_native
@pytest.mark.parametrize("scheme", ["sign", "normal"])
def test_tuning_measures_everything_that_may_serve(scheme, monkeypatch):
    measured = []

    def times(candidates, *_, **__):
        for call in candidates.values():
            call()
        measured.append(list(candidates))
        return {name: float(name != "prepacked") for name in candidates}

    monkeypatch.setattr(tuning, "medians", times)
    layer, x = make_layer(scheme, 0.3, 512, 600), torch.randn(64, 600)
    dense = nn.functional.linear(x, layer.weight(x), layer.bias)
    by_rule = layer.kernel(x)
    sm.packed.tune(nn.Sequential(layer), x)
    assert measured == [[*layer.operators, "dense", "prepacked"]], "one layer is its own network"
    assert layer.kernel(x) == "prepacked" and layer.kernel(x[:1]) != "prepacked"
    for inputs in (x, x.view(2, 32, 600), x.t().contiguous().t()):
        assert torch.allclose(layer(inputs).view(64, -1), dense, atol=1e-4)
    for again in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert torch.equal(again(x), layer(x))
    x.requires_grad_()
    assert layer.kernel(x) == by_rule, "a gradient is not asked of oneDNN"
    layer(x).sum().backward()
    assert torch.allclose(x.grad, layer.weight(x).sum(0).expand(64, -1), atol=1e-4)


@pytest.mark.parametrize("density", [0.1, 0.5])
def test_a_state_loads_whatever_instructions_the_other_machine_has(density, monkeypatch):
    x, layers = torch.randn(3, 600), {}
    for instructions in ("avx512", "avx2", "baseline"):
        monkeypatch.setattr(linear.ops, "instruction_set", lambda name=instructions: name)
        layers[instructions] = make_layer("sign", density, 520, 600)
    for one, other in itertools.product(layers.values(), repeat=2):
        loaded = copy.deepcopy(one)
        for buffer in loaded.buffers():
            buffer.zero_()
        loaded.load_state_dict(other.state_dict())
        assert loaded.layout == one.layout
        assert torch.equal(loaded.unpacked(), one.unpacked()) and torch.equal(loaded.bias, one.bias)
        assert torch.allclose(loaded(x), one(x), atol=1e-4)


def test_a_state_of_plain_lists_loads(monkeypatch):
    monkeypatch.setattr(linear.ops, "instruction_set", lambda: "avx512")
    layer = make_layer("sign", 0.1, 520, 600)
    state = layer.state_dict()
    del state["order"]  # as layers were before they took pairs
    state["starts"], state["entries"] = layouts.lists_of_signs(layer.unpacked())
    loaded = PackedLinear(layer.unpacked().flip(1, 0), 0.1, torch.zeros(520))
    loaded.load_state_dict(state)
    assert all(torch.equal(loaded.get_buffer(name), buffer) for name, buffer in layer.named_buffers())


def test_a_state_with_as_many_weights_in_other_places_loads(monkeypatch):
    monkeypatch.setattr(linear.ops, "instruction_set", lambda: "avx512")
    signs = torch.zeros(520, 600, dtype=torch.int8)
    alone, paired = signs.clone(), signs.clone()
    alone[:, 0:100:2], paired[:, :50] = 1, 1
    layer, loaded = PackedLinear(paired, 0.1), PackedLinear(alone, 0.1)
    assert len(layer.entries) < len(loaded.entries)
    loaded.load_state_dict(layer.state_dict())
    assert torch.equal(loaded.unpacked(), paired)
    x = torch.randint(-9, 10, (64, 600)).float()
    assert loaded.kernel(x) == layer.kernel(x) and torch.equal(loaded(x), layer(x))


def test_values_in_half_precision_are_computed_densely():
    layer, x = make_layer("normal", 0.3).half(), torch.randn(2, 300).half()
    assert layer.kernel(x) == "dense"
    assert torch.equal(layer(x), nn.functional.linear(x, layer.weight(x), layer.bias))


@pytest.mark.parametrize("scheme", ["sign", "normal"])
@pytest.mark.parametrize("batch", [(), (2,), (2, 30)])
def test_gradients_reach_the_input_and_the_bias(scheme, batch):
    layer, x = make_layer(scheme, 0.3), torch.randn(*batch, 300, requires_grad=True)
    layer.bias.requires_grad_()
    layer(x).square().sum().backward()
    dense, bias = (t.detach().clone().requires_grad_() for t in (x, layer.bias))
    nn.functional.linear(dense, layer.weight(dense), bias).square().sum().backward()
    assert torch.allclose(x.grad, dense.grad, atol=1e-3)
    assert torch.allclose(layer.bias.grad, bias.grad, atol=1e-3)


@needs_native
@pytest.mark.parametrize("scheme", ["sign", "normal"])
def test_layers_compile_whole(scheme):
    torch.compiler.reset()  # what other tests compiled counts towards the limit of recompilations
    layer, x = make_layer(scheme, 0.3), torch.randn(3, 300)
    compiled = torch.compile(nn.Sequential(layer, nn.ReLU()), fullgraph=True, backend="aot_eager")
    for inputs in (x, x[:1], torch.randn(60, 300)):
        assert torch.equal(compiled(inputs), layer(inputs).relu())
    x.requires_grad_()
    (gradient,) = torch.autograd.grad(compiled(x).sum(), x)
    assert torch.allclose(gradient, torch.autograd.grad(layer(x).relu().sum(), x)[0])


@needs_native
@pytest.mark.parametrize("scheme", ["sign", "normal"])
def test_layers_export_with_a_dynamic_batch(scheme):
    layer = make_layer(scheme, 0.3)
    batch = torch.export.Dim("batch", min=1, max=1000)
    program = torch.export.export(layer, (torch.randn(3, 300),), dynamic_shapes=({0: batch},))
    packed = any("linear_from" in str(node.target) for node in program.graph.nodes)
    assert packed == (ops.instruction_set() != "baseline")  # without vectors the dense product is faster
    for inputs in (1, 3, 100):
        x = torch.randn(inputs, 300)
        assert torch.allclose(program.module()(x), layer(x), atol=1e-4)


@pytest.mark.own_isa
def test_packed_layers_import_no_compiler():
    code = "import sys, supermask.packed; sys.exit('torch._dynamo' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("scheme", ["sign", "normal"])
@pytest.mark.parametrize("features", [1, 299, 301])
def test_inputs_of_another_size_raise(scheme, features):
    with pytest.raises((ValueError, RuntimeError), match=r"x must have 300 features|cannot be multiplied"):
        make_layer(scheme, 0.5)(torch.ones(1, features))


def test_wrong_weights_raise():
    signs = draw_signs(4, 4, 0.5)
    for weights, scale, words in (
        (signs[0], 1.0, "must have 2 dimensions"),
        (signs * 2, 1.0, "-1, 0 or"),
        (signs.float(), 1.0, "int8"),
        (signs, None, "floats"),
    ):
        with pytest.raises(ValueError, match=words):
            PackedLinear(weights, scale)


# --- networks ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("init", sm.weights.init.INITS)
def test_a_packed_network_computes_what_its_ticket_does(init, monkeypatch):
    monkeypatch.setattr(linear, "SMALLEST_VALUES", linear.SMALLEST_SIGNS)
    model = nn.Sequential(nn.Flatten(), nn.Linear(256, 300), nn.ReLU(), nn.Linear(300, 3, bias=False))
    sm.randomize_(model, init, seed=4)
    ticket = sm.EdgePopup(model, density=0.3, lr=0.1).ticket()
    packed = pack(model, ticket)
    assert [type(m) for m in packed.modules()].count(PackedLinear) == 1, "the small layer stays dense"
    assert type(model[1]) is nn.Linear, "the given network stays as it is"
    for batch in (1, 40):
        x = torch.randn(batch, 16, 16)
        assert torch.allclose(packed(x), model(x), atol=1e-4)
    again = pack(model, ticket)
    again.load_state_dict(packed.state_dict())


@pytest.mark.parametrize(
    ("init", "size", "density"),
    [("signed_constant", 127, 0.3), ("kaiming_normal", 2047, 0.3), ("kaiming_normal", 2048, 0.7)],
)
def test_layers_that_packing_would_slow_down_stay_dense(init, size, density):
    model = sm.randomize_(nn.Sequential(nn.Linear(size, size)), init)
    ticket = sm.EdgePopup(model, density=density, lr=0.1).ticket()
    assert not any(isinstance(m, PackedLinear) for m in pack(model, ticket).modules())


def test_a_tied_weight_stays_dense():
    model = nn.Sequential(nn.Linear(256, 256), nn.Linear(256, 256))
    model[1].weight = model[0].weight
    sm.randomize_(model)
    ticket = sm.EdgePopup(model, density=0.5, lr=0.1).ticket()
    assert not any(isinstance(m, PackedLinear) for m in pack(model, ticket).modules())
