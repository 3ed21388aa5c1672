"""Plans: the graph of runs behind each command, and which of them make rows of its table."""

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from supermask.data import Dataset
from supermask.experiments.config import CompareConfig, ConfigError, ImpConfig, SearchConfig, TaskConfig
from supermask.experiments.execute import SPLIT_SEED
from supermask.experiments.spec import MaskSource, Rule, RunSpec, Task, WeightSource
from supermask.mask import allocate, keep_count
from supermask.models import create_model
from supermask.parameters import ParameterInfo, masked
from supermask.prune import density_path, round_counts
from supermask.prune.controls import reinit_seed


@dataclass(frozen=True)
class Plan:
    """Runs to execute; `rows` are those that stand in the table, `graph` holds the ones they need too."""

    graph: tuple[RunSpec, ...]
    rows: tuple[RunSpec, ...]


def task_of(config: TaskConfig, data: Dataset) -> Task:
    """The task that a configuration means on this data set: epochs become steps."""
    train, _ = data.split(config.val_fraction, seed=SPLIT_SEED)
    per_epoch = max(1, len(train) // config.batch_size)
    steps = max(1, round(config.epochs * per_epoch))
    warmup = round(config.warmup_epochs * per_epoch)
    if warmup > steps:
        raise ConfigError("warmup_epochs", config.warmup_epochs, f"stay below --epochs {config.epochs}")
    return Task(
        data=config.data,
        data_hash=data.fingerprint,
        image_size=config.image_size,
        val_fraction=config.val_fraction,
        model=config.model,
        model_args=parse_arguments(config.model_args),
        steps=steps,
        batch_size=config.batch_size,
        augment=config.augment,
        schedule=config.schedule,
        warmup_steps=warmup,
        milestones=tuple(round(epoch * per_epoch) for epoch in config.milestones),
        label_smoothing=config.label_smoothing,
        clip=config.clip,
        amp=config.amp,
    )


def parse_arguments(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Values of `--model-args key=value`: numbers and booleans as such, the rest as text."""

    def parse(value: Any) -> Any:
        if not isinstance(value, str):
            return value
        if value.lower() in ("true", "false"):
            return value.lower() == "true"
        for kind in (int, float):
            try:
                return kind(value)
            except ValueError:
                continue
        return value

    return {key: parse(value) for key, value in arguments.items()}


def layers_of(task: Task, data: Dataset) -> list[ParameterInfo]:
    """The masked parameters of the task's network, built without memory for them."""
    with torch.device("meta"):
        model = create_model(
            task.model,
            num_classes=data.num_classes,
            in_channels=data.in_channels,
            image_size=data.image_size,
            **task.model_args,
        )
    return masked(model)


def rule_of(config: SearchConfig | ImpConfig | CompareConfig) -> Rule:
    """The rule that a command moves by: scores in a search, weights otherwise."""
    return Rule(
        optimizer=config.optimizer,
        lr=config.lr,
        momentum=config.momentum,
        nesterov=config.nesterov,
        weight_decay=config.weight_decay,
    )


def plan_search(config: SearchConfig, data: Dataset) -> Plan:
    """One strong ticket."""
    task = task_of(config, data)
    mask = MaskSource(kind="search", density=config.density, distribution=config.distribution)
    rescale_by = _rescale(layers_of(task, data), mask) if config.rescale else 1.0
    spec = _search(task, config.method, rule_of(config), mask, config.init, rescale_by, config.seed)
    return Plan((spec,), (spec,))


def plan_imp(config: ImpConfig, data: Dataset) -> Plan:
    """The dense network, a ticket per round, and the reinit controls if wanted."""
    task, seed = task_of(config, data), config.seed
    if config.rewind_to >= task.steps:
        raise ConfigError("rewind_to", config.rewind_to, f"stay below the {task.steps} steps of a training")
    rule = rule_of(config)
    infos = layers_of(task, data)
    weights = WeightSource(init=config.init, seed=seed)
    dense = _train("dense", task, rule, weights, seed, snapshot=config.rewind_to or None)
    method = "lr-rewind" if config.rewind == "lr" else "imp-rewind" if config.rewind_to else "imp"
    rows, parent = [dense], dense
    for round in range(1, config.rounds + 1):
        keep = round_counts(
            infos,
            round,
            config.rate,
            conv_rate=config.conv_rate,
            output_rate=config.output_rate,
            scope=config.scope,
        )
        start = weights
        if config.rewind == "lr":
            start = WeightSource(init=config.init, seed=seed, run=parent.id)
        elif config.rewind_to:
            start = WeightSource(init=config.init, seed=seed, run=dense.id, step=config.rewind_to)
        parent = _train(
            method,
            task,
            rule,
            start,
            seed,
            mask=MaskSource(kind="magnitude", run=parent.id, keep=keep),
            density=_density(keep, infos),
            start=config.rewind_to,
        )
        rows.append(parent)
        if config.reinit:
            rows.append(_reinit(task, rule, config.init, seed, parent))
    return Plan(tuple(rows), tuple(rows))


def plan_compare(config: CompareConfig, data: Dataset) -> Plan:
    """Every method at every density with every seed."""
    task = task_of(config, data)
    rewind_to = max(1, round(0.05 * task.steps)) if config.rewind_to is None else config.rewind_to
    if not 0 < rewind_to < task.steps:
        raise ConfigError("rewind_to", rewind_to, f"take a step between 1 and {task.steps - 1}")
    infos = layers_of(task, data)
    graph, rows = [], []
    for seed in config.seeds:
        for spec, is_row in _compare_seed(config, task, infos, rewind_to, seed):
            graph.append(spec)
            if is_row:
                rows.append(spec)
    needed = {row.id for row in rows}
    for spec in reversed(graph):
        if spec.id in needed:
            needed.update(spec.needs)
    rows.sort(key=lambda row: (config.methods.index(row.method), -row.density, config.seeds.index(row.seed)))
    return Plan(tuple(spec for spec in graph if spec.id in needed), tuple(rows))


def _compare_seed(
    config: CompareConfig, task: Task, infos: list[ParameterInfo], rewind_to: int, seed: int
) -> Iterator[tuple[RunSpec, bool]]:
    """All runs of one seed, parents first, each with whether it is a row."""
    rule = rule_of(config)
    weights = WeightSource(init=config.init, seed=seed)
    wanted = set(config.methods)
    densities = [d for d in config.densities if d < 1] or list(config.densities)
    dense = _train("dense", task, rule, weights, seed, snapshot=rewind_to)
    yield dense, "dense" in wanted
    yield from ((spec, spec.method in wanted) for spec in _untrained(config, task, infos, seed))
    rewound = WeightSource(init=config.init, seed=seed, run=dense.id, step=rewind_to)
    for method, source, start in (("imp", weights, 0), ("imp-rewind", rewound, rewind_to)):
        parent = dense
        for density in density_path(densities, config.rate):
            keep = _keep(infos, density, config.scope)
            mask = MaskSource(kind="magnitude", run=parent.id, keep=keep)
            parent = _train(method, task, rule, source, seed, mask=mask, density=density, start=start)
            at_target = density in densities
            yield parent, at_target and method in wanted
            if at_target and method == "imp":
                yield _reinit(task, rule, config.init, seed, parent), "reinit" in wanted
                shuffled = MaskSource(kind="shuffle", run=parent.id)
                control = _train("shuffled-mask", task, rule, weights, seed, mask=shuffled, density=density)
                yield control, "shuffled-mask" in wanted
    for density in densities:
        mask = MaskSource(kind="magnitude", run=dense.id, keep=_keep(infos, density, config.scope))
        one_shot = _train("one-shot", task, rule, weights, seed, mask=mask, density=density)
        yield one_shot, "one-shot" in wanted
        mask = MaskSource(kind="random", keep=_counts(infos, density))
        yield (
            _train("random-mask", task, rule, weights, seed, mask=mask, density=density),
            "random-mask" in wanted,
        )


def _untrained(config: CompareConfig, task: Task, infos: list[ParameterInfo], seed: int) -> Iterator[RunSpec]:
    """Strong tickets and their control, at every density."""
    rule = dataclasses.replace(
        rule_of(config),
        optimizer=config.search_optimizer,
        lr=config.search_lr,
        weight_decay=config.search_weight_decay,
    )
    for density in config.densities:
        source = MaskSource(kind="search", density=density, distribution=config.distribution)
        rescale_by = _rescale(infos, source) if config.rescale else 1.0
        searched = _search(task, "edge-popup", rule, source, config.search_init, rescale_by, seed)
        yield searched
        if config.distribution == "global":
            # Only the search knows how many weights each layer keeps.
            control = MaskSource(kind="shuffle", run=searched.id)
        else:
            counts = _counts(infos, density, config.distribution)
            control = MaskSource(kind="random", keep=counts, distribution=config.distribution)
        yield RunSpec(
            method="random-mask-frozen",
            kind="frozen",
            task=task,
            rule=rule,
            weights=searched.weights,
            seed=seed,
            mask=control,
            density=density,
        )


def _search(
    task: Task,
    method: str,
    rule: Rule,
    mask: MaskSource,
    init: str,
    rescale_by: float | dict[str, float],
    seed: int,
) -> RunSpec:
    return RunSpec(
        method=method,
        kind="search",
        task=task,
        rule=rule,
        weights=WeightSource(init=init, seed=seed, rescale_by=rescale_by),
        seed=seed,
        mask=mask,
        density=mask.density,
    )


def _rescale(infos: list[ParameterInfo], mask: MaskSource) -> float | dict[str, float]:
    """The density that each layer is rescaled for: its own where the distribution fixes it."""
    if mask.distribution in ("uniform", "global"):
        return mask.density
    counts = _counts(infos, mask.density, mask.distribution)
    return {info.name: counts[info.name] / info.tensor.numel() for info in infos}


def _train(
    method: str,
    task: Task,
    rule: Rule,
    weights: WeightSource,
    seed: int,
    *,
    mask: MaskSource | None = None,
    density: float = 1.0,
    start: int = 0,
    snapshot: int | None = None,
) -> RunSpec:
    return RunSpec(
        method=method,
        kind="train",
        task=task,
        rule=rule,
        weights=weights,
        seed=seed,
        mask=mask or MaskSource(),
        density=density,
        start=start,
        snapshot=snapshot,
    )


def _reinit(task: Task, rule: Rule, init: str, seed: int, ticket: RunSpec) -> RunSpec:
    weights = WeightSource(init=init, seed=reinit_seed(seed))
    mask = MaskSource(kind="same", run=ticket.id)
    return _train("reinit", task, rule, weights, seed, mask=mask, density=ticket.density)


def _counts(infos: list[ParameterInfo], density: float, distribution: str = "uniform") -> dict[str, int]:
    return allocate({info.name: info.tensor.shape for info in infos}, density, distribution)


def _keep(infos: list[ParameterInfo], density: float, scope: str) -> dict[str, int] | int:
    if scope == "global":
        return keep_count(sum(info.tensor.numel() for info in infos), density)
    return _counts(infos, density)


def _density(keep: dict[str, int] | int, infos: list[ParameterInfo]) -> float:
    total = sum(info.tensor.numel() for info in infos)
    return (keep if isinstance(keep, int) else sum(keep.values())) / total
