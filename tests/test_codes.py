"""Codes for tensor cores: their layout, what is decoded from them, the layer that chooses how to use them.

What needs a GPU is in test_cuda_packed.py; the kernel itself runs on a CPU in csrc/tests/test_codes.cpp.
"""

import copy

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from supermask import ops
from supermask.ops import layouts, references
from supermask.packed import PackedLinear
from supermask.packed.cuda import (
    CODES_UP_TO,
    DECODE_FROM,
    SPARSE_FROM,
    WGMMA_FROM,
    WGMMA_UP_TO,
    CodedLinear,
    is_two_of_four,
)

operators = torch.ops.supermask
sizes = st.one_of(st.integers(0, 40), st.sampled_from([127, 128, 129, 300]))
needs_native = pytest.mark.skipif(
    not ops.is_native("decode_codes", torch.device("cpu")),
    reason="no compiled library; `make setup` builds it",
)


BATCHES = (1, max(CODES_UP_TO.values()) + 1, DECODE_FROM)


def draw_signs(outputs: int, inputs: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-1, 2, (outputs, inputs), generator=generator, dtype=torch.int8)


def read_plainly(codes: Tensor, outputs: int, inputs: int) -> np.ndarray:
    """The matrix of some codes, one weight at a time, from the fragments of mma.sync.m16n8k16.

    Register r of lane 4 g + t of operand A holds row g + 8 (r % 2) and columns 2 t + 8 (r // 2) and the next.
    Column 2 t + 8 h + e of step s of a word stands for input 8 t + 4 s + 2 h + e of its 32.
    """
    words = codes.numpy().view(np.uint32)
    value = {0: 0, 1: 1, 3: -1}
    matrix = np.zeros((outputs, inputs), dtype=np.int8)
    for (tile_row, tile_column, lane, word), bits in np.ndenumerate(words):
        g, t = divmod(lane, 4)
        for step in range(2):
            for register in range(4):
                pair = (int(bits) << 2 * (4 * step + register)) & 0xC000C000
                for e in range(2):
                    row = 16 * tile_row + g + 8 * (register % 2)
                    column = 128 * tile_column + 32 * word + 8 * t + 4 * step + 2 * (register // 2) + e
                    sign = value[pair >> (16 * e + 14) & 3]
                    if row < outputs and column < inputs:
                        matrix[row, column] = sign
                    else:
                        assert sign == 0, "weights beyond the matrix are zeros"
    return matrix


@settings(max_examples=10, deadline=None)
@given(outputs=sizes, inputs=sizes, seed=st.integers(0, 9))
def test_codes_stand_where_tensor_cores_look(outputs, inputs, seed):
    signs = draw_signs(outputs, inputs, seed)
    codes = layouts.codes_of_signs(signs)
    assert codes.shape == (-(-outputs // 16), -(-inputs // 128), 32, 4) and codes.is_contiguous()
    assert np.array_equal(read_plainly(codes, outputs, inputs), signs.numpy())
    assert torch.equal(layouts.signs_of_codes(codes, outputs, inputs), signs)


def test_a_code_is_the_top_of_a_bfloat16():
    for dtype in (torch.bfloat16, torch.float16):
        tops = torch.tensor([0.0, 2.0, -2.0], dtype=dtype).view(torch.int16).int() & 0xFFFF
        assert tops.tolist() == [0x0000, 0x4000, 0xC000]


@needs_native
@settings(max_examples=40, deadline=None)
@given(outputs=sizes, inputs=sizes, dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float16]))
def test_the_compiled_decoder_reads_the_same_layout(outputs, inputs, dtype):
    codes = layouts.codes_of_signs(draw_signs(outputs, inputs))
    dense = operators.decode_codes(codes, outputs, inputs, 0.0371, dtype)
    expected = references.KERNELS["decode_codes"](codes, outputs, inputs, 0.0371, dtype)
    assert dense.dtype == dtype
    assert torch.equal(dense.view(torch.uint8), expected.view(torch.uint8))


@needs_native
def test_wrong_arguments_raise_and_name_themselves():
    codes = layouts.codes_of_signs(draw_signs(20, 130))
    wrong = {
        "codes": lambda: operators.decode_codes(codes, 40, 130, 1.0, torch.float32),
        "int32": lambda: operators.decode_codes(codes.long(), 20, 130, 1.0, torch.float32),
        "contiguous": lambda: operators.decode_codes(codes.mT.contiguous().mT, 20, 130, 1.0, torch.float32),
        "outputs": lambda: operators.decode_codes(codes, -1, 130, 1.0, torch.float32),
        "inputs": lambda: operators.decode_codes(codes, 20, 1 << 40, 1.0, torch.float32),
        "float32, bfloat16 or float16": lambda: operators.decode_codes(codes, 20, 130, 1.0, torch.float64),
    }
    for words, call in wrong.items():
        with pytest.raises(RuntimeError, match=words):
            call()


@pytest.mark.parametrize("multiply", [operators.linear_from_codes, operators.linear_from_codes_wgmma])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_reference_product(dtype, multiply):
    signs, x, bias = draw_signs(37, 300), torch.randn(5, 300).to(dtype), torch.randn(37)
    y = multiply(x, layouts.codes_of_signs(signs), 37, 0.1, bias)
    exact = x.double() @ signs.double().t() * 0.1 + bias
    assert y.dtype == dtype
    assert torch.allclose(y.double(), exact, rtol=torch.finfo(dtype).eps, atol=1e-5)


def test_operators_pass_opcheck():
    codes = layouts.codes_of_signs(draw_signs(20, 130))
    x = torch.randn(3, 130, requires_grad=True)
    for multiply in (operators.linear_from_codes, operators.linear_from_codes_wgmma):
        torch.library.opcheck(multiply, (x, codes, 20, 0.5, torch.randn(20, requires_grad=True)))
    schema_and_fake = ("test_schema", "test_faketensor")
    torch.library.opcheck(
        operators.decode_codes, (codes, 20, 130, 0.5, torch.float32), test_utils=schema_and_fake
    )


# The layer. On a CPU the references serve its operators, which shows its choices and its arithmetic.


@pytest.fixture(autouse=True)
def compiled(monkeypatch):
    """A layer that takes the references for compiled kernels."""
    monkeypatch.setattr("supermask.packed.cuda.ops.is_native", lambda *_: True)


@pytest.mark.parametrize("shape", [(300,), (3, 300), (2, 40, 300), (DECODE_FROM, 300)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_every_kernel_computes_the_dense_layer(shape, dtype):
    signs, bias, x = draw_signs(50, 300), torch.randn(50), torch.randn(shape).to(dtype)
    y = CodedLinear(signs, 0.1)(x, bias)
    exact = torch.nn.functional.linear(x.double(), signs.double() * 0.1, bias.double())
    assert y.shape == exact.shape and y.dtype == dtype
    assert torch.allclose(y.double(), exact, atol=0.05 if dtype == torch.bfloat16 else 1e-5, rtol=0.02)


@pytest.mark.parametrize("outputs, inputs, batch", [(0, 5, 2), (5, 0, 2), (5, 7, 0)])
def test_empty_sizes(outputs, inputs, batch):
    y = CodedLinear(draw_signs(outputs, inputs), 0.1)(torch.randn(batch, inputs), torch.ones(outputs))
    assert torch.equal(y, torch.ones(batch, outputs))


def test_which_kernel_serves():
    signs = draw_signs(64, 128)
    halves = signs.view(-1, 4) * torch.tensor([1, 0, 1, 0], dtype=torch.int8)
    layer, sparse = CodedLinear(signs, 1.0), CodedLinear(halves.view_as(signs), 1.0)
    assert is_two_of_four(halves) and not is_two_of_four(signs) and not is_two_of_four(signs[:, :3])
    half = torch.bfloat16
    for dtype, most in CODES_UP_TO.items():
        assert layer.kernel(most, dtype) == "codes" and layer.kernel(most + 1, dtype) == "dense"
    assert layer.kernel(1, torch.float64) == "dense" and sparse.kernel(1, half) == "codes"
    assert layer.kernel(DECODE_FROM, half) == "decoded"
    assert sparse.kernel(SPARSE_FROM, half) == "sparse"
    assert sparse.kernel(SPARSE_FROM, torch.float32) == "dense"
    assert sparse.kernel(SPARSE_FROM, half, needs_gradient=True) == "dense"
    assert sparse.kernel(DECODE_FROM, half, needs_gradient=True) == "decoded"
    layer.compiled = False
    assert layer.kernel(1, half) == "dense"


def test_wgmma_serves_between_codes_and_dense_copies():
    signs, half = draw_signs(64, 128), torch.bfloat16
    layer = CodedLinear(signs, 0.1)
    assert not layer.wgmma, "a CPU has none"
    layer.wgmma = True
    batches = (WGMMA_FROM - 1, WGMMA_FROM, WGMMA_UP_TO, WGMMA_UP_TO + 1)
    assert [layer.kernel(b, half) for b in batches] == ["codes", "wgmma", "wgmma", "dense"]
    assert layer.kernel(WGMMA_UP_TO, torch.float32) == "codes"
    x, bias = torch.randn(WGMMA_UP_TO, 128).bfloat16(), torch.randn(64)
    exact = torch.nn.functional.linear(x.double(), signs.double() * 0.1, bias.double())
    assert torch.allclose(layer(x, bias).double(), exact, atol=0.05, rtol=0.02)


@pytest.mark.parametrize("batch", BATCHES)
def test_gradients_reach_the_input_and_the_bias(batch):
    signs = draw_signs(20, 40)
    ours = [torch.randn(batch, 40).requires_grad_(), torch.randn(20).requires_grad_()]
    theirs = [t.detach().clone().requires_grad_() for t in ours]
    CodedLinear(signs, 0.5)(*ours).square().sum().backward()
    torch.nn.functional.linear(theirs[0], signs.float() * 0.5, theirs[1]).square().sum().backward()
    for a, b in zip(ours, theirs, strict=True):
        assert torch.allclose(a.grad, b.grad, rtol=1e-4, atol=1e-3)


def test_a_dense_copy_is_kept_for_one_type_at_a_time():
    layer = CodedLinear(draw_signs(20, 40), 0.5)
    first = layer.dense(torch.float32)
    assert layer.dense(torch.float32) is first
    assert layer.dense(torch.float64).dtype == torch.float64
    assert layer.decoded(torch.float32) is not layer.decoded(torch.float32)


@pytest.mark.parametrize("batch", BATCHES)
def test_inference_leaves_nothing_that_autograd_refuses(batch, monkeypatch):
    monkeypatch.setattr("supermask.packed.placement.is_on_gpu", lambda tensor: True)
    layer, x = PackedLinear(draw_signs(20, 40), 0.5), torch.randn(batch, 40)
    with torch.inference_mode():
        expected = layer(x)
    y = layer(x.requires_grad_())
    assert torch.equal(y, expected)
    y.sum().backward()
    assert x.grad is not None


@pytest.mark.parametrize("batch", BATCHES)
def test_the_layer_is_one_graph_to_the_compiler(batch):
    layer, x = CodedLinear(draw_signs(20, 40), 0.5), torch.randn(batch, 40)
    compiled = torch.compile(lambda x: layer(x), fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        assert torch.allclose(compiled(x), layer(x), atol=1e-5)


def test_autocast_sets_the_type():
    layer = CodedLinear(draw_signs(20, 40), 0.5)
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(torch.randn(3, 40)).dtype == torch.bfloat16


def test_a_packed_layer_makes_its_codes_once(monkeypatch):
    monkeypatch.setattr("supermask.packed.placement.is_on_gpu", lambda tensor: True)
    signs = draw_signs(20, 40)
    layer = PackedLinear(signs, 0.5)
    there = layer.gpu_linear()
    assert layer.gpu_linear() is there and there.codes is layer.fragments
    assert torch.equal(layouts.signs_of_codes(there.codes, 20, 40), signs)
    assert copy.deepcopy(layer).gpu_linear() is not there
