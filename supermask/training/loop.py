"""One plain training loop for everything: dense networks, tickets and searches.

The loop knows a model, an optimizer and a function from step number to batch. It never knows the
algorithm: a search is an optimizer, and a ticket is trained by an optimizer under `hold`.
"""

import math
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from itertools import chain
from numbers import Integral
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer

from supermask.checks import is_number
from supermask.distributed import BatchShard, Ranks, RanksDifferError, SyncedTimer
from supermask.models.modes import evaluating
from supermask.training.acceleration import accelerated
from supermask.training.callbacks import Callback as Callback
from supermask.training.callbacks import Callbacks as Callbacks
from supermask.training.checkpoint import Checkpoint as Checkpoint
from supermask.training.checkpoint import Progress as Progress
from supermask.training.checkpoint import resume, state_of
from supermask.training.cuda_graphs import graphed, set_rates
from supermask.training.memory_format import guarded
from supermask.training.precision import AMP_DTYPES as AMP_DTYPES
from supermask.training.precision import PURE, Bf16Weights, autocast, check_amp, in_float32
from supermask.training.schedule import SCHEDULES as SCHEDULES
from supermask.training.schedule import Schedule as Schedule
from supermask.weights.names import check_module


class DivergedError(RuntimeError):
    """The loss is not finite any more."""


Batches = Callable[[int], tuple[Tensor, Tensor]]
Objective = Callable[[nn.Module, Tensor, Tensor], Tensor]
"""A model, inputs and labels → the loss to minimize, a scalar."""


def fit(
    model: nn.Module,
    optimizer: Optimizer,
    batches: Batches,
    *,
    steps: int,
    start: int = 0,
    schedule: Schedule | None = None,
    amp: str = "none",
    label_smoothing: float = 0.0,
    clip: float | None = None,
    objective: Objective | None = None,
    evaluation: Callable[[], dict[str, float]] | None = None,
    evaluate_every: int = 0,
    memory: dict[str, Any] | None = None,
    on_step: Callable[[int], None] | None = None,
    on_record: Callable[[list[dict[str, float]]], None] | None = None,
    callbacks: Iterable[Callback] = (),
    checkpoint: Checkpoint | None = None,
    cuda_graphs: bool | None = False,
    accelerate: bool = False,
    share: BatchShard | None = None,
) -> Progress:
    """Train from step `start` to step `steps`, by cross-entropy unless told otherwise.

    Args:
        model: Any classifier; it is put in training mode.
        optimizer: A `torch.optim` optimizer or a search. Its present learning rates are the ones that
            `schedule` scales.
        batches: Step number → (inputs, labels) on the model's device. It must be a pure function of the
            step for a resumed training to equal an uninterrupted one.
        schedule: Learning-rate factor per step; None for constant.
        amp: `none`, `bf16` or `fp16` autocast (`fp16` with a gradient scaler), or `pure-bf16`: weights held
            in bfloat16 while float32 ones learn, see `precision`.
        label_smoothing: As in `torch.nn.functional.cross_entropy`.
        clip: Largest norm of the gradient; None for no clipping.
        objective: The loss; None for cross-entropy of the model's outputs with `label_smoothing`.
        evaluation: Called every `evaluate_every` steps and at the end; its numbers go to the history.
        memory: What `evaluation` remembers from one time to the next, as tensors by name: it is saved with
            checkpoints and put back by a training that goes on.
        on_step: Called after each step with the number of steps done.
        on_record: Called with the whole history whenever it has grown.
        callbacks: Told of the start, each step, each new entry of the history, and the end; see `Callback`.
        checkpoint: Where to save and resume.
        cuda_graphs: Replay whole steps from a CUDA graph, see `graphed`; None for wherever that is possible.
        accelerate: Let linear layers and convolutions leave out zeros of sparse weights, and linear layers
            those of gradients, wherever that is measured to be faster, see `accelerated`: the same numbers up
            to the order of sums.
        share: What this rank trains on, where several train together: `batches` gives its rows, `model` is
            wrapped in `DistributedDataParallel`, and rank 0 saves. None for a process alone.

    Returns:
        Steps done, time and history. Each history entry has `step`, `train_loss` (mean since the entry
        before) and the numbers of `evaluation`.

    Raises:
        TypeError: `model` is no module, `batches` or `schedule` no function, or `checkpoint` no `Checkpoint`.
        ValueError: An unknown `amp`, a number out of range, a model without parameters, or `cuda_graphs`
            where a graph cannot hold the step.
        MemoryFormatError: A layer met channels_last that a CPU cannot train in it, see `memory_format`.
        DivergedError: The training loss became NaN or infinite.
        DamagedFileError: The checkpoint is not sound, or of another training.
        RanksDifferError: Ranks that train together do not hold the same any more.
    """
    _check_values(amp, start, steps, clip)
    _check_kinds(batches, schedule, checkpoint)
    rates = [float(group["lr"]) for group in optimizer.param_groups]
    device = _device_of(model)
    scaler = torch.amp.GradScaler(device.type, enabled=amp == "fp16")
    share = share or BatchShard()
    progress = _begun(checkpoint, model, optimizer, scaler, share, range(start, steps), memory)
    pace = SyncedTimer(share.ranks, progress.step)
    loss_sum = torch.tensor(progress.loss_sum, dtype=torch.float64, device=device)
    lowered = Bf16Weights(model, optimizer) if amp == PURE else None
    objective = objective or partial(_cross_entropy, label_smoothing=label_smoothing)
    train_on = _Step(
        model, device, optimizer, objective, scaler, share, share.statistics(model), lowered, amp, clip
    )
    model.train()
    began = time.monotonic() - progress.seconds
    graph = graphed(train_on, model, optimizer, amp, cuda_graphs)
    told = Callbacks([_Functions(on_step, on_record, progress), *callbacks])
    watching = told.watching({"step": progress.step, "steps": steps, "lr": rates[0]})
    faster = accelerated(model, optimizer) if accelerate else nullcontext()
    with watching as watch, guarded(model), lowered or nullcontext(), faster, graph as (step, plain):
        while progress.step < steps:
            factor = schedule(progress.step) if schedule else 1.0
            set_rates(optimizer, [rate * factor for rate in rates])
            loss_sum += step(*batches(progress.step))
            progress.loss_steps += 1
            progress.step += 1
            watch.on_step(progress.step)
            if progress.step == steps or (evaluate_every and progress.step % evaluate_every == 0):
                share.check(model, optimizer, progress.step)
                _record(progress, share, loss_sum, evaluation, watch)
            if checkpoint and progress.step < steps and pace.due(progress.step, checkpoint):
                progress.seconds, progress.loss_sum = time.monotonic() - began, float(loss_sum)
                _save(checkpoint, progress, model, optimizer, scaler, share, plain)
    set_rates(optimizer, rates)
    progress.seconds = time.monotonic() - began
    return progress


def _check_values(amp: str, start: int, steps: int, clip: float | None) -> None:
    check_amp(amp)
    whole = all(isinstance(value, Integral) for value in (start, steps))
    if not whole or not 0 <= start <= steps:
        raise ValueError(
            f"steps and start are whole numbers of steps, start at most steps, not {steps!r} and {start!r}"
        )
    if clip is not None and clip != math.inf and (not is_number(clip) or clip <= 0):
        raise ValueError(f"clip is the largest norm of the gradient and must be above 0, not {clip!r}")


def _check_kinds(batches: object, schedule: object, checkpoint: object) -> None:
    """Refuse what a step would trip over, and say what is meant."""
    if not callable(batches):
        raise TypeError(
            "batches is a function from the number of a step to its inputs and labels, such as the method "
            f"batch of supermask.data.Loader, and no {type(batches).__name__}"
        )
    if schedule is not None and not callable(schedule):
        raise TypeError(
            f"schedule is a function of the step, such as Schedule('cosine', steps), and not {schedule!r:.80}"
        )
    if checkpoint is not None and not isinstance(checkpoint, Checkpoint):
        raise TypeError(f"checkpoint is a Checkpoint, such as Checkpoint(path), and not {checkpoint!r:.80}")


def _device_of(model: nn.Module) -> torch.device:
    first = next(check_module(model).parameters(), None)
    if first is None:
        raise ValueError(f"{type(model).__name__} has no parameters, so there is nothing to train")
    return first.device


@dataclass(frozen=True, eq=False)
class _Functions(Callback):
    """The functions that `fit` was given, as one of those it tells."""

    step: Callable[[int], None] | None
    record: Callable[[list[dict[str, float]]], None] | None
    progress: Progress

    def on_step(self, step: int) -> None:
        if self.step:
            self.step(step)

    def on_record(self, record: Mapping[str, float]) -> None:
        if self.record:
            self.record(self.progress.history)


@dataclass(frozen=True, eq=False)
class _Step:
    """One whole step: forward, backward, update. Returns the loss, for which nothing has waited."""

    model: nn.Module
    device: torch.device
    optimizer: Optimizer
    objective: Objective
    scaler: torch.amp.GradScaler
    share: BatchShard
    synchronize: Callable[[], None]
    lowered: Bf16Weights | None
    amp: str
    clip: float | None

    def __call__(self, inputs: Tensor, labels: Tensor) -> Tensor:
        with autocast(self.device, self.amp):
            loss = self.objective(self.model, inputs, labels)
        loss = self.share.weigh(loss)
        self.scaler.scale(loss).backward()
        with self.lowered.stepping() if self.lowered else nullcontext():
            if self.clip is not None:
                self.scaler.unscale_(self.optimizer)
                nn.utils.clip_grad_norm_(self.model.parameters(), self.clip)
            self.scaler.step(self.optimizer)
            self.scaler.update()
            self.optimizer.zero_grad()
        self.synchronize()
        return loss.detach()


def _cross_entropy(model: nn.Module, inputs: Tensor, labels: Tensor, label_smoothing: float) -> Tensor:
    return F.cross_entropy(model(inputs), labels, label_smoothing=label_smoothing)


def _save(
    checkpoint: Checkpoint,
    progress: Progress,
    model: nn.Module,
    optimizer: Optimizer,
    scaler: torch.amp.GradScaler,
    share: BatchShard,
    plain: Callable[[Any], Any],
) -> None:
    """Write a checkpoint from rank 0, once all ranks agree."""
    share.check(model, optimizer, progress.step)
    with in_float32(model):
        state = state_of(progress, model, optimizer, scaler, share)
        if share.ranks.main:
            checkpoint.save({**state, "optimizer": plain(state["optimizer"])})


def _begun(
    checkpoint: Checkpoint | None,
    model: nn.Module,
    optimizer: Optimizer,
    scaler: torch.amp.GradScaler,
    share: BatchShard,
    steps: range,
    memory: dict[str, Any] | None,
) -> Progress:
    """Where the training goes on: at its checkpoint, or at its first step; the same on every rank."""
    progress = Progress(steps.start)
    if checkpoint:
        progress = resume(checkpoint, model, optimizer, scaler, share, steps)
    if (first := share.ranks.from_main(lambda: progress.step)) != progress.step:
        raise RanksDifferError(
            f"rank {share.ranks.rank} goes on from step {progress.step}, rank 0 from step {first}: they read "
            "different checkpoints; put --out where every machine sees the same files"
        )
    progress.recall(memory, begun=progress.step > steps.start)
    return progress


@torch.no_grad()
def evaluate(
    model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], amp: str = "none", ranks: Ranks | None = None
) -> dict[str, float]:
    """Accuracy (fraction correct) and mean cross-entropy over `batches`, in evaluation mode.

    The mode of every module is as before afterwards, also if it fails. With `ranks`, each brings batches of
    its own, and all get the answer over all of them.

    Raises:
        TypeError: `model` is no module.
        ValueError: There is no batch, or `amp` is unknown.
    """
    check_amp(amp)
    # A packed network may have no parameter left, only buffers.
    device = next(chain(check_module(model).parameters(), model.buffers()), torch.empty(0)).device
    correct = torch.zeros((), dtype=torch.int64, device=device)
    loss = torch.zeros((), dtype=torch.float64, device=device)
    count = torch.zeros((), dtype=torch.int64, device=device)
    with evaluating(model):
        for inputs, labels in batches:
            with autocast(device, amp):
                logits = model(inputs)
            correct += (logits.argmax(dim=1) == labels).sum()
            loss += F.cross_entropy(logits.float(), labels, reduction="sum")
            count += len(labels)
    correct, loss, count = map((ranks or Ranks()).sum, (correct, loss, count))
    if count == 0:
        raise ValueError("nothing to evaluate: the split is empty")
    return {"accuracy": int(correct) / int(count), "loss": float(loss) / int(count)}


@torch.no_grad()
def estimate_norm_statistics(model: nn.Module, batches: Batches, steps: int) -> None:
    """Run `steps` batches forward in training mode, so that norms see a network that was never trained."""
    if not any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules()):
        return
    model.train()
    for step in range(steps):
        model(batches(step)[0])


def _record(
    progress: Progress,
    share: BatchShard,
    loss_sum: Tensor,
    evaluation: Callable[[], dict[str, float]] | None,
    watch: Callback,
) -> None:
    """Add an entry to the history; the sum of losses begins again."""
    mean = share.mean(loss_sum) / max(progress.loss_steps, 1)
    loss_sum.zero_()
    if not math.isfinite(mean):
        raise DivergedError(
            f"the training loss is {mean} before step {progress.step}; lower lr, add warm-up or clip the "
            "gradients"
        )
    numbers = evaluation() if evaluation else {}
    progress.history.append({"step": progress.step, "train_loss": mean, **numbers})
    progress.loss_steps = 0
    watch.on_record(progress.history[-1])
