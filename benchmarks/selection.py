"""Exact selection against kthvalue and sort, which peers run in every forward pass.

`cold` selects among scores it has not seen; `warm` follows scores that drift by about a thousandth of
their size a step, as in a search. Both give masks; kthvalue gives the cut alone.

python benchmarks/selection.py [--threads 2] [--out DIR]
"""

import itertools
from typing import Any

import torch
from _measure import arguments, interleave, ratio, report

from supermask import ops

DENSITY = 0.3


def compare(size: int, seconds: float) -> dict[str, Any]:
    """One row: `size` normal scores."""
    generator = torch.Generator().manual_seed(0)
    first = torch.randn(size, generator=generator)
    drift = torch.randn(size, generator=generator).mul_(1e-3)
    states = itertools.cycle([first + step * drift for step in range(4)])
    keep, magnitudes, cuts = round(DENSITY * size), first.abs(), ops.new_cuts([first])
    candidates = {
        "cold": lambda: ops.select([next(states)], [keep]),
        "warm": lambda: ops.select([next(states)], [keep], cuts),
        "kthvalue": lambda: magnitudes.kthvalue(size - keep),
        "sort": magnitudes.sort,
    }
    results = interleave(candidates, seconds)
    ratios = {
        f"{rival}/{ours}": ratio(results, rival, ours)
        for rival in ("kthvalue", "sort")
        for ours in ("cold", "warm")
    }
    return {"scores": size, "density": DENSITY, **ratios, **results}


def main() -> None:
    """Time three sizes: a layer of LeNet, of ResNet-18, and a large one."""
    options = arguments("exact selection against kthvalue and sort")
    rows = [compare(size, options.seconds) for size in (235_200, 2_359_296, 1 << 24)]
    report("selection", options, rows)


if __name__ == "__main__":
    main()
