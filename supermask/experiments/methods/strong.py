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
    """The search `name` at every density, or at the one of its recipe: there it is where the scores start."""
    recommended = SEARCHES[name].recipe.get("density") if comparison.config.own_recipes else None
    for density in comparison.config.densities if recommended is None else (recommended,):
        yield comparison.search(name, density)


for _name in SEARCHES:
    register_method(_name)(partial(searched, _name))


def fine_tuned(name: str, comparison: Comparison) -> Iterator[RunSpec]:
    """The mask that the search found, and its weights trained under it from where they stood frozen."""
    for density in comparison.config.densities:
        found = comparison.search(name, density)
        mask = MaskSource(kind="same", run=found.id)
        yield comparison.train(f"{name}-fine-tuned", weights=found.weights, mask=mask, density=density)


for _name in ("gem-miner", "concrete"):
    register_method(f"{_name}-fine-tuned")(partial(fine_tuned, _name))


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
