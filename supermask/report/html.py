"""The page: one HTML file that needs nothing but itself, and the figures beside it for a paper."""

import re
from collections.abc import Mapping
from importlib import resources
from itertools import groupby
from pathlib import Path
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined

from supermask.io import write_bytes, write_text
from supermask.report import text
from supermask.report.best import best_of
from supermask.report.canvas import THEME, Drawing
from supermask.report.catalogue import methods_of
from supermask.report.duels import duels_of
from supermask.report.figures import draw_figures
from supermask.report.headline import dense_pick, headline, spread, strong_pick, subject, trained_pick
from supermask.report.known import UNZEROED
from supermask.report.methods import GROUPS, Method
from supermask.report.panels import is_crowded
from supermask.report.summary import Line, command_of, lines_of

FIGURES = ("accuracy-density", "ticket-size", "learning-curves")

_TITLES = {
    "compare": "Tickets and controls",
    "search": "A strong ticket",
    "imp": "Iterative pruning",
}


def write_report(document: Mapping[str, Any], out: Path) -> Path:
    """Write `report.html` and the figures as PNG into `out`, which is made when missing.

    The same document gives the same bytes. A figure that the document has no data for (learning curves of
    runs that recorded none) is not written, and one of that name from an earlier report is removed.

    Args:
        document: What `results.json` of compare, search or imp holds.

    Returns:
        The path of the page.

    Raises:
        ValueError: The document is not one of those, or has no rows.
        OSError: `out` cannot be written.
    """
    drawings = draw_figures(document)
    page = render_page(document, drawings)
    out.mkdir(parents=True, exist_ok=True)
    for name in FIGURES:
        if name in drawings:
            write_bytes(out / f"{name}.png", drawings[name].png)
        else:
            (out / f"{name}.png").unlink(missing_ok=True)
    write_text(out / "report.html", page)
    return out / "report.html"


def render_page(document: Mapping[str, Any], drawings: Mapping[str, Drawing]) -> str:
    """The page as text; everything from the document is escaped, only our own SVG and CSS are not."""
    lines = lines_of(document)
    command = command_of(document)
    methods = list(dict.fromkeys(line.method for line in lines))
    crowded = is_crowded(lines)
    return render_template(
        "page.html.j2",
        command=command,
        title=f"{_TITLES[command]}: {subject(document)}",
        headline=headline(document),
        tiles=_tiles(lines),
        validated=all(line.val_accuracy is not None for line in lines),
        chosen=sum(line.method.is_ticket for line in lines) > 1,
        averaged=any(line.n > 1 for line in lines),
        groups=_grouped(lines),
        group_titles=GROUPS,
        crowded=crowded,
        best=best_of(lines) if crowded else None,
        duels=duels_of(document),
        unzeroed=[method.label for method in methods if method.name.endswith(UNZEROED)],
        emerged=any(line.emerged for line in lines),
        impatient=_impatient(document, methods),
        skipped=_skipped(document),
        method_groups=_titled(methods) if crowded else [("", methods)],
        labels={method.name: method.label for method in methods},
        rows=document["rows"],
        dense_bytes=next((line.dense_bytes for line in lines if line.dense_bytes), None),
        untrained=list(dict.fromkeys(line.method.label for line in lines if line.steps == 0)),
        figures=drawings,
        command_line=document.get("command"),
        config=document.get("config") or {},
        machine=document.get("machine") or {},
    )


def render_template(name: str, **values: Any) -> str:
    """A page from one of our templates, with the style and the theme of all pages."""
    environment = Environment(
        loader=FunctionLoader(_resource),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(_FILTERS)
    return environment.get_template(name).render(**values, style=_resource("style.css"), theme=THEME)


def _resource(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")


def _grouped(lines: list[Line]) -> list[tuple[str, list[list[Line]]]]:
    """Group → its methods, each as its lines from dense to sparse. `lines` come in that order."""
    return [
        (group, [list(members) for _, members in groupby(in_group, key=lambda line: line.method)])
        for group, in_group in groupby(lines, key=lambda line: line.method.group)
    ]


def _titled(methods: list[Method]) -> list[tuple[str, list[Method]]]:
    """Title of a group → its methods."""
    return [(GROUPS[group], list(same)) for group, same in groupby(methods, key=lambda method: method.group)]


def _impatient(document: Mapping[str, Any], methods: list[Method]) -> list[tuple[str, int, int]]:
    """Label, tickets drawn at the end of the patience, and all of them, of methods with such a ticket."""
    found = []
    for method in methods:
        drawn = [
            row["drawn_by"] for row in document["rows"] if row["method"] == method.name and "drawn_by" in row
        ]
        if late := drawn.count("patience"):
            found.append((method.label, late, len(drawn)))
    return found


def _skipped(document: Mapping[str, Any]) -> list[tuple[Method, str]]:
    """Methods that were asked for and do not apply to the network, with the reason."""
    reasons = {entry["method"]: entry["reason"] for entry in document.get("skipped") or ()}
    return [(method, reasons[name]) for name, method in methods_of(reasons).items()]


def _tiles(lines: list[Line]) -> list[dict[str, Any]]:
    """The numbers of the headline, large."""
    strong, dense, trained = strong_pick(lines), dense_pick(lines), trained_pick(lines)
    tiles = []
    for line, kind in ((strong, "strong ticket"), (dense, "dense network"), (trained, "trained ticket")):
        if line is not None:
            density = text.density_text(line.true_density)
            at = "" if line is dense else f", {line.method.label} at density {density}"
            tiles.append(
                {
                    "colour": line.method.colour,
                    "value": f"{text.percent(line.mean)} %",
                    "label": kind + at,
                    "note": spread(line),
                }
            )
    if strong is not None and strong.ticket_bytes is not None:
        tiles.append(
            {
                "colour": strong.method.colour,
                "value": text.bytes_text(strong.ticket_bytes),
                "label": "the strong ticket as a file",
                "note": f"dense weights: {text.bytes_text(strong.dense_bytes)}",
            }
        )
    return tiles


def _unbroken(sentence: str) -> str:
    """Keeps numbers with what they belong to at the end of a line."""
    return re.sub(r"(?<=\d) (?=%|[kMG]?B\b)|(?<=\bdensity) ", "\N{NO-BREAK SPACE}", sentence)


_FILTERS = {
    "bytes": text.bytes_text,
    "count": text.count_text,
    "density": text.density_text,
    "duration": text.duration_text,
    "percent": text.percent,
    "points": text.points,
    "ratio": text.ratio_text,
    "sparsity": text.sparsity_text,
    "unbroken": _unbroken,
    "value": text.value_text,
}
