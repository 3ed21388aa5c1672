"""What holds for packed layers of every kind, in sizes that take every layout.

Inputs and weights are small integers or halves of them, so that every order of the sums is exact.
"""

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from supermask.packed import PackedConv1d, PackedConv2d, PackedLinear, placement


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
