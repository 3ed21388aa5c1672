"""Linear layers over inputs rounded to int8: rounding, exact sums, and what packing makes of a network."""

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import supermask as sm
from supermask import ops
from supermask.ops import layouts, references
from supermask.packed import PackedLinear, pack

needs_native = pytest.mark.skipif(
    not ops.is_native("linear_int8", torch.device("cpu")),
    reason="no compiled library; `make setup` builds it",
)
native = torch.ops.supermask.linear_int8
reference = references.KERNELS["linear_int8"]
sizes = st.one_of(st.integers(1, 80), st.sampled_from([127, 128, 129, 255, 256, 257, 300, 1025]))


def draw_signs(outputs: int, inputs: int, density: float, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    signs = torch.randint(0, 2, (outputs, inputs), generator=generator) * 2 - 1
    return (signs * (torch.rand(outputs, inputs, generator=generator) < density)).to(torch.int8)


def by_numpy(x: Tensor, signs: Tensor, scale: float, bias: Tensor | None) -> np.ndarray:
    """The definition, with sums of 64-bit integers."""
    rows = x.detach().float().numpy().reshape(-1, x.shape[-1])
    steps = np.abs(rows).max(axis=1, keepdims=True) / np.float32(127)
    integers = np.clip(np.rint(rows / np.where(steps > 0, steps, 1)), -127, 127).astype(np.int64)
    integers = np.where(steps > 0, integers, 0)
    sums = integers @ signs.numpy().astype(np.int64).T
    values = sums.astype(np.float32) * (steps * np.float32(scale))
    return values if bias is None else values + bias.numpy()


def same_bits(a: Tensor, b: Tensor) -> bool:
    integer = {2: torch.int16, 4: torch.int32, 8: torch.int64}[a.element_size()]
    return a.shape == b.shape and torch.equal(a.contiguous().view(integer), b.contiguous().view(integer))


@needs_native
@settings(max_examples=80, deadline=None)
@given(
    outputs=sizes,
    inputs=sizes,
    batch=st.sampled_from([0, 1, 2, 3, 4, 5, 8, 17]),
    density=st.sampled_from([0.0, 0.1, 0.5, 1.0]),
    bias=st.booleans(),
    power=st.sampled_from([-140, -30, 0, 30, 120]),
    seed=st.integers(0, 9),
)
@example(outputs=2, inputs=1, batch=2, density=0.0, bias=False, power=-140, seed=0)  # sums without a sign
def test_kernel_reference_and_numpy_agree_in_every_bit(outputs, inputs, batch, density, bias, power, seed):
    signs = draw_signs(outputs, inputs, density, seed)
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(batch, inputs, generator=generator) * 2.0**power
    b = torch.randn(outputs, generator=generator) if bias else None
    arguments = (x, layouts.fields_of_signs(signs), outputs, 0.37, b)
    result = native(*arguments)
    assert same_bits(result, reference(*arguments))
    assert np.array_equal(result.numpy(), by_numpy(x, signs, 0.37, b))


@needs_native
@pytest.mark.parametrize("inputs", [64, 250, 4096, 20000])
def test_sums_do_not_saturate(inputs):
    for signs in (torch.ones(70, inputs, dtype=torch.int8), -torch.ones(70, inputs, dtype=torch.int8)):
        for x in (torch.ones(5, inputs), -torch.ones(5, inputs), (torch.arange(inputs) // 128 % 2 * 2 - 1.0)):
            result = native(x, layouts.fields_of_signs(signs), 70, 127.0, None)
            exact = (x.double() @ signs.double().t()) * 127
            assert torch.allclose(result.double(), exact, rtol=1e-6, atol=0)


@needs_native
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_inputs_of_any_shape_strides_and_type(dtype):
    signs, bias = draw_signs(77, 300, 0.4), torch.randn(77)
    x = torch.randn(3, 5, 300, generator=torch.Generator().manual_seed(1)).to(dtype)
    fields = layouts.fields_of_signs(signs)
    for inputs in (x, x[0, 0], x.transpose(0, 1), x[:, :0], x.flip(-1)[:, ::2], x[..., None].squeeze(-1)):
        result, expected = (call(inputs, fields, 77, 0.5, bias) for call in (native, reference))
        assert result.dtype == dtype and same_bits(result, expected)


@needs_native
def test_ties_go_to_the_even_integer():
    x = torch.tensor([[127.0, 0.5, 1.5, 2.5, -0.5, -1.5, -2.5, 126.5]])
    result = native(x, layouts.fields_of_signs(torch.eye(8, dtype=torch.int8)), 8, 1.0, None)
    assert result.tolist() == [[127, 0, 2, 2, 0, -2, -2, 126]]


@needs_native
@pytest.mark.parametrize("bad", [float("inf"), float("-inf"), float("nan")])
def test_a_row_that_is_not_finite_is_lost_alone(bad):
    signs, x = draw_signs(20, 40, 0.5), torch.randn(6, 40)
    fields, clean = layouts.fields_of_signs(signs), native(x, layouts.fields_of_signs(signs), 20, 1.0, None)
    x[2, 39] = bad
    for call in (native, reference):
        result = call(x, fields, 20, 1.0, None)
        assert result[2].isnan().all()
        assert torch.equal(result[[0, 1, 3, 4, 5]], clean[[0, 1, 3, 4, 5]])


@needs_native
def test_the_error_is_what_rounding_may_cost():
    signs, x = draw_signs(64, 1000, 0.5), torch.randn(9, 1000)
    result = native(x, layouts.fields_of_signs(signs), 64, 1.0, None)
    exact = x.double() @ signs.double().t()
    bound = x.abs().amax(dim=1, keepdim=True).double() / 254 * signs.double().abs().sum(dim=1)
    assert ((result - exact).abs() <= bound * 1.001).all()


@needs_native
def test_results_do_not_depend_on_threads():
    signs, x = draw_signs(1000, 1000, 0.3), torch.randn(70, 1000)
    threads, fields, results = torch.get_num_threads(), layouts.fields_of_signs(signs), []
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            results.append(native(x, fields, 1000, 0.5, None))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(results[0], results[1]) and torch.equal(results[0], results[2])
    assert torch.equal(native(x[:3], fields, 1000, 0.5, None), results[0][:3])


@needs_native
def test_wrong_arguments_raise_and_damaged_fields_read_nothing_outside():
    fields, x = layouts.fields_of_signs(draw_signs(5, 200, 0.5)), torch.ones(2, 200)
    for damaged in (fields[3:], fields.int(), torch.cat([fields, fields])[::2]):
        with pytest.raises(RuntimeError, match="fields must be"):
            native(x, damaged, 5, 1.0, None)
    with pytest.raises(RuntimeError, match="x must"):
        native(x.long(), fields, 5, 1.0, None)
    native(x, torch.full_like(fields, 255), 5, 1.0, None)


@needs_native
@pytest.mark.parametrize("shape", [(3, 40), (2, 0, 40)])
def test_the_operator_passes_opcheck(shape):
    x, bias = torch.randn(shape, requires_grad=True), torch.randn(5, requires_grad=True)
    torch.library.opcheck(native, (x, layouts.fields_of_signs(draw_signs(5, 40, 0.5)), 5, 0.5, bias))


# --- layers and networks -----------------------------------------------------------------------------


def test_a_layer_takes_two_bits_a_weight_and_rounds_every_batch():
    signs = draw_signs(77, 300, 0.4)
    layer = PackedLinear(signs, 0.1, torch.randn(77), activations="int8")
    assert sum(buffer.nbytes for name, buffer in layer.named_buffers() if name != "bias") == 80 * 304 / 4
    assert "int8" in repr(layer)
    for batch in (1, 70):
        x = torch.randn(batch, 300)
        expected = layer.bias + ops.as_int8(x) @ (signs * 0.1).t()
        assert torch.allclose(layer(x), expected, atol=1e-4)
        assert not torch.equal(layer(x), PackedLinear(signs, 0.1, layer.bias)(x))
    again = PackedLinear(signs.neg(), 0.1, torch.zeros(77), activations="int8")
    again.load_state_dict(layer.state_dict())
    assert torch.equal(again(x), layer(x))


def test_gradients_are_those_of_the_layer_that_does_not_round():
    signs, x = draw_signs(77, 300, 0.4), torch.randn(3, 300, requires_grad=True)
    layer = PackedLinear(signs, 0.1, torch.randn(77).requires_grad_(), activations="int8")
    (gradient,) = torch.autograd.grad(layer(x).sum(), x)
    assert torch.allclose(gradient, (signs * 0.1).sum(0).expand(3, -1), atol=1e-5)
    (gradient,) = torch.autograd.grad(ops.as_int8(x).square().sum(), x)
    assert torch.allclose(gradient, 2 * ops.as_int8(x).detach())


@needs_native
def test_layers_compile_and_export_whole():
    torch.compiler.reset()  # what other tests compiled counts towards the limit of recompilations
    layer = PackedLinear(draw_signs(77, 300, 0.4), 0.1, activations="int8")
    compiled = torch.compile(nn.Sequential(layer, nn.ReLU()), fullgraph=True, backend="aot_eager")
    batch = torch.export.Dim("batch", min=1, max=1000)
    program = torch.export.export(layer, (torch.randn(3, 300),), dynamic_shapes=({0: batch},))
    for x in (torch.randn(1, 300), torch.randn(60, 300)):
        assert torch.equal(compiled(x), layer(x).relu())
        assert torch.equal(program.module()(x), layer(x))


def test_a_network_packed_with_int8_activations_stays_near_its_ticket():
    model = nn.Sequential(
        nn.Flatten(), nn.Linear(256, 300), nn.ReLU(), nn.Linear(300, 300), nn.Linear(300, 3)
    )
    sm.randomize_(model, "signed_constant", seed=4)
    ticket = sm.EdgePopup(model, density=0.3, lr=0.1).ticket()
    packed = pack(model, ticket, activations="int8")
    assert [layer.activations for layer in packed.modules() if isinstance(layer, PackedLinear)] == [
        "int8"
    ] * 2
    x = torch.randn(40, 16, 16)
    difference = (packed(x) - model(x)).abs().max() / model(x).abs().max()
    assert 0 < difference < 0.05


def test_convolutions_and_other_weights_take_their_inputs_as_they_come():
    model = nn.Sequential(nn.Conv2d(16, 32, 3), nn.Flatten(), nn.Linear(32 * 36, 300))
    for init in ("signed_constant", "kaiming_normal"):
        sm.randomize_(model, init, seed=4)
        ticket = sm.EdgePopup(model, density=0.3, lr=0.1).ticket()
        packed = pack(model[:2], sm.EdgePopup(model[:2], density=0.3, lr=0.1).ticket(), activations="int8")
        x = torch.randn(2, 16, 8, 8)
        assert torch.allclose(packed(x), model[:2](x), atol=1e-4)
        linear = pack(model, ticket, activations="int8")[2]
        assert isinstance(linear, PackedLinear) == (init == "signed_constant")


def test_what_cannot_be_rounded_to_is_refused():
    model = sm.randomize_(nn.Sequential(nn.Linear(256, 300)), "signed_constant")
    ticket = sm.EdgePopup(model, density=0.3, lr=0.1).ticket()
    with pytest.raises(ValueError, match="None or 'int8', not 'int4'"):
        pack(model, ticket, activations="int4")
    with pytest.raises(ValueError, match="needs weights -1, 0 and \\+1"):
        PackedLinear(torch.randn(4, 4), activations="int8")
