"""What all tables share: Markdown, cells, and the line above a table."""

from typing import Any


def markdown(head: list[str], rows: list[list[str]]) -> str:
    return "\n".join("| " + " | ".join(row) + " |" for row in [head, ["---"] * len(head), *rows])


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


def where(machine: dict[str, Any], script: str) -> str:
    """Machine and command of a benchmark."""
    if machine["gpu"]:
        return f"{machine['gpu']}, torch {machine['torch']}: `python benchmarks/{script}.py --device cuda`"
    return f"{cpu_and_torch(machine)}: `python benchmarks/{script}.py --threads {machine['threads']}`"


def cpu_and_torch(machine: dict[str, Any]) -> str:
    """Processor, threads and version of torch."""
    threads = f"{machine['threads']} thread{'s' if machine['threads'] > 1 else ''}"
    return f"{machine['cpu']}, {threads}, torch {machine['torch']}"
