"""Choosing the kernels of packed layers by measurement."""

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

ROUNDS, MOST_ROUNDS, SECONDS = 7, 50, 0.02
"""Turns that each candidate takes: the first number, and up to the second within so many seconds of all."""


def fastest(candidates: Mapping[str, Callable[[], Any]]) -> str:
    """The name of the candidate with the smallest median time; they run in turns, after one warm-up each."""
    times: dict[str, list[float]] = {name: [] for name in candidates}
    began = time.perf_counter()
    for round_ in range(MOST_ROUNDS + 1):
        if round_ > ROUNDS and time.perf_counter() - began > SECONDS:
            break
        for name, call in candidates.items():
            start = time.perf_counter()
            call()
            if round_:
                times[name].append(time.perf_counter() - start)
    return min(times, key=lambda name: statistics.median(times[name]))


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
