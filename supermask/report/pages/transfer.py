"""The page of `supermask transfer`: who serves whom, as a heat map and a table."""

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from supermask.experiments.transfer import DENSE, RANDOM
from supermask.report.figures.drawing import Drawing, render
from supermask.report.figures.style import INK, PAPER, WIDTH, style
from supermask.report.formatting import density_text, over_seeds, points
from supermask.report.pages.experiment import Experiment, Page, Section, Table
from supermask.report.pages.registry import register_page

Cell = Mapping[str, Any]


def transfer(document: Mapping[str, Any]) -> Page:
    """One matrix per density: difference to the ticket found at the target, and accuracies."""
    matrix: Sequence[Cell] = document["matrix"]
    config = document["config"]
    densities = sorted({cell["density"] for cell in matrix if cell["source"] != DENSE}, reverse=True)
    sections = []
    with style():
        for density in densities:
            cells = [cell for cell in matrix if cell["density"] == density or cell["source"] == DENSE]
            figure = _draw(cells, density)
            title = f"Density {density_text(density)}"
            sections.append(Section(title, figures=(figure,), tables=(_table(cells),)))
    return Page(
        title=f"Transfer of tickets of {config['model']}",
        notes=("Test accuracy, measured once at the end of each run; means over seeds.",),
        sections=sections,
    )


def headline(document: Mapping[str, Any]) -> str:
    """How much a ticket from elsewhere loses against one found at the target, and a random mask does."""
    matrix: Sequence[Cell] = document["matrix"]
    own = {(c["density"], c["target"]): c["mean"] for c in matrix if c["source"] == c["target"]}
    sentences = []
    for density in sorted({density for density, _ in own}, reverse=True):
        foreign, random = (
            [
                cell["mean"] - own[density, cell["target"]]
                for cell in matrix
                if cell["density"] == density and cell["source"] not in (cell["target"], DENSE)
                if (cell["source"] == RANDOM) is wanted
            ]
            for wanted in (False, True)
        )
        sentences.append(
            f"At density {density_text(density)} a ticket from elsewhere is {points(fmean(foreign))} "
            f"points from one found at the target, a random mask {points(fmean(random))}."
        )
    return " ".join(sentences)


def _axes_of(cells: Sequence[Cell]) -> tuple[list[str], list[str]]:
    targets = list(dict.fromkeys(cell["target"] for cell in cells))
    sources = [s for s in dict.fromkeys(cell["source"] for cell in cells) if s not in (DENSE, RANDOM)]
    return [*sources, RANDOM, DENSE], targets


def _draw(cells: Sequence[Cell], density: float) -> Drawing:
    sources, targets = _axes_of(cells)
    means = {(cell["source"], cell["target"]): 100 * cell["mean"] for cell in cells}
    differences = [[means[s, t] - means[t, t] for t in targets] for s in sources]
    limit = max(0.1, max(abs(value) for row in differences for value in row))
    figure = Figure(figsize=(min(WIDTH, 2.4 + 1.1 * len(targets)), 1.1 + 0.36 * len(sources)))
    axes = figure.add_subplot()
    colours = LinearSegmentedColormap.from_list("difference", ["#d55e00", PAPER, "#0072b2"])
    # Rectangles and no image: the page shows no pixels, and a paper scales them.
    axes.pcolormesh(differences, cmap=colours, vmin=-limit, vmax=limit, edgecolors=PAPER, linewidth=1)
    axes.invert_yaxis()
    axes.grid(False)
    axes.set_xticks([j + 0.5 for j in range(len(targets))], targets)
    axes.set_yticks([i + 0.5 for i in range(len(sources))], sources)
    axes.tick_params(length=0)
    axes.set_xlabel("trained on")
    axes.set_ylabel("ticket found on")
    for i, source in enumerate(sources):
        for j, target in enumerate(targets):
            dark = abs(differences[i][j]) > 0.6 * limit
            axes.text(
                j + 0.5, i + 0.5, f"{means[source, target]:.2f}", ha="center", va="center", fontsize=7,
                color=PAPER if dark else INK,
            )  # fmt: skip
    caption = (
        "Test accuracy in percent; colour is the difference to the ticket found at the target, "
        f"from −{limit:.1f} points (orange) to +{limit:.1f} (blue)."
    )
    alt = f"Matrix of test accuracies at density {density_text(density)}; the table holds every number."
    return render(figure, f"transfer-{density_text(density)}", alt, caption)


def _table(cells: Sequence[Cell]) -> Table:
    sources, targets = _axes_of(cells)
    at = {(cell["source"], cell["target"]): cell for cell in cells}
    rows = [[source, *(over_seeds(at[source, target]) for target in targets)] for source in sources]
    return Table(
        "Test accuracy in percent, mean over seeds with lowest and highest; columns say where was trained.",
        ["Ticket found on", *targets],
        rows,
    )


register_page("transfer", Experiment("transfer", headline, transfer))
