"""What determines one run: its specification, as plain data with a canonical hash.

Two runs with the same specification are the same run. Where it executes (device, threads, folders) is no
part of it.
"""

import dataclasses
import hashlib
import json
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Rule:
    """How weights or scores move: a `torch.optim` rule and its options."""

    optimizer: str = "sgd"
    lr: float = 0.1
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 0.0

    def options(self) -> dict[str, Any]:
        """Arguments for the optimizer class; momentum only where the rule has it."""
        options: dict[str, Any] = {"lr": self.lr, "weight_decay": self.weight_decay}
        if self.optimizer == "sgd":
            options |= {"momentum": self.momentum, "nesterov": self.nesterov}
        return options


@dataclass(frozen=True, kw_only=True)
class Task:
    """Data, network and training length: what runs that are compared have in common."""

    data: str
    data_hash: str
    image_size: int | None
    val_fraction: float
    model: str
    model_args: dict[str, Any]
    steps: int
    batch_size: int
    augment: str
    schedule: str
    warmup_steps: int
    milestones: tuple[int, ...]
    label_smoothing: float
    clip: float | None
    amp: str


@dataclass(frozen=True, kw_only=True)
class MaskSource:
    """Where a run's mask comes from.

    Attributes:
        kind: `none` (dense), `search` (the run finds it), `magnitude` (prune the weights of `run` within
            its mask), `same` (the mask of `run`), `shuffle` (that mask, shuffled layer by layer) or
            `random`.
        run: Identifier of the run it starts from.
        keep: Weights to keep, per layer or in all; for `magnitude` and `random`.
        density: Fraction to keep, for `search`.
        distribution: How it spreads over layers, for `search` and `random`.
        options: Further arguments of the search.
    """

    kind: str = "none"
    run: str | None = None
    keep: dict[str, int] | int | None = None
    density: float = 1.0
    distribution: str = "uniform"
    options: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class WeightSource:
    """Where a run's weights come from.

    Attributes:
        init: Initialization that is drawn from `seed`, rescaled by 1/√`rescale_by`.
        seed: Seed of the draw.
        run: Identifier of the run whose saved weights replace the draw, or None.
        step: Step at which that run saved them; None for its final ones.
    """

    init: str
    seed: int
    rescale_by: float | dict[str, float] = 1.0
    run: str | None = None
    step: int | None = None


@dataclass(frozen=True, kw_only=True)
class RunSpec:
    """One training run.

    Attributes:
        method: Name of the row it makes.
        kind: `train` (weights move), `search` (scores move) or `frozen` (nothing moves).
        density: Nominal density, which names the row.
        seed: Seed of data order, augmentation, scores and random masks.
        start: Step of the schedule to start from (rewinding).
        snapshot: Step at which to save the weights for others to rewind to.
    """

    method: str
    kind: str
    task: Task
    rule: Rule
    weights: WeightSource
    seed: int
    mask: MaskSource = field(default_factory=MaskSource)
    density: float = 1.0
    start: int = 0
    snapshot: int | None = None

    @property
    def id(self) -> str:
        """`<method>-d<density>-s<seed>-<hash>`; also the name of the run's folder."""
        return f"{self.method}-d{self.density:.4g}-s{self.seed}-{canonical_hash(self.as_dict())}"

    @property
    def needs(self) -> tuple[str, ...]:
        """Identifiers of the runs that must be finished before this one."""
        return tuple(dict.fromkeys(run for run in (self.mask.run, self.weights.run) if run))

    @property
    def steps(self) -> int:
        """Optimizer steps of this run."""
        return 0 if self.kind == "frozen" else self.task.steps - self.start

    def as_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


def canonical_hash(value: Any) -> str:
    """Twelve hexadecimal digits of SHA-256 over canonical JSON (sorted keys, no spaces)."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:12]
