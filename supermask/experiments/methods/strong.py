"""Strong tickets: every search of the registry, and their control."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING

from supermask.experiments.methods.registry import register_method
from supermask.experiments.spec import MaskSource, RunSpec
from supermask.search import SEARCHES

if TYPE_CHECKING:
    from supermask.experiments.setting import Comparison


def searched(name: str, comparison: Comparison) -> Iterator[RunSpec]:
    """The search `name` at every density."""
    for density in comparison.config.densities:
        yield comparison.search(name, density)


for _name in SEARCHES:
    register_method(_name)(partial(searched, _name))


@register_method("random-mask-frozen")
def random_mask_frozen(comparison: Comparison) -> Iterator[RunSpec]:
    """A random mask on the weights that edge-popup searches; nothing is trained."""
    for density in comparison.config.densities:
        found = comparison.search("edge-popup", density)
        distribution = comparison.config.distribution
        if distribution == "global":
            # Only the search knows how many weights each layer keeps.
            mask = MaskSource(kind="shuffle", run=found.id)
        else:
            keep = comparison.counts(density, distribution)
            mask = MaskSource(kind="random", keep=keep, distribution=distribution)
        yield comparison.train(
            "random-mask-frozen",
            kind="frozen",
            rule=found.rule,
            weights=found.weights,
            mask=mask,
            density=density,
        )
