"""Whole networks at density 0.3: packed against dense, in float32 and bfloat16, eager and compiled.

Every packed network is tuned on the batch that it is timed on (`sm.pack(..., example=batch)`). Dense networks
hold the same masked weights. Bytes are those of parameters, buffers and weights that packed layers have
unpacked; errors are relative to the same network in float64.

It fails, once results are written, where a packed network takes over 1.05 times as long as the dense one of
its type.

python benchmarks/packed_models.py [--threads 2] [--out DIR]
"""

import copy
import os
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import torch
from _measure import (
    arguments,
    check_not_slower,
    choosing,
    chosen,
    interleave,
    ratio,
    report,
    with_earlier,
)
from _plot import plot_speedups
from _tables.performance import network_of
from torch import Tensor, nn

import supermask as sm
from supermask.models import create_model
from supermask.packed import pack

DENSITY = 0.3
NETWORKS: dict[str, tuple[dict[str, Any], tuple[int, ...]]] = {
    "lenet-300-100": ({"in_channels": 1, "image_size": 28}, (1, 8, 64)),
    "conv-4": ({}, (1, 8, 64)),
    "resnet-18-cifar": ({}, (1, 8, 64)),
    "timm/vit_tiny_patch16_224": ({"image_size": 224}, (1, 8)),
    "timm/vit_small_patch16_224": ({"image_size": 224}, (1,)),
}
OTHER_WEIGHTS = (("conv-4", 1), ("conv-4", 8), ("resnet-18-cifar", 1), ("resnet-18-cifar", 8))
"""Networks and batches that are measured with `kaiming_normal` weights, too."""
TURN = 0.05  # seconds that one network goes on for, so that its weights find the cache that they would have


def dense_and_ticket(name: str, init: str) -> tuple[nn.Module, sm.Ticket]:
    """The network with the weights of a random strong ticket, and that ticket."""
    model = sm.randomize_(create_model(name, **NETWORKS[name][0]), init, seed=0, density=DENSITY)
    ticket = sm.EdgePopup(model, density=DENSITY, lr=0.1).ticket()
    return model.eval().requires_grad_(False), ticket


def bytes_of(model: nn.Module) -> int:
    """Bytes of all that the network keeps between calls."""
    kept = [*model.parameters(), *model.buffers()]
    kept += [m._dense for m in model.modules() if isinstance(getattr(m, "_dense", None), Tensor)]
    kept += [
        m._prepacked.weights
        for m in model.modules()
        if hasattr(m, "_prepacked") and m._prepacked.weights is not None
    ]
    return sum(tensor.numel() * tensor.element_size() for tensor in kept)


def kernels_of(model: nn.Module, dtype: torch.dtype) -> Counter[str]:
    """How many layers compute from lists, from bits and so on."""
    convolutions = [m.kernels[dtype] for m in model.modules() if hasattr(m, "kernels")]
    linear = [m.tuned.items() for m in model.modules() if hasattr(m, "tuned")]
    return Counter(
        convolutions + [kernel for items in linear for (kind, _), kernel in items if kind == dtype]
    )


def compare(name: str, batch: int, init: str, seconds: float, clock: str = "wall") -> dict[str, Any]:
    """One row."""
    model, ticket = dense_and_ticket(name, init)
    config = model.supermask_factory["args"]
    size = config["image_size"]
    x = torch.randn(batch, config["in_channels"], size, size, generator=torch.Generator().manual_seed(0))
    half = x.bfloat16()
    packed = pack(model, ticket, example=x)
    packed_half = pack(model, ticket).bfloat16()
    sm.packed.tune(packed_half, half)
    dense_half = copy.deepcopy(model).bfloat16()
    networks: dict[str, tuple[Callable[[Tensor], Tensor], Tensor]] = {
        "dense": (model, x),
        "packed": (packed, x),
        "dense_bf16": (dense_half, half),
        "packed_bf16": (packed_half, half),
    }
    if batch == 1:  # compiling takes longer than all the rest
        networks["compiled"] = (torch.compile(copy.deepcopy(model), dynamic=False), x)
    exact = copy.deepcopy(model).double()(x.double())
    errors = {
        label: float((network(value).double() - exact).abs().max() / exact.abs().max())
        for label, (network, value) in networks.items()
    }
    calls = {label: (lambda n=network, v=value: n(v)) for label, (network, value) in networks.items()}
    results = interleave(calls, seconds, turn=TURN, clock=clock)
    bytes_each = {"dense": bytes_of(model), "packed": bytes_of(packed)}
    return {
        "network": name,
        "init": init,
        "batch": batch,
        "density": DENSITY,
        "against": {label: ratio(results, label, "packed") for label in networks if label != "packed"},
        "packed_bf16/dense_bf16": ratio(results, "packed_bf16", "dense_bf16"),
        "bytes": {**bytes_each, "dense_bf16": bytes_of(dense_half), "packed_bf16": bytes_of(packed_half)},
        "errors": errors,
        "kernels": {
            "packed": kernels_of(packed, x.dtype),
            "packed_bf16": kernels_of(packed_half, half.dtype),
        },
        **results,
    }


def case_of(row: Mapping[str, Any]) -> str:
    """What a row's case is called."""
    return f"{network_of(row)}, batch {row['batch']}"


@torch.no_grad()
def main() -> None:
    """All networks, at each of their batch sizes."""
    own = choosing()
    own.add_argument("--networks", nargs="+", choices=tuple(NETWORKS), help="all by default")
    options = arguments("packed networks against dense ones", own)
    clock = getattr(options, "clock", "wall")
    os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", str(options.threads))
    runs = [(name, batch, "signed_constant") for name, (_, batches) in NETWORKS.items() for batch in batches]
    runs += [(name, batch, "kaiming_normal") for name, batch in OTHER_WEIGHTS]
    wanted = getattr(options, "networks", None) or NETWORKS
    found: dict[str, Any] = {}
    for name, batch, init in runs:
        if name in wanted:
            case = case_of({"network": name, "batch": batch, "init": init})
            run = chosen(options, case)
            found[case] = compare(name, batch, init, options.seconds / 2, clock) if run else None
    rows = with_earlier(options, "packed_models", found, case_of)
    report("packed_models", options, rows, clock=clock)
    if options.out:
        cases = {case_of(row): row["against"] for row in rows}
        plot_speedups(cases, "how many times faster packed float32 is", options.out / "packed_models.png")
    check_not_slower(
        {
            f"{case_of(row)}, {kind}": factor
            for row in rows
            for kind, factor in (
                ("float32", 1 / row["against"]["dense"]),
                ("bfloat16", row["packed_bf16/dense_bf16"]),
            )
        }
    )


if __name__ == "__main__":
    main()
