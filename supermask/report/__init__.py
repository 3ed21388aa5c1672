"""Reports: one self-contained page and figures from a document of results."""

# ruff: noqa: E402 (the missing extra is named before its modules are imported)

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from supermask import extras

extras.require("report")

from supermask.io import write_bytes, write_text
from supermask.report.formatting import (
    bytes_text,
    count_text,
    density_text,
    duration_text,
    large_count_text,
    percent,
    points,
    ratio_text,
)
from supermask.report.pages import author_of
from supermask.report.results.rows import summary_rows
from supermask.report.results.sweep import sweep_table


def write_report(document: Mapping[str, Any], out: Path) -> Path:
    """Write `report.html` and the figures as PNG into `out`, which is made when missing.

    The same document gives the same bytes. A figure that the document has no data for (learning curves of
    runs that recorded none) is not written, and one of that name from an earlier report is removed.

    Args:
        document: What `results.json` of any experiment holds.
        out: The folder.

    Returns:
        The path of the page.

    Raises:
        ValueError: The document is of no experiment known here, or has no rows.
        OSError: `out` cannot be written.
    """
    page = author_of(document).render(document)
    out.mkdir(parents=True, exist_ok=True)
    for name in {*page.possible} - {drawing.name for drawing in page.drawings}:
        (out / f"{name}.png").unlink(missing_ok=True)
    for drawing in page.drawings:
        write_bytes(out / f"{drawing.name}.png", drawing.png)
    write_text(out / "report.html", page.html)
    return out / "report.html"


def headline(document: Mapping[str, Any]) -> str:
    """What came out, in a few sentences.

    Raises:
        ValueError: The document is of no experiment known here, or has no rows.
    """
    return author_of(document).headline(document)


def summary_table(document: Mapping[str, Any]) -> list[dict[str, str]]:
    """Rows of runs and their summary as text: a dict per row whose keys are the headings.

    Args:
        document: What `results.json` of compare, search, imp or anatomy holds.

    Raises:
        ValueError: The document has no such rows.
    """
    if not document.get("rows") or not document.get("summary"):
        raise ValueError(f"no table for a document of schema {document.get('schema')!r}: it has no summary")
    return [
        {
            "method": row.method.name,
            "density": density_text(row.density)
            + (f" (kept {density_text(row.true_density)})" if row.emerged else ""),
            "seeds": str(row.n),
            "test accuracy %": percent(row.mean, 2),
            "min–max": f"{percent(row.min, 2)}–{percent(row.max, 2)}",
            "to dense": points(row.difference),
            "steps": count_text(row.steps),
            "total steps": count_text(row.total_steps),
            "time": duration_text(row.seconds),
            "multiply-adds": large_count_text(row.multiply_adds),
            "ticket": bytes_text(row.ticket_bytes),
            "smaller": ratio_text(row.ratio),
        }
        for row in summary_rows(document)
    ]


__all__ = ["headline", "summary_table", "sweep_table", "write_report"]
