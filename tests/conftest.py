"""What all tests share: one thread per process, caches of their own, a small network, a small task."""

import os
import tempfile

import pytest
import torch
from torch import Tensor, nn

torch.set_num_threads(1)
_caches = tempfile.TemporaryDirectory(prefix="supermask-tests-")
os.environ["SUPERMASK_CACHE"] = _caches.name


KERNELS = {"codes", "init", "native", "ops", "packed", "packed_conv", "packed_int8", "packed_placement"}
"""Tests of the compiled kernels, which `make test` runs for every instruction set."""
TRAINING = {
    "compatibility",
    "execution",
    "memory_format",
    "models",
    "moving_masks",
    "precision",
    "prune",
    "search",
}
TRAINING |= {"search_biprop", "search_gates", "search_signed_supermask", "search_zhou", "together", "train"}
"""Tests that train, or choose by instruction set, which `make test` runs for AVX2 as well."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests that are run again for other instruction sets, by the names of their files."""
    for item in items:
        name = item.path.stem.removeprefix("test_")
        if name in KERNELS:
            item.add_marker(pytest.mark.kernels)
        if name in KERNELS | TRAINING:
            item.add_marker(pytest.mark.isa)


class SmallNet(nn.Module):
    """Convolution, norm, linear: every kind of parameter of a small classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 6, 3, padding=1)
        self.norm = nn.BatchNorm2d(6)
        self.hidden = nn.Linear(6 * 16, 20)
        self.output = nn.Linear(20, 3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.conv(x)))
        return self.output(torch.relu(self.hidden(nn.functional.max_pool2d(x, 2).flatten(1))))


@pytest.fixture
def small_net() -> SmallNet:
    return SmallNet()


@pytest.fixture
def batch() -> tuple[Tensor, Tensor]:
    """Eight 8x8 images with labels that depend on them."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(8, 1, 8, 8, generator=generator)
    return images, (images.mean(dim=(1, 2, 3)) * 20).long().remainder(3)
