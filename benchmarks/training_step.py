"""A whole training step: edge-popup against dense SGD, and against sorting in every forward pass.

All candidates run forward, backward and update on the same batch. `edge-popup` is `sm.EdgePopup` by the
published rule; `default` is the same without a learning rate, by relative steps; `parts` is the published
rule without the fused step; `signed` and `signed-parts` are both of signed supermasks; `sort` is the
usual form of the method, a layer that ranks its scores by a full sort in `forward`; `dense` is
`torch.optim.SGD` on the weights. On a GPU all compute in bfloat16 (autocast), in channels_last, and every
step is replayed from a CUDA graph.

python benchmarks/training_step.py [--threads 2 | --device cuda] [--out DIR]
"""

from collections.abc import Callable
from typing import Any

import torch
from _measure import arguments, interleave, ratio, report
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrize

import supermask as sm
from supermask.models import create_model
from supermask.search.signed_supermask import SignedSupermask

DENSITY = 0.3
OPTIONS = {"lr": 0.1, "momentum": 0.9, "weight_decay": 1e-4}
NETWORKS = {
    "lenet-300-100": {"in_channels": 1, "image_size": 28},
    "conv-4": {},
    "resnet-18-cifar": {},
}


class Parts(sm.EdgePopup):
    """Edge-popup with its step in parts: straight-through gradient, SGD, selection, masked write.

    A subclass does not inherit the fused step.
    """


class SignedParts(SignedSupermask):
    """Signed supermasks with their step in parts, likewise."""


SEARCHES: dict[str, type[sm.search.Search]] = {
    "edge-popup": sm.EdgePopup,
    "default": sm.EdgePopup,
    "parts": Parts,
    "signed": SignedSupermask,
    "signed-parts": SignedParts,
}


class SortInForward(nn.Module):
    """W -> W · (mask of the largest |s|), by a full sort; the gradient passes the mask unchanged."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.register_buffer("frozen", weight.detach().clone())
        self.score = nn.Parameter(torch.empty_like(weight).uniform_(-0.1, 0.1))

    def forward(self, weight: Tensor) -> Tensor:
        magnitude = self.score.abs()
        order = magnitude.detach().flatten().sort().indices
        mask = torch.ones_like(order, dtype=weight.dtype)
        mask[order[: round((1 - DENSITY) * mask.numel())]] = 0
        straight = magnitude + (mask.view_as(magnitude) - magnitude).detach()
        return self.frozen * straight


def sort_in_forward(model: nn.Module) -> nn.Module:
    """The usual form of the method: every linear and convolution layer ranks its scores in `forward`."""
    for module in [m for m in model.modules() if isinstance(m, nn.Linear | nn.Conv2d)]:
        parametrize.register_parametrization(module, "weight", SortInForward(module.weight), unsafe=True)
        module.parametrizations.weight.original.requires_grad_(False)
    return model


def trainer(
    model: nn.Module, optimizer: torch.optim.Optimizer, batch: tuple[Tensor, Tensor]
) -> Callable[[], None]:
    """One training step as a call."""
    images, labels = batch

    def step() -> None:
        # Weights change between steps, and no weight is used twice in one: there is nothing to cache.
        with torch.autocast("cuda", torch.bfloat16, enabled=images.is_cuda, cache_enabled=False):
            loss = F.cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


def candidates(name: str, batch_size: int, device: str) -> dict[str, Callable[[], None]]:
    """The steps to compare, each with a network of its own."""
    config = NETWORKS[name]
    shape = (
        batch_size,
        config.get("in_channels", 3),
        config.get("image_size", 32),
        config.get("image_size", 32),
    )
    batch = torch.randn(shape, device=device), torch.randint(0, 10, (batch_size,), device=device)
    steps = {}
    for label in ("dense", *SEARCHES, "sort"):
        model = create_model(name, **config).to(device)
        if device == "cuda":
            model = model.to(memory_format=torch.channels_last)
        sm.randomize_(model, init="signed_constant", seed=0)
        if label in SEARCHES:
            rule = {} if label == "default" else OPTIONS
            steps[label] = trainer(model, SEARCHES[label](model, density=DENSITY, **rule), batch)
            continue
        if label == "sort":
            sort_in_forward(model)
        trained = [p for p in model.parameters() if p.requires_grad]
        steps[label] = trainer(model, torch.optim.SGD(trained, **OPTIONS), batch)
    return steps


def compare(name: str, batch_size: int, seconds: float, device: str) -> dict[str, Any]:
    """One row."""
    results = interleave(candidates(name, batch_size, device), seconds, device=device)
    ratios = {f"{label}/dense": ratio(results, label, "dense") for label in (*SEARCHES, "sort")}
    return {"network": name, "batch_size": batch_size, "density": DENSITY, **ratios, **results}


def main() -> None:
    """Time the networks of the table in docs/performance.md."""
    options = arguments("a training step of edge-popup against a dense one")
    rows = [compare(name, 128, options.seconds, options.device) for name in NETWORKS]
    report("training_step", options, rows, lambda row: f"{row['network']}, batch {row['batch_size']}")


if __name__ == "__main__":
    main()
