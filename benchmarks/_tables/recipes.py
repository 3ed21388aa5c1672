"""Tables of docs/recipes.md: what `recipe_search.py`, `score_steps.py` and `close_gap.py` measured."""

from collections import Counter
from typing import Any

from _tables.layout import cpu_and_torch, markdown

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


ENOUGH = 4
"""Rates that a setting was searched with, from which on there is a best among them."""
OFTEN = 3
"""In how many settings a rate that has a column was tried at least; defaults have one of their own."""
RULES = {"relative": "relative", "absolute": "SGD", "adam": "Adam"}
"""Step size, and what the table calls it, in the order of its columns."""


def untuned(document: dict[str, Any], _: str) -> str:
    """Searches without a learning rate beside grids of rates, by setting."""
    found: dict[str, dict[tuple[str, float], float]] = {}
    for run in document["runs"]:
        accuracy = float("nan") if run["validation"] is None else run["validation"]
        found.setdefault(run["setting"], {})[run["step_size"], run["lr"]] = accuracy
    often = Counter(rate for cells in found.values() for rate in cells)
    columns = sorted(rate for rate, settings in often.items() if settings >= OFTEN)
    columns.sort(key=lambda rate: list(RULES).index(rate[0]))
    rows = []
    for setting, cells in found.items():
        if len(cells) < ENOUGH:
            continue
        best = max(cells.values())
        rate = document["default_rates"][setting]
        own = cells["relative", rate]
        gap = f"{own - best:+.1f}".replace("-", "−").replace("+0.0", "0.0").replace("−0.0", "0.0")
        shown = [f"{cells[rate]:.1f}" if rate in cells else "" for rate in columns]
        shown = [f"**{x}**" if x and float(x) == round(best, 1) else x for x in shown]
        rows.append([setting, *shown, f"{rate:.2g}", f"{own:.1f}", gap])
    head = [
        "setting",
        *(f"{RULES[size]} {lr:g}" for size, lr in columns),
        "default rate",
        "default",
        "to best",
    ]
    return (
        f"{cpu_and_torch(document['machine'])}: `python benchmarks/score_steps.py`\n\n{markdown(head, rows)}"
    )


def gaps(document: dict[str, Any], _: str) -> str:
    """Changes of a search and their validation accuracy, beside the dense network where there is one."""
    groups = {
        "dense": "trained",
        "rule": "rule of the scores",
        "change": "change",
        "budget": "budget",
        "batch": "smaller batches",
        "parallel": "for each connection",
    }
    found: dict[tuple[str, str], dict[str, float]] = {}
    for row in document["rows"]:
        found.setdefault((row["group"], row["change"]), {})[row["method"]] = 100 * row["val_accuracy"]
    methods = [name for name in METHODS if any(name in cells for cells in found.values())]
    rows = [
        [groups[group], change, *(f"{cells[name]:.2f}" if name in cells else "" for name in methods)]
        for group in groups
        for (own, change), cells in found.items()
        if own == group
    ]
    about = f"{cpu_and_torch(document['machine'])}: `python benchmarks/close_gap.py`"
    return f"{about}\n\n{markdown(['', 'tried', *methods], rows)}"


METHODS = ("dense", "edge-popup", "signed-supermask")

KINDS = {
    "gaps": gaps,
    "untuned": untuned,
    "grid": grid,
    "changes": changes,
}
