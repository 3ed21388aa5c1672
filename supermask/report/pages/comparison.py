"""The page of compare, search and imp."""

from collections.abc import Mapping
from itertools import groupby
from typing import Any

from supermask.report.advice import advise
from supermask.report.figures import FIGURES, draw_figures
from supermask.report.formatting import bytes_text, density_text, percent
from supermask.report.methods.catalogue import methods_of
from supermask.report.methods.method import GROUPS, Method
from supermask.report.pages.registry import Rendered, register_page
from supermask.report.pages.template import render_template
from supermask.report.results import Results
from supermask.report.results.headline import headline_of, seed_range, subject
from supermask.report.results.rows import COMMANDS, SummaryRow
from supermask.report.results.sweep import sweep_table

_TITLES = {
    "compare": "Tickets and controls",
    "search": "A strong ticket",
    "imp": "Iterative pruning",
}


class Comparison:
    """Author of the page: tables and figures of methods side by side."""

    def headline(self, document: Mapping[str, Any]) -> str:
        """What came out, in a few sentences."""
        return headline_of(Results(document))

    def render(self, document: Mapping[str, Any]) -> Rendered:
        """The page and its figures."""
        results = Results(document)
        drawings = draw_figures(results)
        html = render_template("comparison.html.j2", **_values(results), figures=drawings)
        return Rendered(html, tuple(drawings.values()), possible=FIGURES)


for _command in COMMANDS:
    register_page(_command, Comparison())


def _values(results: Results) -> dict[str, Any]:
    """What the template shows, figures aside."""
    document, rows, methods = results.document, results.rows, results.methods
    return {
        "command": results.command,
        "title": f"{_TITLES[results.command]}: {subject(document)}",
        "headline": headline_of(results),
        "tiles": _tiles(results),
        "advice": advise(document),
        "sweep": sweep_table(document),
        "counted": any(row.multiply_adds is not None for row in rows),
        "validated": all(row.val_accuracy is not None for row in rows),
        "chosen": sum(row.method.is_ticket for row in rows) > 1,
        "averaged": any(row.n > 1 for row in rows),
        "groups": _grouped(results),
        "group_titles": GROUPS,
        "crowded": results.crowded,
        "best": results.best if results.crowded else None,
        "pairs": results.pairs,
        "unzeroed": [method.label for method in methods if method.holds_pruned],
        "emerged": any(row.emerged for row in rows),
        "impatient": _impatient(results),
        "skipped": _skipped(document),
        "method_groups": _titled(results) if results.crowded else [("", methods)],
        "labels": {method.name: method.label for method in methods},
        "runs": results.runs,
        "dense_bytes": next((row.dense_bytes for row in rows if row.dense_bytes), None),
        "untrained": list(dict.fromkeys(row.method.label for row in rows if row.steps == 0)),
        "csv": {"results": _results_csv(results), "runs": _runs_csv(results)},
        "command_line": document.get("command"),
        "config": document.get("config") or {},
        "machine": document.get("machine") or {},
    }


def _grouped(results: Results) -> list[tuple[str, list[list[SummaryRow]]]]:
    """Group → its methods, each as its rows from dense to sparse. The rows come in that order."""
    return [
        (group, [list(members) for _, members in groupby(in_group, key=lambda row: row.method)])
        for group, in_group in groupby(results.rows, key=lambda row: row.method.group)
    ]


def _titled(results: Results) -> list[tuple[str, list[Method]]]:
    """Title of a group → its methods."""
    groups = groupby(results.methods, key=lambda method: method.group)
    return [(GROUPS[group], list(members)) for group, members in groups]


def _impatient(results: Results) -> list[tuple[str, int, int]]:
    """Label, tickets drawn at the end of the patience, and all of them, of methods with such a ticket."""
    found = []
    for method in results.methods:
        drawn = [
            run["drawn_by"] for run in results.runs if run["method"] == method.name and "drawn_by" in run
        ]
        if late := drawn.count("patience"):
            found.append((method.label, late, len(drawn)))
    return found


def _skipped(document: Mapping[str, Any]) -> list[tuple[Method, str]]:
    """Methods that were asked for and do not apply to the network, with the reason."""
    reasons = {entry["method"]: entry["reason"] for entry in document.get("skipped") or ()}
    return [(method, reasons[name]) for name, method in methods_of(reasons).items()]


def _tiles(results: Results) -> list[dict[str, Any]]:
    """The numbers of the headline, large."""
    picks = results.picks
    named = (
        (picks.strong, "strong ticket"),
        (picks.dense, "dense network"),
        (picks.trained, "trained ticket"),
    )
    tiles = []
    for row, kind in named:
        if row is not None:
            at = f", {row.method.label} at density {density_text(row.true_density)}"
            tiles.append(
                {
                    "colour": row.method.colour,
                    "value": f"{percent(row.mean)} %",
                    "label": kind if row is picks.dense else kind + at,
                    "note": seed_range(row),
                }
            )
    strong = picks.strong
    if strong is not None and strong.ticket_bytes is not None:
        tiles.append(
            {
                "colour": strong.method.colour,
                "value": bytes_text(strong.ticket_bytes),
                "label": "the strong ticket as a file",
                "note": f"dense weights: {bytes_text(strong.dense_bytes)}",
            }
        )
    return tiles


_RUN_COLUMNS = (
    "method", "density", "kept_density", "seed", "test_accuracy", "val_accuracy", "test_loss", "steps",
    "total_steps", "seconds", "multiply_adds", "ticket_bytes", "dense_bytes", "ticket",
)  # fmt: skip


def _runs_csv(results: Results) -> list[list[Any]]:
    """Every run as results.csv has it; columns that no run has are left out."""
    columns = [name for name in _RUN_COLUMNS if any(run.get(name) is not None for run in results.runs)]
    return [columns, *([run.get(name) for name in columns] for run in results.runs)]


def _results_csv(results: Results) -> list[list[Any]]:
    """A row for each method and density."""
    columns = ("density", "true_density", "n", "mean", "min", "max", "difference", "val_accuracy", "steps",
               "total_steps", "seconds", "ticket_bytes", "dense_bytes")  # fmt: skip
    rows = [[row.method.name, *(getattr(row, name) for name in columns)] for row in results.rows]
    titles = {"true_density": "kept_density", "n": "seeds", "mean": "test_accuracy"}
    return [["method", *(titles.get(name, name) for name in columns)], *rows]
