"""Steps of training that leave out zeros, over steps of dense training.

Networks of three linear layers of one width and one of ten outputs, with ReLUs between them. A step is
forward, backward and SGD with momentum, or edge-popup. `accelerated` is edge-popup as under
`sm.fit(..., accelerate=True)`, the layout of lists included; whether a layer computes from lists has been
measured before. `sgd accelerated` is the same for SGD with dense weights.

`tickets` are SGD under `sm.hold` of a random mask, as in a round of IMP; `networks` are edge-popup and such a
ticket in a network of convolutions, in channels_last.

It fails, once results are written, where an accelerated step takes over 1.05 times as long as without it.

All of it takes half an hour. `--cases` measures some, by what their names contain, and leaves the other rows
of the file in DIR as they are.

python benchmarks/accelerated_step.py [--threads 1] [--out DIR] [--cases "width 512" "batch 128, density 0.1"]
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from _measure import (
    arguments,
    check_not_slower,
    choosing,
    chosen,
    interleave,
    name_here,
    ratio,
    report,
    with_earlier,
)
from torch import nn
from torch.nn import functional as F

import supermask as sm
from supermask import ops

CASES = ((512, 0.3), (1024, 0.5), (1024, 0.3), (1024, 0.1), (2048, 0.5), (2048, 0.3), (2048, 0.1))
"""Width and density."""
TICKETS = tuple((width, density) for width in (1024, 2048) for density in (0.3, 0.1, 0.03))
"""Width and density."""
BATCH = 128
NETWORKS = tuple(("resnet-18-cifar", batch, density) for batch in (32, 128) for density in (0.3, 0.1))
"""Network, batch and density."""
COMPARED = ("accelerated/edge-popup", "sgd accelerated/dense", "accelerated/ticket")
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


WAYS = {
    "search": ("edge-popup", "accelerated", "sgd accelerated"),
    "ticket": ("ticket", "accelerated"),
}
"""What is compared with dense steps."""


def compare(
    make: Callable[[], tuple[nn.Module, torch.Tensor]],
    kind: str,
    density: float,
    seconds: float,
    clock: str,
    turn: float,
) -> dict[str, Any]:
    """What is measured of a row."""
    plain = WAYS[kind][0]
    ways: dict[str, tuple[float | None, bool, str]] = {"dense": (None, False, kind)}
    for way in WAYS[kind][: 2 if turn == 0 else None]:  # a network of convolutions takes long enough
        ways[way] = (None if "sgd" in way else density, "accelerated" in way, kind)
    row = measured(make, ways, seconds, clock, turn)
    row[f"accelerated/{plain}"] = ratio(row, "accelerated", plain)
    return row


def wide(width: int) -> Callable[[], tuple[nn.Module, torch.Tensor]]:
    """Makes a network of linear layers and its inputs."""
    return lambda: (network(width), torch.randn(BATCH, width))


def convolutions(name: str, batch: int) -> Callable[[], tuple[nn.Module, torch.Tensor]]:
    """Makes a network of convolutions and its inputs, in channels_last."""

    def make() -> tuple[nn.Module, torch.Tensor]:
        x = torch.randn(batch, 3, 32, 32).to(memory_format=torch.channels_last)
        return sm.create_model(name).to(memory_format=torch.channels_last), x

    return make


def name_of(row: Mapping[str, Any], group: str) -> str:
    """What the case of a row is called, of one of the lists of rows."""
    kind = row.get("kind") or ("ticket" if group == "tickets" else "search")
    where = f"{row['network']}, batch {row['batch']}" if "network" in row else f"width {row['width']}"
    return f"{kind}, {where}, density {row['density']}"


def cases() -> dict[str, tuple[str, dict[str, Any], Callable[[], tuple[nn.Module, torch.Tensor]], str]]:
    """Name → the list it belongs to, how its row begins, what makes the network, the kind of training."""
    found = {}
    for group, kind, sizes in (("rows", "search", CASES), ("tickets", "ticket", TICKETS)):
        for width, density in sizes:
            about: dict[str, Any] = {"width": width, "density": density, "batch": BATCH}
            found[name_of(about, group)] = group, about, wide(width), kind
    for name, batch, density in NETWORKS:
        for kind in WAYS:
            about = {"network": name, "batch": batch, "density": density, "kind": kind}
            found[name_of(about, "networks")] = "networks", about, convolutions(name, batch), kind
    return found


def main() -> None:
    """Every width, network and density."""
    options = arguments("a search step from packed lists against a dense step", choosing())
    done = {}
    for name, (_, about, make, kind) in cases().items():
        if not chosen(options, name):
            continue
        turn = 0.0 if "network" in about else 0.05
        row = compare(make, kind, about["density"], options.seconds, options.clock, turn)
        done[name] = {**about, **row}
    results = name_here("accelerated_step")
    groups: dict[str, list[dict[str, Any]]] = {}
    for group in ("rows", "tickets", "networks"):
        of = {name: done.get(name) for name, (own, *_) in cases().items() if own == group}
        groups[group] = with_earlier(options, results, of, partial(name_of, group=group), group)
    about = {"clock": options.clock, "instructions": ops.instruction_set()}
    report(results, options, groups.pop("rows"), **about, **groups)
    check_not_slower(
        {f"{name}: {what}": row[what] for name, row in done.items() for what in COMPARED if what in row}
    )


if __name__ == "__main__":
    main()
