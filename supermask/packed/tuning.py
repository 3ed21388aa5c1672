"""Choosing the kernels of packed layers by measurement."""

import math
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

ROUNDS = 7
CLEARLY = 0.97
"""A candidate that takes less than this share of the time of the dense one is clearly faster."""


def fastest(candidates: Mapping[str, Callable[[], Any]]) -> str:
    """The name of the candidate that was ever fastest; they run in turns, after one warm-up each.

    What else the machine does only ever adds to a time, so the smallest one says most. One named `dense` is
    taken where no other is clearly faster.
    """
    times: dict[str, list[float]] = {name: [] for name in candidates}
    for round_ in range(ROUNDS + 1):
        for name, call in candidates.items():
            start = time.perf_counter()
            call()
            if round_:
                times[name].append(time.perf_counter() - start)
    best = {name: min(values) for name, values in times.items()}
    first = min(best, key=best.__getitem__)
    return "dense" if best[first] > CLEARLY * best.get("dense", math.inf) else first


def tune(model: nn.Module, example: Tensor | tuple[Any, ...]) -> None:
    """Let every layer of `model` that can choose its kernel do so on the inputs that `example` gives it.

    The network is run once, in evaluation mode and without gradients.
    """

    def measure(layer: Any, inputs: tuple[Tensor, ...]) -> None:
        layer.tune(*inputs)

    training = {module: module.training for module in model.modules()}
    hooks = [module.register_forward_pre_hook(measure) for module in training if hasattr(module, "tune")]
    try:
        with torch.no_grad():
            model.eval()(*(example if isinstance(example, tuple) else (example,)))
    finally:
        for hook in hooks:
            hook.remove()
        for module, flag in training.items():
            module.training = flag
