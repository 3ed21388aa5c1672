"""Zhou's mask criteria and mask actions: one-shot pruning of the dense network in other ways.

Every criterion but `random` is there with its variants `-same-sign` and `-diff-sign`. `large-final`, reset to
initial values and the rest at zero, is `one-shot`. `supermask imp` does the same over rounds.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

from supermask.experiments.compare.methods.registry import register_method
from supermask.experiments.spec import MaskSource, RunSpec
from supermask.prune.criteria import CRITERIA, SIGNS

if TYPE_CHECKING:
    from supermask.experiments.compare.comparison import ComparisonBuilder


def pruned_once(
    name: str, criterion: str, pruned: str, signs: bool, comparison: ComparisonBuilder
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


_CRITERIA = {
    "random": (
        "random",
        "slate",
        "o",
        "Keeps weights of the trained network at random: what a criterion has to be better than",
    ),
    "small-final": (
        "small final",
        "vermilion",
        "s",
        "Keeps the smallest trained weights: the opposite of magnitude pruning",
    ),
    "large-init": ("large initial", "blue", "o", "Keeps the weights that were largest before training"),
    "small-init": ("small initial", "sky", "s", "Keeps the weights that were smallest before training"),
    "large-init-large-final": (
        "large initial and final",
        "green",
        "D",
        "Keeps the weights that were large both before and after training",
    ),
    "small-init-small-final": (
        "small initial and final",
        "orange",
        "p",
        "Keeps the weights that were small both before and after training",
    ),
    "magnitude-increase": (
        "magnitude increase",
        "wine",
        "o",
        "Keeps the weights whose magnitude grew most in training",
    ),
    "movement": ("movement", "indigo", "s", "Keeps the weights that moved furthest in training"),
    "large-final": ("large final", "pink", "^", "Keeps the largest trained weights"),
}
"""Criterion → label, colour, marker, sentence. `large-final` by itself is `one-shot`."""
_SIGNS: dict[str, tuple[str, str, Any, str]] = {
    "same-sign": ("same sign", "^", (0, (5, 1.3)), "left as it was"),
    "diff-sign": ("new sign", "v", (0, (1.4, 1.2)), "changed"),
}
"""Variant of a criterion → end of its label, marker, dashes, and what training did to the sign."""


def _describe(criterion: str, sign: str | None) -> dict[str, Any]:
    label, colour, marker, about = _CRITERIA[criterion]
    look = {"group": "criteria", "colour": colour, "last": criterion == "random"}
    if sign is None:
        return {**look, "label": label, "marker": marker, "about": f"{about}."}
    end, marker, dash, fate = _SIGNS[sign]
    short = label.removeprefix("magnitude ").replace("initial", "init.")
    about += f"; only weights whose sign training {fate} come in question."
    varied = {"variant_of": criterion} if criterion != "large-final" else {}
    return {**look, **varied, "label": f"{short}, {end}", "marker": marker, "dash": dash, "about": about}


for _criterion in ("random", *CRITERIA):
    for _sign in (None, *SIGNS) if _criterion != "random" else (None,):
        _name = _criterion if _sign is None else f"{_criterion}-{_sign}"
        if _name != "large-final":
            _rows = partial(pruned_once, _name, _name, "zero", False)
            register_method(_name, **_describe(_criterion, _sign))(_rows)
register_method(
    "pruned-at-final",
    label="pruned at final values",
    group="actions",
    about="One-shot whose pruned weights stand still at their trained values instead of at zero.",
    colour="red",
    marker="o",
    holds_pruned=True,
)(partial(pruned_once, "pruned-at-final", "large-final", "final", False))
register_method(
    "pruned-at-init",
    label="pruned at initial values",
    group="actions",
    about="One-shot whose pruned weights stand still at their initial values instead of at zero.",
    colour="violet",
    marker="s",
    holds_pruned=True,
)(partial(pruned_once, "pruned-at-init", "large-final", "init", False))
register_method(
    "pruned-at-init-unless-shrunk",
    label="initial unless shrunk",
    group="actions",
    about="One-shot whose pruned weights stand at zero if training shrank them, else at their initial "
    "values.",
    colour="teal",
    marker="D",
    holds_pruned=True,
)(partial(pruned_once, "pruned-at-init-unless-shrunk", "large-final", "init-unless-shrunk", False))
register_method(
    "kept-signs",
    label="signs only",
    group="actions",
    about="One-shot whose kept weights start at their initial sign times one constant for each layer.",
    colour="olive",
    marker="p",
)(partial(pruned_once, "kept-signs", "large-final", "zero", True))
