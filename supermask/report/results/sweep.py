"""What a sweep of learning rates tried, and what it chose."""

from collections.abc import Mapping
from typing import Any

from supermask.report.formatting import NONE, count_text, percent


def sweep_table(document: Mapping[str, Any]) -> list[dict[str, str]]:
    """The trials of `--lr-sweep` as text: a dict for each rate whose keys are the headings; empty without."""
    sweep: Mapping[str, Any] = document.get("lr_sweep") or {"chosen": None, "tried": ()}
    return [
        {
            "learning rate": f"{entry['lr']:g}",
            "validation accuracy %": percent(entry["val_accuracy"], 2),
            "validation loss": NONE if entry["val_loss"] is None else f"{entry['val_loss']:.4f}",
            "mask changed %": percent(entry["mask_changed"]),
            "steps": count_text(entry["steps"]),
            "": _verdict(entry, sweep["chosen"]),
        }
        for entry in sweep["tried"]
    ]


def _verdict(entry: Mapping[str, Any], chosen: float | None) -> str:
    if entry["val_accuracy"] is None:
        return "diverged"
    return "chosen" if entry["lr"] == chosen else ""
