"""Results of a command: rows and summary as JSON and CSV, with all that is needed to make them again."""

import csv
import io
import os
import platform
import statistics
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from supermask.experiments.execution.store import Store
from supermask.experiments.plan import Plan
from supermask.io import write_json, write_text

ROW_KEYS = (
    "method",
    "density",
    "seed",
    "test_accuracy",
    "val_accuracy",
    "test_loss",
    "steps",
    "total_steps",
    "seconds",
    "ticket",
    "ticket_bytes",
    "dense_bytes",
)
RULE_KEYS = ("lr", "step_size")
"""How the scores of a search moved; the step size only where it was not the method's own."""
FURTHER_KEYS = ("multiply_adds", "sampled_accuracy", "drawn_at", "drawn_by", "together")
"""What only some runs have: multiply-adds of the kept weights for one example, mean test accuracy over
sampled masks, the step of an early-bird's draw and whether its masks agreed then (`agreement`) or its time
was up (`patience`), and how many runs were trained as one program."""


def describe_rows(plan: Plan, store: Store, out: Path) -> dict[str, Any]:
    """One row per run of the table, its learning curve, its layers, and the summary over seeds."""
    rows, curves, units = [], [], []
    for spec in plan.rows:
        run = store.run(spec.id)
        result = run.result
        assert result is not None, f"{spec.id} is not finished"
        ticket = os.path.relpath(run.ticket_path(), out) if spec.mask.kind != "none" else None
        row = {**result, "density": spec.density, "ticket": ticket}
        further = {key: result[key] for key in FURTHER_KEYS if key in result}
        if spec.mask.kind == "search":
            rule = {"lr": spec.rule.lr, **spec.mask.options}
            further |= {key: rule[key] for key in RULE_KEYS if key in rule}
        kept = {"kept_density": result["density"], "run": spec.id}
        rows.append({key: row[key] for key in ROW_KEYS} | kept | further)
        named = {"method": spec.method, "density": spec.density, "seed": spec.seed}
        curves.append({**named, "points": run.history()})
        if layers := result.get("layers"):
            about = {"classes": result["classes"], "steps_per_epoch": spec.task.steps_per_epoch}
            units.append({**named, **about, "layers": layers})
    skipped = [{"method": method, "reason": reason} for method, reason in plan.skipped.items()]
    found = {"rows": rows, "summary": summarize(rows), "curves": curves}
    if units:
        found["units"] = units
    found |= plan.decided
    return {**found, "skipped": skipped} if skipped else found


def spread(values: Sequence[float]) -> dict[str, Any]:
    """Values over seeds: n, mean, min, max."""
    return {"n": len(values), "mean": statistics.fmean(values), "min": min(values), "max": max(values)}


def summarize(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Test accuracy over seeds for each method and density: n, mean, min, max."""
    groups: dict[tuple[str, float], list[float]] = {}
    for row in rows:
        groups.setdefault((row["method"], row["density"]), []).append(row["test_accuracy"])
    return [
        {"method": method, "density": density, **spread(values)}
        for (method, density), values in groups.items()
    ]


def describe_machine(device: str, threads: int, jobs: int) -> dict[str, Any]:
    """Versions and hardware, without names of hosts or users."""
    facts: dict[str, Any] = {
        "supermask": version("supermask"),
        "torch": torch.__version__,
        "torchvision": version("torchvision"),
        "timm": version("timm"),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": cpu_name(),
        "device": device,
        "threads": threads,
        "jobs": jobs,
    }
    if device.startswith("cuda") and torch.cuda.is_available():  # else the GPUs are on other machines
        facts["gpu"] = torch.cuda.get_device_name(device)
    return facts


def write_results(document: Mapping[str, Any], out: Path) -> None:
    """Write `results.json` and `results.csv` into `out`."""
    write_json(out / "results.json", document)
    text = io.StringIO()
    keys = list(dict.fromkeys(key for row in document["rows"] for key in row))
    writer = csv.DictWriter(text, keys, lineterminator="\n")
    writer.writeheader()
    writer.writerows(document["rows"])
    write_text(out / "results.csv", text.getvalue())


def cpu_name() -> str:
    """The processor, with its family and model where it says them: names alone are shared by unlike ones."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or "unknown"
    fields = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    if "model name" not in fields:
        return platform.machine()
    known = [
        f"{word} {fields[key]}"
        for word, key in (("family", "cpu family"), ("model", "model"))
        if key in fields
    ]
    return f"{fields['model name']} ({', '.join(known)})" if known else fields["model name"]
