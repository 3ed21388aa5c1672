"""Tables of docs/examples.md."""

from typing import Any

from _tables.layout import markdown


def example(document: dict[str, Any], _: str) -> str:
    """What a script of `examples/` found: a line per method, a column per measure."""
    measures, machine = document["measures"], document["machine"]
    rows = []
    for row in document["rows"]:
        values = [number(row.get(key), percent="%" in title) for key, title in measures.items()]
        density = "" if row["density"] is None else f"{row['density']:g}"
        size = f"{row['ticket_bytes'] / 1000:.0f}" if "ticket_bytes" in row else ""
        rows.append([row["method"], density, *values, size])
    threads = f"{machine['threads']} thread{'s' if machine['threads'] > 1 else ''}"
    heading = f"{machine['cpu']}, {threads}, torch {machine['torch']}, Python {machine['python']}"
    if document["split"] != "test":
        heading = f"**{document['split']} split**, {heading}"
    columns = zip(["method", "density", *measures.values(), "ticket, kB"], *rows, strict=True)
    head, *rows = ([*line] for line in zip(*(c for c in columns if any(c[1:])), strict=True))
    return f"{heading}: `{document['command']}`\n\n" + markdown(head, rows)


def number(value: float | None, percent: bool) -> str:
    if value is None:
        return ""
    return f"{100 * value:.1f}" if percent else f"{value:.3f}"


KINDS = {
    "example": example,
}
