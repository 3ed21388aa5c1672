"""Every other search beside edge-popup, seed by seed: who is ahead, and on how many seeds."""

import math
import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from supermask.report.summary import Line, lines_of

REFERENCE = "edge-popup"
NEAR = 1.25
"""Up to this ratio of densities, two searches are judged as if they had the same."""


@dataclass(frozen=True)
class Duel:
    """A search and edge-popup with the same seeds, data and number of steps.

    Attributes:
        line: The search at one density.
        other: edge-popup at the same density or, where the search keeps what it likes, at the nearest.
        differences: Test accuracy of the search less that of edge-popup, for every seed that both have.
    """

    line: Line
    other: Line
    differences: tuple[float, ...]

    @property
    def mean(self) -> float:
        return statistics.fmean(self.differences)

    @property
    def ahead(self) -> int:
        """Seeds on which the search is better."""
        return sum(difference > 0 for difference in self.differences)

    @property
    def verdict(self) -> str:
        """What the seeds say together; with fewer than three, or at other densities, they say nothing."""
        if _distance(self.other, self.line) > math.log(NEAR):
            return "at another density"
        if len(self.differences) < 3:
            return "too few seeds to say"
        if min(self.differences) > 0:
            return "ahead on every seed"
        if max(self.differences) < 0:
            return "behind on every seed"
        return "ahead on some seeds"


def duels_of(document: Mapping[str, Any]) -> list[Duel]:
    """A duel for each search other than edge-popup at each density, in the order of the tables.

    Empty where the document lacks edge-popup or has no other search, or no seed that both have.
    """
    lines = lines_of(document)
    references = [line for line in lines if line.method.name == REFERENCE]
    searches = [line for line in lines if line.method.group == "strong" and line.method.name != REFERENCE]
    accuracies = {(r["method"], r["density"], r["seed"]): r["test_accuracy"] for r in document["rows"]}
    duels = []
    for line in searches:
        other = min(references, key=lambda o: _distance(o, line), default=None)
        if other is None or not (line.emerged or other.density == line.density):
            continue
        differences = tuple(
            accuracies[line.method.name, line.density, seed] - accuracies[REFERENCE, other.density, seed]
            for seed in line.seeds
            if seed in other.seeds
        )
        if differences:
            duels.append(Duel(line, other, differences))
    return duels


def _distance(reference: Line, line: Line) -> float:
    """How far apart the densities are, as a logarithm."""
    return abs(math.log(reference.true_density / line.true_density))
