"""Tables of docs/methods.md."""

from statistics import fmean
from typing import Any

from _tables.layout import cpu_and_torch, markdown
from supermask.report.methods.catalogue import methods_of
from supermask.report.methods.method import GROUPS


def family(document: dict[str, Any], name: str) -> str:
    """Every method under its name in the reports, by group."""
    summary, config = document["summary"], document["config"]
    densities = sorted({entry["density"] for entry in summary if entry["method"] != "zhou"}, reverse=True)
    cells: dict[tuple[str, float], str] = {}
    for entry in summary:
        # Where the density emerges there is one row, whatever it was asked for.
        density = entry["density"] if entry["density"] in densities else densities[1]
        cells[entry["method"], density] = f"{100 * entry['mean']:.1f}"
    rows, group = [], None
    for method in methods_of(dict.fromkeys(entry["method"] for entry in summary)).values():
        if method.group != group:
            group = method.group
            rows.append([f"**{GROUPS[group]}**", *[""] * (len(densities) + 1)])
        values = [cells.get((method.name, density), "") for density in densities]
        rows.append([f"`{method.name}`", method.about, *values])
    heading = (
        f"**{config['data']}, {config['model']}**, {config['epochs']:g} epochs, {len(config['seeds'])} "
        f"seeds: `python benchmarks/reproduce.py {name}`"
    )
    return f"{heading}\n\n" + markdown(["method", "", *(f"{d:g}" for d in densities)], rows)


def variants(document: dict[str, Any], _: str) -> str:
    """Options of the searches: a line each, under the method's own recipe."""
    rows = []
    for row in document["rows"]:
        found = [100 * accuracy for accuracy in row["accuracies"]]
        accuracy = f"{fmean(found):.2f} ({min(found):.2f}–{max(found):.2f})"
        flags = f"`{row['flags']}`" if row["flags"] else ""
        rows.append([row["method"], row["meaning"], flags, f"{fmean(row['kept_densities']):.2g}", accuracy])
    machine, seeds = document["machine"], len(document["seeds"])
    heading = (
        f"**mnist, lenet-300-100**, 10 epochs, {seeds} seeds ({machine['cpu']}, torch {machine['torch']})"
    )
    head = ["method", "variant", "flags", "density", "test accuracy, %"]
    return f"{heading}: `{document['command']}`\n\n" + markdown(head, rows)


def shrunk(document: dict[str, Any], _: str) -> str:
    """Networks without the filters that a mask removed, beside the masked ones."""
    rows = [
        [
            which,
            str(row["seed"]),
            f"{row[which]['weights']:,}",
            f"{row[which]['bytes'] / 1000:.0f}",
            f"{row[which]['macs'] / 1e6:.1f}",
            f"{row[which]['median_ms']:.1f}",
            f"{100 * row[which]['accuracy']:.2f}",
        ]
        for row in document["rows"]
        for which in ("masked", "small")
    ]
    heading = f"**{document['model']}**, {cpu_and_torch(document['machine'])}"
    head = ["network", "seed", "weights", "kB", "million multiply-adds",
            f"ms for {document['batch']} images", "test accuracy, %"]  # fmt: skip
    return f"{heading}: `{document['command']}`\n\n{markdown(head, rows)}"


KINDS = {
    "family": family,
    "variants": variants,
    "shrunk": shrunk,
}
