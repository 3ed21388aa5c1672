"""The model behind a report of compare, search and imp: rows, curves and picks, built once."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from supermask.report.methods.method import Method, is_crowded
from supermask.report.results.best import Best, Picks, best_of
from supermask.report.results.paired import Pair, pairs_of
from supermask.report.results.rows import Curve, SummaryRow, command_of, curves_of, summary_rows


@dataclass(frozen=True)
class LearningCurves:
    """Curves of one quantity.

    Attributes:
        quantity: `val_accuracy`, or `train_loss` where there was no validation split.
        curves: One for each method and density that recorded it, in the order of the tables.
    """

    quantity: str
    curves: Sequence[Curve]


class Results:
    """What figures, headline and page are made from; each part is computed when first asked for.

    Args:
        document: What `results.json` of compare, search or imp holds.

    Attributes:
        document: The same; it is left as it is.
        command: The command that wrote it.

    Raises:
        ValueError: The document is not one of those, or has no rows.
    """

    def __init__(self, document: Mapping[str, Any]) -> None:
        self.command = command_of(document)
        self.document = document

    @property
    def runs(self) -> Sequence[Mapping[str, Any]]:
        """One for each method, density and seed, as the document has them."""
        runs: Sequence[Mapping[str, Any]] = self.document["rows"]
        return runs

    @cached_property
    def rows(self) -> Sequence[SummaryRow]:
        """A row for each method and density: grouped, then dense to sparse."""
        return summary_rows(self.document)

    @cached_property
    def methods(self) -> Sequence[Method]:
        """The methods of the rows, in their order."""
        return list(dict.fromkeys(row.method for row in self.rows))

    @cached_property
    def crowded(self) -> bool:
        """Whether there are too many methods for one panel and one table."""
        return is_crowded(self.rows)

    @cached_property
    def learning(self) -> LearningCurves | None:
        """Validation accuracy along training, else the training loss; None where no run recorded either."""
        for quantity in ("val_accuracy", "train_loss"):
            if curves := curves_of(self.document, quantity):
                return LearningCurves(quantity, curves)
        return None

    @cached_property
    def picks(self) -> Picks:
        """The results to speak of."""
        return Picks.among(self.rows)

    @cached_property
    def best(self) -> Best | None:
        """The best of each group at each density; None without validation accuracies."""
        return best_of(self.rows)

    @cached_property
    def pairs(self) -> Sequence[Pair]:
        """Every other search beside edge-popup."""
        return pairs_of(self.rows, self.runs)
