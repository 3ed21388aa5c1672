"""Tables of comparisons, in docs/results.md and docs/methods.md."""

from statistics import fmean
from typing import Any

from _tables.layout import cell, markdown, title


def comparison(document: dict[str, Any], name: str) -> str:
    """A line per method, a column per density."""
    summary = document["summary"]
    densities = sorted({entry["density"] for entry in summary}, reverse=True)
    cells = {(entry["method"], entry["density"]): cell(entry) for entry in summary}
    rows = []
    for method in dict.fromkeys(entry["method"] for entry in summary):
        rows.append([method] + [cells.get((method, density), "") for density in densities])
        sampled = [row for row in document["rows"] if row["method"] == method and "sampled_accuracy" in row]
        if sampled:
            rows.append([f"{method}, ten samples", *(_samples_at(density, sampled) for density in densities)])
    head = ["method", *(f"density {d:g}" for d in densities)]
    return f"{title(document, name)}\n\n" + markdown(head, rows)


def sizes(document: dict[str, Any], name: str) -> str:
    """A line per method and density: what it keeps, its accuracy, and the size of its file."""
    rows = []
    for entry in document["summary"]:
        key = entry["method"], entry["density"]
        own = [row for row in document["rows"] if (row["method"], row["density"]) == key]
        file = "dense_bytes" if entry["method"] == "dense" else "ticket_bytes"
        kept = f"{fmean(row['kept_density'] for row in own):.3g}"
        rows.append([entry["method"], kept, cell(entry), f"{fmean(row[file] for row in own) / 1000:.0f}"])
    head = ["method", "density", "test accuracy, %", "file, kB"]
    return f"{title(document, name)}\n\n" + markdown(head, rows)


def _samples_at(density: float, rows: list[dict[str, Any]]) -> str:
    """The cell of the mean accuracies over sampled masks."""
    found = [row["sampled_accuracy"] for row in rows if row["density"] == density]
    if not found:
        return ""
    return cell({"n": len(found), "mean": fmean(found), "min": min(found), "max": max(found)})


KINDS = {
    "table": comparison,
    "sizes": sizes,
}
