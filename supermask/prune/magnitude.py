"""Magnitude pruning: which of the surviving weights stay, and how many in each round.

Frankle and Carbin, "The Lottery Ticket Hypothesis" (ICLR 2019): each round removes a fraction of the
weights that survive, layer by layer or over the whole network, by |w| after training.
"""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from supermask.checks import is_number
from supermask.masks import Mask, check_counts, check_density, keep_count, select
from supermask.weights.roles import ParameterInfo

SCOPES = ("layerwise", "global")


def magnitude(
    weights: Mapping[str, Tensor], keep: Mapping[str, int] | int, mask: Mapping[str, Tensor] | None = None
) -> Mask:
    """The mask of the surviving weights of largest |w|; it never brings a pruned weight back.

    Frankle and Carbin (ICLR 2019), sections 2 (layer by layer) and 4 (global). Deviations: exact counts, ties
    to the lower index, and no layer that falls to nothing.

    Args:
        weights: Name → trained weights.
        keep: Weights to keep in each layer, or in all together (a global ranking).
        mask: Name → the survivors so far; None for all.

    Returns:
        Name → bool mask with exactly the counts asked for; ties go to the lower index, and every layer
        keeps at least its largest weight.

    Raises:
        ValueError: More weights are to be kept than survive, a weight is not finite, or a layer lacks a count
            or a mask.
    """
    survivors = surviving(weights, mask)
    for name, values in survivors.items():
        if not torch.isfinite(values).all():
            raise ValueError(f"the weights of {name} are not finite; the training before diverged")
    return keep_largest(survivors, keep, mask or everything(weights))


def everything(weights: Mapping[str, Tensor]) -> Mask:
    """The mask of a dense network."""
    return {name: torch.ones_like(weight, dtype=torch.bool) for name, weight in weights.items()}


def surviving(values: Mapping[str, Tensor], mask: Mapping[str, Tensor] | None) -> dict[str, Tensor]:
    """Name → the values of the weights that survive, flat; all of them without a mask.

    Raises:
        ValueError: The mask lacks a layer.
    """
    if mask is not None and (missing := values.keys() - mask.keys()):
        raise ValueError(f"the mask of the survivors lacks {min(missing)}; it must have every layer")
    return {name: value.flatten() if mask is None else value[mask[name]] for name, value in values.items()}


def keep_largest(
    scores: Mapping[str, Tensor], keep: Mapping[str, int] | int, mask: Mapping[str, Tensor]
) -> Mask:
    """The mask of the survivors of largest |score|, given the scores of the survivors alone.

    Raises:
        ValueError: More weights are to be kept than survive, or a layer has no count.
    """
    check_counts(scores, keep)
    for name, values in scores.items():
        if not isinstance(keep, int) and keep[name] > len(values):
            raise ValueError(f"{name} is to keep {keep[name]} weights, but only {len(values)} survive")
    total = sum(map(len, scores.values()))
    if isinstance(keep, int) and keep > total:
        raise ValueError(f"{keep} weights are to be kept, but only {total} survive")
    chosen = select(scores, keep)
    return {
        name: torch.zeros_like(mask[name]).masked_scatter_(mask[name], stays)
        for name, stays in chosen.items()
    }


def round_counts(
    infos: Sequence[ParameterInfo],
    round: int,
    rate: float = 0.2,
    *,
    conv_rate: float | None = None,
    output_rate: float | None = None,
    scope: str = "layerwise",
) -> dict[str, int] | int:
    """How many weights are left after `round` rounds that each prune a fraction of the survivors.

    A layer of n weights keeps round(n · (1 − rate)^round) of them, computed from n, so that rounding does
    not add up.

    Args:
        infos: The masked parameters, in order; the last one is the output layer.
        round: Rounds of pruning, from 0.
        rate: Fraction of the survivors that a round prunes.
        conv_rate: Rate of convolutions; None for `rate`.
        output_rate: Rate of the output layer; None for `rate`. Frankle and Carbin halve it.
        scope: `layerwise` (counts per layer) or `global` (one count, one rate).

    Raises:
        ValueError: A rate outside [0, 1), an unknown scope, rates per kind in a global ranking, or one of
            convolutions for a network that has none.
    """
    for value in (rate, conv_rate, output_rate):
        if value is not None and (not is_number(value) or not 0 <= value < 1):
            raise ValueError(
                f"a pruning rate must lie in [0, 1), the fraction removed per round, not {value!r}"
            )
    if scope not in SCOPES:
        raise ValueError(f"scope must be one of {', '.join(SCOPES)}, not {scope!r}")
    if conv_rate is not None and not any(info.tensor.dim() > 2 for info in infos):
        raise ValueError(
            f"the network has no convolutions, and conv_rate {conv_rate} is of them alone; leave it out"
        )
    if scope == "global":
        if conv_rate is not None or output_rate is not None:
            raise ValueError("rates per kind of layer need scope='layerwise'; a global ranking has one rate")
        return keep_count(sum(info.tensor.numel() for info in infos), (1 - rate) ** round)
    counts = {}
    for info in infos:
        own = rate
        if conv_rate is not None and info.tensor.dim() > 2:
            own = conv_rate
        if output_rate is not None and info is infos[-1]:
            own = output_rate
        counts[info.name] = keep_count(info.tensor.numel(), (1 - own) ** round)
    return counts


def density_path(densities: Sequence[float], rate: float = 0.2) -> list[float]:
    """Densities of IMP rounds that pass through each of `densities`, by about `rate` per round.

    Between two targets the rounds prune equal fractions, as near to `rate` as a whole number of rounds
    allows.

    Raises:
        ValueError: A density outside (0, 1] or a rate outside (0, 1).
    """
    if not is_number(rate) or not 0 < rate < 1:
        raise ValueError(f"a pruning rate must lie in (0, 1), the fraction removed per round, not {rate!r}")
    path, current = [], 1.0
    for target in sorted((check_density(d) for d in densities), reverse=True):
        if target == current:
            continue
        steps = max(1, round(math.log(target / current) / math.log(1 - rate)))
        ratio = target / current
        path += [current * ratio ** (step / steps) for step in range(1, steps)] + [target]
        current = target
    return path
