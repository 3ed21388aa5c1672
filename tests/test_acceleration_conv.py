"""Convolutions that leave out zeros of their weights: the operator, layers and training."""

from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

import supermask as sm
from supermask import ops
from supermask.ops import references
from supermask.training import sparse_conv
from supermask.training.acceleration import accelerated
from supermask.training.loop import fit

needs_native = pytest.mark.skipif(
    not ops.is_native("sparse_conv", torch.device("cpu")), reason="no compiled library"
)
needs_lists = pytest.mark.skipif(
    not ops.is_native("sparse_conv", torch.device("cpu"))
    or ops.instruction_set() not in sparse_conv.UP_TO_DENSITY,
    reason="no compiled library for this instruction set",
)
LAST, FIRST = torch.channels_last, torch.contiguous_format
formats = st.sampled_from([LAST, FIRST])
channels = st.one_of(st.integers(1, 20), st.sampled_from([63, 64, 65, 127, 129, 200]))


def draw(*shape: int, density: float = 1.0, seed: int = 0, integer: bool = False) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    kept = torch.rand(shape, generator=generator) < density
    if integer:
        return torch.randint(-4, 5, shape, generator=generator).float() * kept
    return torch.randn(shape, generator=generator) * kept


# --- the operator --------------------------------------------------------------------------------------


@needs_native
@settings(max_examples=80, deadline=None)
@given(
    images=st.integers(0, 4),
    inputs=channels,
    outputs=channels,
    size=st.tuples(st.integers(3, 11), st.integers(3, 11)),
    kernel=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    stride=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    padding=st.tuples(st.integers(0, 2), st.integers(0, 2)),
    density=st.floats(0, 1),
    formats=st.tuples(formats, formats),
)
def test_convolutions_are_those_of_float64(
    images, inputs, outputs, size, kernel, stride, padding, density, formats
):
    x, weights = draw(images, inputs, *size), draw(outputs, inputs, *kernel, density=density, seed=1)
    exact = F.conv2d(x.double(), weights.double(), None, stride, padding)
    x, weights = (t.contiguous(memory_format=f) for t, f in zip((x, weights), formats, strict=True))
    for compute in (torch.ops.supermask.sparse_conv, references.KERNELS["sparse_conv"]):
        y = compute(x, weights, stride, padding, False)
        assert y.shape == exact.shape and torch.allclose(y.double(), exact, rtol=0, atol=1e-3)
        assert y.is_contiguous(memory_format=FIRST if x.is_contiguous() else LAST)


@needs_native
@settings(max_examples=60, deadline=None)
@given(
    images=st.integers(1, 3),
    inputs=channels,
    outputs=channels,
    size=st.tuples(st.integers(3, 9), st.integers(3, 9)),
    kernel=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    data=st.data(),
    density=st.floats(0, 1),
    formats=st.tuples(formats, formats),
)
def test_transposes_are_the_gradients_of_inputs_in_float64(
    images, inputs, outputs, size, kernel, data, density, formats
):
    padding = tuple(data.draw(st.integers(0, k - 1)) for k in kernel)
    weights = draw(outputs, inputs, *kernel, density=density, seed=1)
    x = torch.zeros(images, inputs, *size, dtype=torch.float64, requires_grad=True)
    y = F.conv2d(x, weights.double(), None, 1, padding)
    grad = draw(*y.shape, seed=2)
    (exact,) = torch.autograd.grad(y, x, grad.double())
    grad, weights = (t.contiguous(memory_format=f) for t, f in zip((grad, weights), formats, strict=True))
    for compute in (torch.ops.supermask.sparse_conv, references.KERNELS["sparse_conv"]):
        found = compute(grad, weights, (1, 1), padding, True)
        assert torch.allclose(found.double(), exact, rtol=0, atol=1e-3)


@needs_native
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("layout", [FIRST, LAST])
def test_convolutions_of_integers_have_the_bits_of_dense_ones_whatever_the_threads(transposed, layout):
    x, weights = draw(3, 70, 9, 7, integer=True), draw(70, 70, 3, 3, density=0.4, seed=1, integer=True)
    x, weights = x.to(memory_format=layout), weights.to(memory_format=layout)
    expected = (F.conv_transpose2d if transposed else F.conv2d)(x, weights, None, 1, 1)
    threads = torch.get_num_threads()
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            torch.full(expected.shape, torch.nan)  # memory that the result may be given
            assert torch.equal(ops.sparse_conv(x, weights, (1, 1), (1, 1), transposed), expected)
    finally:
        torch.set_num_threads(threads)


@needs_native
def test_only_zeros_are_left_out():
    x, weights = draw(2, 20, 6, 6), draw(5, 20, 3, 3, density=0.5, seed=1)
    weights[1, 3, 0, 0], weights[2] = float("nan"), 0.0
    weights[3, 7], x[:, 7] = 0.0, float("inf")
    y = ops.sparse_conv(x, weights, (1, 1), (1, 1))
    assert y[:, 1, 1:, 1:].isnan().all() and (y[:, 2] == 0).all() and y[:, 3].isfinite().all()


@needs_native
def test_wrong_arguments_raise_and_name_themselves():
    x, weights, one = draw(2, 4, 6, 6), draw(5, 4, 3, 3), (1, 1)
    compute = torch.ops.supermask.sparse_conv
    for words, arguments in (
        ("x must be a float32 tensor of four", (x.double(), weights, one, one, False)),
        ("x must be a float32 tensor of four", (x[0], weights, one, one, False)),
        ("x must be a float32 tensor of four", (x[:, :, ::2], weights, one, one, False)),
        ("weights must be a float32 tensor of four", (x, weights.half(), one, one, False)),
        ("weights must be a float32 tensor of four", (x, weights.transpose(2, 3), one, one, False)),
        ("x must have 5 channels, but has 4", (x, weights, one, one, True)),
        ("x must have 4 channels, but has 3", (x[:, :3].contiguous(), weights, one, one, False)),
        ("stride and padding must be 2 integers", (x, weights, (1,), one, False)),
        ("stride must be 2 integers from 1 on", (x, weights, (0, 1), one, False)),
        ("padding must be 4 integers from 0 on", (x, weights, one, (-1, 1), False)),
        ("kernel reaches over 3 inputs", (x[:, :, :2].contiguous(), weights, one, (0, 0), False)),
        ("a stride of 1", (draw(2, 5, 6, 6), weights, (2, 1), one, True)),
        ("padding must be less than the kernel", (draw(2, 5, 6, 6), weights, one, (3, 1), True)),
    ):
        with pytest.raises(RuntimeError, match=words):
            compute(*arguments)
    for layout in (FIRST, LAST):
        laid_out = x.contiguous(memory_format=layout)
        torch.library.opcheck(compute, (laid_out, weights, (2, 1), one, False))
        torch.library.opcheck(
            compute, (draw(2, 5, 6, 6).contiguous(memory_format=layout), weights, one, one, True)
        )


# --- layers --------------------------------------------------------------------------------------------


def used(monkeypatch) -> list[bool]:
    """Collects whether each transposed or plain convolution left out zeros, which always is faster."""
    calls: list[bool] = []
    monkeypatch.setattr(sparse_conv, "faster", lambda zeros, dense: True)
    compute = ops.sparse_conv

    def counted(x, weights, stride, padding, transposed=False):
        calls.append(transposed)
        return compute(x, weights, stride, padding, transposed)

    monkeypatch.setattr(ops, "sparse_conv", counted)
    return calls


def make_layer(inputs: int, outputs: int, kernel: int, layout: torch.memory_format, **rest) -> nn.Conv2d:
    layer = nn.Conv2d(inputs, outputs, kernel, **rest).to(memory_format=layout)
    with torch.no_grad():
        layer.weight.copy_(draw(*layer.weight.shape, density=0.3, seed=5))
    return layer


@needs_lists
@pytest.mark.parametrize("formats", [(FIRST, FIRST), (FIRST, LAST), (LAST, FIRST), (LAST, LAST)])
@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "bias"),
    [(3, 1, 1, True), (3, 2, 1, False), (1, 1, 0, False), (1, 2, 0, True)],
)
def test_results_and_gradients_are_those_of_float64(formats, kernel, stride, padding, bias, monkeypatch):
    calls = used(monkeypatch)
    layer = make_layer(19, 23, kernel, formats[1], stride=stride, padding=padding, bias=bias)
    x = draw(9, 19, 7, 6).to(memory_format=formats[0]).requires_grad_()
    dense = F.conv2d(x.detach(), layer.weight.detach(), None, stride, padding)
    target = draw(*dense.shape, seed=3)
    with accelerated(nn.Sequential(layer)):
        y = layer(x)
        (y * target).sum().backward()
    assert calls == ([False, True] if stride == 1 else [False])
    assert y.stride() == dense.stride(), "the format that torch would give"
    exact, weight = x.detach().double().requires_grad_(), layer.weight.detach().double().requires_grad_()
    shift = layer.bias.detach().double() if bias else None
    expected = F.conv2d(exact, weight, shift, stride, padding)
    (expected * target.double()).sum().backward()
    for found, wanted in ((y, expected), (x.grad, exact.grad), (layer.weight.grad, weight.grad)):
        assert torch.allclose(found.double(), wanted, atol=1e-3)
    if bias:
        assert torch.allclose(layer.bias.grad, target.sum((0, 2, 3)), atol=1e-3)


@needs_lists
def test_forward_and_gradient_are_measured_by_themselves(monkeypatch):
    for answers in ((True, False), (False, True)):
        calls, given_answers = used(monkeypatch), iter(answers)

        def measured(zeros, dense, given_answers=given_answers, calls=calls):
            assert torch.allclose(_one(zeros()), _one(dense()), atol=1e-3)
            calls.clear()
            return next(given_answers)

        monkeypatch.setattr(sparse_conv, "faster", measured)
        layer, x = make_layer(20, 24, 3, LAST, padding=1), draw(8, 20, 6, 6).requires_grad_()
        with accelerated(layer):
            layer(x).sum().backward()
        assert calls == ([False] if answers[0] else [True])


def _one(result):
    return result if isinstance(result, Tensor) else result[0]


@needs_lists
def test_what_does_not_qualify_computes_as_ever(monkeypatch):
    calls, x = used(monkeypatch), draw(8, 32, 6, 6)
    make = partial(make_layer, 32, 32, 3, LAST)
    others = [
        make(groups=2),
        make(dilation=2),
        make(padding_mode="reflect", padding=1),
        make(padding="same"),
        make_layer(32, 8, 3, LAST),
        nn.Conv2d(32, 32, 3),  # of dense weights
    ]
    for layer in others:
        with accelerated(layer):
            assert torch.equal(layer(x), type(layer).forward(layer, x))
    layer = make(padding=1)
    with accelerated(layer):
        layer(x[:7])
        layer(x[0])
        layer(x[:, :, ::2])
        with torch.autocast("cpu", torch.bfloat16):
            assert layer(x).dtype == torch.bfloat16
        with pytest.raises(RuntimeError):
            layer(x[:, :-1])
        layer.double()(x.double())
    assert calls == [] and "forward" not in vars(layer)


@needs_lists
def test_a_layer_follows_its_weights_from_one_kind_to_another(monkeypatch):
    calls = used(monkeypatch)
    monkeypatch.setattr(sparse_conv, "PRODUCTS_OF_DENSE", 1)
    monkeypatch.setattr(sparse_conv, "PRODUCTS_TO_WAIT", 1)
    layer, x = make_layer(20, 24, 3, LAST, padding=1), draw(8, 20, 6, 6).requires_grad_()
    kept = layer.weight.detach().clone()
    with accelerated(layer):
        for weights, sparse in ((kept, True), (kept.sign() * 0.1, True), (torch.randn(kept.shape), False)):
            with torch.no_grad():
                layer.weight.copy_(weights)
            layer(x)
            calls.clear()
            for _ in range(2):
                assert torch.allclose(layer(x), F.conv2d(x, layer.weight, layer.bias, 1, 1), atol=1e-4)
            assert bool(calls) == sparse
        y = layer(x)
        with torch.no_grad():
            layer.weight.mul_(2)
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            y.sum().backward()


@needs_lists
@pytest.mark.parametrize("kind", ["search", "ticket"])
@pytest.mark.parametrize("layout", [FIRST, LAST])
def test_accelerated_training_learns_what_the_dense_one_does(kind, layout, monkeypatch):
    calls, found = used(monkeypatch), {}
    labels = torch.arange(64) % 4
    images = draw(4, 3, 8, 8, seed=9)[labels] + draw(64, 3, 8, 8, seed=8)
    images = images.to(memory_format=layout)
    for accelerate in (False, True):
        torch.manual_seed(0)
        model = nn.Sequential(
            *(nn.Conv2d(3, 33, 3, padding=1), nn.ReLU(), nn.Conv2d(33, 40, 3, padding=1), nn.ReLU()),
            *(nn.Conv2d(40, 32, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(32 * 9, 4)),
        ).to(memory_format=layout)
        if kind == "search":
            sm.randomize_(model, "signed_constant", seed=1, density=0.4)
            optimizer = sm.EdgePopup(model, density=0.4, lr=0.5, momentum=0.9)
        else:
            optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
            masks = {n: draw(*p.shape, density=0.4) != 0 for n, p in model.named_parameters() if p.dim() == 4}
            sm.hold(optimizer, masks, model)
        fit(model, optimizer, lambda _: (images, labels), steps=15, accelerate=accelerate)
        with torch.no_grad():
            found[accelerate] = float((model(images).argmax(1) == labels).float().mean())
    assert calls.count(False) == 30 and calls.count(True) == 15
    assert found[True] > 0.4 and abs(found[True] - found[False]) < 0.05, found


@needs_lists
def test_a_network_that_meets_ever_new_sizes_does_not_measure_for_ever(monkeypatch):
    used(monkeypatch)
    asked = []
    monkeypatch.setattr(sparse_conv, "faster", lambda zeros, dense: asked.append(1) is None)
    layer = make_layer(20, 24, 3, LAST, padding=1)
    with accelerated(layer), torch.no_grad():
        for size in range(4, 24):
            x = draw(8, 20, size, 5)
            assert torch.allclose(layer(x), F.conv2d(x, layer.weight, layer.bias, 1, 1), atol=1e-4)
    assert len(asked) == sparse_conv.MOST_CASES
