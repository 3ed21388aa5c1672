"""Masks that change while the weights train: SET, RigL, early-bird tickets."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING

from supermask.experiments.compare.methods.registry import register_method
from supermask.experiments.errors import NotApplicable
from supermask.experiments.spec import MaskSource, RunSpec
from supermask.weights.init import is_norm_parameter

if TYPE_CHECKING:
    from supermask.experiments.compare.comparison import ComparisonBuilder


def rewired(rule: str, comparison: ComparisonBuilder) -> Iterator[RunSpec]:
    """SET or RigL, see `prune.Rewire`, from a random mask with ERK densities, as in RigL's paper."""
    for density in comparison.densities:
        mask = MaskSource(kind="random", keep=comparison.counts(density, "erk"))
        yield comparison.train(rule, kind="rewire", mask=mask, density=density, options={"rule": rule})


register_method(
    "set",
    label="SET",
    group="moving",
    about="Trains under a mask that drops its smallest weights now and then and grows as many at random.",
    colour="teal",
    marker="o",
)(partial(rewired, "set"))
register_method(
    "rigl",
    label="RigL",
    group="moving",
    about="Trains under a mask that drops its smallest weights and grows those of largest gradient.",
    colour="red",
    marker="s",
)(partial(rewired, "rigl"))


def early_bird(name: str, units: str, comparison: ComparisonBuilder) -> Iterator[RunSpec]:
    """Drawn when five masks agree; `density` counts weights or channels over the whole network."""
    if units == "channels" and not any(is_norm_parameter(info) for info in comparison.parameters):
        raise NotApplicable("it prunes the channels of norms, and the network has none")
    for density in comparison.densities:
        if units == "weights":
            comparison.keep(density, "global")  # refuse what would not leave every layer a weight
        mask = MaskSource(kind="early-bird")
        options = {"units": units}
        yield comparison.train(name, kind="early-bird", mask=mask, density=density, options=options)


register_method(
    "early-bird",
    label="early bird",
    group="moving",
    about="The mask of largest weights, taken as soon as it hardly changes any more in training.",
    colour="brown",
    marker="D",
)(partial(early_bird, "early-bird", "weights"))
register_method(
    "early-bird-channels",
    label="early bird, channels",
    group="moving",
    about="The same for channels, by the scales of their norms; density counts channels.",
    colour="indigo",
    marker="H",
)(partial(early_bird, "early-bird-channels", "channels"))
