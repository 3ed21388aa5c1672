"""Packed layers that move between devices. There need not be a GPU: what is one is asked in one place.

The references serve the GPU's operators on a CPU, so that what is computed there can be compared, too.
"""

import copy

import pytest
import torch
from torch import Tensor, nn

from supermask.packed import PackedConv1d, PackedConv2d, PackedLinear, cuda, placement
from supermask.packed.cuda import CODES_UP_TO, DECODE_FROM, SPARSE_FROM, CodedLinear, DenseLinear


def draw_signs(*shape: int, density: float = 0.3) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    signs = torch.randint(0, 2, shape, generator=generator) * 2 - 1
    return (signs * (torch.rand(shape, generator=generator) < density)).to(torch.int8)


def draw_weights(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1)) * draw_signs(*shape)


LAYERS = {
    "linear, lists too": lambda: PackedLinear(draw_signs(512, 600), 0.25, torch.randn(512)),
    "linear": lambda: PackedLinear(draw_signs(70, 90, density=0.6), 0.25),
    "linear, values": lambda: PackedLinear(draw_weights(70, 90), None, torch.randn(70)),
    "linear, places": lambda: PackedLinear(torch.randn(70, 90) * draw_signs(70, 90, density=0.1)),
    "conv": lambda: PackedConv2d(draw_signs(32, 8, 3, 3), 0.25, torch.randn(32), padding=1),
    "conv, values": lambda: PackedConv2d(draw_weights(32, 4, 3, 3), None, groups=2),
    "conv of signals": lambda: PackedConv1d(draw_weights(32, 8, 3), stride=2),
}


@pytest.fixture
def move(monkeypatch):
    """move(layer, to_gpu): what `layer.cuda()` and `layer.cpu()` do, but for the memory."""

    def move(layer: nn.Module, to_gpu: bool) -> nn.Module:
        monkeypatch.setattr(placement, "is_on_gpu", lambda tensor: to_gpu)
        return layer.to("cpu")

    return move


def input_of(layer: nn.Module) -> Tensor:
    if isinstance(layer, PackedLinear):
        return torch.randn(3, layer.in_features)
    return torch.randn(3, layer.in_channels, *(11,) * layer.dimensions)


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_moves_to_a_gpu_and_back(name, move):
    layer = LAYERS[name]().eval()
    x, before = input_of(layer), {name: buffer.clone() for name, buffer in layer.named_buffers()}
    expected, weights = layer(x), layer.unpacked()
    there = move(copy.deepcopy(layer), to_gpu=True)
    held = set(dict(there.named_buffers())) - {"bias"}
    signs = isinstance(layer, PackedLinear) and layer.signed
    assert held == ({"fragments"} if signs else {"matrix"} if isinstance(layer, PackedLinear) else {"dense"})
    assert torch.equal(there.unpacked(), weights)
    twin = copy.deepcopy(there)
    for network in (there, twin):
        assert torch.allclose(network(x), expected, atol=1e-4)
    back = move(twin, to_gpu=False)
    assert torch.equal(back(x), expected)
    after = dict(back.named_buffers())
    assert after.keys() == before.keys()
    assert all(torch.equal(buffer, before[name]) for name, buffer in after.items())


def test_a_gpu_holds_two_bits_a_weight(move):
    layer = move(PackedLinear(draw_signs(512, 1024), 0.25), to_gpu=True)
    assert sum(b.numel() * b.element_size() for b in layer.buffers()) == 512 * 1024 / 4


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_changes_its_type_where_it_is(name, move):
    layer = LAYERS[name]()
    x = input_of(layer).bfloat16()
    for to_gpu in (False, True):
        moved = move(copy.deepcopy(layer), to_gpu).bfloat16()
        result, expected = moved(x), layer(x.float())
        assert result.dtype == torch.bfloat16
        assert torch.allclose(result.float(), expected, rtol=0.02, atol=0.02 * float(expected.abs().max()))


@pytest.mark.parametrize("name", LAYERS)
def test_what_is_loaded_is_what_is_computed(name, move):
    for to_gpu in (False, True):
        layer, other = move(LAYERS[name](), to_gpu), move(LAYERS[name](), to_gpu)
        x = input_of(layer)
        for buffer in other.buffers():
            buffer.copy_(buffer.flip(0) if buffer.dtype == torch.float32 else buffer)
        layer(x.double())  # keeps dense weights
        layer.load_state_dict(other.state_dict())
        assert torch.equal(layer(x.double()), other(x.double()))


def test_two_of_four_of_any_weights_takes_sparse_tensor_cores(move, monkeypatch):
    halves = torch.tensor([1.0, 0, 0, 1]).repeat(128).expand(64, -1)
    weights = torch.randn(64, 512) * halves
    layer = move(PackedLinear(weights), to_gpu=True)
    dispatch = layer.gpu_linear()
    assert type(dispatch) is DenseLinear
    assert dispatch.kernel(SPARSE_FROM, torch.bfloat16) == "sparse"
    assert dispatch.kernel(SPARSE_FROM - 1, torch.bfloat16) == "dense"
    assert dispatch.kernel(SPARSE_FROM, torch.float32) == "dense"
    assert dispatch.kernel(SPARSE_FROM, torch.bfloat16, needs_gradient=True) == "dense"
    assert DenseLinear(torch.randn(64, 512)).kernel(SPARSE_FROM, torch.float16) == "dense"
    compressed = []
    monkeypatch.setattr(
        cuda.torch.sparse, "to_sparse_semi_structured", lambda w: compressed.append(w) or w.clone()
    )
    x = torch.randn(SPARSE_FROM, 512).bfloat16()
    with torch.no_grad():
        expected = nn.functional.linear(x, weights.bfloat16())
        assert torch.equal(layer(x), expected) and torch.equal(layer(x), expected)
    assert len(compressed) == 1 and torch.equal(compressed[0], weights.bfloat16())


def test_coded_layers_choose_as_before(move):
    signs = draw_signs(64, 128) * torch.tensor([1, 0, 0, 1], dtype=torch.int8).repeat(32)
    layer = move(PackedLinear(signs, 0.5), to_gpu=True).gpu_linear()
    assert isinstance(layer, CodedLinear)
    layer.compiled = True
    most = CODES_UP_TO[torch.float32]
    batches = (1, most, most + 1, DECODE_FROM)
    assert [layer.kernel(b, torch.float32) for b in batches] == ["codes", "codes", "dense", "decoded"]
    assert layer.kernel(SPARSE_FROM, torch.float16) == "sparse"
