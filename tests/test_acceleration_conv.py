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


geometries = {
    "images": st.sampled_from([0, 1, 9, 17, 64, 65, 129]),
    "inputs": channels,
    "outputs": channels,
    "size": st.tuples(st.integers(3, 6), st.integers(3, 5)),
    "kernel": st.tuples(st.integers(1, 3), st.integers(1, 3)),
    "stride": st.tuples(st.integers(1, 3), st.integers(1, 3)),
    "padding": st.tuples(st.integers(0, 3), st.integers(0, 3)),
    "density": st.floats(0, 1),
}


def both(name: str):
    return getattr(torch.ops.supermask, name), references.KERNELS[name]


@needs_native
@settings(max_examples=40, deadline=None)
@given(**geometries, layout=formats)
def test_convolutions_and_gradients_are_those_of_float64(
    images, inputs, outputs, size, kernel, stride, padding, density, layout
):
    x = draw(images, inputs, *size, density=density).to(memory_format=LAST)
    weights = draw(outputs, inputs, *kernel, density=density, seed=1).to(memory_format=layout)
    exact, weight = x.double().requires_grad_(), weights.double().requires_grad_()
    y = F.conv2d(exact, weight, None, stride, padding)
    grad = draw(*y.shape, seed=2).to(memory_format=LAST)
    y.backward(grad.double())
    for name, arguments, expected in (
        ("sparse_conv", (x, weights), y),
        ("sparse_conv_input_gradient", (grad, weights, size), exact.grad),
        ("conv_weight_gradient", (grad, x, kernel), weight.grad),
    ):
        for compute in both(name):
            torch.full(expected.shape, torch.nan)  # memory that the result may be given
            found = compute(*arguments, stride, padding)
            assert found.shape == expected.shape and found.is_contiguous(memory_format=LAST)
            assert torch.allclose(found.double(), expected, rtol=0, atol=1e-3), name


@needs_native
@pytest.mark.parametrize("images", [3, 70, 130])
def test_integers_have_the_bits_of_dense_ones_whatever_the_threads(images):
    x, weights = (
        draw(images, 70, 6, 5, density=0.5, integer=True),
        draw(66, 70, 3, 3, density=0.4, seed=1, integer=True),
    )
    grad = draw(images, 66, 3, 3, seed=2, integer=True)
    stride, padding = (2, 2), (1, 1)
    y = F.conv2d(x, weights, None, stride, padding)
    exact = [t.double() for t in (grad, x, weights)]
    geometry = (None, stride, padding, (1, 1), False, (0, 0), 1, (True, True, False))
    for_x, for_weights, _ = torch.ops.aten.convolution_backward(*exact, *geometry)
    threads = torch.get_num_threads()
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            assert torch.equal(ops.sparse_conv(x, weights, stride, padding), y)
            found = ops.sparse_conv_input_gradient(grad, weights, (6, 5), stride, padding)
            assert torch.equal(found.double(), for_x)
            found = ops.conv_weight_gradient(grad, x, (3, 3), stride, padding)
            assert torch.equal(found.double(), for_weights)
    finally:
        torch.set_num_threads(threads)


@needs_native
def test_only_zeros_are_left_out():
    x, weights = draw(2, 20, 6, 6), draw(5, 20, 3, 3, density=0.5, seed=1)
    weights[1, 3, 0, 0], weights[2] = float("nan"), 0.0
    weights[3, 7], x[:, 7] = 0.0, float("inf")
    y = ops.sparse_conv(x, weights, (1, 1), (1, 1))
    assert y[:, 1, 1:, 1:].isnan().all() and (y[:, 2] == 0).all() and y[:, 3].isfinite().all()
    x[:, 7], x[:, 8, 0, 0] = 0.0, float("nan")
    grad = torch.full((2, 5, 6, 6), torch.inf)
    found = ops.conv_weight_gradient(grad, x, (3, 3), (1, 1), (1, 1))
    assert (found[:, 7] == 0).all() and found[:, 8, :2, :2].isnan().all()


@needs_native
def test_wrong_arguments_raise_and_name_themselves():
    x, weights, one = draw(2, 4, 6, 6).to(memory_format=LAST), draw(5, 4, 3, 3), (1, 1)
    grad, size = draw(2, 5, 6, 6).to(memory_format=LAST), (6, 6)
    forward, for_inputs = torch.ops.supermask.sparse_conv, torch.ops.supermask.sparse_conv_input_gradient
    for_weights = torch.ops.supermask.conv_weight_gradient
    for words, compute, arguments in (
        ("x must be a float32 tensor of four", forward, (x.double(), weights, one, one)),
        ("x must be a float32 tensor of four", forward, (x[0], weights, one, one)),
        ("x must be a float32 tensor of four", forward, (x.contiguous(), weights, one, one)),
        ("weights must be a float32 tensor of four", forward, (x, weights.half(), one, one)),
        ("weights must be a float32 tensor of four", forward, (x, weights.transpose(2, 3), one, one)),
        ("x must have 4 channels, but has 5", forward, (grad, weights, one, one)),
        ("stride must be 2 integers from 1 on", forward, (x, weights, (1,), one)),
        ("stride must be 2 integers from 1 on", forward, (x, weights, (0, 1), one)),
        ("padding must be 2 integers from 0 on", forward, (x, weights, one, (-1, 1))),
        (
            "kernel reaches over 3 inputs",
            forward,
            (draw(2, 4, 2, 6).to(memory_format=LAST), weights, one, (0, 0)),
        ),
        ("grad must be a float32 tensor of four", for_inputs, (grad.contiguous(), weights, size, one, one)),
        ("grad must have the shape", for_inputs, (x, weights, size, one, one)),
        ("grad must have the shape", for_inputs, (grad, weights, (7, 6), one, one)),
        ("size must be 2 integers from 0 on", for_inputs, (grad, weights, (6,), one, one)),
        ("grad and x must have four dimensions", for_weights, (grad, x[0], (3, 3), one, one)),
        ("x must be a float32 tensor of four", for_weights, (grad, x.contiguous(), (3, 3), one, one)),
        ("grad must have the shape", for_weights, (grad[:1], x, (3, 3), one, one)),
        ("kernel must be 2 integers from 1 on", for_weights, (grad, x, (3, 0), one, one)),
    ):
        with pytest.raises(RuntimeError, match=words):
            compute(*arguments)
    torch.library.opcheck(forward, (x, weights, (2, 1), one))
    torch.library.opcheck(for_inputs, (grad, weights, size, one, one))
    torch.library.opcheck(for_weights, (grad, x, (3, 3), one, one))


# --- layers --------------------------------------------------------------------------------------------


PARTS = ("sparse_conv", "sparse_conv_input_gradient", "conv_weight_gradient")


def used(monkeypatch) -> list[str]:
    """Collects which parts left out zeros; that always is faster."""
    calls: list[str] = []
    monkeypatch.setattr(sparse_conv, "faster", lambda zeros, dense: True)

    def counted(name, compute, *arguments):
        calls.append(name)
        return compute(*arguments)

    for name in PARTS:
        monkeypatch.setattr(ops, name, partial(counted, name, getattr(ops, name)))
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
    assert calls == list(PARTS)
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
@pytest.mark.parametrize("wins", range(3))
def test_the_three_parts_are_measured_by_themselves(wins, monkeypatch):
    calls, answers = used(monkeypatch), iter(part == wins for part in range(3))
    layer, x = make_layer(20, 24, 3, LAST, padding=1), draw(8, 20, 6, 6).requires_grad_()

    def measured(zeros, dense):
        before = len(calls)
        assert torch.allclose(_one(zeros()), _one(dense()), atol=1e-3)
        del calls[before:]
        return next(answers)

    monkeypatch.setattr(sparse_conv, "faster", measured)
    with accelerated(layer):
        layer(x).sum().backward()
    assert calls == [PARTS[wins]]


@needs_lists
def test_dense_weights_still_leave_out_zeros_of_inputs(monkeypatch):
    calls, x = used(monkeypatch), draw(8, 20, 6, 6).relu()
    layer = nn.Conv2d(20, 24, 3, padding=1)
    with accelerated(layer):
        for _ in range(3):
            layer.weight.grad = None
            layer(x).sum().backward()
        assert calls == [PARTS[2]] * 3
        with torch.no_grad():
            layer(x)
        monkeypatch.setattr(sparse_conv, "faster", lambda zeros, dense: calls.append("measured") is not None)
        calls.clear()
        for _ in range(2):
            layer(x[:, :, 1:].contiguous()).sum().backward()
    assert calls == ["measured"], "what does not pay is not asked again"
    exact = F.conv2d(x.double(), layer.weight.double(), None, 1, 1)
    (wanted,) = torch.autograd.grad(exact.sum(), layer.weight)
    assert layer.weight.grad.shape == wanted.shape


def _one(result):
    return result if isinstance(result, Tensor) else next(one for one in result if one is not None)


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
    assert [calls.count(part) for part in PARTS] == [30, 30, 30]
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


@needs_lists
def test_layers_that_are_alike_share_what_they_measure(monkeypatch):
    """Until it is old: then the first of them measures again."""
    used(monkeypatch)
    asked: list[int] = []
    monkeypatch.setattr(sparse_conv, "faster", lambda zeros, dense: asked.append(1) is None)
    monkeypatch.setattr(sparse_conv, "PRODUCTS_TO_WAIT", 2)
    alike = [make_layer(20, 20, 3, LAST, padding=1) for _ in range(3)]
    other = make_layer(20, 20, 3, LAST, padding=1)
    with torch.no_grad():
        other.weight.mul_(torch.rand_like(other.weight) < 0.4)
    x = draw(8, 20, 6, 6).requires_grad_()

    def step(layers) -> int:
        asked.clear()
        for layer in layers:
            layer(x).sum().backward()
        return len(asked)

    with accelerated(nn.Sequential(*alike, other)):
        assert step(alike) == 3, "the product, the gradient of the inputs, that of the weights"
        assert step([other]) == 2, "whose gradient of the weights is that of the same inputs"
        again = [step([*alike, other]) for _ in range(6)]
        # One gradient of weights every second step, from the next on; two products for each kind every third.
        assert again == [0, 1, 4, 1, 0, 1 + 4]
    with accelerated(alike[0]):
        assert step(alike[:1]) == 3, "nothing is kept beyond the context"
