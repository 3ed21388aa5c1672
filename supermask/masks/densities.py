"""How many weights a density keeps: exact counts, and densities that change over training."""

from supermask.checks import is_number

DENSITY_SCHEDULES = ("constant", "cubic")


def check_density(density: float, what: str = "density") -> float:
    """`density` itself, or ValueError unless it lies in (0, 1]."""
    # Tickets name it: JSON takes Python's own numbers alone.
    if not isinstance(density, int | float) or not is_number(density) or not 0 < density <= 1:
        raise ValueError(f"{what} must lie in (0, 1], the fraction of weights kept, not {density!r}")
    return float(density)


def keep_count(numel: int, density: float) -> int:
    """k = round(density · numel), at least 1."""
    return max(1, round(check_density(density) * numel))


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
