"""Which results to speak of, chosen without looking at the test split."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from supermask.report.methods.method import GROUPS, by_group
from supermask.report.results.rows import SummaryRow


@dataclass(frozen=True)
class Best:
    """The best of each group, as the short table of a page with many methods shows it.

    Attributes:
        densities: Its columns, densities asked for, from dense to sparse.
        dense: The dense network, if there is one.
        groups: Title of a group → for each density its best row, None where it has none.
    """

    densities: Sequence[float]
    dense: SummaryRow | None
    groups: dict[str, list[SummaryRow | None]]


@dataclass(frozen=True)
class Picks:
    """The results that the headline speaks of; None where there is nothing of the kind.

    Attributes:
        dense: The dense network.
        strong: The strong ticket: the best on the validation split.
        trained: The trained ticket: the one at the density of the strong ticket. Where there is none of
            those: the sparsest that matches dense on validation, else the best there.
    """

    dense: SummaryRow | None
    strong: SummaryRow | None
    trained: SummaryRow | None

    @classmethod
    def among(cls, rows: Sequence[SummaryRow]) -> "Picks":
        """Choose among `rows`."""
        dense = next((row for row in rows if row.method.group == "dense"), None)
        found = [row for row in rows if row.method.group == "strong"]
        strong = best_row(found) if found else None
        return cls(dense, strong, _trained_pick(rows, dense, strong))


def best_row(rows: Sequence[SummaryRow]) -> SummaryRow:
    """The best on the validation split; without one the densest, which needs no peeking at the test split."""
    if any(row.val_accuracy is None for row in rows):
        return max(rows, key=lambda row: row.true_density)
    return max(rows, key=lambda row: (row.val_accuracy, -row.true_density))


def best_of(rows: Sequence[SummaryRow]) -> Best | None:
    """The row of highest mean validation accuracy in every group at every density; ties go to the first.

    None without validation accuracies: the best on the test split would be chosen by what it is judged by.
    """
    if any(row.val_accuracy is None for row in rows):
        return None
    tickets = by_group(rows)
    densities = sorted({row.density for members in tickets.values() for row in members}, reverse=True)
    groups = {
        GROUPS[group]: [_best([row for row in members if row.density == density]) for density in densities]
        for group, members in tickets.items()
    }
    return Best(densities, Picks.among(rows).dense, groups)


def _best(rows: Sequence[SummaryRow]) -> SummaryRow | None:
    return max(rows, key=lambda row: row.val_accuracy or 0.0, default=None)


def _trained_pick(
    rows: Sequence[SummaryRow], dense: SummaryRow | None, strong: SummaryRow | None
) -> SummaryRow | None:
    """Only the first trained method of the table is considered, which is IMP where there is IMP: the best of
    several methods would be no finding about any of them."""
    trained = [row for row in rows if row.method.is_trained]
    candidates = [row for row in trained if row.method == trained[0].method]
    if not candidates:
        return None
    if strong is not None:
        # One density for all: elsewhere a method would be set against its own best or worst point.
        return min(candidates, key=lambda row: abs(math.log(row.true_density / strong.true_density)))
    if dense is not None and dense.val_accuracy is not None:
        goal = dense.val_accuracy
        matching = [row for row in candidates if row.val_accuracy is not None and row.val_accuracy >= goal]
        if matching:
            return min(matching, key=lambda row: row.true_density)
    return best_row(candidates)
