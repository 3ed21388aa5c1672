"""Checkpoints of a training: all that `fit` needs to go on bit for bit."""

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from supermask.distributed import BatchShard, generators
from supermask.io import DamagedFileError, load_tree, save_tree
from supermask.weights.names import unwrap


@dataclass
class Checkpoint:
    """Where and how often `fit` saves all it needs to go on bit for bit.

    Attributes:
        path: The file; it is replaced atomically.
        seconds: Least time between two saves.
        training: Name of what is trained. A file of another name is refused, one without any is not.
    """

    path: Path
    seconds: float = 30.0
    training: str | None = None
    _saved_at: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self.path = Path(self.path)

    def load(self) -> dict[str, Any] | None:
        """The saved state, or None.

        Raises:
            DamagedFileError: The file is not sound, or of another training.
        """
        if not self.path.exists():
            return None
        try:
            saved = load_tree(self.path)
        except DamagedFileError as error:
            raise self.damaged(str(error)) from None
        if not isinstance(saved, dict):
            raise self.damaged(f"{self.path} is no checkpoint of a training")
        if self.training and saved.get("training", self.training) != self.training:
            raise self.damaged(f"{self.path} is of {saved['training']!r:.200} and not of {self.training!r}")
        return saved

    def damaged(self, what: str) -> DamagedFileError:
        """The error for a file that cannot be used."""
        return DamagedFileError(f"{what}. Delete it to begin this training again")

    @property
    def elapsed(self) -> float:
        """Seconds since the last save."""
        return time.monotonic() - self._saved_at

    def save(self, state: dict[str, Any]) -> None:
        """Replace the file by one that holds `state`.

        Raises:
            OSError: The file cannot be written; the one before is as it was.
        """
        save_tree(self.path, state if self.training is None else {"training": self.training, **state})
        self._saved_at = time.monotonic()


@dataclass
class Progress:
    """What `fit` knows about a training so far; it is saved with every checkpoint."""

    step: int
    seconds: float = 0.0
    loss_sum: float = 0.0
    loss_steps: int = 0
    history: list[dict[str, float]] = field(default_factory=list)
    together: int = 1
    """Trainings that were made as one program; `seconds` is the share of one of them."""
    memory: dict[str, Any] = field(default_factory=dict)
    """What the evaluation remembers from one time to the next; see `fit`."""

    def recall(self, memory: dict[str, Any] | None, begun: bool) -> None:
        """Let an evaluation go on with what was saved, and save from now on what it remembers.

        Args:
            memory: Its memory, which is written; None for an evaluation that has none.
            begun: Whether the training goes on from a checkpoint, so that what it remembers of the start is
                no longer true.
        """
        if memory is not None:
            if begun:
                memory.clear()
                memory.update(self.memory)
            self.memory = memory


def state_of(
    progress: Progress,
    model: nn.Module,
    optimizer: Optimizer,
    scaler: torch.amp.GradScaler,
    share: BatchShard,
) -> dict[str, Any]:
    """All that a training is, as a tree for `Checkpoint.save`: also the states of torch's generators.

    All ranks must call it; what rank 0 gets is whole.
    """
    device = next(model.parameters()).device
    return {
        # Without memory where there is none, as states were before there was any.
        "progress": {key: value for key, value in vars(progress).items() if key != "memory" or value},
        "model": dict(unwrap(model).state_dict()),
        "optimizer": optimizer.state_dict(),
        "scaler": scaler.state_dict(),
        **generators(device),
        "others": share.others(progress.loss_sum, device),
    }


def resume(
    checkpoint: Checkpoint,
    model: nn.Module,
    optimizer: Optimizer,
    scaler: torch.amp.GradScaler,
    share: BatchShard,
    steps: range,
) -> Progress:
    """Put a saved training, if there is one, in place of the present one; returns how far it was.

    Args:
        checkpoint: Where it may be.
        model: Takes the saved weights and buffers.
        optimizer: Takes its saved state.
        scaler: Likewise.
        share: What this rank trains on.
        steps: From the first step to the last.

    Raises:
        DamagedFileError: The file is not sound, or does not hold the state of this training.
    """
    if (saved := checkpoint.load()) is None:
        return Progress(steps.start)
    try:
        progress = _restore(saved, model, optimizer, scaler, share)
    except Exception as error:
        # Other content makes model, optimizer and generators raise nearly anything.
        reason = (str(error).splitlines() or [""])[0]
        raise checkpoint.damaged(
            f"{checkpoint.path} does not hold the state of this training ({type(error).__name__}: {reason})"
        ) from error
    if not steps.start <= progress.step <= steps.stop:
        raise checkpoint.damaged(
            f"{checkpoint.path} is at step {progress.step} of a training from step {steps.start} to "
            f"{steps.stop}"
        )
    return progress


def _restore(
    saved: dict[str, Any],
    model: nn.Module,
    optimizer: Optimizer,
    scaler: torch.amp.GradScaler,
    share: BatchShard,
) -> Progress:
    progress = Progress(**saved["progress"])
    if type(progress.step) is not int or not isinstance(progress.history, list):
        raise ValueError("its progress is none")
    unwrap(model).load_state_dict(saved["model"])
    optimizer.load_state_dict(saved["optimizer"])
    if saved["scaler"]:
        scaler.load_state_dict(saved["scaler"])
    progress.loss_sum = share.restore(saved, progress.loss_sum, next(model.parameters()).device)
    return progress
