"""What holds for packed layers of every kind, in sizes that take every layout.

Inputs and weights are small integers or halves of them, so that every order of the sums is exact.
"""

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from supermask import ops
from supermask.export import ExportError, write_onnx, write_program
from supermask.packed import PackedConv1d, PackedConv2d, PackedLinear, linear, placement

needs_native = pytest.mark.skipif(
    not ops.is_native("linear_from_triples", torch.device("cpu")),
    reason="no compiled library; `make setup` builds it",
)


def draw(*shape: int, density: float = 0.3, seed: int = 0) -> Tensor:
    """-1, 0 and +1."""
    generator = torch.Generator().manual_seed(seed)
    signs = torch.randint(0, 2, shape, generator=generator) * 2 - 1
    return (signs * (torch.rand(shape, generator=generator) < density)).to(torch.int8)


def halves(*shape: int, density: float = 0.3) -> Tensor:
    """Multiples of 1/2."""
    generator = torch.Generator().manual_seed(1)
    return draw(*shape, density=density) * torch.randint(1, 9, shape, generator=generator) / 2


LAYERS = {
    "triples": lambda bias: PackedLinear(draw(140, 300, density=0.6), 0.5, bias),
    "pairs": lambda bias: PackedLinear(draw(140, 300), 0.5, bias),
    "values": lambda bias: PackedLinear(halves(140, 300), None, bias),
    "places": lambda bias: PackedLinear(halves(140, 300, density=0.1), None, bias),
    "int8": lambda bias: PackedLinear(draw(140, 300), 0.5, bias, "int8"),
    "conv": lambda bias: PackedConv2d(draw(140, 8, 3, 3), 0.5, bias, padding=1),
    "conv of values": lambda bias: PackedConv2d(halves(140, 8, 3, 3, density=0.1), None, bias, stride=2),
    "conv of signals": lambda bias: PackedConv1d(draw(140, 8, 3), 0.5, bias, padding=2),
}
"""Name → a layer of 140 outputs, given its bias or None."""
BATCHES = (1, 3, 40)


def bias_of(seed: int = 2) -> Tensor:
    return torch.randint(-9, 10, (140,), generator=torch.Generator().manual_seed(seed)).float()


def input_of(layer: nn.Module, batch: int) -> Tensor:
    linear = isinstance(layer, PackedLinear)
    shape = (layer.in_features,) if linear else (layer.in_channels, *(9,) * layer.dimensions)
    x = torch.randint(-9, 10, (batch, *shape), generator=torch.Generator().manual_seed(batch)).float()
    x[..., 0] = 127  # rows that are rounded to int8 by a scale of 1
    return x


def dense(layer: nn.Module, x: Tensor, bias: Tensor | None) -> Tensor:
    """What the layer computes, by torch in float64."""
    weight = layer.unpacked().double() * (layer.scale or 1.0)
    x, bias = x.double(), None if bias is None else bias.double()
    if isinstance(layer, PackedLinear):
        return F.linear(x, weight, bias)
    convolve = F.conv1d if layer.dimensions == 1 else F.conv2d
    return convolve(x, weight, bias, layer.stride, layer.margins[::2])


@pytest.fixture
def place(monkeypatch):
    """place(layer, on_gpu): the layer with the layout of a device, on the CPU."""

    def place(layer: nn.Module, on_gpu: bool) -> nn.Module:
        monkeypatch.setattr(placement, "is_on_gpu", lambda tensor: on_gpu)
        return layer.to("cpu")

    return place


# --- biases that are assigned ------------------------------------------------------------------------


@pytest.mark.parametrize("on_gpu", [False, True])
@pytest.mark.parametrize("held", [True, False])
@pytest.mark.parametrize("name", LAYERS)
def test_a_bias_that_is_assigned_serves(name, held, on_gpu, place):
    layer = place(LAYERS[name](bias_of() if held else None), on_gpu)
    for new in (bias_of(3), None, nn.Parameter(bias_of(4))):
        layer.bias = new
        for batch in BATCHES:
            x = input_of(layer, batch)
            assert torch.equal(layer(x).double(), dense(layer, x, new))
    assert dict(layer.named_parameters()).keys() == {"bias"}
    assert layer.nbytes == sum(tensor.nbytes for tensor in layer.state_dict().values())
    assert layer.state_dict().keys() == {*layer.layout, "bias"}
    with pytest.raises(TypeError, match="cannot assign"):  # torch's words, as for nn.Linear
        layer.bias = bias_of()


@pytest.mark.parametrize("name", LAYERS)
def test_a_bias_that_is_a_parameter_is_copied_loaded_and_converted(name):
    layer, twin = LAYERS[name](None), LAYERS[name](bias_of(5))
    layer.bias = nn.Parameter(bias_of())
    twin.load_state_dict(layer.state_dict())
    x = input_of(layer, 40)
    for other in (copy.deepcopy(layer), twin):
        assert torch.equal(other(x), layer(x)) and torch.equal(other.bias, layer.bias)
    found = copy.deepcopy(layer).bfloat16()(x.bfloat16())
    assert torch.allclose(found.double(), dense(layer, x.bfloat16(), layer.bias), rtol=0.01)


@pytest.mark.parametrize("on_gpu", [False, True])
@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("name", LAYERS)
def test_a_bias_that_is_a_parameter_trains_without_a_gradient_of_the_input(name, batch, on_gpu, place):
    layer = place(LAYERS[name](None), on_gpu)
    layer.bias = nn.Parameter(bias_of())
    x, expected = input_of(layer, batch), bias_of().double().requires_grad_()
    (dense(layer, x, expected) * 2).sum().backward()
    (layer(x) * 2).sum().backward()
    assert torch.equal(layer.bias.grad.double(), expected.grad)
    with torch.no_grad():
        assert not layer(x).requires_grad


# --- states ------------------------------------------------------------------------------------------

MISFITS = {
    "parts of the layout are missing": (
        lambda state, layout: [state.pop(name) for name in {layout[0], layout[-1]}],
        "{last} is not in the state",
    ),
    "the bias is missing": (lambda state, layout: state.pop("bias"), "bias is not in the state"),
    "the bias has another size": (
        lambda state, layout: state.update(bias=torch.zeros(139)),
        "bias has the shape (139,), not (140,)",
    ),
    "the layout has more dimensions": (
        lambda state, layout: state.update({name: state[name].unsqueeze(0) for name in layout}),
        "{last} has the shape (1, ",
    ),
    "the bias is no tensor": (
        lambda state, layout: state.update(bias=[1.0] * 140),
        "bias is a list, not a tensor",
    ),
    "something else is there": (
        lambda state, layout: state.update(other=torch.zeros(3)),
        "other is in the state alone",
    ),
}
"""Name → what makes a state not fit, given a layer's layout, and what is said of it."""


def check_refused(layer: nn.Module, state: dict[str, object], said: str) -> None:
    """The error says so, alone and in a network, strict or not, and the layer stays what it was."""
    before = {name: tensor.clone() for name, tensor in layer.state_dict().items()}
    x = input_of(layer, 3)
    result = layer(x)
    within = {f"0.{name}": value for name, value in state.items()}
    for strict in (True, False):
        for target, given, where in ((layer, state, ""), (nn.Sequential(layer), within, "0.")):
            with pytest.raises(RuntimeError, match=r"loaded whole or not at all, but .*Remedy: ") as error:
                target.load_state_dict(given, strict=strict)
            assert where + said in str(error.value)
    after = layer.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())
    assert torch.equal(layer(x), result)


@pytest.mark.parametrize("on_gpu", [False, True])
@pytest.mark.parametrize("misfit", MISFITS)
@pytest.mark.parametrize("name", LAYERS)
def test_a_state_that_does_not_fit_changes_nothing(name, misfit, on_gpu, place):
    layer, other = LAYERS[name](bias_of()), LAYERS[name](bias_of(3))
    for one in (layer, other):
        place(one, on_gpu)
    changed = {key: tensor.flip(0) for key, tensor in other.state_dict().items()}
    change, said = MISFITS[misfit]
    change(changed, layer.layout)
    check_refused(layer, changed, said.format(last=layer.layout[-1]))


OTHER_NUMBERS = {
    "values": PackedLinear(halves(140, 300, density=0.4), None, bias_of(3)),
    "places": PackedLinear(halves(140, 300, density=0.09), None, bias_of(3)),
    "conv": PackedConv2d(draw(140, 8, 3, 3, density=0.2), 0.5, bias_of(3), padding=1),
    "conv of values": PackedConv2d(halves(140, 8, 3, 3, density=0.2), None, bias_of(3), stride=2),
    "conv of signals": PackedConv1d(draw(140, 8, 3, density=0.2), 0.5, bias_of(3), padding=2),
}


@pytest.mark.parametrize("name", OTHER_NUMBERS)
def test_a_state_of_another_number_of_weights_changes_nothing(name):
    state = OTHER_NUMBERS[name].state_dict()
    last = list(state)[-1 if "bias" not in list(state)[-1] else -2]
    check_refused(LAYERS[name](bias_of()), state, f"{last} has the shape ({len(state[last])},), not (")


@pytest.mark.parametrize("name", ["triples", "pairs", "int8"])
def test_a_state_of_another_number_of_signs_loads(name):
    other = draw(140, 300, density=0.25 if name == "pairs" else 0.7, seed=3)
    state = PackedLinear(other, 0.5, bias_of(3), "int8" if name == "int8" else None).state_dict()
    layer = LAYERS[name](bias_of())
    layer.load_state_dict(state)
    assert torch.equal(layer.unpacked(), other)
    for batch in BATCHES:
        x = input_of(layer, batch)
        assert torch.equal(layer(x).double(), F.linear(x.double(), other.double() * 0.5, bias_of(3).double()))


@pytest.mark.parametrize("name", ["triples", "pairs", "values", "places", "int8"])
@pytest.mark.parametrize("shape", [(141, 300), (140, 700), (140, 150)])
@pytest.mark.parametrize("instructions", ["avx512", "avx2", "baseline"])
def test_a_state_of_another_size_and_machine_changes_nothing(name, shape, instructions, monkeypatch):
    layer = LAYERS[name](bias_of())
    monkeypatch.setattr(linear.ops, "instruction_set", lambda: instructions)
    weights = halves(*shape, density=0.35) if name in ("values", "places") else draw(*shape)
    scale = None if name in ("values", "places") else 0.5
    other = PackedLinear(weights, scale, torch.ones(shape[0]), layer.activations)
    state = other.state_dict()
    monkeypatch.undo()
    check_refused(layer, state, "")


def test_a_state_without_the_layer_leaves_it_and_loads_the_rest():
    network = nn.Sequential(LAYERS["places"](bias_of()), nn.Linear(140, 2))
    x, weight = input_of(network[0], 3), torch.ones(2, 140)
    before = network[0](x)
    found = network.load_state_dict({"1.weight": weight}, strict=False)
    assert found.missing_keys == [f"0.{name}" for name in network[0].state_dict()] + ["1.bias"]
    assert torch.equal(network[0](x), before) and torch.equal(network[1].weight, weight)


# --- compiled, exported and differentiated -----------------------------------------------------------

SERVED = {
    "triples": "linear_from_triples",
    "pairs": "linear_from_pairs",
    "values": "linear_from_values",
    "places": "linear_from_places",
    "int8": "linear_int8",
}
"""Name of a linear layer → the operator that serves some of its batches where vectors do."""


@needs_native
@pytest.mark.parametrize("name", SERVED)
def test_these_sizes_take_the_layouts_that_they_are_named_after(name):
    layer = LAYERS[name](None)
    kernels = {layer.kernel(input_of(layer, batch)) for batch in BATCHES}
    assert SERVED[name] in kernels or ops.instruction_set() == "baseline"


@needs_native
@pytest.mark.parametrize("trains", [False, True])
@pytest.mark.parametrize("name", ["pairs", "places", "int8"])  # the others are in test_packed*.py
def test_layers_compile_whole(name, trains):
    torch.compiler.reset()  # what other tests compiled counts towards the limit of recompilations
    layer = LAYERS[name](bias_of())
    if trains:
        layer.bias = nn.Parameter(bias_of())
    compiled = torch.compile(nn.Sequential(layer, nn.ReLU()), fullgraph=True, backend="aot_eager")
    for batch in (1, 40):
        x = input_of(layer, batch)
        assert torch.equal(compiled(x).double(), dense(layer, x, bias_of()).relu())
        gradients = gradients_of(compiled, layer, x)
        assert all(map(torch.equal, gradients, gradients_of(lambda x: layer(x).relu(), layer, x)))


def gradients_of(call, layer: nn.Module, x: Tensor) -> tuple[Tensor, ...]:
    """Those of a sum of outputs, to the input and to a bias that trains."""
    x = x.clone().requires_grad_()
    return torch.autograd.grad(call(x).sum(), (x, layer.bias) if layer.bias.requires_grad else (x,))


@needs_native
@pytest.mark.parametrize("trains", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("batch", [0, *BATCHES])
@pytest.mark.parametrize("name", LAYERS)
def test_gradients_are_those_of_the_dense_layer(name, batch, dtype, trains):
    layer = LAYERS[name](bias_of())
    if trains:
        layer.bias = nn.Parameter(bias_of())
    x = input_of(layer, batch).to(dtype).requires_grad_()
    layer(x).backward(factor := torch.randint(-3, 4, layer(x).shape).to(dtype))
    double, bias = x.detach().double().requires_grad_(), bias_of().double().requires_grad_()
    dense(layer, double, bias).backward(factor.double())
    rounds = {"rtol": 0.02, "atol": 0.02 * float(double.grad.abs().max()) if batch else 0.0}
    close = torch.equal if dtype == torch.float32 else lambda a, b: torch.allclose(a, b, **rounds)
    assert close(x.grad.double(), double.grad) and x.grad.dtype == dtype
    if trains:
        assert close(layer.bias.grad.double(), bias.grad) and layer.bias.grad.dtype == torch.float32


@needs_native
@pytest.mark.parametrize("trains", [False, True])
@pytest.mark.parametrize("name", LAYERS)
def test_layers_export_with_a_batch_of_any_size(name, trains, tmp_path):
    layer = LAYERS[name](bias_of()).eval()
    if trains:
        layer.bias = nn.Parameter(bias_of())
    path = write_program(layer, tmp_path / "a.pt2", input_of(layer, 2))
    program = torch.export.load(path)
    targets = {str(node.target).removeprefix("supermask.") for node in program.graph.nodes}
    if name in SERVED:  # one program for all batches has the operator for one input
        vectors = ops.instruction_set() != "baseline" or name == "int8"
        held = {f"{layer.operators[0]}.default"} if vectors else set()
        assert targets & {f"{operator}.default" for operator in linear.LAYOUTS} == held
    for batch in BATCHES:
        x = input_of(layer, batch)
        assert torch.equal(program.module()(x).double(), dense(layer, x, bias_of()))


@pytest.mark.parametrize("name", LAYERS)
def test_onnx_has_no_packed_layers_and_says_so(name, tmp_path):
    layer = LAYERS[name](bias_of())
    said = r"no operators for packed layers \(0\); write the network that sm\.pack was given"
    with pytest.raises(ExportError, match=said):
        write_onnx(nn.Sequential(layer), tmp_path / "a.onnx", input_of(layer, 2))
    assert not list(tmp_path.iterdir())
