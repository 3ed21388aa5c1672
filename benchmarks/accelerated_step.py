"""Steps of training that leave out zeros, over steps of dense training.

Networks of three linear layers of one width and one of ten outputs, with ReLUs between them. A step is
forward, backward and SGD with momentum, or edge-popup. `accelerated` is edge-popup as under
`sm.fit(..., accelerate=True)`, the layout of lists included; whether a layer computes from lists has been
measured before. `sgd accelerated` is the same for SGD with dense weights.

`tickets` are SGD under `sm.hold` of a random mask, as in a round of IMP; `networks` are edge-popup and such a
ticket in a network of convolutions, in channels_last.

It fails, once results are written, where an accelerated step takes over 1.05 times as long as without it.

python benchmarks/accelerated_step.py [--threads 1] [--out DIR]
"""

import argparse
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any

import torch
from _measure import CLOCKS, arguments, check_not_slower, interleave, name_here, ratio, report
from torch import nn
from torch.nn import functional as F

import supermask as sm
from supermask import ops

CASES = ((512, 0.3), (1024, 0.5), (1024, 0.3), (1024, 0.1), (2048, 0.5), (2048, 0.3), (2048, 0.1))
"""Width and density."""
TICKETS = tuple((width, density) for width in (1024, 2048) for density in (0.3, 0.1, 0.03))
"""Width and density."""
BATCH = 128
NETWORKS = (("resnet-18-cifar", 32, 0.3), ("resnet-18-cifar", 32, 0.1))
"""Network, batch and density."""
COMPARED = (
    "accelerated/edge-popup",
    "sgd accelerated/dense",
    "accelerated/ticket",
    "ticket accelerated/ticket",
)
"""What must not be slower than what."""


def network(width: int) -> nn.Sequential:
    """Three hidden layers of `width`."""
    layers = [layer for _ in range(3) for layer in (nn.Linear(width, width), nn.ReLU())]
    return nn.Sequential(*layers, nn.Linear(width, 10))


def training(model: nn.Module, density: float | None, kind: str) -> Any:
    """The optimizer of a `search`, of a `ticket` under a random mask, or of dense weights (no density)."""
    if density is not None and kind == "search":
        sm.randomize_(model, "signed_constant", seed=0, density=density)
        return sm.EdgePopup(model, density=density, lr=0.1, momentum=0.9)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    if density is not None:
        masked = {name: p for name, p in model.named_parameters() if p.dim() > 1}
        sm.hold(optimizer, {name: torch.rand(p.shape) < density for name, p in masked.items()}, model)
    return optimizer


@contextmanager
def steps(
    model: nn.Module, x: torch.Tensor, density: float | None, accelerate: bool, kind: str = "search"
) -> Iterator[Callable[[], None]]:
    """A whole step of training."""
    torch.manual_seed(0)
    optimizer, labels = training(model, density, kind), torch.randint(0, 10, (len(x),))

    def step() -> None:
        F.cross_entropy(model(x), labels).backward()
        optimizer.step()
        optimizer.zero_grad()

    with sm.accelerated(model, optimizer) if accelerate else nullcontext():
        yield step


def measured(
    make: Callable[[], tuple[nn.Module, torch.Tensor]],
    ways: dict[str, tuple[float | None, bool, str]],
    seconds: float,
    clock: str,
    turn: float,
) -> dict[str, Any]:
    """Times of every way, and of each over that of the first, which is dense."""
    with ExitStack() as stack:
        calls = {name: stack.enter_context(steps(*make(), *way)) for name, way in ways.items()}
        results = interleave(calls, seconds, turn=turn, clock=clock)
    dense = next(iter(ways))
    ratios: dict[str, Any] = {f"{name}/{dense}": ratio(results, name, dense) for name in list(ways)[1:]}
    return {**ratios, **results}


def compare(width: int, density: float, seconds: float, clock: str) -> dict[str, Any]:
    """A row of a search."""
    ways = {
        "dense": (None, False, "search"),
        "edge-popup": (density, False, "search"),
        "accelerated": (density, True, "search"),
        "sgd accelerated": (None, True, "search"),
    }
    row = measured(lambda: (network(width), torch.randn(BATCH, width)), ways, seconds, clock, 0.05)
    row["accelerated/edge-popup"] = ratio(row, "accelerated", "edge-popup")
    return {"width": width, "density": density, "batch": BATCH, **row}


def compare_ticket(width: int, density: float, seconds: float, clock: str) -> dict[str, Any]:
    """A row of a ticket."""
    ways = {
        "dense": (None, False, "ticket"),
        "ticket": (density, False, "ticket"),
        "accelerated": (density, True, "ticket"),
    }
    row = measured(lambda: (network(width), torch.randn(BATCH, width)), ways, seconds, clock, 0.05)
    row["accelerated/ticket"] = ratio(row, "accelerated", "ticket")
    return {"width": width, "density": density, "batch": BATCH, **row}


def compare_network(name: str, batch: int, density: float, seconds: float, clock: str) -> dict[str, Any]:
    """A row of a network of convolutions."""

    def make() -> tuple[nn.Module, torch.Tensor]:
        x = torch.randn(batch, 3, 32, 32).to(memory_format=torch.channels_last)
        return sm.create_model(name).to(memory_format=torch.channels_last), x

    ways = {
        "dense": (None, False, "search"),
        "edge-popup": (density, False, "search"),
        "accelerated": (density, True, "search"),
        "ticket": (density, False, "ticket"),
        "ticket accelerated": (density, True, "ticket"),
    }
    row = measured(make, ways, seconds, clock, 0.0)
    row["accelerated/edge-popup"] = ratio(row, "accelerated", "edge-popup")
    row["ticket accelerated/ticket"] = ratio(row, "ticket accelerated", "ticket")
    return {"network": name, "batch": batch, "density": density, **row}


def main() -> None:
    """Every width and density."""
    own = argparse.ArgumentParser()
    own.add_argument("--clock", choices=tuple(CLOCKS), default="wall", help="cpu: time of the processor")
    options = arguments("a search step from packed lists against a dense step", own)
    clock = getattr(options, "clock", "wall")
    rows = [compare(width, density, options.seconds, clock) for width, density in CASES]
    tickets = [compare_ticket(width, density, options.seconds, clock) for width, density in TICKETS]
    networks = [compare_network(*network, options.seconds, clock) for network in NETWORKS]
    more = {"tickets": tickets, "networks": networks}
    about = {"clock": clock, "instructions": ops.instruction_set()}
    report(name_here("accelerated_step"), options, rows, **about, **more)
    check_not_slower(
        {
            f"{row.get('network', row.get('width'))}, density {row['density']}, {what}": row[what]
            for row in (*rows, *tickets, *networks)
            for what in COMPARED
            if what in row
        }
    )


if __name__ == "__main__":
    main()
