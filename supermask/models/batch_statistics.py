"""Norms while a network is looked at under other weights than its own."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def batch_statistics(model: nn.Module) -> Iterator[None]:
    """Inside this context norms use the statistics of the batch and leave their running ones alone."""
    norms = [module for module in model.modules() if getattr(module, "track_running_stats", False)]
    modes = [module.training for module in norms]
    for module in norms:
        module.training, module.track_running_stats = True, False  # type: ignore[assignment]
    try:
        yield
    finally:
        for module, training in zip(norms, modes, strict=True):
            module.training, module.track_running_stats = training, True  # type: ignore[assignment]
