"""A linear layer with a signed-constant mask: packed against dense, MKL and oneDNN.

`resident` runs on one copy of the weights, which stays in the cache if it fits; `rotated` goes round copies
that together exceed it, for each candidate on its own. Errors are relative to float64.

python benchmarks/masked_linear.py [--threads 2] [--out DIR]
"""

import itertools
from collections.abc import Callable
from typing import Any

import torch
from _measure import arguments, interleave, ratio, report
from torch import Tensor, nn
from torch.utils import mkldnn as mkldnn_utils

from supermask.packed import PackedLinear

SIGMA = 0.02
CACHE_BYTES = 64 << 20  # more than the last cache of the machines we know


def draw_signs(features: int, density: float) -> Tensor:
    """A random matrix of -1, 0 and +1."""
    generator = torch.Generator().manual_seed(0)
    signs = torch.randint(0, 2, (features, features), generator=generator) * 2 - 1
    return (signs * (torch.rand(features, features, generator=generator) < density)).to(torch.int8)


def rotated(make: Callable[[], nn.Module], bytes_each: int) -> Callable[[Tensor], Tensor]:
    """Calls the next of as many copies as exceed the cache."""
    copies = itertools.cycle([make() for _ in range(-(-2 * CACHE_BYTES // bytes_each))])
    return lambda x: next(copies)(x)


def compare(features: int, density: float, batch: int, cold: bool, seconds: float) -> dict[str, Any]:
    """One row."""
    signs = draw_signs(features, density)
    dense = nn.Linear(features, features, bias=False).requires_grad_(False)
    dense.weight.copy_(signs.float() * SIGMA)
    layers: dict[str, tuple[Callable[[], nn.Module], int]] = {
        "packed": (lambda: PackedLinear(signs, SIGMA), features * features // 4),
        "mkl": (lambda: _copy(dense), 4 * features * features),
        "onednn": (lambda: mkldnn_utils.to_mkldnn(dense), 4 * features * features),
    }
    x = torch.randn(batch, features)
    inputs = {"packed": x, "mkl": x, "onednn": x.to_mkldnn()}
    calls = {name: rotated(make, size) if cold else make() for name, (make, size) in layers.items()}
    with torch.no_grad():
        results = interleave({name: (lambda n=name: calls[n](inputs[n])) for name in layers}, seconds)
        exact = x.double() @ dense.weight.double().t()
        error = float((layers["packed"][0]()(x) - exact).abs().max() / exact.abs().max())
    best = min("mkl", "onednn", key=lambda name: results[name]["median_ms"])
    row = {"features": features, "density": density, "batch": batch, "rotated": cold}
    return {**row, "speedup": ratio(results, best, "packed"), "against": best, "error": error, **results}


def _copy(layer: nn.Linear) -> nn.Linear:
    copy = nn.Linear(layer.in_features, layer.out_features, bias=False).requires_grad_(False)
    copy.weight.copy_(layer.weight)
    return copy


def main() -> None:
    """Batches from 1 to 64, at the densities of the README's table."""
    options = arguments("a packed linear layer against dense ones")
    cases = [(0.5, 1), (0.5, 8), (0.5, 64), (0.3, 64), (0.1, 64)]
    rows = [
        compare(4096, density, batch, cold, options.seconds / 2)
        for density, batch in cases
        for cold in ((False, True) if batch == 1 else (False,))
    ]
    report("masked_linear", options, rows)


if __name__ == "__main__":
    main()
