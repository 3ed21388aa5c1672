"""What a user says, common to all commands: flags, configuration keys and fields have the same names.

A command adds its own fields in the file that defines it.
"""

import math
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any, get_args

from supermask.checks import MOST_PIXELS
from supermask.data import MissingDataError, Selection
from supermask.data.augment import Augmentation
from supermask.data.boxes import SCALE
from supermask.data.selection import read_classes
from supermask.experiments.arguments import parse_arguments
from supermask.experiments.engines import ENGINES
from supermask.experiments.engines.local import cores_here
from supermask.experiments.errors import ConfigError as ConfigError
from supermask.experiments.spec import OptimizerSpec
from supermask.masks import check_density, check_distribution
from supermask.search import BASES
from supermask.training.loggers import LOGGERS
from supermask.training.loop import AMP_DTYPES, SCHEDULES


def option(default: Any, help: str, *, choices: Collection[str] = ()) -> Any:
    """A field with what the command line says about it."""
    metadata = {"help": help, "choices": choices}
    if isinstance(default, dict):
        return field(default_factory=lambda: dict(default), metadata=metadata)
    return field(default=default, metadata=metadata)


STREAMS = ("auto", "always", "never")
"""Whether images are read batch by batch from their file."""
OVERSUBSCRIBED = 32
"""Threads and jobs that can be asked for on each core; a system that is out of threads ends the process."""
MOST_EPOCHS = 1e9
"""Epochs of a training, of its warm-up and before its milestones."""
MOST_ROUNDS = 1000
"""Rounds of iterative pruning on the way to the lowest density."""

_FRACTION = (lambda value: 0 <= value < 1, "take a fraction in [0, 1)")
_POSITIVE = (lambda value: value > 0, "take a positive number")
_NOT_NEGATIVE = (lambda value: value >= 0, "take a number that is not negative")
_PIXELS = (lambda value: 1 <= value <= MOST_PIXELS, f"take a number of pixels from 1 to {MOST_PIXELS}")
# Larger ones do not fit into the float32 that weights have.
_RATE = (lambda value: 0 <= value <= 1e30, "take a number that is not negative, at most 1e+30")
_RANGES: dict[str, tuple[Callable[[float], bool], str]] = {
    "val_fraction": _FRACTION,
    "label_smoothing": _FRACTION,
    "momentum": _FRACTION,
    **dict.fromkeys(
        ("per_class_fraction", "decay", "crop_scale"),
        (lambda value: 0 < value <= 1, "take a fraction in (0, 1]"),
    ),
    **dict.fromkeys(("batch_size", "clip"), _POSITIVE),
    "epochs": (lambda value: 0 < value <= MOST_EPOCHS, f"take a positive number, at most {MOST_EPOCHS:.0e}"),
    **dict.fromkeys(
        ("warmup_epochs", "milestones"),
        (
            lambda value: 0 <= value <= MOST_EPOCHS,
            f"take a number that is not negative, at most {MOST_EPOCHS:.0e}",
        ),
    ),
    **dict.fromkeys(("image_size", "stored_size"), _PIXELS),
    **dict.fromkeys(("threads", "jobs", "together", "checkpoint_seconds"), _NOT_NEGATIVE),
    **dict.fromkeys(
        ("lr", "adaptive_lr", "weight_decay", "search_lr", "search_weight_decay", "lr_sweep"), _RATE
    ),
    "retries": _NOT_NEGATIVE,
    "gpu_share": (lambda value: 0.01 <= value <= 1, "take a fraction from 0.01 to 1"),
    **dict.fromkeys(("seed", "seeds"), (lambda value: 0 <= value < 1 << 63, "take an integer from 0 on")),
}
"""Field → which values fit, and what to do about others."""


@dataclass(frozen=True, kw_only=True)
class TaskConfig:
    """Data, network, training length and place of execution."""

    data: str = option("digits", "data set by name, or a folder with train/ and test/ or val/")
    data_root: str | None = option(None, "where data sets lie (else $SUPERMASK_DATA, else ./data)")
    image_size: int | None = option(None, "pixels a side of the images that the network sees")
    stored_size: int | None = option(
        None,
        "pixels a side that a folder's images are stored at, for resized crops; by default the image size",
    )
    classes: tuple[str, ...] = option((), "classes of a folder: names, or files with a name on each line")
    per_class_fraction: float = option(1.0, "share of each class's training images that is used")
    allow_corrupt: bool = option(
        False, "leave out images that are missing or cannot be decoded, where they are an error"
    )
    cache: str | None = option(
        None, "where decoded images lie (else $SUPERMASK_CACHE, else ~/.cache/supermask)"
    )
    stream: str = option(
        "auto", "read a folder's images batch by batch; auto does if they do not fit", choices=STREAMS
    )
    val_fraction: float = option(0.1, "share of the training split held out for validation")
    model: str = option("lenet-300-100", "network by name: ours, timm's or torchvision's")
    model_args: dict[str, str] = option({}, "further arguments of the network, as key=value")  # noqa: RUF009
    epochs: float = option(10.0, "passes over the training split")
    batch_size: int = option(128, "images per step, of all ranks together")
    augment: str = option("none", "augmentation", choices=get_args(Augmentation))
    crop_scale: float = option(SCALE[0], "least share of an image's area that a resized crop takes")
    schedule: str = option("cosine", "learning-rate schedule", choices=SCHEDULES)
    warmup_epochs: float = option(0.0, "epochs of linear warm-up")
    milestones: tuple[float, ...] = option((), "epochs at which a multistep schedule lowers lr")
    decay: float = option(0.1, "factor on lr at each milestone")
    label_smoothing: float = option(0.0, "label smoothing of the training loss")
    clip: float | None = option(None, "largest norm of the gradient")
    amp: str = option(
        "none",
        "autocast dtype, or pure-bf16: bf16 weights beside float32 ones that learn",
        choices=tuple(AMP_DTYPES),
    )
    device: str = option("auto", "cpu, cuda, cuda:1, …; auto takes a GPU when there is one")
    threads: int = option(
        0, "threads per process; 0 takes OMP_NUM_THREADS, or shares the cores among the jobs"
    )
    jobs: int = option(1, "runs at a time; 0 means one per core, on GPUs one per GPU")
    engine: str = option(
        "auto",
        "where runs execute: in this process (plain), in processes (local), on a cluster (ray); auto takes "
        "local for several at a time",
        choices=("auto", *ENGINES),
    )
    retries: int = option(2, "how often a run is executed again when its worker dies")
    keep_going: bool = option(False, "when a run fails, execute those that do not need it all the same")
    gpu_share: float = option(1.0, "part of a GPU that a run takes: 0.5 puts two on each")
    ray_address: str = option("local", "Ray cluster: local starts one, auto or host:port joins one that runs")
    channels_last: bool | None = option(
        None, "images and convolutions in channels_last; auto: if the network has convolutions"
    )
    compile: bool = option(False, "run the network through torch.compile")
    cuda_graphs: bool | None = option(
        None,
        "replay whole training steps from a CUDA graph; auto: wherever a graph can hold them",
    )
    accelerate: bool = option(
        False,
        "on a CPU, leave out zeros where that is faster: of sparse weights of linear layers and convolutions "
        "and of gradients behind a ReLU",
    )
    sync_norms: bool = option(False, "under torchrun, batch norms see the batches of all ranks")
    together: int | None = option(
        None,
        "runs that are trained as one program at most, if they differ in seed or density alone; 0 for none, "
        "by default as many as make it faster",
    )
    checkpoint_seconds: float = option(30.0, "least time between two checkpoints of a run")
    log: tuple[str, ...] = option(
        (),
        "where the numbers of each run are written as it trains, besides its folder",
        choices=tuple(LOGGERS),
    )
    out: str = option("", "folder for results; required")

    def __post_init__(self) -> None:
        for name, (fits, remedy) in _RANGES.items():
            given = getattr(self, name, None)
            for value in given if isinstance(given, tuple) else (given,):
                if value is not None and not (math.isfinite(value) and fits(value)):
                    raise ConfigError(name, value, remedy)
        for name in ("threads", "jobs"):
            most = OVERSUBSCRIBED * self.cores
            if getattr(self, name) > most and self.engine in ("auto", "plain", "local"):
                remedy = f"take at most {most}, {OVERSUBSCRIBED} for each of the {self.cores} cores here"
                raise ConfigError(name, getattr(self, name), remedy)
        if self.stored_size is not None and (self.image_size or 0) > self.stored_size:
            raise ConfigError(
                "stored_size", self.stored_size, f"take at least --image-size {self.image_size}"
            )
        if getattr(self, "nesterov", False) and not getattr(self, "momentum", 0):
            raise ConfigError("nesterov", True, "give a --momentum above 0 with it")
        self._check_milestones()
        if len(set(self.log)) != len(self.log):
            raise ConfigError("log", self.log, "give each once")
        rules = {value for name in ("optimizer", "search_optimizer") if (value := getattr(self, name, None))}
        if getattr(self, "nesterov", False) and "sgd" not in rules:
            raise ConfigError(
                "nesterov", True, f"leave it out: only sgd has it, not {' or '.join(sorted(rules))}"
            )

    def _check_milestones(self) -> None:
        """A multistep schedule has milestones, and no other has them or a decay."""
        stepwise = self.schedule == "multistep"
        if stepwise and not self.milestones:
            raise ConfigError("schedule", self.schedule, "give the epochs of its --milestones with it")
        for name in ("milestones", "decay"):
            given, default = getattr(self, name), TaskConfig.__dataclass_fields__[name].default
            if not stepwise and given != default:
                raise ConfigError(name, given, "take --schedule multistep with it, or leave it out")

    @property
    def network_arguments(self) -> dict[str, Any]:
        """`model_args` as numbers, booleans and text."""
        return parse_arguments(self.model_args)

    @property
    def selection(self) -> Selection:
        """What is taken of a folder of images; reads the files that name classes.

        Raises:
            ConfigError: There is no such file, or no class is named.
            DamagedDataError: A file has no names.
        """
        try:
            classes = read_classes(self.classes)
        except MissingDataError as error:
            raise ConfigError("classes", self.classes, str(error)) from None
        return Selection(
            stored_size=self.stored_size if self.stored_size != self.image_size else None,
            classes=classes,
            per_class_fraction=self.per_class_fraction,
            allow_corrupt=self.allow_corrupt,
        )

    @property
    def cores(self) -> int:
        """Cores that this process may use."""
        return len(cores_here())


@dataclass(frozen=True, kw_only=True)
class RuleConfig(TaskConfig):
    """How weights move, in all commands but `search`, which has no weights that do."""

    optimizer: str = option("sgd", "rule that moves the weights", choices=tuple(BASES))
    lr: float = option(0.1, "learning rate of the weights")
    momentum: float = option(0.9, "momentum of sgd")
    nesterov: bool = option(False, "Nesterov momentum of sgd")
    weight_decay: float = option(5e-4, "weight decay")

    @property
    def rule(self) -> OptimizerSpec:
        """How weights move."""
        return OptimizerSpec(
            optimizer=self.optimizer,
            lr=self.lr,
            momentum=self.momentum,
            nesterov=self.nesterov,
            weight_decay=self.weight_decay,
        )


def check_distinct(config: TaskConfig, *names: str) -> None:
    """Refuse lists that are empty or name a value twice."""
    for name in names:
        values = getattr(config, name)
        if not values or len(set(values)) != len(values):
            raise ConfigError(name, values, "give at least one value, each once")


def check_densities(config: Any) -> None:
    """Refuse densities out of range, and a way to the lowest of more than `MOST_ROUNDS` rounds of pruning."""
    for density in config.densities:
        check_density_field("densities", density)
    if not 0 < config.rate < 1:
        raise ConfigError("rate", config.rate, "take a fraction in (0, 1)")
    lowest = min(config.densities, default=1.0)
    least = 1 - lowest ** (1 / MOST_ROUNDS)
    if config.rate < least:
        remedy = f"take at least {least:.2g}: the way to density {lowest:g} has {MOST_ROUNDS} rounds at most"
        raise ConfigError("rate", config.rate, remedy)


def check_density_field(name: str, value: float) -> None:
    """Refuse a density out of range."""
    try:
        check_density(value)
    except ValueError:
        raise ConfigError(name, value, "take a density in (0, 1], the fraction of weights kept") from None


def check_distribution_field(distribution: str, density: float) -> None:
    """Refuse a distribution that is unknown, or that does not fit a density."""
    checked("distribution", distribution, lambda: check_distribution(distribution, density))


def checked(name: str, value: Any, check: Callable[[], object]) -> None:
    """Say of which flag the library's own check speaks."""
    try:
        check()
    except ValueError as error:
        raise ConfigError(name, value, str(error)) from None
