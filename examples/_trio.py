"""What the examples share: one task done by a dense network, its IMP ticket and a subnetwork never trained.

A script describes its task once, as an `Example`, with a loop of its own; `trio` runs it:

    rows = trio(example, density=0.5, rounds=2, rewind_to=20, seed=0, out=Path("runs/mine"))

The rows are those of the untrained subnetwork (`edge-popup`), of its control (`random-mask-frozen`: the same
frozen weights under a mask that nobody chose), of the dense network and of its IMP ticket. Tickets lie in
`out`, one file each. `parser` and `write_result` are the flags and the JSON that the scripts have in common.
"""

import argparse
import shlex
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

import supermask as sm
from supermask.experiments.results import describe_machine
from supermask.io import read_json, write_json
from supermask.masks import Mask, random_mask
from supermask.prune import apply_mask

OnStep = Callable[[int], None]
Measures = dict[str, float]


@dataclass(frozen=True)
class Example:
    """A task, as three kinds of network do it.

    Attributes:
        network: Builds the network as its layers initialize it; torch's seed is set before the call.
        trainer: The optimizer that trains weights, dense or under a mask.
        draw: `randomize_` with the initialization that the search wants; changes the model in place.
        search: The search over the drawn model, an optimizer too.
        loop: `loop(model, optimizer, start, on_step)` trains from step `start` of the schedule to the end
            and calls `on_step(done)` after every step. It never asks which kind of optimizer it has.
        measure: What is reported of a network, by name.
        include: Patterns of weights that IMP prunes too, where the search masks more than the default.
    """

    network: Callable[[], nn.Module]
    trainer: Callable[[nn.Module], Optimizer]
    draw: Callable[[nn.Module], nn.Module]
    search: Callable[[nn.Module], sm.Search]
    loop: Callable[[nn.Module, Optimizer, int, OnStep], object]
    measure: Callable[[nn.Module], Measures]
    include: Sequence[str] = ()


def trio(
    example: Example, *, density: float, rounds: int, rewind_to: int, seed: int, out: Path
) -> list[dict[str, Any]]:
    """Search, control, dense network and IMP ticket of one task; a row each.

    Args:
        density: Fraction of weights that ticket and subnetwork keep.
        rounds: Rounds of IMP on the way there, each pruning the same fraction of the survivors.
        rewind_to: Step that IMP rewinds to.
        seed: Of the networks as torch draws them, and of the control's mask.
        out: Folder for the tickets.
    """
    return [
        *strong(example, density=density, seed=seed, out=out),
        *trained(example, density=density, rounds=rounds, rewind_to=rewind_to, seed=seed, out=out),
    ]


def strong(example: Example, *, density: float, seed: int, out: Path) -> list[dict[str, Any]]:
    """The subnetwork that a search finds among weights never trained, and a random one among the same."""
    model = example.draw(example.network())
    search = example.search(model)
    began = time.monotonic()
    example.loop(model, search, 0, lambda _: None)
    seconds = time.monotonic() - began
    rows = [row("edge-popup", density, example.measure(model), seconds, search.ticket(), out)]
    shapes = {name: tuple(weight.shape) for name, weight in search.weights.items()}
    keep = {name: int(kept.sum()) for name, kept in search.mask.items()}
    mask = random_mask(shapes, keep, seed)
    apply_mask(example.draw(model), mask)
    ticket = sm.Ticket.from_model(model, mask)
    return [*rows, row("random-mask-frozen", density, example.measure(model), 0.0, ticket, out)]


def trained(
    example: Example, *, density: float, rounds: int, rewind_to: int, seed: int, out: Path
) -> list[dict[str, Any]]:
    """The dense network, and the ticket that the last of `rounds` rounds of IMP leaves of it."""
    torch.manual_seed(seed)
    model = example.network()
    rows, seconds = [], 0.0
    rate = 1 - density ** (1 / rounds)
    options = {"rounds": rounds, "rate": rate, "rewind_to": rewind_to, "include": example.include}
    for found in sm.imp(model, under_mask(example), **options):
        seconds += found.result
        if found.round == 0:
            rows.append(row("dense", 1.0, example.measure(model), seconds))
        if found.round == rounds:
            ticket = sm.Ticket.from_model(model, found.mask)
            rows.append(row("imp", density, example.measure(model), seconds, ticket, out))
    return rows


def under_mask(example: Example) -> Callable[..., float]:
    """The training function that IMP calls; it returns the seconds that the loop took."""

    def train(model: nn.Module, mask: Mask, *, start: int, on_step: OnStep) -> float:
        optimizer = example.trainer(model)
        sm.hold(optimizer, mask, model)
        began = time.monotonic()
        example.loop(model, optimizer, start, on_step)
        return time.monotonic() - began

    return train


def row(
    method: str,
    density: float | None,
    measures: Mapping[str, float],
    seconds: float | None,
    ticket: sm.Ticket | None = None,
    out: Path | None = None,
) -> dict[str, Any]:
    """One line of the table, printed too; the ticket goes to `out`. What is no network has no density."""
    facts: dict[str, Any] = {"method": method, "density": density, **measures}
    if seconds is not None:
        facts["seconds"] = round(seconds, 1)
    if ticket is not None and out is not None:
        path = ticket.save(out / f"{method}.ticket")
        facts |= {"ticket": path.name, "ticket_bytes": path.stat().st_size}
    numbers = [f"{name.replace('_', ' ')} {value:.4f}" for name, value in measures.items()]
    numbers += [] if seconds is None else [f"{seconds:.0f} s"]
    print(f"{method}{f', density {density:g}' if density else ''}: {', '.join(numbers)}", flush=True)
    return facts


def parser(doc: str | None, *, steps: int, density: float) -> argparse.ArgumentParser:
    """The flags of every script."""
    flags = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument("--steps", type=int, default=steps, help=f"of each training ({steps})")
    flags.add_argument("--density", type=float, default=density, help=f"fraction of weights kept ({density})")
    flags.add_argument("--seed", type=int, default=0)
    flags.add_argument("--threads", type=int, default=1, help="of torch (1)")
    flags.add_argument(
        "--validation", action="store_true", help="measure on the validation split, which chose the recipe"
    )
    flags.add_argument("--out", type=Path, required=True, help="folder for tickets")
    flags.add_argument(
        "--json", type=Path, help="file for the result (default: OUT/<name of the script>.json)"
    )
    return flags


def start(flags: argparse.ArgumentParser, arguments: Sequence[str] | None) -> argparse.Namespace:
    """Parse the flags, and set up what they say; `command` of the result is the command line."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    options = flags.parse_args(given)
    options.arguments = given
    options.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(options.threads)
    return options


def write_result(
    name: str,
    options: argparse.Namespace,
    *,
    about: Mapping[str, Any],
    measures: Mapping[str, str],
    rows: Iterable[Mapping[str, Any]],
) -> dict[str, Any]:
    """Write the result of script `name` and return it as it stands in the file.

    Args:
        about: The task and the settings: what somebody needs to know to judge the numbers.
        measures: Key in the rows → title of its column in the table of the documentation. A title that ends
            in `%` stands for a fraction that is shown in percent.
        rows: What was found.
    """
    document = {
        "schema": "supermask/example/1",
        "example": name,
        "command": shlex.join(["python", f"examples/{name}.py", *options.arguments]),
        "split": "validation" if options.validation else "test",
        "about": dict(about),
        "machine": describe_machine("cpu", options.threads, 1),
        "measures": dict(measures),
        "rows": [dict(entry) for entry in rows],
    }
    path = options.json or options.out / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, document)
    print(f"written to {path}")
    return read_json(path)
