"""Plans: the graph of runs behind each command, and which of them make rows of its table."""

import copy
import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from supermask.data import Dataset
from supermask.experiments.config import ConfigError, TaskConfig
from supermask.experiments.datasets import split
from supermask.experiments.execution.context import network_of
from supermask.experiments.spec import RunSpec, Task
from supermask.models import UnknownModelError
from supermask.prune import FilterLayer, filter_layers
from supermask.weights.roles import ParameterInfo, masked

SMALL = 64
"""Pixels a side from which on images are large enough for any network."""


@dataclass(frozen=True)
class Plan:
    """Runs to execute.

    Attributes:
        graph: All of them.
        rows: Those that stand in the table.
        skipped: Methods that have no meaning for the network, with the reason.
        decided: What earlier runs decided before these were planned, by name; see `decided_by`.
    """

    graph: tuple[RunSpec, ...]
    rows: tuple[RunSpec, ...]
    skipped: Mapping[str, str] = field(default_factory=dict)
    decided: Mapping[str, Any] = field(default_factory=dict)

    def decided_by(self, facts: Mapping[str, Any]) -> "Plan":
        """The same plan; results and tickets record `facts`, JSON-able and by name."""

        def told(specs: tuple[RunSpec, ...]) -> tuple[RunSpec, ...]:
            return tuple(dataclasses.replace(spec, provenance={**spec.provenance, **facts}) for spec in specs)

        return Plan(told(self.graph), told(self.rows), self.skipped, facts) if facts else self


def task_of(config: TaskConfig, data: Dataset) -> Task:
    """The task that a configuration means on this data set: epochs become steps."""
    per_epoch = _steps_per_epoch(config, data)
    steps = round(config.epochs * per_epoch)
    if steps < 1:
        epoch = f"an epoch has {per_epoch} steps of {config.batch_size} images"
        remedy = f"take at least {1 / per_epoch:.2g}: {epoch}"
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
        model_args=config.network_arguments,
        steps=steps,
        batch_size=config.batch_size,
        augment=config.augment,
        crop_scale=config.crop_scale,
        schedule=config.schedule,
        warmup_steps=warmup,
        milestones=tuple(round(epoch * per_epoch) for epoch in config.milestones),
        decay=config.decay,
        steps_per_epoch=per_epoch,
        label_smoothing=config.label_smoothing,
        clip=config.clip,
        amp=config.amp,
        sync_norms=config.sync_norms,
        # That images may be left out changes nothing where none is.
        selection=dataclasses.replace(config.selection, allow_corrupt=data.left_out > 0),
    )


def _steps_per_epoch(config: TaskConfig, data: Dataset) -> int:
    """Steps that see every training image once.

    Raises:
        ConfigError: There are fewer images than a batch has.
    """
    try:
        train, _ = split(data, config.val_fraction)
    except ValueError:
        remedy = f"take less: it leaves none of the {len(data.train)} training images"
        raise ConfigError("val_fraction", config.val_fraction, remedy) from None
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
