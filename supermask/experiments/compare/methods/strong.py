"""Strong tickets: every search of the registry, and their control."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING

from supermask.experiments.compare.methods.registry import register_method
from supermask.experiments.compare.recipes import FINE_TUNED, FROZEN_CONTROL, densities_of
from supermask.experiments.spec import MaskSource, RunSpec
from supermask.search import SEARCHES

if TYPE_CHECKING:
    from supermask.experiments.compare.comparison import Comparison


def searched(name: str, comparison: Comparison) -> Iterator[RunSpec]:
    """The search `name` at every density, or at the one of its recipe."""
    densities = densities_of(comparison.config, name)
    comparison.check_search(name, densities)
    for density in densities:
        yield comparison.search(name, density)


for _name in SEARCHES:
    register_method(_name)(partial(searched, _name))


def fine_tuned(name: str, comparison: Comparison) -> Iterator[RunSpec]:
    """The mask that the search found, and its weights trained under it from where they stood frozen."""
    comparison.check_search(name, comparison.config.densities)
    for density in comparison.config.densities:
        found = comparison.search(name, density)
        mask = MaskSource(kind="same", run=found.id)
        yield comparison.train(f"{name}{FINE_TUNED}", weights=found.weights, mask=mask, density=density)


for _name in ("gem-miner", "concrete"):
    register_method(f"{_name}{FINE_TUNED}")(partial(fine_tuned, _name))


@register_method(FROZEN_CONTROL)
def random_mask_frozen(comparison: Comparison) -> Iterator[RunSpec]:
    """A random mask on the weights that edge-popup searches; nothing is trained."""
    comparison.check_search("edge-popup", comparison.config.densities)
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
            FROZEN_CONTROL,
            kind="frozen",
            rule=found.rule,
            weights=found.weights,
            mask=mask,
            density=density,
        )
