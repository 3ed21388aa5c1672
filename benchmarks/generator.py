"""Weights per second of the generator, against torch's own.

python benchmarks/generator.py [--threads 1 | --device cuda] [--out DIR]
"""

import torch
from _measure import arguments, interleave, report

from supermask import ops

SIZE = 1 << 24


def main() -> None:
    """Time every scheme at 16.8M float32 weights."""
    options = arguments("weights per second of the generator")
    out = torch.empty(SIZE, device=options.device)
    candidates = {scheme: (lambda s=scheme: ops.fill_random(out, 1, s)) for scheme in ops.SCHEMES}
    candidates |= {"torch uniform_": lambda: out.uniform_(-1, 1), "torch normal_": out.normal_}
    results = interleave(candidates, options.seconds, device=options.device)
    rows = [
        {"generator": name, "weights": SIZE, "weights_per_second": 1e3 * SIZE / r["median_ms"], **r}
        for name, r in results.items()
    ]
    report("generator", options, rows)


if __name__ == "__main__":
    main()
