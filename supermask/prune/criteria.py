"""Mask criteria: which weights of a trained network stay, by their initial and final values.

Zhou et al., "Deconstructing Lottery Tickets: Zeros, Signs, and the Supermask" (NeurIPS 2019), section 2 and
figure 3. Each criterion is a score, and the weights of largest score are kept; biases never are pruned.

Deviations. Ties go to the lower index and not to chance. With `-same-sign` and `-diff-sign`, which all
criteria but `random` have (theirs: `large-final` and `magnitude-increase`), the weights of the other kind
rank last whatever the criterion; the authors' code gives them the score 0, which puts them first where scores
are negative. `random` is one order for each seed, so that rounds of it are those of one random ranking;
theirs draws again in every round. `large-init-large-final` ranks by min(α|w_f|, |w_i|),
`small-init-small-final` by -max(α|w_f|, |w_i|), with an α that is given, 1 by default, and keep exactly the
count asked for. The authors' code has no α there: it bisects for the one percentile that, as the threshold of
|w_f| and of |w_i| at once, leaves about that count, so that the spread of final beside initial values does
not matter.
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from supermask import ops
from supermask.checks import is_number
from supermask.masks import Mask
from supermask.prune.magnitude import everything, keep_largest, magnitude, surviving
from supermask.weights.init import derive_key

CRITERIA: dict[str, Callable[[Tensor, Tensor, float], Tensor]] = {
    "large-final": lambda initial, final, alpha: final.abs(),
    "small-final": lambda initial, final, alpha: -final.abs(),
    "large-init": lambda initial, final, alpha: initial.abs(),
    "small-init": lambda initial, final, alpha: -initial.abs(),
    "large-init-large-final": lambda initial, final, alpha: torch.minimum(alpha * final.abs(), initial.abs()),
    "small-init-small-final": lambda initial, final, alpha: (
        -torch.maximum(alpha * final.abs(), initial.abs())
    ),
    "magnitude-increase": lambda initial, final, alpha: final.abs() - initial.abs(),
    "movement": lambda initial, final, alpha: (final - initial).abs(),
}
"""Name → score from initial weights, final weights and α; `random` comes from the generator."""
SIGNS = ("same-sign", "diff-sign")
"""Suffixes: only weights whose sign training left, or changed."""
WEIGHED = ("large-init-large-final", "small-init-small-final")
"""Criteria of initial and final values at once, which have an α."""
KNOWN = f"random, {', '.join(CRITERIA)}, all but random also with -{' or -'.join(SIGNS)}"


def criterion_names() -> tuple[str, ...]:
    """Every criterion, each followed by its variants."""
    return ("random", *(f"{name}{end}" for name in CRITERIA for end in ("", *(f"-{sign}" for sign in SIGNS))))


def check_criterion(criterion: str, alpha: float = 1.0) -> tuple[str, str | None]:
    """The criterion and its suffix, if it has one.

    Raises:
        ValueError: There is no such criterion, or `alpha` is no slope or one that it has no use for.
    """
    kind, sign = criterion, None
    for suffix in SIGNS:
        if criterion.endswith(f"-{suffix}"):
            kind, sign = criterion.removesuffix(f"-{suffix}"), suffix
    if kind not in CRITERIA and (kind != "random" or sign):
        raise ValueError(f"unknown criterion {criterion!r}; choose one of {KNOWN}")
    _check_slope(alpha)
    if alpha != 1 and kind not in WEIGHED:
        raise ValueError(
            f"alpha {alpha:g} means nothing to the criterion {criterion}; leave it at 1, or take "
            f"{' or '.join(WEIGHED)}"
        )
    return kind, sign


def _check_slope(alpha: float) -> None:
    if not is_number(alpha) or alpha <= 0:
        raise ValueError(f"alpha must be a positive number, not {alpha!r}")


def by_criterion(
    criterion: str,
    initial: Mapping[str, Tensor],
    final: Mapping[str, Tensor],
    keep: Mapping[str, int] | int,
    mask: Mapping[str, Tensor] | None = None,
    *,
    alpha: float = 1.0,
    seed: int = 0,
) -> Mask:
    """The mask of the surviving weights of largest score; `large-final` is magnitude pruning.

    Zhou et al. (NeurIPS 2019), section 2; deviations: see the head of this module.

    Args:
        criterion: A name of `CRITERIA`, with `-same-sign` or `-diff-sign` if wanted, or `random`.
        initial: Name → weights before training.
        final: Name → weights after training.
        keep: Weights to keep in each layer, or in all together (a global ranking).
        mask: Name → the survivors so far; None for all.
        alpha: Slope that weighs final against initial values in the criteria of both; others have none.
        seed: Of `random`.

    Returns:
        Name → bool mask with exactly the counts asked for.

    Raises:
        ValueError: An unknown criterion, an `alpha` that is no slope, weights that are not finite or have
            other names before training, or more to keep than survive.
    """
    kind, sign = check_criterion(criterion)
    _check_slope(alpha)
    if initial.keys() != final.keys():
        raise ValueError(
            f"initial and final are weights of the same layers, not of {', '.join(initial)} and of "
            f"{', '.join(final)}"
        )
    if criterion == "large-final":  # a selection of the largest, where others take sorting
        return magnitude(final, keep, mask)
    before, after = surviving(initial, mask), surviving(final, mask)
    chosen = {}
    for name in after:
        if not (torch.isfinite(before[name]).all() and torch.isfinite(after[name]).all()):
            raise ValueError(f"the weights of {name} are not finite; the training before diverged")
        same = torch.signbit(before[name]) == torch.signbit(after[name])
        chosen[name] = torch.ones_like(same) if sign is None else same if sign == "same-sign" else ~same
    if kind == "random":  # a score for all weights, so that survivors keep theirs from round to round
        scores = surviving({name: _at_random(final[name], seed, name) for name in final}, mask)
    else:
        scores = {name: CRITERIA[kind](before[name], after[name], alpha) for name in after}
    return keep_largest(_ranked(scores, chosen, isinstance(keep, int)), keep, mask or everything(final))


def best(
    scores: Mapping[str, Tensor],
    keep: Mapping[str, int] | int,
    mask: Mapping[str, Tensor] | None = None,
) -> Mask:
    """The mask of the surviving weights of largest score, whatever its sign; ties go to the lower index.

    Args:
        scores: Name → scores, shaped like the weights.
        keep: Weights to keep in each layer, or in all together (a global ranking).
        mask: Name → the survivors so far; None for all.

    Raises:
        ValueError: Scores that are not finite, or more to keep than survive.
    """
    for name, score in scores.items():
        if not torch.isfinite(score).all():
            raise ValueError(
                f"the scores of {name} are not finite; lower the learning rate, or check the data"
            )
    flat = surviving(scores, mask)
    every = {name: torch.ones_like(score, dtype=torch.bool) for name, score in flat.items()}
    return keep_largest(_ranked(flat, every, isinstance(keep, int)), keep, mask or everything(scores))


def _at_random(weight: Tensor, seed: int, name: str) -> Tensor:
    """A uniform score for every weight of a layer."""
    scores = torch.empty(weight.shape, dtype=weight.dtype, device=weight.device)
    return ops.fill_random(scores, derive_key("criterion", seed, name), "uniform")


def _ranked(scores: Mapping[str, Tensor], chosen: Mapping[str, Tensor], together: bool) -> dict[str, Tensor]:
    """Scores replaced by their ranks, in each layer or over all of them."""
    if not together:
        return {name: _ranks(scores[name], chosen[name]) for name in scores}
    ranks = _ranks(torch.cat(list(scores.values())), torch.cat(list(chosen.values())))
    return dict(zip(scores, ranks.split([len(score) for score in scores.values()]), strict=True))


def _ranks(scores: Tensor, chosen: Tensor) -> Tensor:
    """n for the best score down to 1, those not chosen after all others; ties go to the lower index."""
    order = torch.argsort(scores, descending=True, stable=True)
    order = order[torch.argsort(chosen[order].byte(), descending=True, stable=True)]
    places = torch.arange(len(scores), 0, -1, dtype=torch.float64, device=scores.device)
    return torch.empty_like(places).index_copy_(0, order, places)
