"""Whole filters pruned by their L1 norm (Li et al., ICLR 2017); neurons in a fully connected network.

A row's density is that of weights, as in every other row: each layer that can lose filters keeps the same
fraction of them, chosen so that the weights left come as near to the density as whole filters allow. The
paper chooses the fraction of each layer by its sensitivity, as `filters` of the configuration can, and
fine-tunes at a constant low learning rate; here both rows train by the common rule and for as long as all
others. At low densities the last layers get narrow: LeNet-300-100 at density 0.03 keeps a handful of neurons.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import TYPE_CHECKING

from supermask.experiments.compare.methods.registry import register_method
from supermask.experiments.spec import MaskSource, RunSpec, WeightSource

if TYPE_CHECKING:
    from supermask.experiments.compare.comparison import ComparisonBuilder


def pruned_filters(name: str, comparison: ComparisonBuilder, weights: WeightSource) -> Iterator[RunSpec]:
    """The trained dense network without its filters of least L1 norm, trained from `weights`."""
    for density, keep in comparison.filters().items():
        mask = MaskSource(kind="filters", run=comparison.dense.id, keep=keep)
        yield comparison.train(name, weights=weights, mask=mask, density=density)


@register_method(
    "filters-l1",
    label="filters by L1",
    group="trained",
    about="Whole filters of the trained network pruned by the sum of their weights, the rest trained on.",
    colour="brown",
    marker="h",
    last=True,
)
def filters_l1(comparison: ComparisonBuilder) -> Iterator[RunSpec]:
    """Fine-tuned from the final weights, as in the paper."""
    final = dataclasses.replace(comparison.weights, run=comparison.dense.id)
    return pruned_filters("filters-l1", comparison, final)


@register_method(
    "filters-l1-reset",
    label="filters by L1, reset",
    group="trained",
    about="The same filters pruned, the rest trained again from initialization.",
    colour="olive",
    marker="H",
    last=True,
)
def filters_l1_reset(comparison: ComparisonBuilder) -> Iterator[RunSpec]:
    """Trained again from initialization: is the smaller network a ticket?"""
    return pruned_filters("filters-l1-reset", comparison, comparison.weights)
