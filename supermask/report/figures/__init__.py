"""Figures of a report of compare, search and imp.

They use matplotlib's object interface only: no pyplot, no display, nothing global.
"""

from supermask.report.figures.accuracy import draw_accuracy_density
from supermask.report.figures.drawing import Drawing
from supermask.report.figures.learning_curves import draw_learning_curves
from supermask.report.figures.style import style
from supermask.report.figures.ticket_size import draw_ticket_size
from supermask.report.figures.training_cost import draw_training_cost, has_unequal_costs
from supermask.report.results import Results

FIGURES = ("accuracy-density", "training-cost", "ticket-size", "learning-curves")
"""Names of all figures that a report may have."""


def draw_figures(results: Results) -> dict[str, Drawing]:
    """Name → figure; one that the results hold no data for is left out."""
    drawings = {}
    with style():
        drawings["accuracy-density"] = draw_accuracy_density(results)
        if has_unequal_costs(results):
            drawings["training-cost"] = draw_training_cost(results)
        if any(row.ticket_bytes for row in results.rows):
            drawings["ticket-size"] = draw_ticket_size(results)
        if results.learning is not None:
            drawings["learning-curves"] = draw_learning_curves(results.learning)
    return drawings
