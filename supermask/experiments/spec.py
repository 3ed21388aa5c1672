"""What determines one run: its specification, as plain data with a canonical hash.

Two runs with the same specification are the same run. Where it executes (device, threads, folders) is no
part of it.
"""

import dataclasses
import hashlib
import json
from dataclasses import dataclass, field
from typing import Any

from supermask.data import Selection
from supermask.data.boxes import SCALE


@dataclass(frozen=True, kw_only=True)
class OptimizerSpec:
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
    selection: Selection = field(default_factory=Selection)
    sync_norms: bool = False
    decay: float = 0.1
    crop_scale: float = SCALE[0]
    steps_per_epoch: int = field(default=0, compare=False, metadata={"identity": False})
    """Steps that see every training image once: follows from the data, and is no part of a run's identity."""


@dataclass(frozen=True, kw_only=True)
class MaskSource:
    """Where a run's mask comes from.

    Attributes:
        kind: One of `execution.mask_sources`, such as `none` (dense) and `magnitude` (prune the weights of
            `run` within its mask); or `search` or `early-bird`, and the run finds it.
        run: Identifier of the run it starts from.
        keep: Weights to keep, per layer or in all; for masks that no search finds. For `filters`, how many
            filters each layer keeps that can lose some.
        density: Fraction to keep, for `search`.
        distribution: How it spreads over layers, for `search` and `random`.
        options: Further arguments of the search.
        criterion: Name of the mask criterion; for `criterion`.
        alpha: Slope of the criteria that have one.
        pruned: Where the pruned weights are frozen, see `prune.PRUNED`.
    """

    kind: str = "none"
    run: str | None = None
    keep: dict[str, int] | int | None = None
    density: float = 1.0
    distribution: str = "uniform"
    options: dict[str, Any] = field(default_factory=dict)
    criterion: str = "large-final"
    alpha: float = 1.0
    pruned: str = "zero"


@dataclass(frozen=True, kw_only=True)
class WeightSource:
    """Where a run's weights come from.

    Attributes:
        init: Initialization that is drawn from `seed`, rescaled by 1/√`rescale_by`.
        seed: Seed of the draw.
        run: Identifier of the run whose saved weights replace the draw, or None.
        step: Step at which that run saved them; None for its final ones.
        signs: Keep the signs alone, times the standard deviation of each layer.
    """

    init: str
    seed: int
    rescale_by: float | dict[str, float] = 1.0
    run: str | None = None
    step: int | None = None
    signs: bool = False


WITHOUT_STEPS = {"frozen", "path"}
"""Kinds of runs in which nothing is trained."""


@dataclass(frozen=True, kw_only=True)
class RunSpec:
    """One training run.

    Attributes:
        method: Name of the row it makes.
        kind: What happens, see kinds.py: `train` (weights move), `search` (scores move), `frozen` (nothing
            moves), …
        density: Nominal density, which names the row.
        seed: Seed of data order, augmentation, scores and random masks.
        start: Step of the schedule to start from (rewinding).
        snapshots: Steps at which to save the weights for others to rewind to.
        others: Identifiers of runs that it reads beside those of its mask and its weights.
        options: What its kind needs to know beyond that.
        provenance: What its ticket records beside; no part of the run's identity.
    """

    method: str
    kind: str
    task: Task
    rule: OptimizerSpec
    weights: WeightSource
    seed: int
    mask: MaskSource = field(default_factory=MaskSource)
    density: float = 1.0
    start: int = 0
    snapshots: tuple[int, ...] = ()
    others: tuple[str, ...] = ()
    options: dict[str, Any] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict, compare=False, metadata={"identity": False})

    @property
    def id(self) -> str:
        """`<method>-d<density>-s<seed>-<hash>`; also the name of the run's folder."""
        return f"{self.method}-d{self.density:.4g}-s{self.seed}-{canonical_hash(self.as_dict())}"

    @property
    def needs(self) -> tuple[str, ...]:
        """Identifiers of the runs that must be finished before this one."""
        return tuple(dict.fromkeys(run for run in (self.mask.run, self.weights.run, *self.others) if run))

    @property
    def steps(self) -> int:
        """Optimizer steps of this run."""
        return 0 if self.kind in WITHOUT_STEPS else self.task.steps - self.start

    def as_dict(self) -> dict[str, Any]:
        """What was specified, without fields at their defaults: a new field leaves old runs what they are."""
        return specified(self)


def specified(value: Any) -> Any:
    """Dataclasses as mappings of what makes their identity, without defaults; anything else as it is."""
    if not dataclasses.is_dataclass(value):
        return value
    own = (f for f in dataclasses.fields(value) if f.metadata.get("identity", True))
    fields = {f.name: (getattr(value, f.name), f) for f in own}
    return {name: specified(own) for name, (own, field) in fields.items() if own != _default(field)}


def _default(field: dataclasses.Field[Any]) -> Any:
    made = field.default_factory
    return field.default if made is dataclasses.MISSING else made()


def canonical_hash(value: Any) -> str:
    """Twelve hexadecimal digits of SHA-256 over canonical JSON (sorted keys, no spaces)."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:12]
