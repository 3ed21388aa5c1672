"""Write the tables of the documentation from the committed results.

    python benchmarks/readme_tables.py

In README.md and docs/recipes.md, each `<!-- KIND: NAME -->` … `<!-- end -->` is filled from
`benchmarks/results/NAME.json`.
"""

import re
from pathlib import Path
from typing import Any

from supermask.io import read_json, write_text

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"
PAGES = (ROOT / "README.md", ROOT / "docs" / "recipes.md")
MARK = re.compile(r"<!-- (table|grid|changes|steps): ([\w/-]+) -->\n.*?<!-- end -->", re.DOTALL)


def markdown(head: list[str], rows: list[list[str]]) -> str:
    return "\n".join("| " + " | ".join(row) + " |" for row in [head, ["---"] * len(head), *rows])


def comparison(document: dict[str, Any], name: str) -> str:
    """A line per method, a column per density."""
    config, summary, machine = document["config"], document["summary"], document["machine"]
    densities = sorted({entry["density"] for entry in summary}, reverse=True)
    cells = {(entry["method"], entry["density"]): cell(entry) for entry in summary}
    methods = dict.fromkeys(entry["method"] for entry in summary)
    rows = [[method] + [cells.get((method, density), "") for density in densities] for method in methods]
    seeds = len(config["seeds"])
    title = (
        f"**{config['data']}, {config['model']}**, {config['epochs']:g} epochs, batches of "
        f"{config['batch_size']}, {seeds} seed{'s' if seeds > 1 else ''} ({machine['cpu']}, torch "
        f"{machine['torch']}): `python benchmarks/reproduce.py {name}`"
    )
    return f"{title}\n\n" + markdown(["method", *(f"density {d:g}" for d in densities)], rows)


def cell(entry: dict[str, Any]) -> str:
    """Mean, and the range where there are several seeds, in percent."""
    mean, low, high = (f"{100 * entry[key]:.2f}" for key in ("mean", "min", "max"))
    return mean if entry["n"] == 1 else f"{mean} ({low}–{high})"


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


def steps(document: dict[str, Any], _: str) -> str:
    """What a search step costs over a dense step."""
    rows = [
        [row["network"], *(f"{row[f'{name}/dense']:.3f}" for name in ("edge-popup", "parts", "sort"))]
        for row in document["rows"]
    ]
    machine = document["machine"]
    title = f"{machine['cpu']}, {machine['threads']} thread, torch {machine['torch']}, batches of 128"
    head = ["network", "edge-popup", "step in parts", "sort in every forward"]
    return f"{title}: `python benchmarks/training_step.py --threads {machine['threads']}`\n\n" + markdown(
        head, rows
    )


KINDS = {"table": comparison, "grid": grid, "changes": changes, "steps": steps}


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
