"""A linear layer with a masked weight: packed against every dense and sparse form that torch has on a CPU.

`resident` rows call each candidate on one copy of its weights, which stay in the cache if they fit; `rotated`
ones go round copies that together exceed it. Errors are relative to float64. The roofline of a candidate is
the time that its weights take from memory (rotated) or the dense multiply-adds take, whichever is longer, at
the bandwidth and the rate measured in the same run; packed layers, which look products up, may exceed it.

python benchmarks/masked_linear.py [--threads 2] [--out DIR]
"""

import copy
import itertools
import time
import warnings
from collections.abc import Callable
from typing import Any

import torch
from _measure import arguments, interleave, report
from _plot import plot_speedups
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils import mkldnn as mkldnn_utils

from supermask.packed import PackedLinear

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
Candidate = tuple[Callable[[Tensor], Tensor], int]  # a layer, and the bytes of its weights


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


def candidates(weights: Tensor, init: str, dtype: torch.dtype, x: Tensor) -> dict[str, Candidate]:
    """Every form of the layer; a candidate of float32 when `dtype` is, and of bfloat16 otherwise."""
    scaled = weights * SIGMA
    packed = PackedLinear(weights.to(torch.int8), SIGMA) if init == "sign" else PackedLinear(scaled.to(dtype))
    packed_bytes = sum(buffer.nbytes for buffer in packed.buffers())
    if packed.operator_for(x) == "linear_from_triples":
        packed_bytes = packed.get_buffer("codes").nbytes
    layer = dense(scaled, dtype)
    forms: dict[str, Candidate] = {"packed": (packed, packed_bytes), "eager": (layer, layer.weight.nbytes)}
    one = mkldnn_utils.to_mkldnn(dense(scaled, FLOAT), dtype)
    forms["onednn"] = (one, layer.weight.nbytes)
    if dtype == FLOAT:
        # As eager edge-popup computes it, and compiled; the mask is of floats, like the scores it came from.
        whole, mask = layer.weight.clone(), (weights != 0).float()
        masked = lambda x: F.linear(x, whole * mask)  # noqa: E731
        compiled = torch.compile(lambda x, w, m: F.linear(x, w * m))
        forms["w*m"] = (masked, 2 * whole.nbytes)
        forms["w*m compiled"] = (lambda x: compiled(x, whole, mask), 2 * whole.nbytes)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # sparse CSR is in beta
            wide = scaled.to_sparse_csr()  # with indices of 64 bits, where MKL computes with 32
            parts = (wide.crow_indices().int(), wide.col_indices().int(), wide.values())
            sparse = torch.sparse_csr_tensor(*parts, size=weights.shape)
        forms["csr"] = (lambda x: (sparse @ x.t()).t(), sum(part.nbytes for part in parts))
    return forms


def rotating(layer: Callable[[Tensor], Tensor], bytes_each: int) -> Callable[[Tensor], Tensor]:
    """Calls the next of as many copies as exceed the cache."""
    copies = itertools.cycle([copy.deepcopy(layer) for _ in range(-(-2 * CACHE_BYTES // bytes_each))])
    return lambda x: next(copies)(x)


def compare(
    case: tuple[tuple[int, int], str, float, int, torch.dtype, bool], limits: dict[str, float], seconds: float
) -> dict[str, Any]:
    """One row."""
    shape, init, density, batch, dtype, cold = case
    weights = draw(shape, init, density)
    x = torch.randn(batch, shape[1], generator=torch.Generator().manual_seed(1)).to(dtype)
    forms = candidates(weights, init, dtype, x)
    if cold:  # the forms that a closure holds cannot be copied
        forms = {name: form for name, form in forms.items() if name in ("packed", "eager", "onednn")}
    inputs = {name: x.to_mkldnn() if name == "onednn" else x for name in forms}
    calls = {name: rotating(*form) if cold else form[0] for name, form in forms.items()}
    exact = x.double() @ (weights.double() * SIGMA).t()
    results: dict[str, dict[str, float]] = interleave(
        {name: (lambda n=name: calls[n](inputs[n])) for name in forms}, seconds, turn=0.02
    )
    operations = 2 * batch * weights.numel()
    for name, (layer, size) in forms.items():
        result = layer(inputs[name])
        result = result.to_dense() if result.is_mkldnn else result
        bound = max(size / limits["bytes_per_s"] * cold, operations / limits[f"{dtype}"[6:] + "_per_s"])
        results[name] |= {
            "error": float((result.double() - exact).abs().max() / exact.abs().max()),
            "bits_per_weight": 8 * size / weights.numel(),
            "roofline": 1e3 * bound / results[name]["median_ms"],
            "speedup_of_packed": results[name]["median_ms"] / results["packed"]["median_ms"],
        }
    best = min(("eager", "onednn"), key=lambda name: results[name]["median_ms"])
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
        "results": results,
    }


def machine_limits() -> dict[str, float]:
    """Bytes per second of a copy, read and written, and operations per second of a product of matrices."""
    source = torch.ones(64 << 20)
    target, limits = torch.empty_like(source), {}

    def best(call: Callable[[], Any], repeats: int) -> float:
        times = []
        for _ in range(repeats):
            start = time.perf_counter()
            call()
            times.append(time.perf_counter() - start)
        return min(times)

    limits["bytes_per_s"] = 2 * source.nbytes / best(lambda: target.copy_(source), 10)
    x = torch.randn(1024, 1024)
    for dtype in (FLOAT, HALF):
        one = mkldnn_utils.to_mkldnn(nn.Linear(1024, 1024, bias=False).requires_grad_(False), dtype)
        converted = x.to(dtype).to_mkldnn()
        for _ in range(3):
            one(converted)
        limits[f"{dtype}"[6:] + "_per_s"] = 2 * 1024**3 / best(lambda o=one, c=converted: o(c), 20)
    return limits


def label(row: dict[str, Any]) -> str:
    kind = f"{'±σ' if row['init'] == 'sign' else row['init']} {row['dtype']}"
    where = "from memory" if row["rotated"] else "resident"
    return (
        f"{row['outputs']}×{row['inputs']}, batch {row['batch']}, density {row['density']}, {kind}, {where}"
    )


def main() -> None:
    """All cases; about three minutes."""
    options = arguments("a packed linear layer against dense and sparse ones")
    with torch.no_grad():
        limits = machine_limits()
        print(limits)
        rows = [compare(case, limits, 0.6 * options.seconds) for case in CASES]
    report("masked_linear", options, rows, limits=limits)
    if options.out:
        speedups = {
            label(row): {
                name: result["speedup_of_packed"]
                for name, result in row["results"].items()
                if name != "packed"
            }
            for row in rows
        }
        plot_speedups(
            speedups, "speed-up of the packed linear layer over …", options.out / "masked_linear.png"
        )


if __name__ == "__main__":
    main()
