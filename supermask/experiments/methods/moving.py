"""Masks that change while the weights train: SET, RigL, early-bird tickets."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING

from supermask.experiments.methods.registry import register_method
from supermask.experiments.spec import MaskSource, RunSpec

if TYPE_CHECKING:
    from supermask.experiments.setting import Comparison


def rewired(rule: str, comparison: Comparison) -> Iterator[RunSpec]:
    """From a random mask with ERK densities."""
    for density in comparison.densities:
        mask = MaskSource(kind="random", keep=comparison.counts(density, "erk"))
        yield comparison.train(rule, kind="rewire", mask=mask, density=density, options={"rule": rule})


for _rule in ("set", "rigl"):
    register_method(_rule)(partial(rewired, _rule))


@register_method("early-bird")
def early_bird(comparison: Comparison) -> Iterator[RunSpec]:
    """Single weights by magnitude over the whole network."""
    for density in comparison.densities:
        mask = MaskSource(kind="early-bird")
        yield comparison.train("early-bird", kind="early-bird", mask=mask, density=density)
