"""Masks: how many weights each layer keeps, which ones, and how far two masks are apart.

A mask maps parameter names to bool tensors, True where the weight is kept. A layer of n weights at
density d keeps exactly k = round(d·n) of them (halves to even), never fewer than one.
"""

import math
import re
import warnings
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from supermask import ops
from supermask.init import check_seed, derive_key

Mask = dict[str, Tensor]
DISTRIBUTIONS = ("uniform", "global", "erk", "epl")
"""How a density spreads over layers; N:M, as in `2:4`, is another for any whole N and M."""
DENSITY_SCHEDULES = ("constant", "cubic")


class NonFiniteScoreError(ValueError):
    """A score is NaN or infinite; the message names the parameter."""


class LayerCollapseWarning(UserWarning):
    """A layer keeps so few weights that the network may be cut in two."""


def check_density(density: float, what: str = "density") -> float:
    """`density` itself, or ValueError unless it lies in (0, 1]."""
    if isinstance(density, bool) or not isinstance(density, int | float) or not 0 < density <= 1:
        raise ValueError(f"{what} must lie in (0, 1], the fraction of weights kept, not {density!r}")
    return float(density)


def keep_count(numel: int, density: float) -> int:
    """k = round(density · numel), at least 1."""
    return max(1, round(check_density(density) * numel))


def group_of(distribution: str) -> tuple[int, int] | None:
    """(N, M) of an N:M distribution such as `2:4`, None for another.

    Raises:
        ValueError: N:M with values that make no sense, or a distribution of no known name.
    """
    if distribution in DISTRIBUTIONS:
        return None
    if distribution == "filters":
        raise ValueError(
            "distribution 'filters': a search finds no structured tickets, because the L1 norm of a filter "
            "means something after training only. Prune a trained network: compare --methods filters-l1, "
            "or prune.filter_mask in Python"
        )
    if not re.fullmatch(r"[0-9]+:[0-9]+", str(distribution)):
        known = ", ".join(DISTRIBUTIONS)
        raise ValueError(f"distribution must be one of {known}, or N:M such as 2:4, not {distribution!r}")
    n, m = map(int, distribution.split(":"))
    if not 1 <= n <= m <= ops.MAX_GROUP:
        raise ValueError(
            f"distribution {distribution!r}: N:M needs 1 <= N <= M <= {ops.MAX_GROUP}, N of M weights kept"
        )
    return n, m


def check_distribution(distribution: str, density: float) -> str:
    """`distribution` itself, or ValueError unless it is known and goes with `density`."""
    group = group_of(distribution)
    if group and not math.isclose(density, group[0] / group[1], rel_tol=1e-6):
        raise ValueError(
            f"distribution {distribution!r} fixes the density at {group[0] / group[1]:g}, so it cannot be "
            f"{density!r}; give that density or another distribution"
        )
    return distribution


def scheduled_density(
    density: float, step: int, steps: int, schedule: str = "cubic", initial: float = 1.0
) -> float:
    """Density after `step` steps of a schedule that reaches `density` after `steps`.

    `cubic` is P + (P₀ - P)(1 - t/T)³ (Zhu and Gupta, "To prune, or not to prune", 2017, equation 1, written
    for densities; with P₀ = 0.5 the schedule of Multi-Prize Tickets' code), `constant` is P throughout.
    """
    if schedule not in DENSITY_SCHEDULES:
        raise ValueError(f"density_schedule must be one of {', '.join(DENSITY_SCHEDULES)}, not {schedule!r}")
    if schedule == "constant" or step >= steps:
        return density
    return density + (initial - density) * (1 - step / steps) ** 3


def allocate(
    shapes: Mapping[str, Sequence[int]], density: float, distribution: str = "uniform"
) -> dict[str, int]:
    """How many weights each layer keeps when the whole network has `density`.

    Args:
        shapes: Shape of each masked weight.
        density: Fraction of weights kept, in (0, 1].
        distribution: `uniform` (the same density in every layer), `erk` (Erdős–Rényi kernel, Evci et
            al., "Rigging the Lottery", ICML 2020, equation 4: density in proportion to
            (sum of the shape) / (product of the shape)) or `epl` (edges per layer, as many weights in
            every layer, as Otsuka et al., TMLR 2025, lay out their random patterns). Under `erk` and
            `epl` a layer that would exceed its size is kept whole and its overflow goes to the others.
            N:M such as `2:4` keeps N of every M inputs (see `ops.select_n_of_m`; a layer whose input
            dimension M does not divide keeps a little more than N/M, a depthwise convolution all). A
            `global` ranking has no counts per layer.

    Returns:
        Integer counts. Under `erk` and `epl` they sum to `keep_count` of all weights together, unless the
        floor of one weight per layer asks for more.

    Raises:
        ValueError: Density out of range, unknown distribution, or N:M of another density.
    """
    check_density(density)
    if group := group_of(check_distribution(distribution, density)):
        return {name: _kept_in_groups(shape, *group) for name, shape in shapes.items()}
    sizes = {name: math.prod(shape) for name, shape in shapes.items()}
    if distribution == "uniform":
        return {name: keep_count(size, density) for name, size in sizes.items()}
    if distribution == "global":
        raise ValueError(f"a {distribution} ranking has no counts per layer")
    budget = keep_count(sum(sizes.values()), density)
    raw = {name: float(sum(shape)) if distribution == "erk" else 1.0 for name, shape in shapes.items()}
    whole: set[str] = set()
    while True:
        free = [name for name in shapes if name not in whole]
        rest = budget - sum(sizes[name] for name in whole)
        factor = rest / sum(raw[name] for name in free) if free else 0.0
        over = [name for name in free if raw[name] * factor > sizes[name]]
        if not over:
            break
        whole.update(over)
    exact = {name: float(sizes[name]) if name in whole else raw[name] * factor for name in shapes}
    return _round_to_sum(exact, sizes, budget)


def _kept_in_groups(shape: Sequence[int], n: int, m: int) -> int:
    """How many weights `ops.select_n_of_m` keeps: n of every m inputs, and of r < m at the end ⌈n·r/m⌉."""
    whole, rest = divmod(shape[1], m)
    return math.prod(shape) // max(shape[1], 1) * (whole * n + -(-n * rest // m))


def _round_to_sum(exact: Mapping[str, float], sizes: Mapping[str, int], total: int) -> dict[str, int]:
    """Integers next to `exact`, in [1, size], that sum to `total`: largest remainders first."""
    counts = {name: min(max(int(value), 1), sizes[name]) for name, value in exact.items()}
    by_remainder = sorted(exact, key=lambda name: counts[name] - exact[name])
    missing = total - sum(counts.values())
    while missing > 0:
        for name in by_remainder:
            if missing and counts[name] < sizes[name]:
                counts[name] += 1
                missing -= 1
    return counts


def select(
    scores: Mapping[str, Tensor],
    keep: Mapping[str, int] | int,
    cuts: Tensor | None = None,
    ranking: str = "magnitude",
) -> Mask:
    """The mask of the largest |score|: `keep[name]` of each layer, or `keep` of all ranked together.

    Ties go to the lower index. In a global ranking every layer keeps at least its best weight. `cuts`
    (from `ops.new_cuts`) makes repeated selections faster and changes none; `ranking` is as in
    `ops.select`.

    Raises:
        NonFiniteScoreError: A score is NaN or infinite.
        ValueError: A count is not in [0, size].
    """
    names, tensors = list(scores), list(scores.values())
    try:
        if isinstance(keep, int):
            masks = ops.select_global(tensors, keep, cuts, ranking, floor=True)
        else:
            masks = ops.select(tensors, [keep[name] for name in names], cuts, ranking)
    except ValueError:
        check_finite(scores)
        raise
    return dict(zip(names, masks, strict=True))


def select_n_of_m(
    scores: Mapping[str, Tensor], n: int, m: int, ranking: str = "magnitude", cuts: Tensor | None = None
) -> Mask:
    """The mask of the n first in rank of every m inputs; see `ops.select_n_of_m`.

    Raises:
        NonFiniteScoreError: A score is NaN or infinite.
    """
    try:
        return dict(zip(scores, ops.select_n_of_m(list(scores.values()), n, m, ranking, cuts), strict=True))
    except ValueError:
        check_finite(scores)
        raise


def check_finite(scores: Mapping[str, Tensor]) -> None:
    """Raise NonFiniteScoreError for the first layer with a NaN or infinite score."""
    for name, score in scores.items():
        if not torch.isfinite(score).all():
            raise _not_finite(name) from None


def check_cuts(scores: Mapping[str, Tensor], cuts: Tensor) -> None:
    """Raise NonFiniteScoreError if `ops.not_finite` reports a score of a selection with `cuts`."""
    if ops.not_finite(cuts):
        check_finite(scores)
        raise NonFiniteScoreError("the scores have not been finite; go on from an earlier state")


def _not_finite(name: str) -> NonFiniteScoreError:
    return NonFiniteScoreError(
        f"the scores of {name} are not finite; the search diverged or its loss did. "
        "Lower lr, clip the gradients, or check the data"
    )


def at_least_one(mask: Tensor, score: Tensor) -> Tensor:
    """`mask` itself, in which the entry of the largest score is set where there would be none.

    Nothing waits for the device to tell whether the mask was empty.
    """
    flat = mask.view(-1)
    best = score.reshape(-1).argmax()
    flat[best] = flat[best] | ~flat.any()
    return mask


def warn_of_collapse(mask: Mapping[str, Tensor]) -> None:
    """Warn, by name, of layers that keep fewer than one weight for ten output units."""
    thin = [name for name, m in mask.items() if int(m.sum()) * 10 < m.shape[0]]
    if thin:
        kept = ", ".join(f"{name} ({int(mask[name].sum())} of {mask[name].numel()})" for name in thin)
        warnings.warn(
            f"close to collapse: {kept} weights kept. Raise the density, or exclude the layer",
            LayerCollapseWarning,
            stacklevel=3,
        )


def density(mask: Mapping[str, Tensor]) -> float:
    """Fraction of weights kept over all layers."""
    return sum(int(m.sum()) for m in mask.values()) / sum(m.numel() for m in mask.values())


def distance(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> float:
    """Fraction of entries in which two masks of the same layers differ (normalized Hamming distance)."""
    if a.keys() != b.keys() or any(a[name].shape != b[name].shape for name in a):
        raise ValueError("the two masks do not have the same layers")
    differing = sum(int(torch.count_nonzero(a[name] != b[name])) for name in a)
    return differing / sum(m.numel() for m in a.values())


def random_mask(
    shapes: Mapping[str, Sequence[int]],
    keep: Mapping[str, int],
    seed: int,
    distribution: str = "uniform",
) -> Mask:
    """A mask that keeps `keep[name]` weights of each layer, chosen uniformly by the generator.

    Under an N:M `distribution` the choice is uniform within every group; `keep` is then that of `allocate`.
    """
    mask, group = {}, group_of(distribution)
    for name, shape in shapes.items():
        order = permutation(math.prod(shape), seed, f"random-mask/{name}")
        if group:
            if keep[name] != _kept_in_groups(shape, *group):
                raise ValueError(
                    f"{distribution} does not keep {keep[name]} weights of {name}, {tuple(shape)}"
                )
            (mask[name],) = ops.select_n_of_m([order.double().view(tuple(shape))], *group)
            continue
        flat = torch.zeros(math.prod(shape), dtype=torch.bool)
        flat[order[: keep[name]]] = True
        mask[name] = flat.view(tuple(shape))
    return mask


def permutation(count: int, seed: int, purpose: str) -> Tensor:
    """A random permutation of `count` indices (int64), a function of (seed, purpose, count) alone.

    Indices are sorted by 64-bit random words, two of the generator's 32-bit words each.
    """
    key = derive_key(f"permutation/{purpose}", check_seed(seed), str(count))
    words = ops.philox(key, 0, 2 * count).view(count, 2)
    return torch.argsort(words[:, 0] * (1 << 32) + words[:, 1], stable=True)
