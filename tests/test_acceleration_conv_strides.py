"""Convolutions that leave out zeros: strides, memory, and layers whose geometry was set by hand."""

import re
from pathlib import Path

import pytest
import torch

from supermask import ops
from tests.test_acceleration_conv import LAST, draw, needs_native


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
