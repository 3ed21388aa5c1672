"""The tests that `make test` runs again for other instruction sets: they are there, and see those sets."""

import re
from pathlib import Path

import pytest
import torch

from supermask import ops
from tests.conftest import KERNELS, MARKED, TRAINING

ORDER = ("baseline", "avx2", "avx512")
LIMITS = {"DEFAULT": "baseline", "NO AVX": "baseline", "AVX2": "avx2", "AVX512": "avx512"}


@pytest.mark.parametrize("name", sorted(KERNELS | TRAINING | MARKED))
def test_every_file_is_there(name):
    assert Path(__file__).with_name(f"test_{name}.py").exists()


def test_no_other_file_has_their_marks():
    """Files that these runs do not import, because nothing in them is marked."""
    others = [path for path in Path(__file__).parent.glob("test_*.py") if path != Path(__file__)]
    assert not [path.name for path in others if re.search(r"mark\.(isa|kernels)\b", path.read_text("utf-8"))]


@pytest.mark.isa
@pytest.mark.kernels
def test_the_kernels_keep_to_what_torch_is_limited_to():
    used, limit = ops.instruction_set(), LIMITS[torch.backends.cpu.get_cpu_capability()]
    if used is None:
        pytest.skip("no compiled kernels here")
    assert ORDER.index(used) <= ORDER.index(limit)
