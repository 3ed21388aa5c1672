"""A linear layer with a signed-constant mask on a GPU: packed against every other way to compute it.

`cold` goes round copies of the weights that together exceed the second cache, `warm` stays on one copy. Times
are of calls in a CUDA graph, taken in turns; `again` is cuBLAS a second time, for the noise. Each time stands
beside its share of the roofline, the bound that this GPU's own copy bandwidth and matrix rate set for the
bytes and operations of the call, and its error against float64. Packing is timed on its own.

python benchmarks/masked_linear_cuda.py [--dtype float32] [--batches 1 16] [--out DIR]
"""

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from _measure import machine
from _measure_cuda import Graph, clocks, interleave, limits
from torch import Tensor
from torch.nn import functional as F

from supermask.ops import layouts
from supermask.packed.cuda import CodedLinear

SIGMA = 0.02
ROTATED_BYTES = 192 << 20  # more than the second cache of any GPU that we know
SHAPES = ((4096, 4096), (4096, 16384), (16384, 4096))
BATCHES = (1, 8, 16, 32, 64, 128, 256, 1024, 4096)

Layer = Callable[[Tensor], Tensor]
Maker = Callable[[Tensor, torch.dtype, int], tuple[Layer, float]]
"""Signs, type and batch → a new copy of the layer, and the bytes per weight that a call reads and writes."""


def draw_signs(outputs: int, inputs: int, density: float, device: str) -> tuple[Tensor, Tensor]:
    """Signs under a random mask, and the same under a random 2:4 mask."""
    generator = torch.Generator(device).manual_seed(0)
    coin = torch.randint(0, 2, (outputs, inputs), generator=generator, device=device) * 2 - 1
    chance = torch.rand(outputs, inputs, generator=generator, device=device)
    ranks = chance.view(-1, 4).argsort(dim=1).argsort(dim=1).view_as(chance)
    return (coin * (chance < density)).to(torch.int8), (coin * (ranks < 2)).to(torch.int8)


def make_packed(signs: Tensor, dtype: torch.dtype, batch: int) -> tuple[Layer, float]:
    """What `PackedLinear` does on a GPU."""
    layer = CodedLinear(signs, SIGMA)
    size = dtype.itemsize
    read = {
        "codes": 0.25,
        "wgmma": 0.25,
        "dense": size,
        "decoded": 0.25 + 2 * size,
        "sparse": 0.5 * size + 0.125,
    }
    return layer, read[layer.kernel(batch, dtype)]


def by_operator(name: str) -> Maker:
    """The codes through one of the compiled operators, whatever the number of inputs."""
    multiply = getattr(torch.ops.supermask, name)

    def make(signs: Tensor, dtype: torch.dtype, batch: int) -> tuple[Layer, float]:
        codes, outputs = layouts.codes_of_signs(signs), len(signs)
        return lambda x: multiply(x, codes, outputs, SIGMA, None), 0.25

    return make


def make_decoded(signs: Tensor, dtype: torch.dtype, batch: int) -> tuple[Layer, float]:
    layer = CodedLinear(signs, SIGMA)
    return lambda x: F.linear(x, layer.decoded(dtype)), 0.25 + 2 * dtype.itemsize


def make_cublas(signs: Tensor, dtype: torch.dtype, batch: int) -> tuple[Layer, float]:
    weight = signs.to(dtype) * SIGMA
    return lambda x: F.linear(x, weight), dtype.itemsize


def make_masked(signs: Tensor, dtype: torch.dtype, batch: int) -> tuple[Layer, float]:
    mask = signs != 0
    weight = torch.where(mask, signs, 1).to(dtype) * SIGMA
    return lambda x: F.linear(x, weight * mask), 3 * dtype.itemsize + 1


def make_compiled(signs: Tensor, dtype: torch.dtype, batch: int) -> tuple[Layer, float]:
    mask = signs != 0
    weight = torch.where(mask, signs, 1).to(dtype) * SIGMA
    return lambda x: _masked_linear(x, weight, mask), 3 * dtype.itemsize + 1


@torch.compile(dynamic=False)
def _masked_linear(x: Tensor, weight: Tensor, mask: Tensor) -> Tensor:
    return F.linear(x, weight * mask)


def make_csr(signs: Tensor, dtype: torch.dtype, batch: int) -> tuple[Layer, float]:
    weight = (signs.to(dtype) * SIGMA).to_sparse_csr()
    stored = weight.values().nbytes + weight.col_indices().nbytes + weight.crow_indices().nbytes
    return lambda x: (weight @ x.t()).t(), stored / signs.numel()


def make_sparse(signs: Tensor, dtype: torch.dtype, batch: int) -> tuple[Layer, float]:
    weight = torch.sparse.to_sparse_semi_structured(signs.to(dtype) * SIGMA)
    return lambda x: F.linear(x, weight), 0.5 * dtype.itemsize + 0.125


def make_int4(signs: Tensor, dtype: torch.dtype, batch: int) -> tuple[Layer, float]:
    """torch's own int4 product: -1, 0 and +1 as the levels 7, 8 and 9, one scale per 128 inputs."""
    levels = (signs + 8).to(torch.uint8)
    pairs = levels[:, ::2] << 4 | levels[:, 1::2]
    weight = torch.ops.aten._convert_weight_to_int4pack(pairs.contiguous(), 8)
    scales = torch.zeros(signs.shape[1] // 128, signs.shape[0], 2, dtype=dtype, device=signs.device)
    scales[..., 0] = SIGMA
    return lambda x: torch.ops.aten._weight_int4pack_mm(x, weight, 128, scales), 0.5


def make_fp8(signs: Tensor, dtype: torch.dtype, batch: int) -> tuple[Layer, float]:
    """Weights and inputs in fp8: the weights exactly, the inputs rounded, which is part of the time."""
    weight = signs.float().to(torch.float8_e4m3fn)
    one, sigma = (torch.tensor(value, device=signs.device) for value in (1.0, SIGMA))
    return lambda x: torch._scaled_mm(
        x.to(torch.float8_e4m3fn), weight.t(), scale_a=one, scale_b=sigma, out_dtype=dtype
    ), 1.0


CANDIDATES: dict[str, Maker] = {
    "cublas": make_cublas,
    "again": make_cublas,
    "packed": make_packed,
    "codes": by_operator("linear_from_codes"),
    "wgmma": by_operator("linear_from_codes_wgmma"),
    "decoded": make_decoded,
    "masked": make_masked,
    "masked, compiled": make_compiled,
    "csr": make_csr,
    "int4": make_int4,
    "fp8": make_fp8,
    "2:4": make_sparse,
    "packed 2:4": make_packed,
}
"""Those named 2:4 compute with a 2:4 mask."""


def compare(
    signs: Tensor,
    two_of_four: Tensor,
    batch: int,
    dtype: torch.dtype,
    cold: bool,
    rounds: int,
    names: Sequence[str] = tuple(CANDIDATES),
) -> dict[str, Any]:
    """One row: the times of every candidate for one shape and batch."""
    x = torch.randn(batch, signs.shape[1], device=signs.device).to(dtype)
    graphs: dict[str, Graph] = {}
    results: dict[str, dict[str, Any]] = {}
    for name in names:
        make = CANDIDATES[name]
        own = two_of_four if name.endswith("2:4") else signs
        try:
            layer, read = make(own, dtype, batch)
            # What a call reads and writes is more than what it keeps, where there is scratch memory.
            count = -(-ROTATED_BYTES // int(min(read, 1) * own.numel())) if cold else 1
            layers = [layer, *(make(own, dtype, batch)[0] for _ in range(count - 1))]
            with torch.no_grad():
                results[name] = {"error": relative_error(layer(x), x, own), "bytes_per_weight": read}
                graphs[name] = Graph([lambda layer=layer: layer(x) for layer in layers])
        except (RuntimeError, NotImplementedError, AttributeError) as failure:
            torch.cuda.synchronize()
            results[name] = {"unavailable": str(failure).splitlines()[0][:200]}
    for name, times in interleave(graphs, rounds).items():
        results[name].update(times)
    for name in graphs if "cublas" in graphs else ():
        results[name]["speedup"] = results["cublas"]["median_us"] / results[name]["median_us"]
    row = {"outputs": signs.shape[0], "inputs": signs.shape[1], "batch": batch, "cold": cold}
    return {**row, "dtype": str(dtype).removeprefix("torch."), "candidates": results}


def relative_error(y: Tensor, x: Tensor, signs: Tensor) -> float:
    """Against float64, of the largest result; of the first rows, where there are many."""
    exact = x[:64].double() @ signs.double().t() * SIGMA
    return float((y[:64].double() - exact).abs().max() / exact.abs().max())


def add_roofline(row: dict[str, Any], bound: dict[str, float]) -> None:
    """The share of each candidate's own bound that it reaches; float32 products are given bfloat16's rate."""
    weights, values = row["outputs"] * row["inputs"], row["batch"] * (row["outputs"] + row["inputs"])
    size = getattr(torch, row["dtype"]).itemsize
    for result in row["candidates"].values():
        if "median_us" not in result:
            continue
        memory = (weights * result["bytes_per_weight"] + values * size) / bound["bytes_per_second"]
        products = 2 * weights * row["batch"] / bound["operations_per_second"]
        result["roofline"] = max(memory, products) / (result["median_us"] * 1e-6)


def packing_seconds(signs: Tensor) -> float:
    """Time to make the codes of a layer on the GPU, once."""
    torch.cuda.synchronize()
    start = time.perf_counter()
    CodedLinear(signs, SIGMA)
    torch.cuda.synchronize()
    return time.perf_counter() - start


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    """Speed-up over cuBLAS against the batch: a panel for each shape, cold and warm."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    panels = sorted({(row["outputs"], row["inputs"], not row["cold"]) for row in rows})
    figure, axes = pyplot.subplots(
        1, len(panels), figsize=(4 * len(panels), 3.6), sharey=True, squeeze=False, layout="constrained"
    )
    for axis, (outputs, inputs, warm) in zip(axes[0], panels, strict=True):
        shown = [r for r in rows if (r["outputs"], r["inputs"], not r["cold"]) == (outputs, inputs, warm)]
        shown.sort(key=lambda row: row["batch"])
        for name in shown[0]["candidates"]:
            points = [(row["batch"], row["candidates"][name].get("speedup")) for row in shown]
            points = [point for point in points if point[1]]
            if points and name not in ("cublas", "again"):
                axis.plot(*zip(*points, strict=True), marker="o", markersize=3, label=name)
        axis.axhline(1, color="grey", linewidth=0.8)
        axis.set(
            xscale="log",
            yscale="log",
            xlabel="batch",
            title=f"{outputs} x {inputs}, {'warm' if warm else 'cold'}",
        )
        axis.set_xscale("log", base=2)
    axes[0][0].set_ylabel("speed-up over cuBLAS")
    axes[0][-1].legend(fontsize=7)
    figure.savefig(path, dpi=150)
    pyplot.close(figure)


def write(rows: list[dict[str, Any]], about: dict[str, Any], path: Path) -> None:
    """The JSON file and the plot."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {"benchmark": path.name, "machine": {**machine(torch.get_num_threads()), **about}, "rows": rows}
    path.with_suffix(".json").write_text(json.dumps(content, indent=1) + "\n")
    plot(rows, path.with_suffix(".png"))


def main() -> int:
    """Every shape and batch, cold and warm."""
    parser = argparse.ArgumentParser(description="a packed linear layer on a GPU against everything else")
    parser.add_argument(
        "--dtype",
        default="bfloat16",
        choices=("bfloat16", "float16", "float32"),
        help="type of the inputs and outputs (bfloat16)",
    )
    parser.add_argument("--density", type=float, default=0.5, help="fraction of weights kept (0.5)")
    parser.add_argument("--batches", type=int, nargs="+", default=BATCHES, help="numbers of inputs at a time")
    parser.add_argument(
        "--shapes", nargs="+", default=[f"{o}x{i}" for o, i in SHAPES], help="layers as OUTPUTSxINPUTS"
    )
    parser.add_argument(
        "--candidates",
        nargs="+",
        default=list(CANDIDATES),
        choices=list(CANDIDATES),
        help="which forms of the layer to time (all)",
    )
    parser.add_argument("--rounds", type=int, default=50, help="replays of each graph (50)")
    parser.add_argument(
        "--out", type=Path, help="directory of the JSON file and the plot; printed only by default"
    )
    options = parser.parse_args()
    if not torch.cuda.is_available():
        print("no GPU is available; benchmarks/masked_linear.py measures the CPU", file=sys.stderr)
        return 1
    torch._dynamo.config.recompile_limit = 1000  # beyond it a new shape would run uncompiled
    bound, before, dtype = limits(), clocks(), getattr(torch, options.dtype)
    rows = []
    for shape in options.shapes:
        outputs, inputs = (int(size) for size in shape.split("x"))
        signs, two_of_four = draw_signs(outputs, inputs, options.density, "cuda")
        print(json.dumps({"shape": shape, "packing_seconds": packing_seconds(signs)}))
        for batch in options.batches:
            for cold in (True, False):
                row = compare(signs, two_of_four, batch, dtype, cold, options.rounds, options.candidates)
                add_roofline(row, bound)
                rows.append({**row, "density": options.density})
                print(json.dumps(rows[-1]), flush=True)
                torch.cuda.empty_cache()
        if options.out:  # after each shape, so that a run which is stopped leaves something
            write(
                rows,
                {"clocks": [before, clocks()], **bound},
                options.out / f"masked_linear_cuda_{options.dtype}",
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
