"""The best method of each group at each density, chosen without looking at the test split."""

from collections.abc import Sequence
from dataclasses import dataclass

from supermask.report.methods import GROUPS
from supermask.report.panels import by_group
from supermask.report.summary import Line


@dataclass(frozen=True)
class Best:
    """What the short table shows.

    Attributes:
        densities: Its columns, densities asked for, from dense to sparse.
        dense: The dense network, if there is one.
        groups: Title of a group → for each density its best line, None where it has none.
    """

    densities: Sequence[float]
    dense: Line | None
    groups: dict[str, list[Line | None]]


def best_of(lines: Sequence[Line]) -> Best | None:
    """The line of highest mean validation accuracy in every group at every density; ties go to the first.

    None without validation accuracies: the best on the test split would be chosen by what it is judged by.
    """
    if any(line.val_accuracy is None for line in lines):
        return None
    tickets = by_group(lines)
    densities = sorted({line.density for members in tickets.values() for line in members}, reverse=True)
    groups = {
        GROUPS[group]: [_best([line for line in members if line.density == density]) for density in densities]
        for group, members in tickets.items()
    }
    return Best(densities, next((line for line in lines if line.method.group == "dense"), None), groups)


def _best(lines: Sequence[Line]) -> Line | None:
    return max(lines, key=lambda line: line.val_accuracy or 0.0, default=None)
