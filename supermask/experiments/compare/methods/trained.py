"""Networks whose weights train: dense, iterative magnitude pruning, one-shot, and their controls."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from supermask.experiments.compare.methods.registry import register_method
from supermask.experiments.spec import MaskSource, RunSpec

if TYPE_CHECKING:
    from supermask.experiments.compare.comparison import ComparisonBuilder


@register_method(
    "dense",
    group="dense",
    about="Every weight, trained as usual.",
    colour="ink",
)
def dense(comparison: ComparisonBuilder) -> Iterable[RunSpec]:
    """Every weight, trained."""
    return [comparison.dense]


@register_method(
    "dense-long",
    label="dense, as many steps as IMP",
    group="control",
    about="Every weight, trained once for as many steps as all rounds of IMP take together.",
    colour="ink",
    marker="o",
    dash=(0, (2, 1.2)),
)
def dense_long(comparison: ComparisonBuilder) -> Iterable[RunSpec]:
    """Every weight, trained for as many steps as all that stands behind the sparsest IMP ticket."""
    return [comparison.dense_long]


@register_method(
    "imp",
    label="IMP",
    group="trained",
    about="Iterative magnitude pruning: train, prune the smallest weights, go back to initialization, "
    "repeat.",
    colour="blue",
    marker="s",
)
def imp(comparison: ComparisonBuilder) -> Iterable[RunSpec]:
    """Rewound to initialization."""
    return comparison.pruned("imp").values()


@register_method(
    "imp-rewind",
    label="IMP with rewind",
    group="trained",
    about="IMP that goes back to an early step of training instead of initialization.",
    colour="sky",
    marker="D",
)
def imp_rewind(comparison: ComparisonBuilder) -> Iterable[RunSpec]:
    """Rewound to an early step."""
    return comparison.pruned("imp-rewind").values()


@register_method(
    "lr-rewind",
    label="IMP with learning-rate rewind",
    group="trained",
    about="IMP that keeps the trained weights and restarts only the learning-rate schedule.",
    colour="green",
    marker="p",
)
def lr_rewind(comparison: ComparisonBuilder) -> Iterable[RunSpec]:
    """Weights as trained; only the schedule goes back, to its beginning."""
    return comparison.pruned("lr-rewind").values()


@register_method(
    "one-shot",
    group="trained",
    about="The trained dense network pruned once to the density, then trained again from initialization.",
    colour="pink",
    marker="^",
)
def one_shot(comparison: ComparisonBuilder) -> Iterator[RunSpec]:
    """The trained dense network pruned at once, trained again from initialization."""
    for density in comparison.densities:
        mask = MaskSource(
            kind="magnitude", run=comparison.dense.id, keep=comparison.keep(density, comparison.config.scope)
        )
        yield comparison.train("one-shot", mask=mask, density=density)


@register_method(
    "reinit",
    group="control",
    about="The mask of the IMP ticket on newly drawn weights, trained.",
    colour="slate",
    marker="v",
    dash=(0, (4, 1.6)),
)
def reinit(comparison: ComparisonBuilder) -> Iterable[RunSpec]:
    """The mask of the IMP ticket on newly drawn weights."""
    return [comparison.reinit(ticket) for ticket in comparison.pruned("imp").values()]


@register_method(
    "random-mask",
    label="random mask",
    group="control",
    about="A random mask of the same density, trained.",
    colour="grey",
    marker="X",
    dash=(0, (1.2, 1.4)),
)
def random_mask(comparison: ComparisonBuilder) -> Iterator[RunSpec]:
    """A random mask with the same counts in every layer."""
    for density in comparison.densities:
        mask = MaskSource(kind="random", keep=comparison.counts(density))
        yield comparison.train("random-mask", mask=mask, density=density)


@register_method(
    "shuffled-mask",
    label="shuffled mask",
    group="control",
    about="The mask of the IMP ticket shuffled within each layer, trained.",
    colour="sand",
    marker="P",
    dash=(0, (4, 1.4, 1.2, 1.4)),
)
def shuffled_mask(comparison: ComparisonBuilder) -> Iterator[RunSpec]:
    """The mask of the IMP ticket, shuffled within each layer."""
    for density, ticket in comparison.pruned("imp").items():
        mask = MaskSource(kind="shuffle", run=ticket.id)
        yield comparison.train("shuffled-mask", mask=mask, density=density)
