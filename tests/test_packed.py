"""Layers that compute from packed masks: the same function as the dense ones, from fewer bits."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import supermask as sm
from supermask import layouts, ops, references
from supermask.packed import PackedLinear, pack

needs_native = pytest.mark.skipif(
    not ops.is_native("linear_from_bits", torch.device("cpu")),
    reason="no compiled library; `make setup` builds it",
)
native = torch.ops.supermask


def draw_signs(outputs: int, inputs: int, density: float, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    signs = torch.randint(0, 2, (outputs, inputs), generator=generator) * 2 - 1
    return (signs * (torch.rand(outputs, inputs, generator=generator) < density)).to(torch.int8)


sizes = st.one_of(st.integers(1, 70), st.sampled_from([127, 128, 129, 300]))


@settings(max_examples=60, deadline=None)
@given(outputs=sizes, inputs=sizes, density=st.floats(0, 1), seed=st.integers(0, 9))
def test_layouts_hold_every_sign(outputs, inputs, density, seed):
    signs = draw_signs(outputs, inputs, density, seed)
    assert torch.equal(layouts.signs_of_bits(layouts.bits_of_signs(signs), outputs, inputs), signs)
    assert torch.equal(layouts.signs_of_lists(*layouts.lists_of_signs(signs), outputs, inputs), signs)


@needs_native
@settings(max_examples=80, deadline=None)
@given(
    outputs=sizes,
    inputs=sizes,
    batch=st.sampled_from([0, 1, 2, 3, 4, 5, 8, 15, 16, 17, 32, 33, 64, 65, 130]),
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
    planes, lists = layouts.bits_of_signs(signs), layouts.lists_of_signs(signs)
    assert torch.equal(native.linear_from_bits(x, planes, outputs, 0.5, b), expected)
    assert torch.equal(native.linear_from_lists(x, *lists, outputs, 0.5, b), expected)
    assert torch.equal(references.KERNELS["linear_from_bits"](x, planes, outputs, 0.5, b), expected)
    assert torch.equal(references.KERNELS["linear_from_lists"](x, *lists, outputs, 0.5, b), expected)


@pytest.mark.parametrize("density", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("shape", [(300,), (1, 300), (7, 300), (2, 30, 300)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_packed_layer_is_its_dense_layer(density, shape, dtype):
    signs, bias = draw_signs(77, 300, density), torch.randn(77)
    layer, x = PackedLinear(signs, 0.1, bias), torch.randn(shape).to(dtype)
    expected = nn.functional.linear(x.double(), signs.double() * 0.1, bias.double())
    result = layer(x)
    assert result.shape == expected.shape and result.dtype == dtype
    assert torch.allclose(result.double(), expected, atol=1e-5 if dtype == torch.float32 else 0.05, rtol=0.02)


@pytest.mark.parametrize("batch", [2, 30])
def test_gradients_reach_the_input(batch):
    layer, x = PackedLinear(draw_signs(20, 40, 0.3), 0.5), torch.randn(batch, 40, requires_grad=True)
    layer(x).square().sum().backward()
    dense = x.detach().clone().requires_grad_()
    nn.functional.linear(dense, layer.weight(dense)).square().sum().backward()
    assert torch.allclose(x.grad, dense.grad, atol=1e-4)


def test_a_packed_network_computes_what_its_ticket_does():
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 50), nn.ReLU(), nn.Linear(50, 3, bias=False))
    sm.randomize_(model, seed=4)
    ticket = sm.EdgePopup(model, density=0.3, lr=0.1).ticket()
    packed = pack(model, ticket)
    assert [type(m) for m in packed.modules()].count(PackedLinear) == 2
    assert type(model[1]) is nn.Linear, "the given network stays as it is"
    for batch in (1, 40):
        x = torch.randn(batch, 8, 8)
        assert torch.allclose(packed(x), model(x), atol=1e-5)
    again = pack(model, ticket)
    again.load_state_dict(packed.state_dict())


def test_weights_that_are_no_signed_constant_stay_dense():
    model = sm.randomize_(nn.Sequential(nn.Linear(8, 6), nn.Linear(6, 2)), init="kaiming_normal")
    ticket = sm.EdgePopup(model, density=0.5, lr=0.1).ticket()
    assert not any(isinstance(m, PackedLinear) for m in pack(model, ticket).modules())


def test_a_tied_weight_stays_dense():
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
    model[1].weight = model[0].weight
    sm.randomize_(model)
    ticket = sm.EdgePopup(model, density=0.5, lr=0.1).ticket()
    assert not any(isinstance(m, PackedLinear) for m in pack(model, ticket).modules())


@needs_native
def test_wrong_arguments_raise_and_name_themselves():
    signs, x = draw_signs(5, 9, 0.5), torch.ones(2, 9)
    planes, (starts, entries) = layouts.bits_of_signs(signs), layouts.lists_of_signs(signs)
    wrong = {
        "x": lambda: native.linear_from_bits(x.double(), planes, 5, 1.0, None),
        "planes": lambda: native.linear_from_bits(x, planes[..., :3], 5, 1.0, None),
        "outputs": lambda: native.linear_from_bits(x, planes, -1, 1.0, None),
        "bias": lambda: native.linear_from_bits(x, planes, 5, 1.0, torch.ones(4)),
        "starts": lambda: native.linear_from_lists(x, starts[1:], entries, 5, 1.0, None),
        "starts do not fit": lambda: native.linear_from_lists(x, starts.flip(0), entries, 5, 1.0, None),
        "entries": lambda: native.linear_from_lists(x, starts, entries.int(), 5, 1.0, None),
    }
    for argument, call in wrong.items():
        with pytest.raises(RuntimeError, match=argument):
            call()
    # Entries beyond their block read zeros and never beyond the buffer.
    native.linear_from_lists(x, starts, torch.full_like(entries, 255), 5, 1.0, None)


@needs_native
@pytest.mark.parametrize("name", ["linear_from_bits", "linear_from_lists"])
def test_operators_pass_opcheck(name):
    signs, x = draw_signs(5, 40, 0.5), torch.randn(3, 40, requires_grad=True)
    layout = (layouts.bits_of_signs(signs),) if name.endswith("bits") else layouts.lists_of_signs(signs)
    torch.library.opcheck(getattr(native, name), (x, *layout, 5, 0.5, torch.randn(5)))
