"""Networks whose weights train: dense, iterative magnitude pruning, one-shot, and their controls."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from supermask.experiments.compare.methods.registry import register_method
from supermask.experiments.spec import MaskSource, RunSpec

if TYPE_CHECKING:
    from supermask.experiments.compare.comparison import Comparison


@register_method("dense")
def dense(comparison: Comparison) -> Iterable[RunSpec]:
    """Every weight, trained."""
    return [comparison.dense]


@register_method("dense-long")
def dense_long(comparison: Comparison) -> Iterable[RunSpec]:
    """Every weight, trained for as many steps as all that stands behind the sparsest IMP ticket."""
    return [comparison.dense_long]


@register_method("imp")
def imp(comparison: Comparison) -> Iterable[RunSpec]:
    """Rewound to initialization."""
    return comparison.pruned("imp").values()


@register_method("imp-rewind")
def imp_rewind(comparison: Comparison) -> Iterable[RunSpec]:
    """Rewound to an early step."""
    return comparison.pruned("imp-rewind").values()


@register_method("lr-rewind")
def lr_rewind(comparison: Comparison) -> Iterable[RunSpec]:
    """Weights as trained; only the schedule goes back, to its beginning."""
    return comparison.pruned("lr-rewind").values()


@register_method("one-shot")
def one_shot(comparison: Comparison) -> Iterator[RunSpec]:
    """The trained dense network pruned at once, trained again from initialization."""
    for density in comparison.densities:
        mask = MaskSource(
            kind="magnitude", run=comparison.dense.id, keep=comparison.keep(density, comparison.config.scope)
        )
        yield comparison.train("one-shot", mask=mask, density=density)


@register_method("reinit")
def reinit(comparison: Comparison) -> Iterable[RunSpec]:
    """The mask of the IMP ticket on newly drawn weights."""
    return [comparison.reinit(ticket) for ticket in comparison.pruned("imp").values()]


@register_method("random-mask")
def random_mask(comparison: Comparison) -> Iterator[RunSpec]:
    """A random mask with the same counts in every layer."""
    for density in comparison.densities:
        mask = MaskSource(kind="random", keep=comparison.counts(density))
        yield comparison.train("random-mask", mask=mask, density=density)


@register_method("shuffled-mask")
def shuffled_mask(comparison: Comparison) -> Iterator[RunSpec]:
    """The mask of the IMP ticket, shuffled within each layer."""
    for density, ticket in comparison.pruned("imp").items():
        mask = MaskSource(kind="shuffle", run=ticket.id)
        yield comparison.train("shuffled-mask", mask=mask, density=density)
