"""Zhou's mask criteria and mask actions: one-shot pruning of the dense network in other ways.

Every criterion but `random` is there with its variants `-same-sign` and `-diff-sign`. `large-final`, reset to
initial values and the rest at zero, is `one-shot`. `supermask imp` does the same over rounds.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING

from supermask.experiments.compare.methods.registry import register_method
from supermask.experiments.spec import MaskSource, RunSpec
from supermask.prune import PRUNED, criterion_names

if TYPE_CHECKING:
    from supermask.experiments.compare.comparison import Comparison


def pruned_once(
    name: str, criterion: str, pruned: str, signs: bool, comparison: Comparison
) -> Iterator[RunSpec]:
    """The dense network pruned at once by a criterion, with the actions asked for, and trained again."""
    weights = dataclasses.replace(comparison.weights, signs=signs)
    for density in comparison.densities:
        mask = MaskSource(
            kind="criterion",
            run=comparison.dense.id,
            keep=comparison.keep(density, comparison.config.scope),
            criterion=criterion,
            pruned=pruned,
        )
        yield comparison.train(name, weights=weights, mask=mask, density=density)


for _name in criterion_names():
    if _name != "large-final":
        register_method(_name)(partial(pruned_once, _name, _name, "zero", False))
for _action in PRUNED[1:]:
    _name = f"pruned-at-{_action}"
    register_method(_name)(partial(pruned_once, _name, "large-final", _action, False))
register_method("kept-signs")(partial(pruned_once, "kept-signs", "large-final", "zero", True))
