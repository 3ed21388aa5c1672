"""Exact selection against kthvalue, topk and sort, which peers run in every forward pass.

`cold` selects among scores it has not seen; `warm` follows scores that drift by about a thousandth of
their size a step, as in a search. Both give masks; the others give the cut or the kept values alone. The
rows: one layer of three sizes; all layers of a ResNet-18 in one call, each with a cut of its own; the same
ranked together; and 2:4, against `topk` over groups of four, as pruning scripts do it.

python benchmarks/selection.py [--threads 2 | --device cuda] [--out DIR]
ATEN_CPU_CAPABILITY=avx2 python benchmarks/selection.py [--threads 2] [--out DIR]
"""

import itertools
import os
from collections.abc import Callable
from typing import Any

import torch
from _measure import arguments, interleave, name_here, ratio, report
from torch import Tensor

from supermask import ops
from supermask.models import create_model
from supermask.weights.roles import masked

DENSITY = 0.3
Shapes = list[tuple[int, ...]]


def drifting(shapes: Shapes, device: str) -> list[list[Tensor]]:
    """Four states of normal scores that drift."""
    generator = torch.Generator().manual_seed(0)
    first = [torch.randn(shape, generator=generator) for shape in shapes]
    drift = [torch.randn(shape, generator=generator).mul_(1e-3) for shape in shapes]
    return [[(a + step * b).to(device) for a, b in zip(first, drift, strict=True)] for step in range(4)]


def layerwise(shapes: Shapes, device: str) -> dict[str, Callable[[], Any]]:
    """Every layer by itself."""
    scores = drifting(shapes, device)
    states, cuts = itertools.cycle(scores), ops.new_cuts(scores[0])
    keep = [round(DENSITY * score.numel()) for score in scores[0]]
    magnitudes = [score.abs().flatten() for score in scores[0]]
    places = [len(m) - k for m, k in zip(magnitudes, keep, strict=True)]
    return {
        "cold": lambda: ops.select(next(states), keep),
        "warm": lambda: ops.select(next(states), keep, cuts),
        "kthvalue": lambda: [m.kthvalue(place) for m, place in zip(magnitudes, places, strict=True)],
        "sort": lambda: [m.sort() for m in magnitudes],
    }


def together(shapes: Shapes, device: str) -> dict[str, Callable[[], Any]]:
    """One ranking over all layers."""
    scores = drifting(shapes, device)
    states, cuts = itertools.cycle(scores), ops.new_cuts(scores[0], together=True)
    keep = round(DENSITY * sum(score.numel() for score in scores[0]))
    return {
        "cold": lambda: ops.select_global(next(states), keep),
        "warm": lambda: ops.select_global(next(states), keep, cuts),
        "kthvalue": lambda: (m := _joined(next(states))).kthvalue(len(m) - keep),
        "sort": lambda: _joined(next(states)).sort(),
    }


def _joined(scores: list[Tensor]) -> Tensor:
    return torch.cat([score.flatten() for score in scores]).abs_()


def two_of_four(shapes: Shapes, device: str) -> dict[str, Callable[[], Any]]:
    """2:4 along the inputs."""
    scores = drifting(shapes, device)
    states = itertools.cycle(scores)
    groups = [score.abs().movedim(1, -1).reshape(-1, 4) for score in scores[0]]
    return {
        "2:4": lambda: ops.select_n_of_m(next(states), 2, 4),
        "topk": lambda: [group.topk(2) for group in groups],
        "sort": lambda: [group.sort() for group in groups],
    }


def compare(
    what: str, candidates: dict[str, Callable[[], Any]], seconds: float, device: str
) -> dict[str, Any]:
    """One row."""
    results = interleave(candidates, seconds, device=device)
    ours = [name for name in candidates if name in ("cold", "warm", "2:4")]
    ratios = {
        f"{rival}/{name}": ratio(results, rival, name)
        for rival in candidates
        if rival not in ours
        for name in ours
    }
    return {"what": what, "density": 0.5 if "2:4" in ours else DENSITY, **ratios, **results}


def main() -> None:
    """Time the rows of the table."""
    options = arguments("exact selection against kthvalue, topk and sort")
    resnet = [tuple(info.tensor.shape) for info in masked(create_model("resnet-18-cifar"))]
    count = sum(torch.Size(shape).numel() for shape in resnet)
    cases: dict[str, tuple[Callable[[Shapes, str], dict[str, Callable[[], Any]]], Shapes]] = {
        f"one layer, {size:,} scores": (layerwise, [(size,)]) for size in (235_200, 2_359_296, 1 << 24)
    }
    cases |= {
        f"ResNet-18, {len(resnet)} layers, {count:,} scores": (layerwise, resnet),
        f"ResNet-18 globally, {count:,} scores": (together, resnet),
        "2:4, one linear layer, 16,777,216 scores": (two_of_four, [(4096, 4096)]),
        f"2:4, ResNet-18 but its stem, {len(resnet) - 1} layers": (two_of_four, resnet[1:]),
    }
    rows = [
        compare(what, make(shapes, options.device), options.seconds, options.device)
        for what, (make, shapes) in cases.items()
    ]
    limit = os.environ.get("ATEN_CPU_CAPABILITY")
    report(name_here("selection"), options, rows, lambda row: row["what"], limit=limit)


if __name__ == "__main__":
    main()
