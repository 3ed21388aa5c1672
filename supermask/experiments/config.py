"""What a user says: one dataclass per command. Flags, configuration keys and fields have the same names."""

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, get_args

from supermask.data import Selection
from supermask.data.augment import Augmentation
from supermask.data.selection import MOST_PIXELS, read_classes
from supermask.experiments.compare.methods import METHODS
from supermask.experiments.engines import ENGINES
from supermask.experiments.engines.local import cores_here
from supermask.experiments.errors import ConfigError as ConfigError
from supermask.experiments.searches import (
    NOMINAL,
    RefusedError,
    asked,
    check_search,
    check_used,
    compared,
    densities_of,
    rule_of,
    search_behind,
)
from supermask.masks import check_density, check_distribution
from supermask.prune import PRUNED, check_actions, check_criterion
from supermask.prune.criteria import KNOWN, WEIGHED
from supermask.prune.magnitude import SCOPES
from supermask.search import BASES, SEARCHES
from supermask.training.loop import AMP_DTYPES, SCHEDULES
from supermask.weights.init import INITS


def option(default: Any, help: str, *, choices: tuple[str, ...] = ()) -> Any:
    """A field with what the command line says about it."""
    metadata = {"help": help, "choices": choices}
    if isinstance(default, dict):
        return field(default_factory=lambda: dict(default), metadata=metadata)
    return field(default=default, metadata=metadata)


STREAMS = ("auto", "always", "never")
"""Whether images are read batch by batch from their file."""
OVERSUBSCRIBED = 32
"""Threads and jobs that can be asked for on each core; a system that is out of threads ends the process."""
MOST_ROUNDS = 1000
"""Rounds of iterative pruning on the way to the lowest density."""

_FRACTION = (lambda value: 0 <= value < 1, "take a fraction in [0, 1)")
_POSITIVE = (lambda value: value > 0, "take a positive number")
_NOT_NEGATIVE = (lambda value: value >= 0, "take a number that is not negative")
_PIXELS = (lambda value: 1 <= value <= MOST_PIXELS, f"take a number of pixels from 1 to {MOST_PIXELS}")
_RANGES: dict[str, tuple[Callable[[float], bool], str]] = {
    "val_fraction": _FRACTION,
    "label_smoothing": _FRACTION,
    "momentum": _FRACTION,
    **dict.fromkeys(
        ("per_class_fraction", "decay"), (lambda value: 0 < value <= 1, "take a fraction in (0, 1]")
    ),
    **dict.fromkeys(("epochs", "batch_size", "clip"), _POSITIVE),
    **dict.fromkeys(("image_size", "stored_size"), _PIXELS),
    **dict.fromkeys(
        ("threads", "jobs", "together", "warmup_epochs", "milestones", "checkpoint_seconds"), _NOT_NEGATIVE
    ),
    **dict.fromkeys(("lr", "weight_decay", "search_lr", "search_weight_decay"), _NOT_NEGATIVE),
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
    threads: int = option(0, "threads per process; 0 shares the cores among the jobs")
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
    sync_norms: bool = option(False, "under torchrun, batch norms see the batches of all ranks")
    together: int | None = option(
        None,
        "runs that are trained as one program at most, if they differ in seed or density alone; 0 for none, "
        "by default as many as pay",
    )
    checkpoint_seconds: float = option(30.0, "least time between two checkpoints of a run")
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
    def selection(self) -> Selection:
        """What is taken of a folder of images; reads the files that name classes."""
        return Selection(
            stored_size=self.stored_size if self.stored_size != self.image_size else None,
            classes=read_classes(self.classes),
            per_class_fraction=self.per_class_fraction,
            allow_corrupt=self.allow_corrupt,
        )

    @property
    def cores(self) -> int:
        return len(cores_here())


@dataclass(frozen=True, kw_only=True)
class RuleConfig(TaskConfig):
    """How what is learned moves: scores in `search`, weights in all else."""

    optimizer: str = option("sgd", "rule that moves the scores or weights", choices=tuple(BASES))
    lr: float = option(0.1, "learning rate of the scores or weights")
    momentum: float = option(0.9, "momentum of sgd")
    nesterov: bool = option(False, "Nesterov momentum of sgd")
    weight_decay: float = option(5e-4, "weight decay of the scores or weights")


@dataclass(frozen=True, kw_only=True)
class SearchConfig(RuleConfig):
    """`supermask search`: one strong ticket."""

    method: str = option("edge-popup", f"search algorithm: {', '.join(SEARCHES)}")
    method_args: dict[str, str] = option({}, "further arguments of the search, as key=value")  # noqa: RUF009
    density: float = option(0.3, "fraction of weights kept")
    distribution: str = option("uniform", "uniform, global, erk, epl or N:M: how the density spreads")
    init: str = option("signed_constant", "distribution of the frozen weights", choices=INITS)
    rescale: bool = option(True, "scale the frozen weights by 1/√density")
    seed: int = option(0, "seed of the weights, the scores and the data order")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.method not in SEARCHES:
            known = f"take one of {', '.join(SEARCHES)}"
            elsewhere = "this is no search over frozen weights; `supermask compare --methods {}` runs it"
            remedy = elsewhere.format(self.method) if self.method in METHODS else known
            raise ConfigError("method", self.method, remedy)
        _check_density("density", self.density)
        _check_distribution(self.distribution, self.density)
        if self.rescale and SEARCHES[self.method].scaled_for(self.density) is None:
            raise ConfigError("rescale", True, f"leave it out: {self.method} scales its layers by itself")
        with refusals("method_args"):
            check_search(self.method, rule_of(self), asked(self), **nominal_length(self))

    @classmethod
    def defaults(cls, given: Mapping[str, Any]) -> Mapping[str, Any]:
        """What the chosen method recommends instead of the general defaults."""
        method = SEARCHES.get(given.get("method", "edge-popup"))
        return {} if method is None else method.recipe


@dataclass(frozen=True, kw_only=True)
class ImpConfig(RuleConfig):
    """`supermask imp`: iterative magnitude pruning and its variants, a ticket per round."""

    rounds: int = option(15, "rounds of pruning after the dense training")
    rate: float = option(0.2, "fraction of the surviving weights pruned per round")
    conv_rate: float | None = option(None, "the same for convolutions (layerwise scope)")
    output_rate: float | None = option(None, "the same for the output layer (layerwise scope)")
    scope: str = option("layerwise", "rank weights per layer or over the network", choices=SCOPES)
    rewind_to: int = option(0, "step to rewind to; 0 is initialization")
    rewind: str = option("weights", "rewind weights, or only the learning rate", choices=("weights", "lr"))
    criterion: str = option("large-final", f"which of the surviving weights stay: {KNOWN}")
    alpha: float = option(1.0, f"weight of final against initial values in {' and '.join(WEIGHED)}")
    pruned: str = option("zero", "where pruned weights stand from then on", choices=PRUNED)
    signs: bool = option(False, "kept weights go back to their signs alone, times one constant per layer")
    reinit: bool = option(False, "train the reinit control of every round as well")
    init: str = option("kaiming_normal", "distribution of the initial weights", choices=INITS)
    seeds: tuple[int, ...] = option((0,), "seeds of the weights and the data order")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_distinct(self, "seeds")
        for name in ("rounds", "rewind_to"):
            if getattr(self, name) < 0:
                raise ConfigError(name, getattr(self, name), "take a number that is not negative")
        for name in ("rate", "conv_rate", "output_rate"):
            value = getattr(self, name)
            if value is not None and not 0 < value < 1:
                raise ConfigError(name, value, "take a fraction in (0, 1)")
        for name in ("conv_rate", "output_rate"):
            if self.scope == "global" and getattr(self, name) is not None:
                remedy = "leave it out, or take --scope layerwise: a global ranking has one rate"
                raise ConfigError(name, getattr(self, name), remedy)
        _checked("criterion", self.criterion, lambda: check_criterion(self.criterion))
        _checked("alpha", self.alpha, lambda: check_criterion(self.criterion, self.alpha))
        _checked("pruned", self.pruned, lambda: check_actions(self.pruned))
        _checked("signs", self.signs, lambda: check_actions(self.pruned, self.signs, self.rewind))
        if self.reinit and self.pruned != "zero":
            remedy = (
                f"leave it out, or take --pruned zero: there is no new draw of weights held at {self.pruned}"
            )
            raise ConfigError("reinit", True, remedy)

    @property
    def variants(self) -> tuple[str, ...]:
        """What of magnitude pruning is done otherwise, as the names of methods say it."""
        return (
            *((self.criterion,) if self.criterion != "large-final" else ()),
            *(("kept-signs",) if self.signs else ()),
            *((f"pruned-at-{self.pruned}",) if self.pruned != "zero" else ()),
        )


DEFAULT_METHODS = (
    "dense",
    "edge-popup",
    "random-mask-frozen",
    "imp",
    "imp-rewind",
    "one-shot",
    "reinit",
    "random-mask",
    "shuffled-mask",
)


EVERYTHING = tuple(dict.fromkeys((*DEFAULT_METHODS, *METHODS)))


@dataclass(frozen=True, kw_only=True)
class CompareConfig(RuleConfig):
    """`supermask compare`: dense, strong tickets, IMP tickets and their controls, side by side."""

    epochs: float = option(30.0, "passes over the training split")
    batch_size: int = option(64, "images per step, of all ranks together")
    jobs: int = option(0, "runs at a time; 0 means one per core, on GPUs one per GPU")
    methods: tuple[str, ...] = option(
        DEFAULT_METHODS, "what to compare; all for everything there is", choices=("all", *METHODS)
    )
    densities: tuple[float, ...] = option((0.5, 0.3, 0.1, 0.03), "fractions of weights kept")
    seeds: tuple[int, ...] = option((0, 1, 2), "seeds; every method runs once per seed")
    init: str = option("kaiming_normal", "distribution of weights that are trained", choices=INITS)
    search_init: str = option("signed_constant", "distribution of frozen weights", choices=INITS)
    rescale: bool = option(True, "scale the frozen weights by 1/√density")
    distribution: str = option(
        "uniform",
        "uniform, global, erk, epl or N:M: how a search's density spreads, if its recipe has no other for "
        "uniform",
    )
    search_optimizer: str = option("sgd", "rule that moves the scores", choices=tuple(BASES))
    search_lr: float = option(0.1, "learning rate of the scores")
    search_weight_decay: float = option(5e-4, "weight decay of the scores")
    own_recipes: bool = option(True, "searches that have a recipe of their own take it instead of these")
    search_args: dict[str, str] = option({}, "further arguments of the searches, as key=value")  # noqa: RUF009
    filters: dict[str, str] = option(  # noqa: RUF009
        {}, "fraction of filters that layers keep, as pattern=fraction; by default one for all, by density"
    )
    rate: float = option(0.2, "IMP prunes about this fraction of the survivors per round")
    scope: str = option("layerwise", "rank weights per layer or over the network", choices=SCOPES)
    rewind_to: int | None = option(None, "early step of imp-rewind; by default 5% of the steps")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.methods == ("all",):
            object.__setattr__(self, "methods", EVERYTHING)
        elif "all" in self.methods:
            raise ConfigError("methods", self.methods, "give all alone, or the methods by name")
        check_densities(self)
        for density in self.densities:
            _check_distribution(self.distribution, density)
        check_distinct(self, "methods", "densities", "seeds")
        check_used(self)
        self._check_filters()
        for method in () if self.everything else self.methods:
            if search := search_behind(method):
                for density in densities_of(self, search):
                    with refusals("search_args", method):
                        check_search(search, *compared(self, search, density), **nominal_length(self))

    def _check_filters(self) -> None:
        if self.filters and not any(method.startswith("filters-") for method in self.methods):
            raise ConfigError("filters", self.filters, "leave it out: none of --methods prunes filters")
        for pattern, share in self.filters.items():
            try:
                _check_density("filters", float(share))
            except ValueError:
                raise ConfigError("filters", f"{pattern}={share}", "take a fraction in (0, 1]") from None

    @property
    def everything(self) -> bool:
        """Whether all methods were asked for, so that those without meaning here are left out."""
        return self.methods == EVERYTHING


@contextmanager
def refusals(arguments: str, method: str | None = None) -> Iterator[None]:
    """Turn what a search refuses inside this context into a ConfigError.

    Args:
        arguments: The field that holds further arguments of searches.
        method: The method of `compare` that needs the search.
    """
    try:
        yield
    except RefusedError as error:
        name = {"options": arguments, "density": "densities" if method else "density"}.get(
            error.field, error.field
        )
        if method is None:
            raise ConfigError(name, error.value, str(error)) from None
        if error.field == "method":
            raise ConfigError("methods", method, f"leave it out: {error}") from None
        raise ConfigError(name, error.value, f"{error}. Or leave {method} out of --methods") from None


def nominal_length(config: TaskConfig) -> dict[str, Any]:
    """How long a search is, as far as that is known without data."""
    steps = max(1, round(config.epochs * NOMINAL))
    return {"steps": steps, "steps_per_epoch": NOMINAL, "label_smoothing": config.label_smoothing}


def check_distinct(config: TaskConfig, *names: str) -> None:
    """Refuse lists that are empty or name a value twice."""
    for name in names:
        values = getattr(config, name)
        if not values or len(set(values)) != len(values):
            raise ConfigError(name, values, "give at least one value, each once")


def check_densities(config: Any) -> None:
    """Refuse densities out of range, and a way to the lowest of more than `MOST_ROUNDS` rounds of pruning."""
    for density in config.densities:
        _check_density("densities", density)
    if not 0 < config.rate < 1:
        raise ConfigError("rate", config.rate, "take a fraction in (0, 1)")
    lowest = min(config.densities, default=1.0)
    least = 1 - lowest ** (1 / MOST_ROUNDS)
    if config.rate < least:
        remedy = f"take at least {least:.2g}: the way to density {lowest:g} has {MOST_ROUNDS} rounds at most"
        raise ConfigError("rate", config.rate, remedy)


def _check_density(name: str, value: float) -> None:
    try:
        check_density(value)
    except ValueError:
        raise ConfigError(name, value, "take a density in (0, 1], the fraction of weights kept") from None


def _check_distribution(distribution: str, density: float) -> None:
    _checked("distribution", distribution, lambda: check_distribution(distribution, density))


def _checked(name: str, value: Any, check: Callable[[], object]) -> None:
    """Say of which flag the library's own check speaks."""
    try:
        check()
    except ValueError as error:
        raise ConfigError(name, value, str(error)) from None
