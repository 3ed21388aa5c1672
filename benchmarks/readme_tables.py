"""Write the tables of the documentation from the committed results.

    python benchmarks/readme_tables.py

In README.md and the pages named below, each `<!-- KIND: NAME -->` … `<!-- end -->` is filled from
`benchmarks/results/NAME.json`.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from supermask.io import read_json, write_text
from supermask.report.catalogue import methods_of
from supermask.report.methods import GROUPS

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"
PAGES = (ROOT / "README.md", ROOT / "docs" / "recipes.md", ROOT / "docs" / "methods.md")
MARK = re.compile(
    r"<!-- (table|family|grid|changes|steps|linear|networks|selection): ([\w/-]+) -->\n.*?<!-- end -->",
    re.DOTALL,
)


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


def where(machine: dict[str, Any], script: str) -> str:
    """Machine and command of a benchmark."""
    threads = f"{machine['threads']} thread{'s' if machine['threads'] > 1 else ''}"
    command = f"`python benchmarks/{script}.py --threads {machine['threads']}`"
    return f"{machine['cpu']}, {threads}, torch {machine['torch']}: {command}"


def linear(document: dict[str, Any], _: str) -> str:
    """Packed linear layers over the faster dense one."""
    rows = []
    for row in document["rows"]:
        results = row["results"]
        rows.append(
            [
                f"{row['outputs']}×{row['inputs']}",
                "±σ" if row["init"] == "sign" else row["init"].replace("_", " "),
                row["dtype"],
                f"{row['density']:g}",
                str(row["batch"]),
                "memory" if row["rotated"] else "cache",
                f"{results['packed']['median_ms']:.3f}",
                *(f"{results[n]['median_ms']:.3f}" for n in ("eager", "onednn")),
                f"{results['csr']['median_ms']:.3f}" if "csr" in results else "",
                f"**{row['speedup']:.1f}×**",
                f"{results['packed']['bits_per_weight']:.1f}",
            ]
        )
    head = ["layer", "weights", "type", "density", "batch", "from", "packed, ms", "eager", "oneDNN", "CSR",
            "over the faster dense", "bits per weight"]  # fmt: skip
    return f"{where(document['machine'], 'masked_linear')}\n\n" + markdown(head, rows)


def network_of(row: Mapping[str, Any]) -> str:
    """The name of a row's network, with its weights where they are not signed constants."""
    name = str(row["network"]).removeprefix("timm/")
    init = row.get("init", "signed_constant")
    return name if init == "signed_constant" else f"{name}, {init.replace('_', ' ')}"


def networks(document: dict[str, Any], _: str) -> str:
    """Packed networks over dense ones."""
    rivals = ("dense", "compiled", "dense_bf16")
    rows = [
        [
            network_of(row),
            str(row["batch"]),
            f"{row['packed']['median_ms']:.2f}",
            *(f"{row['against'][rival]:.2f}×" if rival in row["against"] else "" for rival in rivals),
            f"{row['bytes']['dense'] / row['bytes']['packed']:.1f}×",
        ]
        for row in document["rows"]
    ]
    head = ["network", "batch", "packed fp32, ms", "over eager fp32", "over compiled fp32", "over eager bf16",
            "less memory"]  # fmt: skip
    return f"{where(document['machine'], 'packed_models')}; density 0.3\n\n" + markdown(head, rows)


def selection(document: dict[str, Any], _: str) -> str:
    """Selections over what peers call in every forward pass."""
    rows = []
    for row in document["rows"]:
        ours = [name for name in ("cold", "warm", "2:4") if name in row]
        rival = "topk" if "topk" in row else "kthvalue"
        rows += [
            [
                row["what"],
                name,
                f"{row[name]['median_ms']:.2f}",
                f"{row[f'{rival}/{name}']:.1f}× ({rival})",
                f"{row[f'sort/{name}']:.1f}×",
            ]
            for name in ours
        ]
    head = ["scores", "selection", "ms", "over kthvalue or topk", "over sort"]
    return f"{where(document['machine'], 'selection')}\n\n" + markdown(head, rows)


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
    title = (
        f"**{config['data']}, {config['model']}**, {config['epochs']:g} epochs, {len(config['seeds'])} "
        f"seeds: `python benchmarks/reproduce.py {name}`"
    )
    return f"{title}\n\n" + markdown(["method", "", *(f"{d:g}" for d in densities)], rows)


KINDS = {
    "table": comparison,
    "family": family,
    "grid": grid,
    "changes": changes,
    "steps": steps,
    "linear": linear,
    "networks": networks,
    "selection": selection,
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
