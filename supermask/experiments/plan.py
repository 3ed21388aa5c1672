"""Plans: the graph of runs behind each command, and which of them make rows of its table."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch

from supermask.data import Dataset
from supermask.experiments.config import ConfigError, TaskConfig
from supermask.experiments.datasets import split
from supermask.experiments.execution.context import network_of
from supermask.experiments.searches import parse_arguments
from supermask.experiments.spec import RunSpec, Task
from supermask.prune import FilterLayer, filter_layers
from supermask.weights.roles import ParameterInfo, masked


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
        decay=config.decay,
        label_smoothing=config.label_smoothing,
        clip=config.clip,
        amp=config.amp,
        # Leave to leave out what is not there changes nothing.
        selection=dataclasses.replace(config.selection, allow_corrupt=data.left_out > 0),
    )


def steps_per_epoch(config: TaskConfig, data: Dataset) -> int:
    """Steps that see every training image once."""
    train, _ = split(data, config.val_fraction)
    return max(1, len(train) // config.batch_size)


def layers_of(task: Task, data: Dataset) -> list[ParameterInfo]:
    """The masked parameters of the task's network, built without memory for them."""
    with torch.device("meta"):
        return masked(network_of(task, data))


def filter_layers_of(task: Task, data: Dataset) -> dict[str, FilterLayer]:
    """The layers of the task's network that can lose filters."""
    example = torch.zeros(1, data.in_channels, data.image_size, data.image_size)
    return filter_layers(network_of(task, data), example)
