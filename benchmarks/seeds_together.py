"""Several seeds trained as one program (`supermask.training.ensemble`) against one after another.

A row is a network, a batch size and a number of seeds. `alone` is a step of one network, `together` a step of
all of them; the ratio is that of network-steps per second. Dense SGD and edge-popup, each by the same rule in
both forms; making batches is in neither. On a CPU the time is that of the process, which other processes
disturb less than the clock on the wall; on a GPU a step is replayed from a CUDA graph, which a step of
edge-popup in parts allows and the fused one does not.

python benchmarks/seeds_together.py [--threads 1 | --device cuda] [--seconds 5] [--out DIR]
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from _measure import arguments, interleave, report
from torch.nn import functional as F

import supermask as sm
from supermask.models import create_model

Step = Callable[[], None]

OPTIONS = {"lr": 0.01, "momentum": 0.9, "weight_decay": 1e-4}
DENSITY = 0.3
TURN = 0.02
"""Seconds that a step is repeated for before the next has its turn."""
CASES = [
    ("lenet-300-100", {"in_channels": 1, "image_size": 8}, 32, (2, 4, 8, 16)),
    ("lenet-300-100", {"in_channels": 1, "image_size": 8}, 64, (2, 4, 8, 16)),
    ("lenet-300-100", {"in_channels": 1, "image_size": 28}, 32, (2, 4, 8, 16)),
    ("lenet-300-100", {"in_channels": 1, "image_size": 28}, 60, (2, 4, 8, 16)),
    ("lenet-300-100", {"in_channels": 1, "image_size": 28}, 128, (2, 4, 8, 16)),
    ("conv-2", {"in_channels": 1, "image_size": 8}, 32, (4,)),
    ("conv-2", {"in_channels": 3, "image_size": 32}, 20, (4,)),
    ("conv-4", {"in_channels": 3, "image_size": 32}, 20, (4,)),
]


def networks(name: str, config: Mapping[str, Any], count: int, device: str) -> list[torch.nn.Module]:
    """Networks that differ in their seed."""
    made = [create_model(name, **config).to(device) for _ in range(count)]
    return [sm.randomize_(model, init="signed_constant", seed=seed) for seed, model in enumerate(made)]


def dense_alone(model: torch.nn.Module, inputs: torch.Tensor, labels: torch.Tensor) -> Step:
    """A step of SGD on one network."""
    model.requires_grad_(True)
    return step_alone(model, torch.optim.SGD(model.parameters(), **OPTIONS), inputs, labels)


def search_alone(model: torch.nn.Module, inputs: torch.Tensor, labels: torch.Tensor) -> Step:
    """A step of edge-popup on one network."""
    return step_alone(model, sm.EdgePopup(model, density=DENSITY, **OPTIONS), inputs, labels)


def step_alone(
    model: torch.nn.Module, optimizer: torch.optim.Optimizer, inputs: torch.Tensor, labels: torch.Tensor
) -> Step:
    """Forward, backward and update of one network."""

    def step() -> None:
        F.cross_entropy(model(inputs), labels).backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def step_together(
    together: sm.Ensemble, optimizer: torch.optim.Optimizer, inputs: torch.Tensor, labels: torch.Tensor
) -> Step:
    """Forward, backward and update of all networks."""

    def step() -> None:
        together.losses(inputs, labels).sum().backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def candidates(
    name: str, config: Mapping[str, Any], batch: int, count: int, device: str
) -> dict[str, dict[str, Step]]:
    """Dense and edge-popup → alone and together."""
    shape = config["in_channels"], config["image_size"], config["image_size"]
    inputs = torch.randn(count, batch, *shape, device=device)
    labels = torch.randint(0, 10, (count, batch), device=device)
    (one,), (other,) = (networks(name, config, 1, device) for _ in range(2))
    trained = sm.Ensemble([model.requires_grad_(True) for model in networks(name, config, count, device)])
    rule = torch.optim.SGD(trained.stack.parameters(), **OPTIONS)
    searched = sm.Ensemble(networks(name, config, count, device))
    searches = [
        sm.EdgePopup(model, density=DENSITY, seed=seed, **OPTIONS)
        for seed, model in enumerate(searched.members)
    ]
    search = sm.EnsembleSearch(searched, searches)
    return {
        "dense": {
            "alone": dense_alone(one, inputs[0], labels[0]),
            "together": step_together(trained, rule, inputs, labels),
        },
        "edge-popup": {
            "alone": search_alone(other, inputs[0], labels[0]),
            "together": step_together(searched, search, inputs, labels),
        },
    }


def compare(
    name: str, config: Mapping[str, Any], batch: int, count: int, seconds: float, device: str
) -> dict[str, Any]:
    """One row."""
    row: dict[str, Any] = {"network": name, **config, "batch_size": batch, "seeds": count}
    for kind, steps in candidates(name, config, batch, count, device).items():
        timed = interleave(steps, seconds, device=device, turn=TURN, clock="cpu")
        alone, together = (timed[form]["median_ms"] for form in ("alone", "together"))
        row[f"{kind} together/alone"] = count * alone / together
        row |= {f"{kind} {form}": result for form, result in timed.items()}
    return row


def main() -> None:
    """Time all cases."""
    options = arguments("seeds trained as one program, against one after another")
    rows = [
        compare(name, config, batch, count, options.seconds, options.device)
        for name, config, batch, counts in CASES
        for count in counts
    ]
    report(
        "seeds_together",
        options,
        rows,
        lambda row: (
            f"{row['network']}, {row['image_size']} pixels, batch {row['batch_size']}, {row['seeds']} seeds"
        ),
        clock="process time" if options.device == "cpu" else "device",
    )


if __name__ == "__main__":
    main()
