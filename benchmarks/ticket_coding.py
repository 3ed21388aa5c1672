"""Masks at their entropy: bytes of the code, and the time to make and to read it.

A random mask of ten million weights at several densities, coded as tickets have it, beside the bits of its
entropy and one bit per weight. Times are of one core and by the clock of the processor, so that other work on
the machine does not enter. `page` is the reader in NumPy that docs/ticket-format.md prints.

python benchmarks/ticket_coding.py [--out DIR]
"""

import argparse
import math
import re
from pathlib import Path
from typing import Any

import torch
from _measure import arguments, interleave, report

from supermask import ops

WEIGHTS = 10_000_000
DENSITIES = (0.01, 0.1, 0.3, 0.5)
PAGE = Path(__file__).parent.parent / "docs" / "ticket-format.md"


def reader_of_the_page() -> Any:
    """`decode_mask` as the page prints it."""
    names: dict[str, Any] = {}
    for block in re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL):
        exec(block, names)
    return names["decode_mask"]


def compare(density: float, seconds: float) -> dict[str, Any]:
    """A row of the results."""
    order = torch.randperm(WEIGHTS, generator=torch.Generator().manual_seed(0))
    mask = torch.zeros(WEIGHTS, dtype=torch.bool)
    mask[order[: round(density * WEIGHTS)]] = True
    coded, page = ops.encode_mask(mask), reader_of_the_page()
    plain, packed = coded.numpy(), ops.pack_mask(mask)
    assert torch.equal(ops.decode_mask(coded, WEIGHTS), mask)
    assert torch.equal(torch.from_numpy(page(plain, WEIGHTS)), mask)
    calls = {
        "encode": lambda: ops.encode_mask(mask),
        "decode": lambda: ops.decode_mask(coded, WEIGHTS),
        "unpack": lambda: ops.unpack_mask(packed, WEIGHTS),
        "page": lambda: page(plain, WEIGHTS),
    }
    entropy = -density * math.log2(density) - (1 - density) * math.log2(1 - density)
    return {
        "density": density,
        "weights": WEIGHTS,
        "bits_per_weight": 8 * coded.numel() / WEIGHTS,
        "entropy": entropy,
        **interleave(calls, seconds, clock="cpu"),
    }


def main() -> None:
    own = argparse.ArgumentParser()
    own.set_defaults(threads=1)
    options = arguments(__doc__.split("\n")[0], own)
    report("ticket_coding", options, [compare(d, options.seconds) for d in DENSITIES], clock="cpu")


if __name__ == "__main__":
    main()
