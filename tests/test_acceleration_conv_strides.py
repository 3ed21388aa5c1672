"""Convolutions that leave out zeros: strides, memory, and layers whose geometry was set by hand."""

import re
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from supermask import ops
from supermask.training.acceleration import accelerated
from tests.test_acceleration_conv import (
    FIRST,
    LAST,
    PARTS,
    draw,
    make_layer,
    needs_lists,
    needs_native,
    used,
)


@needs_native
@pytest.mark.parametrize(("inputs", "outputs", "size"), [(1, 5, 6), (5, 1, 6), (5, 4, 1), (1, 1, 1)])
def test_strides_without_data_are_those_of_data(inputs, outputs, size):
    x, weights = draw(3, inputs, size, size).to(memory_format=LAST), draw(outputs, inputs, 1, 1, seed=1)
    grad, one, none = draw(3, outputs, size, size).to(memory_format=LAST), (1, 1), (0, 0)
    for name, *arguments in (
        ("sparse_conv", x, weights),
        ("sparse_conv_input_gradient", grad, weights, (size, size)),
        ("conv_weight_gradient", grad, x, one),
    ):
        without = [a.to("meta") if isinstance(a, Tensor) else a for a in arguments]
        compute = getattr(torch.ops.supermask, name)
        real, shape = compute(*arguments, one, none), compute(*without, one, none)
        assert (real.shape, real.stride()) == (shape.shape, shape.stride()), name


def memory_of(compute) -> tuple[int, int]:
    """By how many bytes the memory of this process grows within a call, and over it."""

    def now(name: str) -> int:
        (kilobytes,) = re.findall(rf"{name}:\s*(\d+) kB", Path("/proc/self/status").read_text())
        return 1024 * int(kilobytes)

    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        pytest.skip("the system does not forget a process's largest size")
    before = now("VmRSS")
    compute()
    return now("VmHWM") - before, now("VmRSS") - before


@needs_native
def test_memory_goes_with_the_operands_and_large_copies_are_given_back():
    grad, x = draw(8, 16, 160, 160).to(memory_format=LAST), torch.zeros(8, 1, 160, 160)
    peak, _ = memory_of(lambda: ops.conv_weight_gradient(grad, x, (1, 1), (1, 1), (0, 0)))
    assert peak < 3 * 4 * grad.numel()
    x, weights = torch.zeros(1, 3700, 3, 3), torch.zeros(512, 3700, 3, 3)
    _, kept = memory_of(lambda: ops.sparse_conv(x, weights, (1, 1), (0, 0)))
    assert kept < 4 * weights.numel() / 3


@needs_lists
@pytest.mark.parametrize("formats", [(FIRST, FIRST), (FIRST, LAST), (LAST, FIRST), (LAST, LAST)])
def test_images_of_one_position_have_the_strides_that_torch_gives(formats, monkeypatch):
    calls = used(monkeypatch)
    layer = make_layer(20, 24, 3, formats[1], padding=1)
    x = draw(8, 20, 1, 1).to(memory_format=formats[0]).requires_grad_()
    dense = F.conv2d(x, layer.weight, layer.bias, 1, 1)
    (expected,) = torch.autograd.grad(dense.sum(), x)
    with accelerated(layer):
        y = layer(x)
        (found,) = torch.autograd.grad(y.sum(), x)
        y.relu_()  # the result is no view
    assert calls == list(PARTS)
    assert (y.stride(), found.stride()) == (dense.stride(), expected.stride())


@needs_lists
def test_stride_and_padding_may_be_numbers(monkeypatch):
    calls, layer, x = used(monkeypatch), make_layer(20, 24, 3, LAST), draw(8, 20, 6, 6)
    layer.stride, layer.padding = 2, 1
    expected = layer(x)
    with accelerated(layer), torch.no_grad():
        assert torch.allclose(layer(x), expected, atol=1e-4)
    assert calls == [PARTS[0]]
