"""`supermask transfer`: does a ticket found on one data set, or with one optimizer, serve another?

Morcos et al., "One ticket to win them all: generalizing lottery ticket initializations across datasets and
optimizers" (NeurIPS 2019). Every ticket is found by iterative magnitude pruning at its source and trained
from the same initialization at every target. Controls at each target: a random mask of the same density, and
the dense network. Deviation: where the numbers of classes differ, the output layer of the target takes a
random mask of the same density, since the ticket has none of its shape; the paper keeps it dense.
"""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from supermask.data import DataError, Dataset
from supermask.experiments.config import ConfigError, RuleConfig, check_densities, check_distinct, option
from supermask.experiments.datasets import dataset
from supermask.experiments.execution.store import Store
from supermask.experiments.plan import Plan, layers_of, task_of
from supermask.experiments.registry import Experiment, register_experiment
from supermask.experiments.results import describe_rows, spread
from supermask.experiments.runs import RunBuilder, check_weights_left
from supermask.experiments.spec import MaskSource, OptimizerSpec, RunSpec, Task
from supermask.prune.magnitude import SCOPES
from supermask.search import BASES
from supermask.weights.init import INITS
from supermask.weights.roles import ParameterInfo

ADAPTIVE = ("adam", "adamw")
RANDOM, DENSE = "random mask", "dense"
"""Rows of the matrix that are no tickets."""


@dataclass(frozen=True, kw_only=True)
class TransferConfig(RuleConfig):
    """Fields of `supermask transfer`."""

    jobs: int = option(0, "runs at a time, each in a process of its own; 0 means one per core, one on a GPU")
    places: tuple[str, ...] = option(
        (), "where tickets are found and trained: data sets, each with :optimizer if not --optimizer"
    )
    densities: tuple[float, ...] = option((0.3, 0.1), "densities of the tickets")
    seeds: tuple[int, ...] = option((0, 1, 2), "seeds; the same initialization everywhere for each")
    adaptive_lr: float = option(1e-3, "learning rate where the optimizer is adam or adamw")
    init: str = option("kaiming_normal", "distribution of the initial weights", choices=INITS)
    rate: float = option(0.2, "IMP prunes about this fraction of the survivors per round")
    scope: str = option("layerwise", "rank weights per layer or over the network", choices=SCOPES)
    rewind_to: int = option(0, "step that tickets are rewound to; 0 is initialization")

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.places) < 2:
            raise ConfigError(
                "places", self.places, "name two or more, such as mnist fashion-mnist mnist:adam"
            )
        check_distinct(self, "places", "seeds", "densities")
        check_densities(self)
        for place in self.places:
            optimizer = place.partition(":")[2]
            if optimizer and optimizer not in BASES:
                raise ConfigError("places", place, f"name one of {', '.join(BASES)} after the colon")
        for density in self.densities:
            if density == 1:
                raise ConfigError("densities", density, "stay below 1; the dense network is there anyway")
        if self.rewind_to < 0:
            raise ConfigError("rewind_to", self.rewind_to, "take a step from 0 on")


def plan_transfer(config: TransferConfig, data: Dataset) -> Plan:
    """Tickets at every place, then every ticket trained at every other place; rows by target and source."""
    at = {place: _place(config, place) for place in config.places}
    graph: dict[str, RunSpec] = {}
    rows: list[RunSpec] = []
    for seed in config.seeds:
        builders = {
            place: RunBuilder(task, infos, rule, config.init, seed)
            for place, (task, infos, rule) in at.items()
        }
        dense = {
            place: builder.train(
                "dense",
                snapshots=(config.rewind_to,) if config.rewind_to else (),
                options=_label(DENSE, place),
            )
            for place, builder in builders.items()
        }
        found = {place: _tickets(config, builder, dense[place]) for place, builder in builders.items()}
        for builder in builders.values():
            graph |= builder.graph
        for target, builder in builders.items():
            rows.append(dense[target])
            weights = builder.weights
            if config.rewind_to:
                weights = dataclasses.replace(weights, run=dense[target].id, step=config.rewind_to)
            for density in config.densities:
                masks = {
                    source: MaskSource(kind="transferred", run=tickets[density].id)
                    for source, tickets in found.items()
                }
                masks[RANDOM] = MaskSource(kind="random", keep=builder.counts(density))
                rows += [
                    builder.train(
                        "random-mask" if source == RANDOM else "imp" if source == target else "transferred",
                        weights=weights,
                        mask=mask,
                        density=density,
                        start=config.rewind_to,
                        options=_label(source, target),
                    )
                    for source, mask in masks.items()
                ]
            graph |= builder.graph
    return Plan(tuple(graph.values()), tuple(rows))


def _label(source: str, target: str) -> dict[str, str]:
    return {"source": source, "target": target}


def _place(config: TransferConfig, place: str) -> tuple[Task, list[ParameterInfo], OptimizerSpec]:
    """Task, masked parameters and rule of a data set with, after a colon, an optimizer."""
    name, _, optimizer = place.partition(":")
    rule = config.rule
    if optimizer:
        lr = config.adaptive_lr if optimizer in ADAPTIVE else config.lr
        rule = dataclasses.replace(rule, optimizer=optimizer, lr=lr)
    try:
        data = dataset(name, config.data_root, config.image_size, config.selection, config.cache)
    except DataError as error:
        error.flag = "places"
        raise
    task = task_of(dataclasses.replace(config, data=name), data)
    if config.rewind_to >= task.steps:
        raise ConfigError("rewind_to", config.rewind_to, f"stay below the {task.steps} steps on {name}")
    infos = layers_of(task, data)
    check_weights_left("densities", config.densities, infos)
    return task, infos, rule


def _tickets(config: TransferConfig, builder: RunBuilder, dense: RunSpec) -> dict[float, RunSpec]:
    return builder.prune_iteratively(
        "imp-rewind" if config.rewind_to else "imp",
        dense,
        config.densities,
        rate=config.rate,
        scope=config.scope,
        rewind_to=config.rewind_to,
    )


def describe(plan: Plan, store: Store, out: Path) -> dict[str, Any]:
    """Rows with source and target, and the matrix of mean accuracies at each density."""
    described = describe_rows(plan, store, out)
    for row, spec in zip(described["rows"], plan.rows, strict=True):
        row |= spec.options
    groups: dict[tuple[float, str, str], list[float]] = {}
    for row in described["rows"]:
        cell = (row["density"], row["source"], row["target"])
        groups.setdefault(cell, []).append(row["test_accuracy"])
    matrix = [
        {"density": density, "source": source, "target": target, **spread(values)}
        for (density, source, target), values in groups.items()
    ]
    return {"rows": described["rows"], "curves": described["curves"], "matrix": matrix}


register_experiment(
    Experiment(
        "transfer",
        "do tickets found on one data set, or with one optimizer, serve another",
        TransferConfig,
        plan_transfer,
        describe,
    )
)
