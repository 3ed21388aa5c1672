"""What all tests share: one thread per process, caches of their own, a small network, a small task.

Nothing heavy is imported here: under `-n` the first process only hands out the tests.
"""

from __future__ import annotations

import gc
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from torch import Tensor

    from .small_net import SmallNet

_caches = tempfile.mkdtemp(prefix="supermask-tests-")
os.environ["SUPERMASK_CACHE"] = _caches
# Of commands, too: two processes with two threads each wait for each other.
os.environ["OMP_NUM_THREADS"] = "1"


KERNELS = {"codes", "init", "native", "ops", "packed", "packed_conv", "packed_int8", "packed_layers"}
KERNELS |= {"packed_placement", "units_of_layers"}
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
MARKED = {"instruction_sets"}
"""Files that have such marks themselves."""


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Do not import files of which `-m isa` and `-m kernels` would run nothing."""
    asked = re.match(r"(isa|kernels)\b(?! or)", config.option.markexpr)
    if not asked or not collection_path.name.startswith("test_"):
        return None
    wanted = KERNELS if asked[1] == "kernels" else KERNELS | TRAINING
    name = collection_path.stem.removeprefix("test_")
    return name not in wanted | MARKED or None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests that are run again for other instruction sets, by the names of their files."""
    for item in items:
        name = item.path.stem.removeprefix("test_")
        if item.get_closest_marker("own_isa"):
            continue
        if name in KERNELS:
            item.add_marker(pytest.mark.kernels)
        if name in KERNELS | TRAINING:
            item.add_marker(pytest.mark.isa)


def pytest_collection_finish() -> None:
    """What was imported stays: the collector of garbage need not look at it again in every test."""
    gc.collect()
    gc.freeze()


def pytest_unconfigure() -> None:
    shutil.rmtree(_caches, ignore_errors=True)


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """Whatever the last test has set."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def no_waiting_for_the_disk() -> Iterator[None]:
    """Files are as whole without it, unless the power fails; test_io.py looks at when it is called."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: None)
        yield


@pytest.fixture
def small_net() -> SmallNet:
    from .small_net import SmallNet

    return SmallNet()


@pytest.fixture
def batch() -> tuple[Tensor, Tensor]:
    """Eight 8x8 images with labels that depend on them."""
    import torch

    generator = torch.Generator().manual_seed(0)
    images = torch.randn(8, 1, 8, 8, generator=generator)
    return images, (images.mean(dim=(1, 2, 3)) * 20).long().remainder(3)
