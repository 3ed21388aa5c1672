"""`supermask stability`: does the noise of SGD decide where training ends?

Frankle et al., "Linear Mode Connectivity and the Lottery Ticket Hypothesis" (ICML 2020), figures 2 and 3:
copies of a network are trained from step k on with different data orders, and the error is measured along the
line between each two of them; for dense networks and for tickets rewound to k.

All copies begin alike, with the weights of step k and the optimizer at rest, as in the authors' code
(open_lth), where every training from a step makes a new optimizer. So all copies of a dense network at k > 0
are trainings of their own; none is the rest of the training that led to k, whose optimizer had its momentum.
At k = 0, and of a ticket, which IMP trains from k on, the network itself is the first copy. Deviation: norms
get new statistics at every point of a line.
"""

import dataclasses
import statistics
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

from supermask.analysis.connectivity import POINTS, STABLE_BELOW, line
from supermask.data import Dataset
from supermask.experiments.config import ConfigError, RuleConfig, check_densities, check_distinct, option
from supermask.experiments.execution.store import Store
from supermask.experiments.plan import Plan, layers_of, task_of
from supermask.experiments.registry import Experiment, register_experiment
from supermask.experiments.runs import RunBuilder, check_weights_left
from supermask.experiments.spec import MaskSource, RunSpec
from supermask.prune.magnitude import SCOPES
from supermask.weights.init import INITS

STARTS = (0.0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5)
MOST_POINTS = 1000
"""Copies of a network, and points on a line, that can be asked for."""


@dataclass(frozen=True, kw_only=True)
class StabilityConfig(RuleConfig):
    """Fields of `supermask stability`."""

    jobs: int = option(0, "runs at a time, each in a process of its own; 0 means one per core, one on a GPU")
    starts: tuple[float, ...] = option(STARTS, "where copies part, as fractions of the training")
    orders: int = option(3, "copies, each with a data order of its own; the paper has 3")
    seeds: tuple[int, ...] = option((0, 1, 2), "seeds of initializations; the paper has 3")
    densities: tuple[float, ...] = option((), "densities of IMP tickets to examine beside the dense network")
    points: int = option(POINTS, "points on the line between two networks, its ends among them")
    init: str = option("kaiming_normal", "distribution of the initial weights", choices=INITS)
    rate: float = option(0.2, "IMP prunes about this fraction of the survivors per round")
    scope: str = option("layerwise", "rank weights per layer or over the network", choices=SCOPES)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_distinct(self, "seeds", "starts")
        check_densities(self)
        for start in self.starts:
            if not 0 <= start < 1:
                raise ConfigError("starts", start, "take fractions of the training in [0, 1)")
        for name in ("orders", "points"):
            if not 2 <= getattr(self, name) <= MOST_POINTS:
                raise ConfigError(name, getattr(self, name), f"take from 2 to {MOST_POINTS}")


def plan_stability(config: StabilityConfig, data: Dataset) -> Plan:
    """Networks first, then the lines between them, which are the rows."""
    task = task_of(config, data)
    infos = layers_of(task, data)
    check_weights_left("densities", config.densities, infos)
    # A step is left to every copy: those that make none are one network, and could not be unstable.
    starts = sorted({min(round(start * task.steps), task.steps - 1) for start in config.starts})
    graph: list[RunSpec] = []
    rows: list[RunSpec] = []
    for seed in config.seeds:
        builder = RunBuilder(task, infos, config.rule, config.init, seed)
        dense = builder.train("dense", snapshots=tuple(start for start in starts if start))
        for start in starts:
            rows += _lines(builder, config, dense, dense, start)
            tickets = builder.prune_iteratively(
                "imp-rewind" if start else "imp",
                dense,
                config.densities,
                rate=config.rate,
                scope=config.scope,
                rewind_to=start,
            )
            for ticket in tickets.values():
                rows += _lines(builder, config, dense, ticket, start)
        graph += builder.graph.values()
    return Plan(tuple(graph), tuple(rows))


def _lines(
    builder: RunBuilder, config: StabilityConfig, dense: RunSpec, network: RunSpec, start: int
) -> Iterator[RunSpec]:
    """The lines between copies of `network` that part at step `start`.

    It is the first copy itself where it begins there.
    """
    weights = builder.weights
    if start:
        weights = dataclasses.replace(weights, run=dense.id, step=start)
    mask = MaskSource() if network is dense else MaskSource(kind="same", run=network.id)
    copies = [
        network
        if order == 0 and network.start == start
        else builder.train(
            f"{network.method}-copy",
            weights=weights,
            mask=mask,
            density=network.density,
            seed=order_seed(builder.seed, order),
            start=start,
        )
        for order in range(config.orders)
    ]
    for first, second in combinations(copies, 2):
        yield builder.train(
            "dense" if network is dense else "imp",
            kind="path",
            weights=dataclasses.replace(builder.weights, run=first.id),
            density=network.density,
            start=start,
            others=(second.id,),
            options={"points": config.points},
        )


def order_seed(seed: int, order: int) -> int:
    """The seed of data order number `order` for an initialization; from 1 on far from seeds people choose."""
    return (seed + (order << 48)) % (1 << 64)


def order_of(seed: int, initialization: int) -> int:
    """The number of the data order that `order_seed` made a seed of; 0 for all other seeds."""
    order, rest = divmod((seed - initialization) % (1 << 64), 1 << 48)
    return 0 if rest else order


def describe(plan: Plan, store: Store, out: Path) -> dict[str, Any]:
    """Rows of instabilities, the errors along every line, and the summary over initializations and orders."""
    rows, lines = [], []
    for spec in plan.rows:
        result = store.run(spec.id).result
        assert result is not None, f"{spec.id} is not finished"
        errors = result["errors"]
        row = {"method": spec.method, "density": spec.density, "seed": spec.seed, "step": spec.start}
        accuracy = 1 - (errors[0] + errors[-1]) / 2
        rows.append({**row, "instability": result["instability"], "accuracy": accuracy, "run": spec.id})
        lines.append({**row, "alphas": line(len(errors)), "errors": errors})
    return {"rows": rows, "lines": lines, "stability": summarize(rows), "steps": plan.rows[0].task.steps}


def summarize(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Mean, standard deviation and range of the instability for each density and step."""
    groups: dict[tuple[str, float, int], list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["method"], row["density"], row["step"]), []).append(row)
    summary = []
    for (method, density, step), members in sorted(
        groups.items(), key=lambda item: (-item[0][1], item[0][2])
    ):
        values = [row["instability"] for row in members]
        summary.append(
            {
                "method": method,
                "density": density,
                "step": step,
                "n": len(values),
                "mean": statistics.fmean(values),
                "std": statistics.stdev(values) if len(values) > 1 else None,
                "min": min(values),
                "max": max(values),
                "stable": statistics.fmean(values) < STABLE_BELOW,
                "accuracy": statistics.fmean(row["accuracy"] for row in members),
            }
        )
    return summary


register_experiment(
    Experiment(
        "stability",
        "does the noise of SGD decide where training ends: error along lines between networks",
        StabilityConfig,
        plan_stability,
        describe,
    )
)
