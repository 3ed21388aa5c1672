"""The machine code of the CUDA kernels, which needs nvcc and no GPU: registers, spills, instructions."""

import importlib.util
import re
import shutil
import subprocess
from collections import Counter
from pathlib import Path

import pytest

CSRC = Path(__file__).parents[1] / "csrc"
KERNELS = sorted((CSRC / "cuda").glob("*.cu"))
MOST_REGISTERS = 128  # two blocks of 256 threads fill the registers of a multiprocessor

pytestmark = pytest.mark.skipif(not shutil.which("nvcc"), reason="no nvcc")


def compile_kernels(source: Path, architecture: str, to: Path) -> str:
    """Compile as csrc/cuda/CMakeLists.txt does; what ptxas says of every kernel."""
    command = f"nvcc -std=c++20 -O3 -fmad=false -arch={architecture} -cubin -Xptxas -v".split()
    command += [f"-I{CSRC / 'include'}", f"-I{CSRC / 'cuda'}", str(source), "-o", str(to)]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return result.stderr


@pytest.mark.parametrize(
    "architecture",
    ["sm_90a", *(pytest.param(a, marks=pytest.mark.slow) for a in ("sm_80", "sm_100"))],
)
@pytest.mark.parametrize("source", KERNELS, ids=lambda path: path.stem)
def test_no_kernel_spills(source, architecture, tmp_path):
    said = compile_kernels(source, architecture, tmp_path / "kernels.cubin")
    spills = re.findall(r"(\d+) bytes spill (?:stores|loads)", said)
    registers = [int(count) for count in re.findall(r"Used (\d+) registers", said)]
    assert registers and len(spills) == 2 * len(registers), said
    assert set(spills) == {"0"}, said
    assert max(registers) <= MOST_REGISTERS, said


def disassemble(cubin: Path) -> dict[str, list[str]]:
    """Kernel → its instructions, in order. The disassembler is CUDA's, or the one that Triton carries."""
    tool = shutil.which("cuobjdump")
    triton = importlib.util.find_spec("triton")
    if tool is None and triton is not None:
        tool = shutil.which("cuobjdump", path=Path(triton.origin).parent / "backends" / "nvidia" / "bin")
    if tool is None:
        pytest.skip("no cuobjdump")
    listing = subprocess.run([tool, "--dump-sass", cubin], capture_output=True, text=True, check=True).stdout
    kernels: dict[str, list[str]] = {}
    for line in listing.splitlines():
        if function := re.search(r"Function : (\S+)", line):
            instructions = kernels.setdefault(function[1], [])
        elif instruction := re.match(r"\s+/\*[0-9a-f]{4,}\*/\s+(?:@\S+\s+)?([A-Z][A-Z0-9_.]*)", line):
            instructions.append(instruction[1])
    return kernels


def test_decoding_a_weight_costs_half_an_instruction(tmp_path):
    """Of sixteen weights: eight times an and, which is a LOP3, on a shifted word. Nothing counts bits."""
    compile_kernels(CSRC / "cuda" / "packed_linear.cu", "sm_90a", tmp_path / "kernels.cubin")
    code_of = disassemble(tmp_path / "kernels.cubin")
    kernels = {name: code for name, code in code_of.items() if "packed_linear_kernel" in name}
    assert len(kernels) == 9, "three types, three sizes of a batch"
    for name, code in kernels.items():
        counts = Counter(instruction.split(".")[0] for instruction in code)
        assert counts["POPC"] == counts["LDL"] == counts["STL"] == 0, (name, counts)
        products = [i for i, instruction in enumerate(code) if instruction.startswith("HMMA")]
        loop = Counter(i.split(".")[0] for i in code[products[0] : products[-1]])
        batch = int(re.search(r"Li(\d+)E", name)[1])
        terms = 3 if "kernelIf" in name else 1
        # A product has 16 x 16 weights, eight for each lane; each is decoded once for the whole batch.
        weights = 8 * len(products) * 8 // batch // terms
        assert loop["LOP3"] <= 9 * weights / 16, (name, weights, loop)
