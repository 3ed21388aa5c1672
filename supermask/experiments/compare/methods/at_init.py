"""Pruning at initialization: a mask from the untrained network, then training."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING

from supermask.experiments.compare.methods.registry import register_method
from supermask.experiments.spec import MaskSource, RunSpec

if TYPE_CHECKING:
    from supermask.experiments.compare.comparison import Comparison


def pruned_at_init(name: str, comparison: Comparison) -> Iterator[RunSpec]:
    """The saliency `name`, ranked over the whole network."""
    for density in comparison.densities:
        mask = MaskSource(kind=name, keep=comparison.keep(density, "global"))
        yield comparison.train(name, mask=mask, density=density)


for _name in ("snip", "grasp", "synflow"):
    register_method(_name)(partial(pruned_at_init, _name))
