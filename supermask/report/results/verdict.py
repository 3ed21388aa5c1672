"""Does the untrained subnetwork match its own trained dense network? One sentence, from the rows alone.

What the seeds do not decide is said to be undecided. Accuracies are of the test split; which subnetwork is
spoken of was chosen before, on validation.
"""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from supermask.report.formatting import percent
from supermask.report.results.rows import SummaryRow

LEARNED = 0.05
"""A network has learned something if it is this far above guessing, or one in which nothing is trained."""
SEEDS = 3
"""With fewer the spread over seeds is unknown."""


def verdict(
    rows: Sequence[SummaryRow], runs: Sequence[Mapping[str, Any]], strong: SummaryRow, dense: SummaryRow
) -> str:
    """The gap between the two in points, seed by seed, what it cost, and whether that decides anything.

    Empty where they have no seed in common.
    """
    if nothing_learned(rows):
        return (
            "Even the best is hardly above a network in which nothing is trained, so that this says nothing "
            "about the methods: train longer, or with another learning rate."
        )
    gaps = _gaps(runs, strong, dense)
    if not gaps:
        return ""
    mean = statistics.fmean(gaps)
    size = f"{percent(abs(mean))} points {'above' if mean > 0 else 'below'}" if mean else "level with it"
    if len(gaps) == 1:
        size += ", on one seed"
    else:
        low, high = _signed(min(gaps)), _signed(max(gaps))
        size += f" ({low if low == high else f'{low} to {high}'} over {len(gaps)} seeds)"
    text = f"The untrained subnetwork ends {size}{_cost(strong, dense)}"
    if len(gaps) < SEEDS:
        few = "one seed is" if len(gaps) == 1 else "two seeds are"
        return f"{text}; {few} too few to say whether it matches."
    if min(gaps) <= 0 <= max(gaps):
        return f"{text}: these seeds cannot tell the two apart."
    return f"{text}: it {'surpasses' if mean > 0 else 'does not match'} its dense network here."


def nothing_learned(rows: Sequence[SummaryRow]) -> bool:
    """Whether no method is clearly above a random mask on frozen weights, as far as that was run."""
    untrained = [row.mean for row in rows if row.method.name == "random-mask-frozen"]
    others = [row.mean for row in rows if row.method.name != "random-mask-frozen"]
    return bool(untrained and others) and max(others) < max(untrained) + LEARNED


def _gaps(runs: Sequence[Mapping[str, Any]], strong: SummaryRow, dense: SummaryRow) -> list[float]:
    """Test accuracy of the strong ticket less that of the dense network, for every seed that both have."""

    def by_seed(row: SummaryRow) -> dict[int, float]:
        own = (run for run in runs if (run["method"], run["density"]) == (row.method.name, row.density))
        return {run["seed"]: run["test_accuracy"] for run in own}

    ours, theirs = by_seed(strong), by_seed(dense)
    return [ours[seed] - theirs[seed] for seed in ours if seed in theirs]


def _cost(strong: SummaryRow, dense: SummaryRow) -> str:
    if not strong.total_steps or not dense.total_steps:
        return ""
    times = strong.total_steps / dense.total_steps
    return " after as many steps" if abs(times - 1) < 0.01 else f" after {times:.2g} times the steps"


def _signed(gap: float) -> str:
    return f"{round(100 * gap, 1) + 0.0:+.1f}".replace("-", "−")
