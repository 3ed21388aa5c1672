"""Write the tables of the documentation from the committed results.

    python benchmarks/readme_tables.py

In README.md and the pages named below, each `<!-- KIND: NAME -->` … `<!-- end -->` is filled from
`benchmarks/results/NAME.json`.
"""

import re
from pathlib import Path
from statistics import fmean
from typing import Any

import _tables
from _tables import markdown

from supermask.io import read_json, write_text
from supermask.report.methods.catalogue import methods_of
from supermask.report.methods.method import GROUPS

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"
NAMES = ("recipes", "methods", "examples", "experiments", "theory", "performance")
PAGES = (ROOT / "README.md", *(ROOT / "docs" / f"{page}.md" for page in NAMES))
MARK = re.compile(r"<!-- (\w+): ([\w/-]+) -->\n.*?<!-- end -->", re.DOTALL)


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


def title(document: dict[str, Any], name: str) -> str:
    """What was run, where, and the command."""
    config, machine = document["config"], document["machine"]
    seeds = len(config["seeds"])
    scale = config["model_args"].get("width")  # text, where a flag gave it
    width = "" if scale is None else f" of width {float(scale):g}"
    return (
        f"**{config['data']}, {config['model']}**{width}, {config['epochs']:g} epochs, batches of "
        f"{config['batch_size']}, {seeds} seed{'s' if seeds > 1 else ''} ({machine['cpu']}, torch "
        f"{machine['torch']}): `python benchmarks/reproduce.py {name}`"
    )


def cell(entry: dict[str, Any]) -> str:
    """Mean, and the range where there are several seeds, in percent."""
    mean, low, high = (f"{100 * entry[key]:.2f}" for key in ("mean", "min", "max"))
    return mean if entry["n"] == 1 else f"{mean} ({low}–{high})"


def rounds(document: dict[str, Any], name: str) -> str:
    """IMP: a line per round, a column per method."""
    summary = document["summary"]
    methods = list(dict.fromkeys(entry["method"] for entry in summary if entry["method"] != "dense"))
    cells = {(entry["density"], entry["method"]): cell(entry) for entry in summary}
    densities = sorted({density for density, _ in cells}, reverse=True)
    rows = [["1", cells[1.0, "dense"], *[""] * (len(methods) - 1)]]
    rows += [
        [f"{density:.3f}", *(cells.get((density, m), "") for m in methods)]
        for density in densities
        if density < 1
    ]
    return f"{title(document, name)}\n\n" + markdown(["density", *methods], rows)


def stability(document: dict[str, Any], name: str) -> str:
    """Instability by where copies part."""
    rows = [
        [
            entry["method"],
            f"{entry['density']:.3g}",
            f"{entry['step']} of {document['steps']}",
            cell(entry),
            "yes" if entry["stable"] else "no",
            f"{100 * entry['accuracy']:.2f}",
        ]
        for entry in document["stability"]
    ]
    head = [
        "network",
        "density",
        "copies part at step",
        "instability, points",
        "stable",
        "accuracy of the ends",
    ]
    return f"{title(document, name)}\n\n" + markdown(head, rows)


def transfer(document: dict[str, Any], name: str) -> str:
    """Found in the line, trained in the column."""
    matrix = document["matrix"]
    targets = list(dict.fromkeys(entry["target"] for entry in matrix))
    found = {(entry["source"], entry["density"], entry["target"]): cell(entry) for entry in matrix}
    lines = sorted(
        {key[:2] for key in found}, key=lambda line: (-line[1], list(found).index((*line, targets[0])))
    )
    rows = [
        [source, f"{density:g}", *(found[source, density, t] for t in targets)] for source, density in lines
    ]
    head = ["ticket found on", "density", *(f"trained on {target}" for target in targets)]
    return f"{title(document, name)}\n\n" + markdown(head, rows)


def anatomy(document: dict[str, Any], name: str) -> str:
    """Overlap of two seeds, weights on no path, and the thinnest layer, by method and density."""
    rows = []
    for entry in document["overlaps"]:
        if entry["first"] != entry["second"] or entry["same_seed"]:
            continue
        method, density = entry["first"], entry["density"]
        own = [x for x in document["layers"] if (x["method"], x["density"]) == (method, density)]
        means = {
            layer: fmean(x["layer_density"] for x in own if x["layer"] == layer)
            for layer in dict.fromkeys(x["layer"] for x in own)
        }
        thin, thick = min(means, key=means.__getitem__), max(means, key=means.__getitem__)
        rows.append(
            [
                method,
                f"{density:g}",
                f"{100 * entry['overlap']:.1f} ({100 * entry['by_chance']:.1f})",
                f"{100 * (1 - min(x['effective'] for x in own)):.1f}",
                f"{thin}: {means[thin]:.3f}",
                f"{thick}: {means[thick]:.3f}",
            ]
        )
    head = ["method", "density", "shared by two seeds, % (by chance)", "on no path in the worst layer, %",
            "thinnest layer", "densest layer"]  # fmt: skip
    return f"{title(document, name)}\n\n" + markdown(head, rows)


def theory(document: dict[str, Any], name: str) -> str:
    """Constructions: a line for each size, and how the error falls."""
    rows = [
        [
            f"`{entry['construction']}`",
            str(entry["n"]),
            f"{entry['random_weights'] / entry['target_weights']:.0f}",
            f"{entry['mean_weight_error']['mean']:.1e}",
            f"{entry['max_output_error']['mean'] / entry['mean_output_norm']:.1e}",
            f"{100 * entry['accuracy']:.1f}",
            f"{100 * entry['target_accuracy']:.1f}",
        ]
        for entry in document["summary"]
    ]
    head = ["construction", "n", "random / target weights", "mean weight error",
            "largest output error / output norm", "accuracy, %", "target, %"]  # fmt: skip
    config = document["config"]
    hidden, seeds = " and ".join(map(str, config["hidden"])), config["seeds"]
    title = (
        f"**{config['data']}**, hidden widths {hidden}, {config['epochs']:g} epochs of the target, up to "
        f"{config['images']} test images, {seeds} random network{'s' if seeds > 1 else ''} each: "
        f"`python benchmarks/reproduce.py {name}`"
    )
    slopes = ", ".join(f"{rate['construction']} {rate['slope']:.2f}" for rate in document["rates"])
    under = (
        ""
        if len(rows) < 5
        else f"\n\nSlope of log error against the predicted one, 1 where they agree: {slopes}."
    )
    return f"{title}\n\n{markdown(head, rows)}{under}"


# The recipe search: a grid over learning rate and weight decay, and single changes from `MIDDLE`.
MIDDLE = {
    "density": 0.3,
    "lr": 0.2,
    "weight_decay": 5e-4,
    "optimizer": "sgd",
    "init": "signed_constant",
    "rescale": True,
    "distribution": "uniform",
    "nesterov": False,
    "batch_size": 128,
    "augment": "none",
    "label_smoothing": 0.0,
}


def changed(row: dict[str, Any]) -> dict[str, Any]:
    """Settings of a row that differ from the middle of the grid."""
    return {key: row[key] for key, value in MIDDLE.items() if row[key] != value}


def grid(document: dict[str, Any], _: str) -> str:
    found = {}
    for row in document["rows"]:
        if changed(row).keys() <= {"density", "lr", "weight_decay"}:
            found[row["density"], row["lr"], row["weight_decay"]] = f"{100 * row['val_accuracy']:.2f}"
    decays = (0.0, 1e-4, 5e-4, 1e-3)
    rows = [
        [f"{density:g}", f"{lr:g}", *(found[density, lr, decay] for decay in decays)]
        for density in (0.3, 0.5)
        for lr in (0.1, 0.2, 0.4, 0.8)
    ]
    return markdown(["density", "lr", *(f"weight decay {decay:g}" for decay in decays)], rows)


def changes(document: dict[str, Any], _: str) -> str:
    rows = []
    for row in document["rows"]:
        change = changed(row)
        plain_grid = change.keys() <= {"lr", "weight_decay"} or change.get("density") == 0.5
        if not change or not plain_grid:
            text = ", ".join(
                f"{key} {value:g}" if type(value) is float else f"{key} {value}"
                for key, value in change.items()
            )
            rows.append([text or "none", f"{100 * row['val_accuracy']:.2f}"])
    return markdown(["change", "validation accuracy"], rows)


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


def number(value: float | None, percent: bool) -> str:
    if value is None:
        return ""
    return f"{100 * value:.1f}" if percent else f"{value:.3f}"


KINDS = {
    **_tables.KINDS,
    "table": comparison,
    "sizes": sizes,
    "family": family,
    "example": example,
    "variants": variants,
    "grid": grid,
    "changes": changes,
    "rounds": rounds,
    "stability": stability,
    "transfer": transfer,
    "theory": theory,
    "anatomy": anatomy,
}


def filled(text: str) -> str:
    """A page with every table made from its results."""

    def fill(match: re.Match[str]) -> str:
        kind, name = match.groups()
        document = read_json(RESULTS / f"{name}.json")
        return f"<!-- {kind}: {name} -->\n{KINDS[kind](document, name)}\n<!-- end -->"

    return MARK.sub(fill, text)


if __name__ == "__main__":
    for page in PAGES:
        write_text(page, filled(page.read_text(encoding="utf-8")))
