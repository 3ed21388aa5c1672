"""Strong tickets: every search of the registry, and their control."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING

from supermask.experiments.compare.methods.registry import add_method, register_method
from supermask.experiments.compare.recipes import FROZEN_CONTROL, densities_of, fine_tuned_name
from supermask.experiments.spec import MaskSource, RunSpec
from supermask.search.description import DESCRIPTIONS, describe
from supermask.search.registry import for_every_search

if TYPE_CHECKING:
    from supermask.experiments.compare.comparison import ComparisonBuilder


def searched(name: str, comparison: ComparisonBuilder) -> Iterator[RunSpec]:
    """The search `name` at every density, or at the one of its recipe."""
    densities = densities_of(comparison.config, name)
    comparison.check_search(name, densities)
    for density in densities:
        yield comparison.search(name, density)


for_every_search(lambda name: add_method(name, partial(searched, name)))


def fine_tuned(name: str, comparison: ComparisonBuilder) -> Iterator[RunSpec]:
    """The mask that the search found, and its weights trained under it from where they stood frozen."""
    comparison.check_search(name, comparison.config.densities)
    for density in comparison.config.densities:
        found = comparison.search(name, density)
        mask = MaskSource(kind="same", run=found.id)
        yield comparison.train(fine_tuned_name(name), weights=found.weights, mask=mask, density=density)


def _describe_fine_tuned(search: str) -> None:
    label = DESCRIPTIONS[search].label
    describe(
        fine_tuned_name(search),
        label=f"{label}, fine-tuned",
        group="fine-tuned",
        about=f"The mask that {label} found on frozen weights, then the weights trained under it.",
        dash=(0, (7, 1.5)),
        variant_of=search,
        search=search,
    )


for_every_search(_describe_fine_tuned)
for _name in ("gem-miner", "concrete"):
    add_method(fine_tuned_name(_name), partial(fine_tuned, _name))


@register_method(
    FROZEN_CONTROL,
    label="random mask, frozen weights",
    group="control",
    about="A random mask on the frozen weights that edge-popup searches; nothing is trained.",
    colour="tan",
    marker="d",
    dash=(0, (6, 2.4)),
    last=True,
    search="edge-popup",
)
def random_mask_frozen(comparison: ComparisonBuilder) -> Iterator[RunSpec]:
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
