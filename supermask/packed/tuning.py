"""Choosing the kernels of packed layers by measurement.

Every layer measures on the inputs that it meets. Its weights lie in the cache then, as they may not in a
network that runs; so the network decides last, between what its layers found, packed weights only where a
layer gained clearly, dense weights everywhere, and plain dense ones, with none in oneDNN's layout.
"""

import math
import statistics
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from supermask.models.modes import evaluating

Name = TypeVar("Name", bound=Hashable)

ROUNDS, MOST_ROUNDS, SECONDS = 7, 50, 0.02
"""Turns that each candidate takes: the first number, and up to the second within so many seconds of all."""
NETWORK_ROUNDS, NETWORK_SECONDS = 3, 0.5
"""The same for whole networks."""
DENSE = ("dense", "prepacked")
"""What computes from dense weights."""
CLEARLY = 1.15
"""How many times as fast as dense ones packed weights are where a layer alone is believed."""
SURELY = 1.05
"""The same for weights in oneDNN's layout over plain ones."""


def fastest(candidates: Mapping[str, Callable[[], Any]]) -> str:
    """The name of the candidate with the smallest median time; they run in turns, after one warm-up each."""
    times = medians(candidates)
    return min(times, key=lambda name: times[name])


def medians(
    candidates: Mapping[Name, Callable[[], Any]],
    least: int = ROUNDS,
    seconds: float = SECONDS,
    again: bool = False,
) -> dict[Name, float]:
    """The median time of each candidate, in seconds; they run in turns, after one warm-up each.

    Args:
        candidates: Name → what to time.
        least: Turns of each.
        seconds: For how long there are more of them, up to `MOST_ROUNDS`.
        again: A turn begins with a call that is not timed, so that none finds what another left in the cache.
    """
    times: dict[Name, list[float]] = {name: [] for name in candidates}
    began = time.perf_counter()
    for turn in range(MOST_ROUNDS + 1):
        if turn > least and time.perf_counter() - began > seconds:
            break
        for name, call in candidates.items():
            if again and turn:
                call()
            start = time.perf_counter()
            call()
            if turn:
                times[name].append(time.perf_counter() - start)
    return {name: statistics.median(each) for name, each in times.items()}


@dataclass(frozen=True)
class Choice:
    """What one layer measured for one kind of inputs."""

    table: dict[Any, str]
    """Where the layer looks up its kernel."""
    key: Any
    packed: str
    """The fastest kernel of packed weights."""
    dense: str
    """The fastest of dense ones."""
    gain: float
    """The time of that over the time of this."""

    @classmethod
    def measured(
        cls, table: dict[Any, str], key: Any, names: Sequence[str], call: Callable[[], Any]
    ) -> "Choice":
        """Time `call` with each of the kernels, and leave the fastest in `table`."""

        def with_kernel(name: str) -> None:
            table[key] = name
            call()

        times = medians({name: partial(with_kernel, name) for name in names})
        dense = min((name for name in names if name in DENSE), key=times.__getitem__)
        if times["dense"] <= SURELY * times[dense]:  # what is hardly faster is no reason for a second copy
            dense = "dense"
        packed = min((name for name in names if name not in DENSE), key=times.__getitem__, default=dense)
        choice = cls(table, key, packed, dense, times[dense] / times[packed])
        table[key] = choice.for_gain(1.0)
        return choice

    def for_gain(self, least: float) -> str:
        """The kernel for a layer that takes packed weights only for a gain of at least so much."""
        return self.packed if self.gain >= least else self.dense


def tune(model: nn.Module, example: Tensor | tuple[Any, ...]) -> None:
    """Let every layer of `model` that can choose its kernel do so on the inputs that `example` gives it.

    The network is run in evaluation mode and without gradients: once with every layer measuring, then a few
    times as a whole.
    """
    inputs = example if isinstance(example, tuple) else (example,)
    choices: list[Choice] = []

    def measure(layer: Any, inputs: tuple[Tensor, ...]) -> None:
        choice = layer.tune(*inputs)
        if choice is not None:
            choices.append(choice)

    tuned: list[Any] = [module for module in model.modules() if hasattr(module, "tune")]
    hooks = [module.register_forward_pre_hook(measure) for module in tuned]
    try:
        with torch.no_grad(), evaluating(model):
            model(*inputs)
            for hook in hooks:
                hook.remove()
            _settle(choices, partial(model, *inputs))
    finally:
        for hook in hooks:
            hook.remove()
        for layer in tuned:
            layer.drop_unused()


def _settle(choices: list[Choice], run: Callable[[], Any]) -> None:
    """Take what serves the whole network fastest."""
    found = [tuple(choice.for_gain(least) for choice in choices) for least in (1.0, CLEARLY, math.inf)]
    if len(choices) > 1:  # one has measured that itself
        found.append(("dense",) * len(choices))
    variants = list(dict.fromkeys(found))
    if len(variants) < 2:
        return

    def take(names: tuple[str, ...]) -> None:
        for choice, name in zip(choices, names, strict=True):
            choice.table[choice.key] = name

    def run_with(names: tuple[str, ...]) -> None:
        take(names)
        run()

    times = medians(
        {names: partial(run_with, names) for names in variants}, NETWORK_ROUNDS, NETWORK_SECONDS, again=True
    )
    take(min(variants, key=times.__getitem__))
