"""Plans: the graph of runs behind each command, and which of them make rows of its table."""

import copy
import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache, partial

import torch
from torch import nn

from supermask.data import Dataset
from supermask.experiments.compare.methods import METHODS, NotApplicable
from supermask.experiments.config import (
    CompareConfig,
    ConfigError,
    ImpConfig,
    SearchConfig,
    TaskConfig,
    refusals,
)
from supermask.experiments.datasets import split
from supermask.experiments.execution.context import network_of
from supermask.experiments.searches import asked, check_search, parse_arguments, rule_of
from supermask.experiments.setting import Comparison, Setting, check_weights_left, rescaling, search_run
from supermask.experiments.spec import MaskSource, RunSpec, Task, WeightSource
from supermask.models import UnknownModelError
from supermask.prune import FilterLayer, filter_layers, round_counts
from supermask.weights.roles import ParameterInfo, classify, masked

SMALL = 64
"""Pixels a side from which on images are large enough for any network."""
MOST_STEPS = 10**12
"""Steps of a training; at a microsecond each they take eleven days."""


@dataclass(frozen=True)
class Plan:
    """Runs to execute.

    Attributes:
        graph: All of them.
        rows: Those that stand in the table.
        skipped: Methods that have no meaning for the network, with the reason.
    """

    graph: tuple[RunSpec, ...]
    rows: tuple[RunSpec, ...]
    skipped: Mapping[str, str] = field(default_factory=dict)


def task_of(config: TaskConfig, data: Dataset) -> Task:
    """The task that a configuration means on this data set: epochs become steps."""
    per_epoch = steps_per_epoch(config, data)
    steps = round(config.epochs * per_epoch)
    if not 1 <= steps <= MOST_STEPS:
        remedy = (
            f"take at least {1 / per_epoch:.2g}: an epoch has {per_epoch} steps of {config.batch_size} images"
        )
        if steps > 1:
            remedy = f"take at most {MOST_STEPS / per_epoch:.2g}, which are {MOST_STEPS:.0e} steps"
        raise ConfigError("epochs", config.epochs, remedy)
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
        decay=config.decay,
        label_smoothing=config.label_smoothing,
        clip=config.clip,
        amp=config.amp,
        # Leave to leave out what is not there changes nothing.
        selection=dataclasses.replace(config.selection, allow_corrupt=data.left_out > 0),
    )


def steps_per_epoch(config: TaskConfig, data: Dataset) -> int:
    """Steps that see every training image once.

    Raises:
        ConfigError: There are fewer images than a batch has.
    """
    train, _ = split(data, config.val_fraction)
    if config.batch_size > len(train):
        remedy = f"take at most {len(train)}, the training images"
        if config.val_fraction:
            remedy += f" that --val-fraction {config.val_fraction:g} leaves"
        raise ConfigError("batch_size", config.batch_size, remedy)
    return len(train) // config.batch_size


def layers_of(task: Task, data: Dataset) -> list[ParameterInfo]:
    """The masked parameters of the task's network; see `planned_network`."""
    return masked(planned_network(task, data))


def planned_network(task: Task, data: Dataset) -> nn.Module:
    """The task's network without memory for its parameters, once it has taken images of the data set's size.

    Raises:
        ConfigError: The network cannot be built with its arguments, or fails on such images.
        UnknownModelError: There is no network of that name.
    """
    try:
        with torch.device("meta"):
            model = network_of(task, data).eval()
    except UnknownModelError:
        raise
    except Exception as error:
        # Networks of other libraries raise nearly anything for an argument that they do not have.
        given = " ".join(f"{name}={value}" for name, value in task.model_args.items())
        name, value = ("model_args", given) if given else ("model", task.model)
        raise ConfigError(name, value, f"the network cannot be built: {_line(error)}") from None
    if data.image_size < SMALL and (failure := _failure(task, data, model)):
        size = f"{data.image_size}x{data.image_size}"
        remedy = (
            f"take another --image-size or network; it fails on images of {size} pixels: {_line(failure)}"
        )
        raise ConfigError("model", task.model, remedy)
    return model


@torch.no_grad()
def _failure(task: Task, data: Dataset, model: nn.Module) -> Exception | None:
    """What a network raises for two images, if it does: one of zeros, and then also one that is drawn.

    Zeros cost next to nothing, but what a network keeps beside parameters and buffers has no values here.
    """
    images = torch.zeros(2, data.in_channels, data.image_size, data.image_size)
    zeros = copy.deepcopy(model).to_empty(device="cpu")
    for tensor in (*zeros.parameters(), *zeros.buffers()):
        tensor.zero_()
    try:
        zeros(images)
    except Exception:
        try:
            network_of(task, data).eval()(images)
        except Exception as error:
            return error
    return None


def _line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def filter_layers_of(task: Task, data: Dataset) -> dict[str, FilterLayer]:
    """The layers of the task's network that can lose filters."""
    example = torch.zeros(1, data.in_channels, data.image_size, data.image_size)
    return filter_layers(network_of(task, data), example)


def plan_search(config: SearchConfig, data: Dataset) -> Plan:
    """One strong ticket."""
    task = task_of(config, data)
    rule, mask, infos = rule_of(config), asked(config), layers_of(task, data)
    check_weights_left("density", (config.density,), infos)
    with refusals("method_args"):
        check_search(
            config.method,
            rule,
            mask,
            steps=task.steps,
            steps_per_epoch=steps_per_epoch(config, data),
            label_smoothing=config.label_smoothing,
            shapes={info.name: tuple(info.tensor.shape) for info in infos},
        )
    rescale_by = rescaling(config.method, infos, mask) if config.rescale else 1.0
    weights = WeightSource(init=config.init, seed=config.seed, rescale_by=rescale_by)
    spec = search_run(task, config.method, rule, mask, weights, config.seed)
    return Plan((spec,), (spec,))


def plan_imp(config: ImpConfig, data: Dataset) -> Plan:
    """The dense network, a ticket per round, and the reinit controls if wanted, for every seed."""
    task = task_of(config, data)
    if config.rewind_to >= task.steps:
        raise ConfigError("rewind_to", config.rewind_to, f"stay below the {task.steps} steps of a training")
    infos = layers_of(task, data)
    _check_rounds(config, infos)
    rows: list[RunSpec] = []
    for seed in config.seeds:
        rows += _rounds(config, Setting(task, infos, rule_of(config), config.init, seed))
    return Plan(tuple(rows), tuple(rows))


def _rounds(config: ImpConfig, setting: Setting) -> Iterator[RunSpec]:
    dense = setting.train("dense", snapshots=(config.rewind_to,) if config.rewind_to else ())
    rewound = "lr-rewind" if config.rewind == "lr" else "imp-rewind" if config.rewind_to else "imp"
    method = "-".join([rewound, *config.variants])
    # Runs of magnitude pruning are what they were before there was a choice.
    kind = "magnitude" if config.criterion == "large-final" else "criterion"
    yield dense
    parent = dense
    for round in range(1, config.rounds + 1):
        keep = _counts(config, setting.infos, round)
        weights = dataclasses.replace(setting.weights, signs=config.signs)
        if config.rewind == "lr":
            weights = dataclasses.replace(weights, run=parent.id)
        elif config.rewind_to:
            weights = dataclasses.replace(weights, run=dense.id, step=config.rewind_to)
        parent = setting.train(
            method,
            weights=weights,
            mask=MaskSource(
                kind=kind,
                run=parent.id,
                keep=keep,
                criterion=config.criterion,
                alpha=config.alpha,
                pruned=config.pruned,
            ),
            density=_density(keep, setting),
            start=config.rewind_to,
        )
        yield parent
        if config.reinit:
            yield setting.reinit(parent)


def _check_rounds(config: ImpConfig, infos: list[ParameterInfo]) -> None:
    """Refuse what depends on the network: a rate of layers that it lacks, more rounds than it has weights."""
    try:
        _counts(config, infos, 1)
    except ValueError as error:
        raise ConfigError("conv_rate", config.conv_rate, str(error)) from None
    before = sum(info.tensor.numel() for info in infos)
    for round in range(1, config.rounds + 1):
        keep = _counts(config, infos, round)
        left = keep if isinstance(keep, int) else sum(keep.values())
        if left == before:
            remedy = f"take at most {round - 1}, or another --rate: round {round} would prune nothing"
            raise ConfigError("rounds", config.rounds, remedy)
        if left < len(infos):
            remedy = (
                f"take at most {round - 1}: round {round} would leave {left} weights to {len(infos)} layers"
            )
            raise ConfigError("rounds", config.rounds, remedy)
        before = left


def _counts(config: ImpConfig, infos: list[ParameterInfo], round: int) -> dict[str, int] | int:
    """Weights left after a round."""
    return round_counts(
        infos,
        round,
        config.rate,
        conv_rate=config.conv_rate,
        output_rate=config.output_rate,
        scope=config.scope,
    )


def _density(keep: dict[str, int] | int, setting: Setting) -> float:
    return (keep if isinstance(keep, int) else sum(keep.values())) / setting.weight_count


def plan_compare(config: CompareConfig, data: Dataset) -> Plan:
    """Every method at every density with every seed."""
    task = task_of(config, data)
    rewind_to = max(1, round(0.05 * task.steps)) if config.rewind_to is None else config.rewind_to
    if config.rewind_to is not None and not 0 < rewind_to < task.steps:
        remedy = f"take a step from 1 to {task.steps - 1}" if task.steps > 1 else "leave it out"
        raise ConfigError("rewind_to", rewind_to, f"{remedy}: a training has {task.steps} steps")
    parameters = classify(planned_network(task, data))
    check_weights_left("densities", config.densities, [info for info in parameters if info.role == "masked"])
    filters = cache(partial(filter_layers_of, task, data))
    per_epoch = steps_per_epoch(config, data)
    parts = [
        Comparison(config, task, parameters, rewind_to, seed, filters, per_epoch) for seed in config.seeds
    ]
    rows: list[RunSpec] = []
    skipped: dict[str, str] = {}
    for method in config.methods:
        try:
            rows += [row for part in parts for row in METHODS[method](part)]
        except NotApplicable as error:
            if not config.everything:
                raise ConfigError("methods", method, f"leave it out: {error}") from None
            skipped[method] = str(error)
    rows.sort(key=lambda row: (config.methods.index(row.method), -row.density, config.seeds.index(row.seed)))
    return Plan(tuple(spec for part in parts for spec in part.graph.values()), tuple(rows), skipped)
