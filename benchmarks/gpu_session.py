"""Everything that waits for a GPU, in four steps of less than ten minutes each.

    python benchmarks/gpu_session.py tests         # builds the kernels where they are missing; all cuda tests
    python benchmarks/gpu_session.py sanitize      # compute-sanitizer, its four tools, over a choice of tests
    python benchmarks/gpu_session.py benchmarks    # kernels: packed layers, selection, steps, generator
    python benchmarks/gpu_session.py trainings     # images per second of whole trainings, seeds together

What fails is recorded, and the next command goes on. `<out>/gpu_session_<step>.json`, written anew after
each, holds every command with its exit code, its seconds and the end of its output; benchmarks leave their
own files beside it. It takes nothing but what is installed: torch, pytest, hypothesis, matplotlib, and for
the build pip, scikit-build-core, cmake, ninja and nvcc.
"""

import argparse
import importlib.metadata
import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
LIBRARIES = ("_native.so", "_native_cuda.so")
TAIL = 6000  # characters of a command's output that are kept
PYTHON = sys.executable
SANITIZED = {  # tool → tests: kernels run about a hundred times slower under it
    "memcheck": "strides or floor or n_of_m or fused or packing or integers and 17-",
    "racecheck": "floor or n_of_m or one_cut or integers and 17-129-8 or wgmma and 17-129-12",
    "synccheck": "floor or one_cut or integers and 17-129-8 or wgmma and 17-129-12",
    "initcheck": "floor or n_of_m or one_cut or integers and 17-129-8 or wgmma and 17-129-12",
}

Command = tuple[list[str], float]
"""What to run, and for how many seconds at most."""


def python(*arguments: str) -> list[str]:
    return [PYTHON, *arguments]


def pytest(*arguments: str) -> list[str]:
    return python("-m", "pytest", "-m", "cuda", "-q", "--tb=short", "-W", "default", *arguments)


def in_parallel() -> list[str]:
    """Flags for as many workers as there are cores for; a test leaves the GPU idle most of the time."""
    workers = min(8, (os.cpu_count() or 1) // 2)
    return ["-n", str(workers)] if workers > 1 and importlib.util.find_spec("xdist") else []


def build() -> list[Command]:
    """Install the package with both libraries, unless it is there."""
    import supermask

    built = any(all((Path(place) / name).exists() for name in LIBRARIES) for place in supermask.__path__)
    if built and any(importlib.metadata.distributions(name="supermask")):
        return []
    install = ["-m", "pip", "install", "--no-build-isolation", "--no-deps", "--editable"]
    return [(python(*install, ".", "--config-settings=cmake.define.SUPERMASK_CUDA=ON"), 300)]


def tests() -> list[Command]:
    files = ("test_cuda_library.py", "test_cuda_kernels.py", "test_cuda_packed.py", "test_cuda.py")
    library = python("-m", "pytest", "-q", "--tb=short", "-W", "default", f"tests/{files[0]}")
    rest = [(pytest(*in_parallel(), f"tests/{name}"), 240.0) for name in files[1:]]
    others = [f"--ignore=tests/{name}" for name in files]
    return [
        *build(),
        (python("-m", "supermask.info"), 60),
        (library, 90),
        *rest,
        (pytest(*in_parallel(), "tests", *others), 240),
    ]


def sanitize() -> list[Command]:
    files = ("tests/test_cuda_kernels.py", "tests/test_cuda_packed.py")
    return [
        (
            ["compute-sanitizer", "--tool", tool, "--error-exitcode", "1",
             *pytest("-x", *files, "-k", f"({chosen}) and not graph")],
            200,
        )
        for tool, chosen in SANITIZED.items()
    ]  # fmt: skip


def benchmarks(out: Path) -> list[Command]:
    def run(name: str, *arguments: str) -> list[str]:
        return python(f"benchmarks/{name}.py", *arguments, "--out", str(out))

    quick = ("--device", "cuda", "--seconds", "4")
    return [
        (run("masked_linear_cuda", "--rounds", "20"), 240),
        (run("selection", *quick), 90),
        (run("training_step", *quick), 120),
        (run("generator", *quick), 45),
        (
            run("masked_linear_cuda", "--dtype", "float32", "--rounds", "10", "--batches", "1", "16", "64"),
            120,
        ),
    ]


def trainings(out: Path) -> list[Command]:
    def run(name: str, *arguments: str) -> list[str]:
        return python(
            f"benchmarks/{name}.py", "--device", "cuda", "--seconds", "4", *arguments, "--out", str(out)
        )

    return [(run("throughput"), 400), (run("seeds_together"), 180)]


def run(command: list[str], seconds: float) -> dict[str, Any]:
    """Run it from the root of the repository; nothing it does raises."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    if "compute-sanitizer" in command[0]:
        environment["PYTORCH_NO_CUDA_MEMORY_CACHING"] = "1"
    start = time.monotonic()
    try:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )
    except OSError as error:
        return {"command": command, "exit": None, "seconds": 0.0, "output": str(error)}
    late = False
    try:
        output, _ = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        late = True
        os.killpg(process.pid, signal.SIGKILL)
        output, _ = process.communicate()
    return {
        "command": command,
        "exit": process.returncode,
        "late": late,
        "seconds": round(time.monotonic() - start, 1),
        "output": output[-TAIL:],
    }


def folder_of_results() -> Path:
    """Named after the GPU."""
    import torch

    name = torch.cuda.get_device_name() if torch.cuda.is_available() else "no-gpu"
    return ROOT / "benchmarks" / "results" / re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def main() -> int:
    """One step; exit code 1 if a command failed or was not reached."""
    parser = argparse.ArgumentParser(description="what waits for a GPU: tests, sanitizers, benchmarks")
    parser.add_argument("step", choices=("tests", "sanitize", "benchmarks", "trainings"), help="what to do")
    parser.add_argument("--out", type=Path, help="folder of the results; by default named after the GPU")
    parser.add_argument("--minutes", type=float, default=9.0, help="when to start no further command (9)")
    options = parser.parse_args()
    sys.path.insert(0, str(ROOT))
    out = (options.out or folder_of_results()).resolve()
    out.mkdir(parents=True, exist_ok=True)
    commands = {
        "tests": tests,
        "sanitize": sanitize,
        "benchmarks": lambda: benchmarks(out),
        "trainings": lambda: trainings(out),
    }[options.step]()
    end = time.monotonic() + 60 * options.minutes
    done: list[dict[str, Any]] = []
    for command, seconds in commands:
        left = end - time.monotonic()
        print("$", *command, flush=True)
        if left > 5:
            done.append(run(command, min(seconds, left)))
        else:
            done.append({"command": command, "exit": None, "seconds": 0.0, "output": "not reached"})
        print(done[-1]["output"], f"[exit {done[-1]['exit']}, {done[-1]['seconds']} s]", sep="\n", flush=True)
        report = {"step": options.step, "commands": done}
        (out / f"gpu_session_{options.step}.json").write_text(json.dumps(report, indent=1) + "\n")
    return int(any(entry["exit"] != 0 for entry in done))


if __name__ == "__main__":
    sys.exit(main())
