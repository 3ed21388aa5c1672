"""One run while it is executed: its data, its network and the services that every kind of run uses."""

import math
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from supermask.data import DamagedDataError, Dataset, Images, Loader, iterate_eval
from supermask.data.read_ahead import place
from supermask.distributed import BatchShard, Ranks
from supermask.distributed.sync_batchnorm import synced_norms
from supermask.experiments.datasets import dataset, split
from supermask.experiments.execution.diagnosis import MaskWatch
from supermask.experiments.execution.store import Run, Store
from supermask.experiments.spec import RunSpec, Task, specified
from supermask.masks import Mask
from supermask.models import create_model
from supermask.prune import put, signs
from supermask.search import Search
from supermask.tickets.ticket import Ticket
from supermask.training.callbacks import Callback
from supermask.training.loggers import LOGGERS
from supermask.training.loop import Checkpoint, Objective, Progress, Schedule, evaluate, fit
from supermask.training.memory_format import check_channels_last, unsafe_in_channels_last
from supermask.training.precision import in_float32
from supermask.weights.init import randomize_
from supermask.weights.roles import masked

EVALUATIONS = 20
"""Points of a learning curve."""
EVAL_BATCH = 500
LOOKED_AT = 5000
"""Training images that are shown to a network that has `look_at`."""


@dataclass(frozen=True)
class Environment:
    """Where and how runs execute; nothing here is part of a run's identity.

    `channels_last` is None for wherever the network has convolutions over images, `cuda_graphs` for wherever
    a graph can hold the training step.
    """

    device: str = "cpu"
    threads: int = 1
    data_root: str | None = None
    cache: str | None = None
    stream: str = "auto"
    channels_last: bool | None = None
    compile: bool = False
    cuda_graphs: bool | None = None
    accelerate: bool = False
    checkpoint_seconds: float = 30.0
    together: int | None = 0
    """Runs trained as one program at most, see `batching`; None for as many as make it faster."""
    log: tuple[str, ...] = ()
    """Names of `training.loggers.LOGGERS` that every run tells its numbers."""
    ranks: Ranks = field(default_factory=Ranks)
    """The processes that execute every run together, all of them the same graph in the same order."""


def data_of(task: Task, environment: Environment) -> Dataset:
    """The data set of a task, which must be the one that it was planned for.

    Raises:
        DamagedDataError: It has other content here.
    """
    with environment.ranks.one_per_machine_first():
        data = dataset(task.data, environment.data_root, task.image_size, task.selection, environment.cache)
    if data.fingerprint != task.data_hash:
        raise DamagedDataError(
            f"{task.data!r} has the content {data.fingerprint} here, and the run was planned for "
            f"{task.data_hash}; give every machine the same files under --data-root, or start again"
        )
    return data


def network_of(task: Task, data: Dataset) -> nn.Module:
    """The network of a task on its data set, not yet drawn from a seed."""
    return create_model(
        task.model,
        num_classes=data.num_classes,
        in_channels=data.in_channels,
        image_size=data.image_size,
        **task.model_args,
    )


class RunContext:
    """A run in progress.

    Attributes:
        spec: What it is.
        store: Where the runs it needs lie.
        environment: Where it executes.
        run: Its folder.
        data: Its data set.
        train_split: Images to train on.
        val_split: Images held out; may be empty.
        loader: Batches of `train_split`.
        model: The network as its seed draws it.
        initial_weights: Name → its masked weights as drawn.
    """

    def __init__(
        self, spec: RunSpec, store: Store, environment: Environment, run: Run, on_step: Callable[[int], None]
    ) -> None:
        self.spec, self.store, self.environment, self.run = spec, store, environment, run
        self._on_step = on_step
        torch.set_num_threads(environment.threads)
        torch.manual_seed(spec.seed)
        task = spec.task
        self.data = data_of(task, environment)
        self.train_split, self.val_split = split(self.data, task.val_fraction)
        self._stream = {"always": True, "never": False}.get(environment.stream)
        self._placed: dict[Images, tuple[Images, bool]] = {}
        self.mask_watch = MaskWatch()
        self.model = self._model(task)
        self._show_images()
        self.loader = self._loader(task)
        self.initial_weights = self.masked_weights()

    def _loader(self, task: Task) -> Loader:
        return Loader(
            self.train_split,
            batch_size=task.batch_size,
            seed=self.spec.seed,
            mean=self.data.mean,
            std=self.data.std,
            augment=task.augment,  # type: ignore[arg-type]  # checked by the loader
            crop_scale=task.crop_scale,
            device=self.environment.device,
            image_size=self.data.image_size,
            channels_last=self._channels_last,
            stream=self._stream,
        )

    def _model(self, task: Task) -> nn.Module:
        source = self.spec.weights
        model = network_of(task, self.data)
        model = model.to(self.environment.device)
        self._channels_last = self._takes_channels_last(model)
        if self._channels_last:
            model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return randomize_(model, source.init, source.seed, density=source.rescale_by)

    def _show_images(self) -> None:
        """Let a network that has `look_at` see training images, the same ones in every run of a data set."""
        if look_at := getattr(self.model, "look_at", None):
            look_at(torch.cat(list(self.training_images(LOOKED_AT))))

    def training_images(self, count: int) -> Iterator[Tensor]:
        """The first `count` images to train on, not augmented, in batches on the device."""
        shown = self.train_split.take(torch.arange(min(count, len(self.train_split))))
        about = (self.data.mean, self.data.std, self.environment.device)
        for images, _ in iterate_eval(shown, EVAL_BATCH, *about, image_size=self.data.image_size):
            yield images

    def _takes_channels_last(self, model: nn.Module) -> bool:
        """What was asked for; by default wherever there are convolutions and the device can train them so."""
        wanted, device_type = self.environment.channels_last, torch.device(self.environment.device).type
        if wanted:
            check_channels_last(model, device_type)
        if wanted is not None:
            return wanted
        if device_type == "cpu" and unsafe_in_channels_last(model):
            return False
        return any(parameter.dim() == 4 for parameter in model.parameters())

    def load_weights(self) -> None:
        """Replace the drawn weights by those of the run that `spec.weights` names, if it names one."""
        source = self.spec.weights
        if source.run is not None:
            self.store.run(source.run).ticket(source.step).apply(self.model)
        if source.signs:
            put(self.model, signs(self.masked_weights()))

    def starting_weights(self) -> dict[str, Tensor]:
        """Name → the masked weights that this run goes back to (CPU): those of a step, or as drawn."""
        source = self.spec.weights
        if source.run is None or source.step is None:
            return {name: weight.cpu() for name, weight in self.initial_weights.items()}
        saved = self.store.run(source.run).ticket(source.step).weights()
        return {name: saved[name] for name in self.initial_weights}

    def masked_weights(self) -> dict[str, Tensor]:
        """Name → a copy of each masked parameter as it stands."""
        return {info.name: info.tensor.detach().clone() for info in masked(self.model)}

    def parent_ticket(self) -> Ticket:
        """The final ticket of the run that this run's mask comes from."""
        return self.parent().ticket()

    def parent(self) -> Run:
        """The run that this run's mask comes from."""
        assert self.spec.mask.run is not None
        return self.store.run(self.spec.mask.run)

    def masked_shapes(self) -> dict[str, tuple[int, ...]]:
        """Name → shape of the masked parameters."""
        return {info.name: tuple(info.tensor.shape) for info in masked(self.model)}

    def input_axes(self) -> dict[str, int]:
        """Name → axis of the masked parameters along which N:M masks group."""
        return {info.name: info.inputs[0] for info in masked(self.model)}

    def fit(self, optimizer: Optimizer, mask: Mask) -> Progress:
        """Train by `optimizer` to the end of the schedule, with checkpoints, curves and snapshots."""
        synced = self.spec.task.sync_norms and self.environment.ranks.size > 1
        with synced_norms(self.model) if synced else nullcontext():
            return self._fit(optimizer, mask)

    def _fit(self, optimizer: Optimizer, mask: Mask) -> Progress:
        spec, ranks = self.spec, self.environment.ranks
        share = BatchShard.of(self.loader.batch_size, ranks)

        def step_done(step: int) -> None:
            self.save_snapshot(step, optimizer, mask)
            self._on_step(step - spec.start)

        self.save_snapshot(spec.start, optimizer, mask)
        self.watch_mask(optimizer)
        ranks.seed_generator(spec.seed)
        # Inside DDP: at what DDP does around a network the compiler gives up, and on the network with it.
        model: Any = torch.compile(self.model) if self.environment.compile else self.model
        return fit(
            ranks.wrap(model),
            optimizer,
            lambda step: self.loader.batch(step, share.rows),
            evaluation=lambda: self.measure(optimizer),
            memory=self.mask_watch.memory,
            objective=self._objective(optimizer),
            on_step=step_done,
            on_record=self.run.write_history if ranks.main else None,
            callbacks=self.loggers(),
            checkpoint=Checkpoint(self.run.checkpoint, self.environment.checkpoint_seconds, spec.id),
            share=share,
            **self.training(),
        )

    def loggers(self) -> list[Callback]:
        """Those that were asked for, each with a log of this run alone; rank 0 has them."""
        names = self.environment.log if self.environment.ranks.main else ()
        about = self.spec.as_dict()
        return [LOGGERS[name](self.spec.id, self.run.folder, about) for name in names]

    def _objective(self, optimizer: Optimizer) -> Objective | None:
        """The loss of a search that has its own."""
        own = optimizer.objective if isinstance(optimizer, Search) else None
        return own and partial(own, label_smoothing=self.spec.task.label_smoothing)

    def training(self) -> dict[str, Any]:
        """What the task and the environment say to `fit`."""
        task = self.spec.task
        return {
            "steps": task.steps,
            "start": self.spec.start,
            "schedule": Schedule(task.schedule, task.steps, task.warmup_steps, task.milestones, task.decay),
            "amp": task.amp,
            "label_smoothing": task.label_smoothing,
            "clip": task.clip,
            "evaluate_every": max(1, task.steps // EVALUATIONS),
            "cuda_graphs": self.environment.cuda_graphs,
            "accelerate": self.environment.accelerate,
        }

    def save_snapshot(self, step: int, optimizer: Optimizer, mask: Mask) -> None:
        """Save the weights for others to rewind to, if this is a step to do so."""
        if step in self.spec.snapshots and self.environment.ranks.main:
            with in_float32(self.model):
                present = (
                    optimizer.ticket()
                    if isinstance(optimizer, Search)
                    else Ticket.from_model(self.model, mask)
                )
                present.save(self.run.ticket_path(step))

    def measure(self, optimizer: Optimizer) -> dict[str, float]:
        """What a learning curve has beside the loss: accuracy and loss on the validation split, if there is
        one, and how much of a search's mask changed since the entry before."""
        numbers: dict[str, float] = {}
        with optimizer.evaluating() if isinstance(optimizer, Search) else nullcontext():
            if len(self.val_split):
                measured = self.evaluate(self.val_split)
                numbers = {f"val_{name}": value for name, value in measured.items() if value is not None}
            return numbers | self.watch_mask(optimizer)

    def watch_mask(self, optimizer: Optimizer) -> dict[str, float]:
        """How much of a search's mask changed since this was last asked; nothing of other optimizers."""
        return self.mask_watch.look(optimizer.mask) if isinstance(optimizer, Search) else {}

    def accuracy(self, images: Images) -> float:
        """Fraction of correct answers."""
        measured = self.evaluate(images)["accuracy"]
        assert measured is not None
        return measured

    def evaluate(self, images: Images) -> dict[str, float | None]:
        """Accuracy and loss; a loss that is not finite, as fp16 can give, is None.

        What fits on the device is copied there once and kept to the end of the run.
        """
        ranks, device = self.environment.ranks, self.environment.device
        if images not in self._placed:
            self._placed[images] = place(images, device, self._stream)
        there, streamed = self._placed[images]
        batches = iterate_eval(
            there,
            EVAL_BATCH,
            self.data.mean,
            self.data.std,
            device,
            turn=(ranks.rank, ranks.size),
            image_size=self.data.image_size,
            channels_last=self._channels_last,
            stream=streamed,
        )
        measured = evaluate(self.model, batches, self.spec.task.amp, ranks)
        return {name: value if math.isfinite(value) else None for name, value in measured.items()}

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """Inputs and labels of a step, a pure function of the step number; the whole batch on every rank."""
        return self.loader.batch(step)

    def provenance(self) -> dict[str, Any]:
        """What the run's ticket records about its making."""
        about = {
            "run": self.spec.id,
            "method": self.spec.method,
            "data": self.spec.task.data,
            "image_size": self.spec.task.image_size,
        }
        if chosen := specified(self.spec.task.selection):
            about["selection"] = chosen
        about |= self.spec.provenance
        return about | ({"corrupt_images_left_out": self.data.left_out} if self.data.left_out else {})
