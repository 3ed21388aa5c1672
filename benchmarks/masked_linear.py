"""A linear layer with a masked weight: packed against every dense and sparse form that torch has on a CPU.

Beside them stand the layers of other packages that are installed (`_rivals.py`), and ours with inputs rounded
to int8; each result says what it rounds. The packed layer has been tuned on its inputs (`sm.packed.tune`).

`resident` rows call each candidate on one copy of its weights, which stay in the cache if they fit; `rotated`
ones go round copies that together exceed it. Errors are relative to float64. The roofline of a candidate is
the time that its weights take from memory (rotated) or the dense multiply-adds take, whichever is longer, at
the bandwidth and the rate measured in the same run; packed layers, which look products up, may exceed it.

It fails, once results are written, where a tuned packed layer takes over 1.05 times as long as the faster
dense one.

python benchmarks/masked_linear.py [--threads 1] [--out DIR]

AVX2 on a machine that has AVX-512, where other packages go on using it:
ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 python benchmarks/masked_linear.py [--threads 1] [--out DIR]
"""

import argparse
import copy
import functools
import itertools
import math
import os
import warnings
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import _rivals
import torch
from _measure import (
    CLOCKS,
    arguments,
    check_not_slower,
    choosing,
    chosen,
    interleave,
    name_here,
    report,
    with_earlier,
)
from _plot import plot_speedups
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils import mkldnn as mkldnn_utils

from supermask import ops
from supermask.packed import PackedLinear, tune
from supermask.packed.linear import LAYOUTS
from supermask.packed.prepacked import has_prepacked

SIGMA = 0.02
CACHE_BYTES = 64 << 20  # more than the last cache of the machines we know
FLOAT, HALF = torch.float32, torch.bfloat16

# (outputs, inputs), init, density, batch, type of the inputs, rotated
CASES: list[tuple[tuple[int, int], str, float, int, torch.dtype, bool]] = [
    ((4096, 4096), "sign", 0.5, 1, FLOAT, False),
    ((4096, 4096), "sign", 0.5, 1, FLOAT, True),
    ((4096, 4096), "sign", 0.5, 8, FLOAT, False),
    ((4096, 4096), "sign", 0.5, 64, FLOAT, False),
    ((4096, 4096), "sign", 0.3, 64, FLOAT, False),
    ((4096, 4096), "sign", 0.1, 64, FLOAT, False),
    ((4096, 4096), "sign", 0.5, 1, HALF, True),
    ((4096, 4096), "sign", 0.5, 8, HALF, False),
    ((4096, 4096), "sign", 0.5, 64, HALF, False),
    ((4096, 4096), "normal", 0.5, 1, FLOAT, True),
    ((4096, 4096), "normal", 0.1, 1, FLOAT, True),
    ((1024, 1024), "sign", 0.5, 1, FLOAT, False),
    ((300, 784), "sign", 0.3, 1, FLOAT, False),
    ((300, 784), "sign", 0.3, 128, FLOAT, False),
    ((256, 256), "sign", 0.3, 1, FLOAT, False),
]


class Candidate(NamedTuple):
    """A form of the layer: what makes one, bytes of its weights, what it rounds, the kernel that serves."""

    make: Callable[[], Callable[[Tensor], Any]]
    size: float
    rounds: str = "nothing"
    kernel: str | None = None


def draw(shape: tuple[int, int], init: str, density: float) -> Tensor:
    """A masked matrix: ±1 or normal values, and zeros."""
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(shape, generator=generator)
    mask = torch.rand(shape, generator=generator) < density
    return (values.sign() if init == "sign" else values) * mask


def dense(weights: Tensor, dtype: torch.dtype) -> nn.Linear:
    layer = nn.Linear(weights.shape[1], weights.shape[0], bias=False, dtype=dtype).requires_grad_(False)
    layer.weight.copy_(weights)
    return layer


def packed_form(layer: PackedLinear, x: Tensor, rounds: str = "nothing") -> Candidate:
    """A packed layer, tuned on `x`; a kernel reads the buffers of its own layout alone."""
    tune(layer, x)
    kernel = layer.kernel(x)
    names = LAYOUTS.get(kernel)
    size = layer.weight(x).nbytes if names is None else sum(layer.get_buffer(name).nbytes for name in names)
    return Candidate(functools.partial(copy.deepcopy, layer), size, rounds, kernel)


def candidates(
    weights: Tensor, init: str, dtype: torch.dtype, x: Tensor, threads: int
) -> dict[str, Candidate]:
    """Every form of the layer that can be copied."""
    scaled, signs = weights * SIGMA, weights.to(torch.int8) if init == "sign" else None
    layer = dense(scaled, dtype)
    size = layer.weight.nbytes
    packed = PackedLinear(scaled.to(dtype)) if signs is None else PackedLinear(signs, SIGMA)
    forms = {
        "packed": packed_form(packed, x),
        "eager": Candidate(lambda: copy.deepcopy(layer), size),
    }
    if has_prepacked(dtype):
        forms["onednn"] = Candidate(lambda: mkldnn_utils.to_mkldnn(dense(scaled, FLOAT), dtype), size)
    if signs is not None:
        rounded = PackedLinear(signs, SIGMA, activations="int8")
        forms["packed int8"] = packed_form(rounded, x, "inputs, int8")
        for name, rival in _rivals.installed(weights.shape[1]).items() if dtype == FLOAT else ():
            make = functools.partial(rival.make, signs, SIGMA, threads)
            forms[name] = Candidate(make, rival.bits * weights.numel() / 8, rival.rounds)
    return forms


def resident_forms(weights: Tensor) -> dict[str, Candidate]:
    """More forms of the layer in float32: they are measured on one copy of their weights only."""
    scaled = weights * SIGMA
    # As eager edge-popup computes it, and compiled; the mask is of floats, like the scores it came from.
    whole, mask = scaled.clone(), (weights != 0).float()
    compiled = torch.compile(lambda x, w, m: F.linear(x, w * m))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # sparse CSR is in beta
        wide = scaled.to_sparse_csr()  # with indices of 64 bits, where MKL computes with 32
        parts = (wide.crow_indices().int(), wide.col_indices().int(), wide.values())
        sparse = torch.sparse_csr_tensor(*parts, size=weights.shape)
    return {
        "w*m": Candidate(lambda: lambda x: F.linear(x, whole * mask), 2 * whole.nbytes),
        "w*m compiled": Candidate(lambda: lambda x: compiled(x, whole, mask), 2 * whole.nbytes),
        "csr": Candidate(lambda: lambda x: (sparse @ x.t()).t(), sum(part.nbytes for part in parts)),
    }


def rotates(outputs: int, inputs: int) -> bool:
    """Whether so few copies of a layer exceed the cache that making them takes no time."""
    return outputs * inputs >= 1 << 22


def rotating(form: Candidate) -> Callable[[Tensor], Any]:
    """Calls the next of as many copies as exceed the cache."""
    copies = itertools.cycle([form.make() for _ in range(-int(-2 * CACHE_BYTES // form.size))])
    return lambda x: next(copies)(x)


def failures(calls: Mapping[str, Callable[[], Any]], exact: Tensor) -> dict[str, str]:
    """Candidates that return no product, and what they return: they are not timed, for nothing is fastest."""
    found = {}
    for name, call in calls.items():
        result = torch.as_tensor(call())
        if result.shape != exact.shape:
            found[name] = f"returned the shape {tuple(result.shape)} instead of {tuple(exact.shape)}"
    return found


def result_of(call: Callable[[Tensor], Any], x: Tensor) -> Tensor:
    """What a candidate computes, in float64."""
    result = torch.as_tensor(call(x))
    return (result.to_dense() if result.is_mkldnn else result).double()


def compare(
    case: tuple[tuple[int, int], str, float, int, torch.dtype, bool],
    limits: dict[str, float],
    seconds: float,
    threads: int = 1,
    clock: str = "wall",
) -> dict[str, Any]:
    """One row."""
    shape, init, density, batch, dtype, cold = case
    weights = draw(shape, init, density)
    x = torch.randn(batch, shape[1], generator=torch.Generator().manual_seed(1)).to(dtype)
    forms = candidates(weights, init, dtype, x, threads)
    if not cold and dtype == FLOAT:
        forms |= resident_forms(weights)
    if cold:
        forms.pop("openvino 4 bits", None)  # each copy would have threads of its own
    inputs = {name: x.to_mkldnn() if name == "onednn" else x for name in forms}
    calls = {name: rotating(form) if cold else form.make() for name, form in forms.items()}
    exact = x.double() @ (weights.double() * SIGMA).t()
    failed = failures({name: functools.partial(calls[name], inputs[name]) for name in forms}, exact)
    forms = {name: form for name, form in forms.items() if name not in failed}
    results: dict[str, dict[str, Any]] = interleave(
        {name: (lambda n=name: calls[n](inputs[n])) for name in forms}, seconds, turn=0.02, clock=clock
    )
    operations = 2 * batch * weights.numel()
    for name, form in forms.items():
        error = (result_of(calls[name], inputs[name]) - exact).abs().max()
        bound = max(
            form.size / limits["bytes_per_s"] * cold,
            operations / limits.get(f"{dtype}"[6:] + "_per_s", math.inf),
        )
        results[name] |= {
            "error": float(error / exact.abs().max()),
            "rounds": form.rounds,
            "bits_per_weight": 8 * form.size / weights.numel(),
            "roofline": 1e3 * bound / results[name]["median_ms"],
            "speedup_of_packed": results[name]["median_ms"] / results["packed"]["median_ms"],
        }
        if form.kernel:
            results[name]["kernel"] = form.kernel
    best = min(results.keys() & {"eager", "onednn"}, key=lambda name: results[name]["median_ms"])
    return {
        "outputs": shape[0],
        "inputs": shape[1],
        "init": init,
        "density": density,
        "batch": batch,
        "dtype": f"{dtype}"[6:],
        "rotated": cold,
        "against": best,
        "speedup": results[best]["speedup_of_packed"],
        "failed": failed,
        "results": results,
    }


def machine_limits(clock: str = "wall") -> dict[str, float]:
    """Bytes per second of a copy, read and written, and operations per second of a product of matrices."""
    source = torch.ones(64 << 20)
    target, limits, now = torch.empty_like(source), {}, CLOCKS[clock]

    def best(call: Callable[[], Any], repeats: int) -> float:
        times = []
        for _ in range(repeats):
            start = now()
            call()
            times.append(now() - start)
        return min(times)

    limits["bytes_per_s"] = 2 * source.nbytes / best(lambda: target.copy_(source), 10)
    x = torch.randn(1024, 1024)
    for dtype in filter(has_prepacked, (FLOAT, HALF)):
        one = mkldnn_utils.to_mkldnn(nn.Linear(1024, 1024, bias=False).requires_grad_(False), dtype)
        converted = x.to(dtype).to_mkldnn()
        for _ in range(3):
            one(converted)
        limits[f"{dtype}"[6:] + "_per_s"] = 2 * 1024**3 / best(lambda o=one, c=converted: o(c), 20)
    return limits


def name_of(case: tuple[tuple[int, int], str, float, int, torch.dtype, bool]) -> str:
    """What a case is called, as `label` calls its row."""
    (outputs, inputs), init, density, batch, dtype, cold = case
    names = ("outputs", "inputs", "init", "density", "batch", "dtype", "rotated")
    values = (outputs, inputs, init, density, batch, f"{dtype}"[6:], cold)
    return label(dict(zip(names, values, strict=True)))


def label(row: dict[str, Any]) -> str:
    kind = f"{'±σ' if row['init'] == 'sign' else row['init']} {row['dtype']}"
    where = "from memory" if row["rotated"] else "resident"
    return (
        f"{row['outputs']}×{row['inputs']}, batch {row['batch']}, density {row['density']}, {kind}, {where}"
    )


def parser() -> argparse.ArgumentParser:
    """The flags of this benchmark; without any of them it measures `CASES`."""
    own = choosing()
    own.add_argument("--shapes", nargs="+", help="OUTPUTSxINPUTS, of layers with weights ±σ and 0")
    own.add_argument("--densities", type=float, nargs="+", help="weights kept")
    own.add_argument(
        "--batches",
        type=int,
        nargs="+",
        help="inputs; a single one meets the weights of a large layer from memory",
    )
    own.add_argument("--dtypes", nargs="+", choices=("float32", "bfloat16"), help="type of the inputs")
    return own


def cases(options: argparse.Namespace) -> list[tuple[tuple[int, int], str, float, int, torch.dtype, bool]]:
    """All combinations of what the flags say; where one says nothing, of its default."""
    given = [getattr(options, name, None) for name in ("shapes", "densities", "batches", "dtypes")]
    if not any(given):
        return CASES
    defaults = (["4096x4096"], [0.5], [1, 8, 64], ["float32"])
    shapes, *rest = (own or default for own, default in zip(given, defaults, strict=True))
    sizes = [tuple(int(size) for size in shape.split("x")) for shape in shapes]
    return [
        (
            (outputs, inputs),
            "sign",
            density,
            batch,
            getattr(torch, dtype),
            batch == 1 and rotates(outputs, inputs),
        )
        for (outputs, inputs), density, batch, dtype in itertools.product(sizes, *rest)
    ]


def main() -> None:
    """All cases; about five minutes."""
    options = arguments("a packed linear layer against dense and sparse ones", parser())
    with torch.no_grad():
        clock = getattr(options, "clock", "wall")
        limits = machine_limits(clock)
        print(limits, flush=True)
        settings = 0.6 * options.seconds, options.threads, clock
        found = {
            name_of(case): compare(case, limits, *settings) if chosen(options, name_of(case)) else None
            for case in cases(options)
        }
    name = name_here("masked_linear")
    rows = with_earlier(options, name, found, label)
    more = {
        "clock": clock,
        "instructions": ops.instruction_set(),
        "onednn_limit": os.environ.get("ONEDNN_MAX_CPU_ISA"),
    }
    report(name, options, rows, limits=limits, rivals=_rivals.versions(), **more)
    if options.out:
        speedups = {
            label(row): {
                name: result["speedup_of_packed"]
                for name, result in row["results"].items()
                if name != "packed"
            }
            for row in rows
        }
        plot_speedups(speedups, "speed-up of the packed linear layer over …", options.out / f"{name}.png")
    check_not_slower({label(row): 1 / row["speedup"] for row in rows})


if __name__ == "__main__":
    main()
