"""Pruning at initialization: a mask from the untrained network, then training."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING

from supermask.experiments.compare.methods.registry import register_method
from supermask.experiments.spec import MaskSource, RunSpec

if TYPE_CHECKING:
    from supermask.experiments.compare.comparison import ComparisonBuilder


def pruned_at_init(name: str, comparison: ComparisonBuilder) -> Iterator[RunSpec]:
    """The saliency `name`, ranked over the whole network."""
    for density in comparison.densities:
        mask = MaskSource(kind=name, keep=comparison.keep(density, "global"))
        yield comparison.train(name, mask=mask, density=density)


register_method(
    "snip",
    label="SNIP",
    group="initial",
    about="Keeps the weights to which the loss of the untrained network is most sensitive, then trains.",
    colour="violet",
    marker="o",
)(partial(pruned_at_init, "snip"))
register_method(
    "grasp",
    label="GraSP",
    group="initial",
    about="Keeps the weights whose removal would most reduce the gradient flow at initialization, then "
    "trains.",
    colour="forest",
    marker="s",
)(partial(pruned_at_init, "grasp"))
register_method(
    "synflow",
    label="SynFlow",
    group="initial",
    about="Prunes step by step what carries least from input to output, without seeing data, then trains.",
    colour="orange",
    marker="D",
)(partial(pruned_at_init, "synflow"))
for _name, _label in (("snip", "SNIP"), ("grasp", "GraSP"), ("synflow", "SynFlow")):
    register_method(
        f"{_name}-inverted",
        label=f"{_label}, inverted",
        group="control",
        about=f"Keeps what {_label} would prune first, then trains: what a score must be better than.",
        dash=(0, (2, 1.6)),
        variant_of=_name,
    )(partial(pruned_at_init, f"{_name}-inverted"))
