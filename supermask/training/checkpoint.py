"""Checkpoints of a training: all that `fit` needs to go on bit for bit."""

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from supermask.distributed import Share, generators
from supermask.io import DamagedFileError, load_tree, save_tree
from supermask.weights.roles import unwrap


@dataclass
class Checkpoint:
    """Where and how often `fit` saves all it needs to go on bit for bit.

    Attributes:
        path: The file; it is replaced atomically.
        seconds: Least time between two saves.
    """

    path: Path
    seconds: float = 30.0
    _saved_at: float = field(default_factory=time.monotonic)

    def load(self) -> dict[str, Any] | None:
        """The saved state, or None. Raises DamagedFileError when the file is not sound."""
        try:
            return load_tree(self.path) if self.path.exists() else None
        except DamagedFileError as error:
            raise DamagedFileError(f"{error}. Delete it to begin this training again") from None

    @property
    def elapsed(self) -> float:
        """Seconds since the last save."""
        return time.monotonic() - self._saved_at

    def save(self, state: dict[str, Any]) -> None:
        save_tree(self.path, state)
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


def state_of(
    progress: Progress, model: nn.Module, optimizer: Optimizer, scaler: torch.amp.GradScaler, share: Share
) -> dict[str, Any]:
    """All that a training is, as a tree for `Checkpoint.save`: also the states of torch's generators.

    All ranks must call it; what rank 0 gets is whole.
    """
    device = next(model.parameters()).device
    return {
        "progress": {**vars(progress)},
        "model": dict(unwrap(model).state_dict()),
        "optimizer": optimizer.state_dict(),
        "scaler": scaler.state_dict(),
        **generators(device),
        "others": share.others(progress.loss_sum, device),
    }


def restore(
    saved: dict[str, Any],
    model: nn.Module,
    optimizer: Optimizer,
    scaler: torch.amp.GradScaler,
    share: Share,
) -> Progress:
    """Put a saved training in place of the present one; returns how far it was."""
    unwrap(model).load_state_dict(saved["model"])
    optimizer.load_state_dict(saved["optimizer"])
    if saved["scaler"]:
        scaler.load_state_dict(saved["scaler"])
    progress = Progress(**saved["progress"])
    progress.loss_sum = share.restore(saved, progress.loss_sum, next(model.parameters()).device)
    return progress
