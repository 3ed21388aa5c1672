"""The compiled CUDA library on a machine with or without a GPU: that it loads, and what its kernels use."""

import re
import shutil
import subprocess
from collections import Counter
from pathlib import Path

import pytest
import torch

import supermask
from supermask import info, ops
from supermask.ops import library as operators
from supermask.ops import references

CUDA = torch.device("cuda")
NATIVE = (
    *("fill_philox", "fill_random", "pack_mask", "unpack_mask"),
    *("select", "select_into", "select_global", "rank_into", "select_n_of_m", "select_n_of_m_into"),
    *("straight_through", "write_masked", "edge_popup_sgd"),
    *("linear_from_codes", "linear_from_codes_wgmma", "decode_codes"),
)
needs_library = pytest.mark.skipif(
    operators._native_cuda is None, reason="no compiled CUDA library; nvcc and `make setup` make one"
)


@needs_library
@pytest.mark.parametrize("name", NATIVE)
def test_its_operators_are_registered_without_a_gpu(name):
    assert ops.is_native(name, CUDA)
    assert ops.backends("cuda")[name].startswith("native (")


def test_every_operator_has_a_line_for_each_device():
    cpu, cuda = info.describe().split("\ncuda\n")
    for name in references.KERNELS:
        assert f"  {name} " in cpu and f"  {name} " in cuda


def test_a_library_that_does_not_load_is_an_error(tmp_path, monkeypatch):
    Path(tmp_path, "_native_cuda.so").write_bytes(b"no library")
    monkeypatch.setattr(supermask, "__path__", [str(tmp_path)])
    with pytest.raises(OSError, match="_native_cuda"):
        operators._load_native("_native_cuda.so")


def test_a_torch_without_cuda_says_so(monkeypatch):
    monkeypatch.setattr(torch.version, "cuda", None)
    monkeypatch.setattr(operators, "_native_cuda", None)
    operators._has_kernel.cache_clear()
    try:
        assert set(ops.backends("cuda").values()) == {"reference (this torch has no CUDA)"}
    finally:
        operators._has_kernel.cache_clear()


# What the machine code uses. The caps leave four blocks of 256 threads on a multiprocessor, two of the packed
# layer's, one of its 512 for many inputs, and the settling of masks its one of 768.
REGISTERS = {
    "classify_kernel": 64,
    "settle_kernel": 80,
    "rank_missed_kernel": 64,
    "best_of_stretch_kernel": 64,
    "best_of_tensor_kernel": 64,
    "end_pass_kernel": 64,
    "elements_kernel": 64,
    "count_kernel": 64,
    "write_mask_kernel": 64,
    "select_groups_kernel": 64,
    "fill_random_kernel": 32,
    "packed_linear_kernel": 128,
    "packed_wgmma_kernel": 128,
    "decode_kernel": 64,
}


def _cuobjdump() -> str | None:
    """NVIDIA's tool, from the toolkit or from the triton that comes with torch."""
    found = shutil.which("cuobjdump")
    bundled = Path(torch.__file__).parents[1] / "triton/backends/nvidia/bin/cuobjdump"
    return found or (str(bundled) if bundled.exists() else None)


@needs_library
@pytest.mark.skipif(_cuobjdump() is None, reason="needs cuobjdump, of the CUDA toolkit or of triton")
def test_kernels_spill_nothing_and_stay_within_their_registers():
    command = [_cuobjdump(), "--dump-resource-usage", str(operators._native_cuda)]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    kernels = re.findall(r"Function (\S+):\s+REG:(\d+) STACK:(\d+) SHARED:\d+ LOCAL:(\d+)", text)
    for part in ("sm_80", "sm_90a"):
        assert f"arch = {part}" in text
    for name in REGISTERS:
        assert any(name in kernel for kernel, *_ in kernels), f"no kernel {name} in the library"
    for kernel, registers, stack, local in kernels:
        cap = next((cap for name, cap in REGISTERS.items() if name in kernel), None)
        assert cap is None or (stack, local) == ("0", "0"), f"{kernel} spills to memory"
        assert cap is None or int(registers) <= cap, f"{kernel} takes {registers} registers, more than {cap}"


def _instructions(architecture: str) -> dict[str, list[str]]:
    """Kernel → the names of its instructions, in order."""
    command = [_cuobjdump(), "--dump-sass", "-arch", architecture, str(operators._native_cuda)]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    functions = re.split(r"Function : ", text)[1:]
    instruction = re.compile(r"^\s+/\*[0-9a-f]{4,}\*/\s+(?:@\S+\s+)?([A-Z]\w*)", re.MULTILINE)
    return {function.split(maxsplit=1)[0]: instruction.findall(function) for function in functions}


@needs_library
@pytest.mark.skipif(_cuobjdump() is None, reason="needs cuobjdump, of the CUDA toolkit or of triton")
@pytest.mark.parametrize("architecture", ["sm_80", "sm_90a"])
def test_decoding_a_packed_weight_costs_half_an_instruction(architecture):
    """Of sixteen weights: eight times an and, which is a LOP3, of a shifted word. Nothing counts bits."""
    kernels = {k: code for k, code in _instructions(architecture).items() if "packed_linear_kernel" in k}
    assert len(kernels) == 9, "three types, three sizes of a batch"
    for kernel, code in kernels.items():
        assert not {"POPC", "LDL", "STL"} & set(code), kernel
        products = [place for place, name in enumerate(code) if name == "HMMA"]
        loop = Counter(code[products[0] : products[-1]])
        # A product has 16 x 16 weights, eight of each lane. It is made once for every eight inputs and every
        # term of them, and its weights are decoded once.
        batch = int(re.search(r"Li(\d+)E", kernel)[1])
        terms = 3 if "kernelIf" in kernel else 1
        weights = 8 * len(products) / (batch / 8 * terms)
        assert loop["LOP3"] <= 9 * weights / 16, (kernel, weights, loop)


@needs_library
@pytest.mark.skipif(_cuobjdump() is None, reason="needs cuobjdump, of the CUDA toolkit or of triton")
def test_products_for_many_inputs_run_beside_the_decoding():
    """A tile of 128 inputs is eight products, two for each word of its codes, and a wait after each word."""
    kernels = {k: code for k, code in _instructions("sm_90a").items() if "packed_wgmma_kernel" in k}
    assert len(kernels) == 4, "two types, two sizes of a batch"
    for kernel, code in kernels.items():
        assert not {"POPC", "LDL", "STL"} & set(code), kernel
        count = Counter(code)
        assert count["HGMMA"] == 8, kernel
        # ptxas waits after every product where it sees a hazard. WARPGROUP is a fence or a wait: four of each
        # in the loop, and the wait at the end.
        assert count["WARPGROUP"] == 9, (kernel, count["WARPGROUP"])
