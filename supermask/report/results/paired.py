"""Every other search beside edge-popup, seed by seed: which is ahead, and on how many seeds."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from supermask.report.results.rows import SummaryRow

REFERENCE = "edge-popup"
NEAR = 1.25
"""Up to this ratio of densities, two searches are judged as if they had the same."""


@dataclass(frozen=True)
class Pair:
    """A search and edge-popup with the same seeds, data and number of steps.

    Attributes:
        row: The search at one density.
        other: edge-popup at the same density or, where the search keeps what it likes, at the nearest.
        differences: Test accuracy of the search less that of edge-popup, for every seed that both have.
    """

    row: SummaryRow
    other: SummaryRow
    differences: tuple[float, ...]

    @property
    def mean(self) -> float:
        """Mean difference."""
        return statistics.fmean(self.differences)

    @property
    def ahead(self) -> int:
        """Seeds on which the search is better."""
        return sum(difference > 0 for difference in self.differences)

    @property
    def verdict(self) -> str:
        """What the seeds say together; with fewer than three, or at other densities, they say nothing."""
        if _distance(self.other, self.row) > math.log(NEAR):
            return "at another density"
        if len(self.differences) < 3:
            return "too few seeds to say"
        if min(self.differences) > 0:
            return "ahead on every seed"
        if max(self.differences) < 0:
            return "behind on every seed"
        return "ahead on some seeds" if self.ahead else "ahead on no seed"


def pairs_of(rows: Sequence[SummaryRow], runs: Sequence[Mapping[str, Any]]) -> list[Pair]:
    """A pair for each search other than edge-popup at each density, in the order of the tables.

    Empty without edge-popup, without another search, or without a seed that both have.

    Args:
        rows: Summary rows of a comparison.
        runs: Its runs, one for each method, density and seed.
    """
    references = [row for row in rows if row.method.name == REFERENCE]
    searches = [row for row in rows if row.method.group == "strong" and row.method.name != REFERENCE]
    accuracies = {(run["method"], run["density"], run["seed"]): run["test_accuracy"] for run in runs}
    pairs = []
    for row in searches:
        other = min(references, key=lambda o: _distance(o, row), default=None)
        if other is None or not (row.emerged or other.density == row.density):
            continue
        differences = tuple(
            accuracies[row.method.name, row.density, seed] - accuracies[REFERENCE, other.density, seed]
            for seed in row.seeds
            if seed in other.seeds
        )
        if differences:
            pairs.append(Pair(row, other, differences))
    return pairs


def _distance(reference: SummaryRow, row: SummaryRow) -> float:
    """How far apart the densities are, as a logarithm."""
    return abs(math.log(reference.true_density / row.true_density))
