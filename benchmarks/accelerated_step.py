"""A step of a search that leaves out zeros, over a step of dense training.

Networks of three linear layers of one width and one of ten outputs, with ReLUs between them. A step is
forward, backward and SGD with momentum, or edge-popup. `accelerated` is edge-popup as under
`sm.fit(..., accelerate=True)`, the layout of lists included; whether a layer computes from lists has been
measured before. `sgd accelerated` is the same for SGD, as in training after pruning, whose weights are
multiplied densely.

It fails, once results are written, where an accelerated step takes over 1.05 times as long as without it.

python benchmarks/accelerated_step.py [--threads 1] [--out DIR]
"""

import argparse
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from _measure import CLOCKS, arguments, check_not_slower, interleave, ratio, report
from torch import nn
from torch.nn import functional as F

import supermask as sm
from supermask import ops

CASES = ((512, 0.3), (1024, 0.5), (1024, 0.3), (1024, 0.1), (2048, 0.5), (2048, 0.3), (2048, 0.1))
"""Width and density."""
BATCH = 128


def network(width: int) -> nn.Sequential:
    """Three hidden layers of `width`."""
    layers = [layer for _ in range(3) for layer in (nn.Linear(width, width), nn.ReLU())]
    return nn.Sequential(*layers, nn.Linear(width, 10))


@contextmanager
def steps(width: int, density: float | None, accelerate: bool) -> Iterator[Callable[[], None]]:
    """A whole step of dense training (no density) or of edge-popup."""
    torch.manual_seed(0)
    model = network(width)
    if density is None:
        optimizer: Any = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    else:
        sm.randomize_(model, "signed_constant", seed=0, density=density)
        optimizer = sm.EdgePopup(model, density=density, lr=0.1, momentum=0.9)
    x, labels = torch.randn(BATCH, width), torch.randint(0, 10, (BATCH,))

    def step() -> None:
        F.cross_entropy(model(x), labels).backward()
        optimizer.step()
        optimizer.zero_grad()

    with sm.accelerated(model, optimizer) if accelerate else nullcontext():
        yield step


def compare(width: int, density: float, seconds: float, clock: str) -> dict[str, Any]:
    """One row."""
    with (
        steps(width, None, False) as dense,
        steps(width, density, False) as plain,
        steps(width, density, True) as faster,
        steps(width, None, True) as faster_sgd,
    ):
        calls = {
            "dense": dense,
            "edge-popup": plain,
            "accelerated": faster,
            "sgd accelerated": faster_sgd,
        }
        results = interleave(calls, seconds, turn=0.05, clock=clock)
    ratios = {f"{name}/dense": ratio(results, name, "dense") for name in calls if name != "dense"}
    ratios["accelerated/edge-popup"] = ratio(results, "accelerated", "edge-popup")
    return {"width": width, "density": density, "batch": BATCH, **ratios, **results}


def main() -> None:
    """Every width and density."""
    own = argparse.ArgumentParser()
    own.add_argument("--clock", choices=tuple(CLOCKS), default="wall", help="cpu: time of the processor")
    options = arguments("a search step from packed lists against a dense step", own)
    clock = getattr(options, "clock", "wall")
    rows = [compare(width, density, options.seconds, clock) for width, density in CASES]
    name = "accelerated_step_avx2" if ops.instruction_set() == "avx2" else "accelerated_step"
    report(name, options, rows, clock=clock, instructions=ops.instruction_set())
    check_not_slower(
        {
            f"width {row['width']}, density {row['density']}, {what}": row[what]
            for row in rows
            for what in ("accelerated/edge-popup", "sgd accelerated/dense")
        }
    )


if __name__ == "__main__":
    main()
