"""`supermask scaling`: how much wider must an untrained network be than a trained one?

Ramanujan et al., "What's Hidden in a Randomly Weighted Neural Network?" (CVPR 2020), set the accuracy of both
against width; Malach et al., "Proving the Lottery Ticket Hypothesis: Pruning is All You Need" (ICML 2020),
prove that some width suffices. Here: accuracy against width for the dense network and for strong tickets at
several densities, and against the bytes of what has to be kept. The crossing width is where a strong ticket
reaches the accuracy of the dense network of width 1, read off between the widths that were run, linearly in
the logarithm of width.
"""

import dataclasses
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from supermask.data import Dataset
from supermask.experiments.compare.command import CompareConfig, plan_compare
from supermask.experiments.config import ConfigError, option
from supermask.experiments.execution.store import Store
from supermask.experiments.plan import Plan
from supermask.experiments.registry import Experiment, register_experiment
from supermask.experiments.results import describe_rows, spread
from supermask.experiments.spec import RunSpec

WIDTH = "width"
"""The argument of networks that scales all hidden layers."""


@dataclass(frozen=True, kw_only=True)
class ScalingConfig(CompareConfig):
    """Fields of `supermask scaling`."""

    widths: tuple[float, ...] = option(
        (0.25, 0.5, 1.0, 2.0), "widths of the network, as multiples of its own"
    )
    methods: tuple[str, ...] = option(("dense", "edge-popup"), "what to compare at every width")
    densities: tuple[float, ...] = option((0.5, 0.1), "fractions of weights kept")
    epochs: float = option(10.0, "passes over the training split")
    batch_size: int = option(128, "images per step, of all ranks together")

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(set(self.widths)) < 2 or len(set(self.widths)) != len(self.widths):
            raise ConfigError("widths", self.widths, "give two widths or more, each once")
        if not all(math.isfinite(width) and width > 0 for width in self.widths):
            raise ConfigError("widths", self.widths, "take positive numbers")
        if WIDTH in self.model_args:
            raise ConfigError("model_args", f"{WIDTH}={self.model_args[WIDTH]}", "give --widths instead")


def plan_scaling(config: ScalingConfig, data: Dataset) -> Plan:
    """The runs of a comparison at every width; `skipped` says at which a method does not apply."""
    graph: dict[str, RunSpec] = {}
    rows: list[RunSpec] = []
    reasons: dict[str, dict[str, list[float]]] = {}
    compared = {field.name: getattr(config, field.name) for field in dataclasses.fields(CompareConfig)}
    for width in sorted(config.widths):
        at = CompareConfig(**{**compared, "model_args": {**config.model_args, WIDTH: str(width)}})
        plan = plan_compare(at, data)
        graph |= {spec.id: spec for spec in plan.graph}
        rows += plan.rows
        for method, reason in plan.skipped.items():
            reasons.setdefault(method, {}).setdefault(reason, []).append(width)
    skipped = {method: _at_widths(found, len(config.widths)) for method, found in reasons.items()}
    return Plan(tuple(graph.values()), tuple(rows), skipped)


def _at_widths(reasons: Mapping[str, Sequence[float]], all_: int) -> str:
    """Why a method does not apply, with the widths, unless it is so at all of them.

    Args:
        reasons: Reason → widths.
        all_: Number of widths.
    """
    said = [
        reason if len(widths) == all_ else f"at width {', '.join(f'{width:g}' for width in widths)}, {reason}"
        for reason, widths in reasons.items()
    ]
    return "; ".join(said)


def describe(plan: Plan, store: Store, out: Path) -> dict[str, Any]:
    """Rows with their width, a point for each method, density and width, and the crossing widths."""
    described = describe_rows(plan, store, out)
    for row, spec in zip(described["rows"], plan.rows, strict=True):
        row[WIDTH] = float(spec.task.model_args[WIDTH])
    points = points_of(described["rows"])
    return {
        "rows": described["rows"],
        "curves": described["curves"],
        "points": points,
        "crossings": crossings(described["rows"]),
        **({"skipped": described["skipped"]} if "skipped" in described else {}),
    }


def points_of(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Test accuracy over seeds and mean bytes, for each method, density and width."""
    groups: dict[tuple[str, float, float], list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["method"], row["density"], row[WIDTH]), []).append(row)
    points = []
    for (method, density, width), own in groups.items():
        key = "dense_bytes" if method == "dense" else "ticket_bytes"
        summary = spread([row["test_accuracy"] for row in own])
        size = statistics.fmean(row[key] for row in own)
        points.append({"method": method, "density": density, WIDTH: width, **summary, "bytes": size})
    return points


def crossings(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Width at which each other method reaches the dense network of the width nearest to 1, seed by seed.

    `widths` has an entry for each seed, None where the widest that was run does not reach it.
    """
    dense = {(row["seed"], row[WIDTH]): row["test_accuracy"] for row in rows if row["method"] == "dense"}
    if not dense:
        return []
    reference = min({width for _, width in dense}, key=lambda width: abs(math.log(width)))
    cells = dict.fromkeys((r["method"], r["density"]) for r in rows if r["method"] != "dense")
    found = []
    for method, density in cells:
        own = [row for row in rows if (row["method"], row["density"]) == (method, density)]
        by_seed: dict[int, list[tuple[float, float]]] = {}
        for row in own:
            by_seed.setdefault(row["seed"], []).append((row[WIDTH], row["test_accuracy"]))
        widths = [
            crossing(sorted(curve), dense[seed, reference])
            for seed, curve in by_seed.items()
            if (seed, reference) in dense
        ]
        found.append({"method": method, "density": density, "reference": reference, "widths": widths})
    return found


def crossing(curve: Sequence[tuple[float, float]], goal: float) -> float | None:
    """The width at which accuracy reaches `goal`, between the last width below it and the next.

    Args:
        curve: (width, accuracy), by rising width.

    Returns:
        None where the widest does not reach it; the narrowest width where that one does.
    """
    if curve[-1][1] < goal:
        return None
    below = [index for index, (_, accuracy) in enumerate(curve) if accuracy < goal]
    if not below:
        return curve[0][0]
    (first, low), (second, high) = curve[below[-1]], curve[below[-1] + 1]
    share = (goal - low) / (high - low)
    return math.exp(math.log(first) + share * (math.log(second) - math.log(first)))


register_experiment(
    Experiment(
        "scaling",
        "accuracy against width and bytes: how much wider must an untrained network be",
        ScalingConfig,
        plan_scaling,
        describe,
    )
)
