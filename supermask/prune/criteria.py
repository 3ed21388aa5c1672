"""Mask criteria: which weights of a trained network stay, by their initial and final values.

Zhou et al., "Deconstructing Lottery Tickets: Zeros, Signs, and the Supermask" (NeurIPS 2019), section 2 and
figure 3. Each criterion is a score, and the weights of largest score are kept. Deviations: ties go to the
lower index and not to chance; with `-same-sign` and `-diff-sign` the weights of the other kind rank last
whatever the criterion (the authors' code gives them the score 0, which puts them first where scores are
negative); biases are never pruned.
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from supermask import ops
from supermask.init import derive_key
from supermask.mask import Mask
from supermask.prune.magnitude import everything, keep_largest, surviving

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


def check_criterion(criterion: str) -> tuple[str, str | None]:
    """The criterion and its suffix, if it has one.

    Raises:
        ValueError: There is no such criterion.
    """
    for sign in SIGNS:
        if criterion.removesuffix(f"-{sign}") in CRITERIA:
            return criterion.removesuffix(f"-{sign}"), sign if criterion.endswith(sign) else None
    if criterion == "random":
        return criterion, None
    raise ValueError(
        f"unknown criterion {criterion!r}; choose one of random, {', '.join(CRITERIA)}, all but random also "
        f"with -{' or -'.join(SIGNS)}"
    )


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

    Args:
        criterion: A name of `CRITERIA`, with `-same-sign` or `-diff-sign` if wanted, or `random`.
        initial: Name → weights before training.
        final: Name → weights after training.
        keep: Weights to keep in each layer, or in all together (a global ranking).
        mask: Name → the survivors so far; None for all.
        alpha: Slope that weighs final against initial values in the criteria of two.
        seed: Of `random`.

    Returns:
        Name → bool mask with exactly the counts asked for.

    Raises:
        ValueError: An unknown criterion, weights that are not finite, or more to keep than survive.
    """
    kind, sign = check_criterion(criterion)
    before, after = surviving(initial, mask), surviving(final, mask)
    scores, chosen = {}, {}
    for name in after:
        if not (torch.isfinite(before[name]).all() and torch.isfinite(after[name]).all()):
            raise ValueError(f"the weights of {name} are not finite; the training before diverged")
        scores[name] = _score(kind, before[name], after[name], alpha, derive_key("criterion", seed, name))
        same = torch.signbit(before[name]) == torch.signbit(after[name])
        chosen[name] = torch.ones_like(same) if sign is None else same if sign == "same-sign" else ~same
    return keep_largest(_ranked(scores, chosen, isinstance(keep, int)), keep, mask or everything(final))


def best(scores: Mapping[str, Tensor], keep: Mapping[str, int] | int) -> Mask:
    """The mask of the weights of largest score, whatever its sign; ties go to the lower index."""
    for name, score in scores.items():
        if not torch.isfinite(score).all():
            raise ValueError(
                f"the scores of {name} are not finite; lower the learning rate, or check the data"
            )
    flat = surviving(scores, None)
    every = {name: torch.ones_like(score, dtype=torch.bool) for name, score in flat.items()}
    return keep_largest(_ranked(flat, every, isinstance(keep, int)), keep, everything(scores))


def _score(kind: str, initial: Tensor, final: Tensor, alpha: float, key: int) -> Tensor:
    if kind == "random":
        return ops.fill_random(torch.empty_like(final), key, "uniform")
    return CRITERIA[kind](initial, final, alpha)


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
