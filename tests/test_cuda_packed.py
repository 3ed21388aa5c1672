"""On a GPU: packed linear layers from two-bit codes, against float64 and, on integers, bit for bit."""

import copy

import pytest
import torch
from torch import Tensor, nn

import supermask as sm
from supermask import ops
from supermask.ops import layouts, references
from supermask.packed import PackedConv2d, PackedLinear, pack
from supermask.packed.cuda import DECODE_FROM, SPARSE_FROM, WGMMA_CAPABILITY, CodedLinear

pytestmark = pytest.mark.cuda

operators = torch.ops.supermask
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
# Odd sizes, whole tiles, and enough inputs or outputs for every number of blocks in a cluster.
SIZES = ((1, 1), (5, 7), (16, 128), (17, 129), (64, 256), (300, 784), (100, 4096), (130, 9000), (4096, 512))


def draw_signs(outputs: int, inputs: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-1, 2, (outputs, inputs), generator=generator, dtype=torch.int8).cuda()


def poison(*sizes: int) -> None:
    """Leave NaN in the memory that the allocator hands out next for tensors of these sizes, in any type."""
    blocks = [torch.full((size,), -1, dtype=torch.int32, device="cuda") for size in sizes for _ in range(4)]
    del blocks


def assert_within_rounding(y: Tensor, x: Tensor, signs: Tensor, scale: float) -> None:
    """y is scale · x · signsᵀ but for rounding to its type and in the sums of the tensor cores."""
    exact = x.double() @ signs.double().t() * scale
    # Products are exact; the sums of the tensor cores lose at most an ulp at every sixteen inputs.
    rounding = torch.finfo(y.dtype).eps * exact.abs()
    sums = signs.shape[1] / 16 * 2.0**-23 * scale * (x.double().abs() @ signs.double().abs().t())
    assert ((y.double() - exact).abs() <= rounding + sums).all()


def test_the_compiled_kernels_serve():
    assert ops.is_native("linear_from_codes", torch.device("cuda", 0)), ops.backends("cuda")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("batch", [1, 2, 7, 8, 9, 16, 17, 32, 33, 64, 100])
@pytest.mark.parametrize("outputs, inputs", SIZES)
def test_integers_are_exact(outputs, inputs, batch, dtype):
    signs = draw_signs(outputs, inputs)
    codes = layouts.codes_of_signs(signs)
    # Few enough that the sums stay below 2^24; in float32 they take all three bfloat16 terms.
    unit = 65793 if dtype == torch.float32 else 1
    x = torch.randint(-1, 2, (batch, inputs), device="cuda") * unit
    x = (x * (torch.rand(inputs, device="cuda") < 100 / inputs)).to(dtype)
    bias = torch.randint(-9, 10, (outputs,), device="cuda").float()
    expected = (x.double() @ signs.double().t() * 0.5 + bias).to(dtype)
    poison(batch * outputs, batch * outputs // 2 + 1)
    y = operators.linear_from_codes(x, codes, outputs, 0.5, bias)
    assert y.dtype == dtype and torch.equal(y, expected)
    assert torch.equal(operators.linear_from_codes(x, codes, outputs, 0.5, bias.to(dtype)), expected)


# --- wgmma


def on_hopper() -> bool:
    return torch.cuda.is_available() and torch.cuda.get_device_capability() == WGMMA_CAPABILITY


needs_hopper = pytest.mark.skipif(not on_hopper(), reason="wgmma is Hopper's")


@needs_hopper
@pytest.mark.parametrize("dtype", DTYPES[1:])
@pytest.mark.parametrize("batch", [1, 48, 64, 65, 127, 128, 129, 300])
@pytest.mark.parametrize("outputs, inputs", SIZES)
def test_wgmma_is_exact_on_integers(outputs, inputs, batch, dtype):
    signs = draw_signs(outputs, inputs)
    codes = layouts.codes_of_signs(signs)
    x = torch.randint(-1, 2, (batch, inputs), device="cuda")
    x = (x * (torch.rand(inputs, device="cuda") < 100 / inputs)).to(dtype)
    bias = torch.randint(-9, 10, (outputs,), device="cuda").float()
    expected = (x.double() @ signs.double().t() * 0.5 + bias).to(dtype)
    poison(batch * outputs // 2 + 1)
    for _ in range(3):
        y = operators.linear_from_codes_wgmma(x, codes, outputs, 0.5, bias)
        assert y.dtype == dtype and torch.equal(y, expected)


@needs_hopper
@pytest.mark.parametrize("dtype", DTYPES[1:])
@pytest.mark.parametrize("batch", [50, 256, 1000])
@pytest.mark.parametrize("outputs, inputs", [(300, 784), (1000, 4096), (4096, 11008)])
def test_wgmma_errs_as_the_output_type_does(outputs, inputs, batch, dtype):
    signs, x = draw_signs(outputs, inputs), torch.randn(batch, inputs, device="cuda").to(dtype)
    codes = layouts.codes_of_signs(signs)
    y = operators.linear_from_codes_wgmma(x, codes, outputs, 0.02, None)
    assert_within_rounding(y, x, signs, 0.02)
    assert torch.equal(operators.linear_from_codes_wgmma(x, codes, outputs, 0.02, None), y)


@needs_hopper
def test_wgmma_reads_views_that_start_off_a_boundary():
    signs = draw_signs(300, 264)
    codes, memory = layouts.codes_of_signs(signs), torch.randint(-9, 10, (1 + 70 * 264,), device="cuda")
    x = memory.bfloat16()[1:].view(70, 264)
    expected = (x.double() @ signs.double().t()).bfloat16()
    assert torch.equal(operators.linear_from_codes_wgmma(x, codes, 300, 1.0, None), expected)


def test_wgmma_refuses_what_it_cannot_compute():
    codes = layouts.codes_of_signs(draw_signs(20, 130))
    with pytest.raises(RuntimeError, match="x must be of bfloat16 or float16"):
        operators.linear_from_codes_wgmma(torch.ones(64, 130, device="cuda"), codes, 20, 1.0, None)
    if not on_hopper():
        with pytest.raises(RuntimeError, match=r"compute capability 9\.0"):
            half = torch.ones(64, 130, device="cuda").half()
            operators.linear_from_codes_wgmma(half, codes, 20, 1.0, None)


# --- precision, and the rest


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("batch", [1, 8, 13, 32, 50])
@pytest.mark.parametrize("outputs, inputs", [(300, 784), (1000, 4096), (4096, 11008)])
def test_errors_are_those_of_the_output_type(outputs, inputs, batch, dtype):
    signs, x = draw_signs(outputs, inputs), torch.randn(batch, inputs, device="cuda").to(dtype)
    codes = layouts.codes_of_signs(signs)
    y = operators.linear_from_codes(x, codes, outputs, 0.02, None)
    assert_within_rounding(y, x, signs, 0.02)


def test_infinities_and_nan_come_through():
    codes = layouts.codes_of_signs(torch.ones(3, 40, dtype=torch.int8, device="cuda"))
    for dtype in DTYPES:
        x = torch.zeros(3, 40, device="cuda", dtype=dtype)
        x[0, 5], x[1, 6] = float("inf"), float("nan")
        y = operators.linear_from_codes(x, codes, 3, 1.0, None)
        assert y[0].isinf().all() and y[1].isnan().all() and (y[2] == 0).all()


def test_views_that_start_off_a_boundary_are_read_right():
    signs = draw_signs(40, 264)
    codes, memory = layouts.codes_of_signs(signs), torch.randint(-9, 10, (1 + 6 * 264,), device="cuda")
    for dtype in DTYPES:
        x = memory.to(dtype)[1:].view(6, 264)
        expected = (x.double() @ signs.double().t()).to(dtype)
        assert torch.equal(operators.linear_from_codes(x, codes, 40, 1.0, None), expected)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("outputs, inputs", SIZES)
def test_decoding_has_the_bits_of_the_reference(outputs, inputs, dtype):
    codes = layouts.codes_of_signs(draw_signs(outputs, inputs))
    poison(outputs * inputs, outputs * inputs // 2 + 1)
    dense = operators.decode_codes(codes, outputs, inputs, 0.0371, dtype)
    expected = references.KERNELS["decode_codes"](codes, outputs, inputs, 0.0371, dtype)
    assert torch.equal(dense.view(torch.uint8), expected.view(torch.uint8))


@pytest.mark.parametrize("batch", [1, 16, 32, 60])
def test_equal_calls_give_equal_bits(batch):
    signs, x = draw_signs(1000, 5000), torch.randn(batch, 5000, device="cuda")
    codes = layouts.codes_of_signs(signs)
    first = operators.linear_from_codes(x, codes, 1000, 0.02, None)
    side = torch.cuda.Stream()
    for _ in range(20):
        assert torch.equal(operators.linear_from_codes(x, codes, 1000, 0.02, None), first)
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            other = operators.linear_from_codes(x, codes, 1000, 0.02, None)
        torch.cuda.current_stream().wait_stream(side)
        assert torch.equal(other, first)


@pytest.mark.parametrize("batch", [0, 1, 40, 65, DECODE_FROM])
@pytest.mark.parametrize("dtype", [*DTYPES, torch.float64])
def test_a_packed_layer_is_its_dense_layer(batch, dtype):
    signs, bias = draw_signs(300, 784), torch.randn(300, device="cuda")
    layer = PackedLinear(signs, 0.05, bias)
    x = torch.randn(batch, 784, device="cuda").to(dtype).requires_grad_()
    y = layer(x)
    exact_x = x.detach().double().requires_grad_()
    exact = nn.functional.linear(exact_x, signs.double() * 0.05, bias.double())
    close = {"atol": 0.05, "rtol": 0.02} if dtype in DTYPES[1:] else {"atol": 1e-4, "rtol": 1e-4}
    assert y.dtype == dtype and torch.allclose(y.double(), exact, **close)
    direction = torch.randn(y.shape, device="cuda")
    (y * direction.to(dtype)).sum().backward()
    (exact * direction).sum().backward()
    assert torch.allclose(x.grad.double(), exact_x.grad, **close)


def test_a_layer_moves_between_devices():
    signs, bias, x = draw_signs(33, 70), torch.randn(33), torch.randn(5, 70)
    layer = PackedLinear(signs.cpu(), 0.05, bias)
    expected = layer(x)
    assert torch.allclose(layer.cuda()(x.cuda()).cpu(), expected, atol=1e-4)
    assert torch.allclose(copy.deepcopy(layer)(x.cuda()).cpu(), expected, atol=1e-4)
    half = copy.deepcopy(layer).bfloat16()(x.cuda().bfloat16())
    assert torch.allclose(half.float().cpu(), expected, atol=0.05, rtol=0.02)
    assert torch.allclose(layer.cpu()(x), expected, atol=1e-4)


@pytest.mark.parametrize("scale", [0.05, None])
def test_a_gpu_holds_only_what_it_computes_from(scale):
    signs = draw_signs(512, 1024).cpu()
    layer = PackedLinear(signs if scale else signs * torch.randn(512, 1024), scale)
    x = torch.randn(3, 1024)
    expected, before = layer(x), {name: buffer.clone() for name, buffer in layer.named_buffers()}
    layer.cuda()
    held = sum(buffer.numel() * buffer.element_size() for buffer in layer.buffers())
    assert held == 512 * 1024 * (0.25 if scale else 4)
    assert torch.allclose(layer(x.cuda()).cpu(), expected, atol=1e-4)
    assert all(torch.equal(buffer, before[name]) for name, buffer in layer.cpu().named_buffers())


@pytest.mark.parametrize("scale", [0.05, None])
def test_a_convolution_moves_between_devices(scale):
    signs = draw_signs(32, 8 * 9).cpu().view(32, 8, 3, 3)
    layer = PackedConv2d(
        signs if scale else signs * torch.randn(32, 8, 3, 3), scale, torch.randn(32), padding=1
    )
    x = torch.randn(2, 8, 9, 9)
    expected = layer(x)
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        assert torch.allclose(layer.cuda()(x.cuda()).cpu(), expected, atol=1e-4)
        half = copy.deepcopy(layer).bfloat16()(x.cuda().bfloat16())
    assert torch.allclose(half.float().cpu(), expected, atol=0.1, rtol=0.05)
    assert torch.equal(layer.cpu()(x), expected)


def test_a_packed_network_computes_what_its_ticket_does():
    model = sm.randomize_(sm.create_model("lenet-300-100", in_channels=1, image_size=28).cuda(), seed=4)
    ticket = sm.EdgePopup(model, density=0.3, lr=0.1).ticket()
    packed = pack(model, ticket)
    assert any(isinstance(module, PackedLinear) for module in packed.modules())
    for batch in (1, 33, 200, 2000):
        x = torch.randn(batch, 1, 28, 28, device="cuda")
        assert torch.allclose(packed(x), model(x), atol=1e-3)


@pytest.mark.parametrize("batch", [1, 33, 65, DECODE_FROM])
def test_layers_are_captured_in_graphs(batch):
    layer, x = PackedLinear(draw_signs(200, 300), 0.05), torch.randn(batch, 300, device="cuda")
    with torch.no_grad():
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            layer(x)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            y = layer(x)
        x.copy_(torch.randn_like(x))
        y.fill_(float("nan"))
        graph.replay()
        assert torch.allclose(y, layer(x), atol=1e-5)


@pytest.mark.parametrize("batch", [1, 33, 65, DECODE_FROM])
def test_layers_compile_as_one_graph(batch):
    layer, x = PackedLinear(draw_signs(200, 300), 0.05), torch.randn(batch, 300, device="cuda")
    with torch.no_grad():
        expected = layer(x)
        compiled = torch.compile(layer, fullgraph=True)
        assert torch.allclose(compiled(x), expected, atol=1e-4)


def test_autocast_sets_the_type():
    layer, x = PackedLinear(draw_signs(20, 40), 0.5), torch.randn(3, 40, device="cuda")
    with torch.autocast("cuda", torch.bfloat16):
        assert layer(x).dtype == torch.bfloat16


@pytest.mark.parametrize("dtype", DTYPES[1:])
def test_two_of_four_runs_on_sparse_tensor_cores(dtype):
    signs = draw_signs(256, 512).view(-1, 4) * torch.tensor([0, 1, 1, 0], dtype=torch.int8, device="cuda")
    layer, x = CodedLinear(signs.view(256, 512), 0.05), torch.randn(SPARSE_FROM, 512, device="cuda").to(dtype)
    assert layer.kernel(SPARSE_FROM, dtype) == "sparse"
    exact = x.double() @ signs.view(256, 512).double().t() * 0.05 + 1
    y = layer(x, torch.ones(256, device="cuda"))
    assert torch.allclose(y.double(), exact, atol=0.05, rtol=0.02)


@pytest.mark.parametrize("dtype", DTYPES[1:])
def test_two_of_four_of_any_weights_runs_on_sparse_tensor_cores(dtype):
    weights = torch.randn(256, 128, 4, device="cuda") * torch.tensor([1.0, 0, 0, 1], device="cuda")
    layer = PackedLinear(weights.view(256, 512)).to(dtype)
    x = torch.randn(SPARSE_FROM, 512, device="cuda").to(dtype)
    assert layer.gpu_linear().kernel(SPARSE_FROM, dtype) == "sparse"
    exact = x.double() @ weights.view(256, 512).to(dtype).double().t()
    with torch.no_grad():
        assert torch.allclose(layer(x).double(), exact, atol=0.2, rtol=0.02)


def test_operators_pass_opcheck():
    codes = layouts.codes_of_signs(draw_signs(20, 130))
    x = torch.randn(3, 130, device="cuda", requires_grad=True)
    bias = torch.randn(20, device="cuda", requires_grad=True)
    torch.library.opcheck(operators.linear_from_codes, (x, codes, 20, 0.5, bias))
    torch.library.opcheck(operators.decode_codes, (codes, 20, 130, 0.5, torch.float32))


def test_wrong_arguments_raise_and_name_themselves():
    codes, x = layouts.codes_of_signs(draw_signs(20, 130)), torch.ones(3, 130, device="cuda")
    linear = operators.linear_from_codes
    wrong = {
        "x must be of": lambda: linear(x.double(), codes, 20, 1.0, None),
        "x must be a contiguous": lambda: linear(x.t(), codes, 20, 1.0, None),
        "codes must be on": lambda: linear(x, codes.cpu(), 20, 1.0, None),
        "codes of 50 outputs": lambda: linear(x, codes, 50, 1.0, None),
        "bias must be on": lambda: linear(x, codes, 20, 1.0, torch.ones(20)),
        "bias must be a contiguous": lambda: linear(x, codes, 20, 1.0, torch.ones(19, device="cuda")),
        "outputs": lambda: operators.decode_codes(codes, -1, 130, 1.0, torch.float32),
    }
    for words, call in wrong.items():
        with pytest.raises(RuntimeError, match=words):
            call()
