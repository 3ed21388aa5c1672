"""`supermask imp`: iterative magnitude pruning and its variants, a ticket per round."""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

from supermask.data import Dataset
from supermask.experiments.compare import methods as methods  # whose variants these are
from supermask.experiments.config import ConfigError, RuleConfig, check_distinct, checked, option
from supermask.experiments.plan import Plan, layers_of, task_of
from supermask.experiments.registry import Experiment, register_experiment
from supermask.experiments.runs import RunBuilder
from supermask.experiments.spec import MaskSource, RunSpec
from supermask.prune import PRUNED, check_actions, check_criterion, criterion_names, round_counts
from supermask.prune.criteria import KNOWN, WEIGHED
from supermask.prune.magnitude import SCOPES
from supermask.search.description import DESCRIPTIONS, describe
from supermask.weights.init import INITS
from supermask.weights.roles import ParameterInfo


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
        checked("criterion", self.criterion, lambda: check_criterion(self.criterion))
        checked("alpha", self.alpha, lambda: check_criterion(self.criterion, self.alpha))
        checked("pruned", self.pruned, lambda: check_actions(self.pruned))
        checked("signs", self.signs, lambda: check_actions(self.pruned, self.signs, self.rewind))
        if self.reinit and self.pruned != "zero":
            remedy = (
                f"leave it out, or take --pruned zero: there is no new draw of weights held at {self.pruned}"
            )
            raise ConfigError("reinit", True, remedy)

    @property
    def variants(self) -> tuple[str, ...]:
        """What of magnitude pruning is done otherwise, as the names of methods say it."""
        return _variants(self.criterion, self.signs, self.pruned)


def _variants(criterion: str, signs: bool, pruned: str) -> tuple[str, ...]:
    return (
        *((criterion,) if criterion != "large-final" else ()),
        *(("kept-signs",) if signs else ()),
        *((f"pruned-at-{pruned}",) if pruned != "zero" else ()),
    )


_CHANGES = {
    "kept-signs": "kept weights go back to their signs alone, times one constant for each layer",
    "pruned-at-final": "pruned weights stand at their trained values",
    "pruned-at-init": "pruned weights stand at their initial values",
    "pruned-at-init-unless-shrunk": "pruned weights stand at zero if training shrank them, else at their "
    "initial values",
}
"""What iterative pruning may do otherwise with weights; one-shot pruning has methods of these names."""


def _describe_variants() -> None:
    """Every variant of iterative pruning that this command can run."""
    choices = product(("imp", "imp-rewind", "lr-rewind"), criterion_names(), (False, True), PRUNED)
    for base, criterion, signs, pruned in choices:
        if not (variants := _variants(criterion, signs, pruned)):
            continue
        parent = DESCRIPTIONS[base]
        labels = [DESCRIPTIONS[name].label if name in _CHANGES else name for name in variants]
        changes = [
            _CHANGES.get(name, f"the weights that stay are chosen by the criterion {name}")
            for name in variants
        ]
        describe(
            "-".join([base, *variants]),
            label=", ".join([parent.label, *labels]),
            group=parent.group,
            about=f"{parent.label} in which {', and '.join(changes)}.",
            dash=(0, (3, 1.2)),
            variant_of=base,
            holds_pruned=pruned != "zero",
        )


_describe_variants()


def plan_imp(config: ImpConfig, data: Dataset) -> Plan:
    """The dense network, a ticket per round, and the reinit controls if wanted, for every seed."""
    task = task_of(config, data)
    if config.rewind_to >= task.steps:
        raise ConfigError("rewind_to", config.rewind_to, f"stay below the {task.steps} steps of a training")
    infos = layers_of(task, data)
    _check_rounds(config, infos)
    rows: list[RunSpec] = []
    for seed in config.seeds:
        rows += _rounds(config, RunBuilder(task, infos, config.rule, config.init, seed))
    return Plan(tuple(rows), tuple(rows))


def _rounds(config: ImpConfig, builder: RunBuilder) -> Iterator[RunSpec]:
    dense = builder.train("dense", snapshots=(config.rewind_to,) if config.rewind_to else ())
    rewound = "lr-rewind" if config.rewind == "lr" else "imp-rewind" if config.rewind_to else "imp"
    method = "-".join([rewound, *config.variants])
    # `large-final` is magnitude pruning; by the same name the runs are those of other experiments.
    kind = "magnitude" if config.criterion == "large-final" else "criterion"
    yield dense
    parent = dense
    for round in range(1, config.rounds + 1):
        keep = _counts(config, builder.infos, round)
        weights = dataclasses.replace(builder.weights, signs=config.signs)
        if config.rewind == "lr":
            weights = dataclasses.replace(weights, run=parent.id)
        elif config.rewind_to:
            weights = dataclasses.replace(weights, run=dense.id, step=config.rewind_to)
        parent = builder.train(
            method,
            weights=weights,
            mask=MaskSource(
                kind=kind,
                run=parent.id,
                keep=keep,
                criterion=config.criterion,
                alpha=config.alpha,
                pruned=config.pruned,
            ),
            density=_density(keep, builder),
            start=config.rewind_to,
        )
        yield parent
        if config.reinit:
            yield builder.reinit(parent)


def _check_rounds(config: ImpConfig, infos: list[ParameterInfo]) -> None:
    """Refuse what depends on the network: a rate of layers that it lacks, more rounds than it has weights."""
    try:
        _counts(config, infos, 1)
    except ValueError as error:
        raise ConfigError("conv_rate", config.conv_rate, str(error)) from None
    before = sum(info.tensor.numel() for info in infos)
    for round in range(1, config.rounds + 1):
        keep = _counts(config, infos, round)
        left = keep if isinstance(keep, int) else sum(keep.values())
        if left == before:
            remedy = f"take at most {round - 1}, or another --rate: round {round} would prune nothing"
            raise ConfigError("rounds", config.rounds, remedy)
        if left < len(infos):
            remedy = (
                f"take at most {round - 1}: round {round} would leave {left} weights to {len(infos)} layers"
            )
            raise ConfigError("rounds", config.rounds, remedy)
        before = left


def _counts(config: ImpConfig, infos: list[ParameterInfo], round: int) -> dict[str, int] | int:
    """Weights left after a round."""
    return round_counts(
        infos,
        round,
        config.rate,
        conv_rate=config.conv_rate,
        output_rate=config.output_rate,
        scope=config.scope,
    )


def _density(keep: dict[str, int] | int, builder: RunBuilder) -> float:
    return (keep if isinstance(keep, int) else sum(keep.values())) / builder.weight_count


register_experiment(Experiment("imp", "iterative magnitude pruning, a ticket per round", ImpConfig, plan_imp))
