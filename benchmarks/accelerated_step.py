"""A step of a search that multiplies by packed weights, over a step of dense training.

Networks of three linear layers of one width and one of ten outputs. A step is forward, backward and SGD with
momentum, or edge-popup. `accelerated` is what `sm.fit(..., accelerate=True)` does, the layout of lists after
every step included.

python benchmarks/accelerated_step.py [--threads 1] [--out DIR]
"""

import argparse
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from _measure import CLOCKS, arguments, interleave, ratio, report
from torch import nn
from torch.nn import functional as F

import supermask as sm
from supermask.training.acceleration import accelerated

WIDTHS, DENSITIES, BATCH = (1024, 2048), (0.3, 0.1), 128


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
        optimizer: torch.optim.Optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    else:
        sm.randomize_(model, "signed_constant", seed=0, density=density)
        optimizer = sm.EdgePopup(model, density=density, lr=0.1, momentum=0.9)
    x, labels = torch.randn(BATCH, width), torch.randint(0, 10, (BATCH,))

    def step() -> None:
        F.cross_entropy(model(x), labels).backward()
        optimizer.step()
        optimizer.zero_grad()

    with accelerated(model) if accelerate else nullcontext():
        yield step


def compare(width: int, density: float, seconds: float, clock: str) -> dict[str, Any]:
    """One row."""
    with (
        steps(width, None, False) as dense,
        steps(width, density, False) as plain,
        steps(width, density, True) as faster,
    ):
        calls = {"dense": dense, "edge-popup": plain, "accelerated": faster}
        results = interleave(calls, seconds, turn=0.05, clock=clock)
    ratios = {f"{name}/dense": ratio(results, name, "dense") for name in calls if name != "dense"}
    return {"width": width, "density": density, "batch": BATCH, **ratios, **results}


def main() -> None:
    """Every width and density."""
    own = argparse.ArgumentParser()
    own.add_argument("--clock", choices=tuple(CLOCKS), default="wall", help="cpu: time of the processor")
    options = arguments("a search step from packed lists against a dense step", own)
    clock = getattr(options, "clock", "wall")
    rows = [compare(width, density, options.seconds, clock) for width in WIDTHS for density in DENSITIES]
    report("accelerated_step", options, rows, clock=clock)


if __name__ == "__main__":
    main()
