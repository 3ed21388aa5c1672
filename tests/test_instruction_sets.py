"""The tests that `make test` runs again for other instruction sets: they are there, and see those sets."""

from pathlib import Path

import pytest
import torch

from supermask import ops
from tests.conftest import KERNELS, TRAINING

ORDER = ("baseline", "avx2", "avx512")
LIMITS = {"DEFAULT": "baseline", "NO AVX": "baseline", "AVX2": "avx2", "AVX512": "avx512"}


@pytest.mark.parametrize("name", sorted(KERNELS | TRAINING))
def test_every_file_is_there(name):
    assert Path(__file__).with_name(f"test_{name}.py").exists()


@pytest.mark.isa
@pytest.mark.kernels
def test_the_kernels_keep_to_what_torch_is_limited_to():
    used, limit = ops.instruction_set(), LIMITS[torch.backends.cpu.get_cpu_capability()]
    if used is None:
        pytest.skip("no compiled kernels here")
    assert ORDER.index(used) <= ORDER.index(limit)
