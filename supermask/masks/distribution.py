"""How a density spreads over layers: uniformly, by shape, by edges, or N of every M inputs."""

import math
import re
from collections.abc import Mapping, Sequence

from supermask import ops
from supermask.masks.densities import check_density, keep_count

DISTRIBUTIONS = ("uniform", "global", "erk", "epl")
"""How a density spreads over layers; N:M, as in `2:4`, is another for any whole N and M."""


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


def allocate(
    shapes: Mapping[str, Sequence[int]],
    density: float,
    distribution: str = "uniform",
    inputs: Mapping[str, int] | None = None,
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
        inputs: Name → axis of the inputs, where it is not 1, as in (in, out) weights.

    Returns:
        Integer counts. Under `erk` and `epl` they sum to `keep_count` of all weights together, unless the
        floor of one weight per layer asks for more.

    Raises:
        ValueError: Density out of range, unknown distribution, or N:M of another density.
    """
    check_density(density)
    if group := group_of(check_distribution(distribution, density)):
        axes = inputs or {}
        return {name: kept_in_groups(shape, *group, axes.get(name, 1)) for name, shape in shapes.items()}
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


def kept_in_groups(shape: Sequence[int], n: int, m: int, axis: int = 1) -> int:
    """How many weights `select_n_of_m` keeps: n of every m along an axis, and of r < m at its end ⌈n·r/m⌉."""
    whole, rest = divmod(shape[axis], m)
    return math.prod(shape) // max(shape[axis], 1) * (whole * n + -(-n * rest // m))


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
