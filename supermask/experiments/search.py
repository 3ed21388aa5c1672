"""`supermask search`: one strong ticket."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from supermask.data import Dataset
from supermask.experiments.arguments import search_arguments
from supermask.experiments.compare.methods import METHODS
from supermask.experiments.config import (
    ConfigError,
    TaskConfig,
    check_density_field,
    check_distribution_field,
    option,
)
from supermask.experiments.execution.store import Store
from supermask.experiments.lr_sweep import check_sweep, chosen_rate, trials_of
from supermask.experiments.plan import Plan, planned_network, task_of
from supermask.experiments.registry import Experiment, Trials, register_experiment
from supermask.experiments.runs import check_weights_left, rescaling, search_run
from supermask.experiments.searches import check_search, length_without_data, refusals, rule_and_mask
from supermask.experiments.spec import MaskSource, OptimizerSpec, WeightSource
from supermask.search import BASES, SEARCHES
from supermask.search.relative_steps import RATE, default_rate
from supermask.weights.init import INITS
from supermask.weights.roles import masked


@dataclass(frozen=True, kw_only=True)
class SearchConfig(TaskConfig):
    """`supermask search`: one strong ticket."""

    optimizer: str = option("sgd", "rule that moves the scores", choices=tuple(BASES))
    lr: float | None = option(None, "learning rate of the scores; without one they take relative steps")
    momentum: float = option(0.9, "momentum of sgd")
    nesterov: bool = option(False, "Nesterov momentum of sgd; relative steps without an lr have it")
    weight_decay: float | None = option(
        None, "weight decay of the scores; by default 5e-4, and 0 for relative steps"
    )
    method: str = option("edge-popup", f"search algorithm: {', '.join(SEARCHES)}")
    method_args: dict[str, str] = option({}, "further arguments of the search, as key=value")  # noqa: RUF009
    density: float = option(0.3, "fraction of weights kept")
    distribution: str = option("uniform", "uniform, global, erk, epl or N:M: how the density spreads")
    init: str = option("signed_constant", "distribution of the frozen weights", choices=INITS)
    rescale: bool = option(True, "scale the frozen weights by 1/√density")
    seed: int = option(0, "seed of the weights, the scores and the data order")
    lr_sweep: tuple[float, ...] = option(
        (), "learning rates to try in short searches, of which validation chooses one for the long search"
    )
    sweep_share: float = option(0.2, "length of each short search, as a share of the long one")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_sweep(self.lr_sweep, self.sweep_share, self.val_fraction)
        if self.method not in SEARCHES:
            known = f"take one of {', '.join(SEARCHES)}"
            elsewhere = "this is no search over frozen weights; `supermask compare --methods {}` runs it"
            remedy = elsewhere.format(self.method) if self.method in METHODS else known
            raise ConfigError("method", self.method, remedy)
        check_density_field("density", self.density)
        check_distribution_field(self.distribution, self.density)
        if self.rescale and SEARCHES[self.method].rescale_density(self.density) is None:
            raise ConfigError("rescale", True, f"leave it out: {self.method} scales its layers by itself")
        with refusals("method_args"):
            check_search(
                self.method,
                *self.rule_and_mask(RATE),
                **length_without_data(self.epochs, self.label_smoothing),
            )

    def rule_and_mask(self, default_lr: float) -> tuple[OptimizerSpec, MaskSource]:
        """How scores move, and what the search looks for.

        Args:
            default_lr: Of relative steps on the network; see `default_rate`.

        Raises:
            ConfigError: An argument that the method does not have, or of another type, or no learning rate
                where there is no default.
        """
        return rule_and_mask(
            self.method,
            optimizer=self.optimizer,
            # A sweep replaces it by one of its own.
            lr=self.lr_sweep[0] if self.lr is None and self.lr_sweep else self.lr,
            momentum=self.momentum,
            nesterov=self.nesterov,
            weight_decay=self.weight_decay,
            density=self.density,
            distribution=self.distribution,
            arguments=search_arguments(self.method, self.method_args, "method_args", self.optimizer),
            default_lr=default_lr,
        )

    @classmethod
    def defaults(cls, given: Mapping[str, Any]) -> Mapping[str, Any]:
        """What the chosen method recommends instead of the general defaults."""
        method = SEARCHES.get(given.get("method", "edge-popup"))
        return {} if method is None else method.recipe


def plan_search(config: SearchConfig, data: Dataset) -> Plan:
    """One strong ticket."""
    task = task_of(config, data)
    network = planned_network(task, data)
    infos = masked(network)
    rule, mask = config.rule_and_mask(default_rate(network))
    check_weights_left("density", (config.density,), infos)
    with refusals("method_args"):
        check_search(
            config.method,
            rule,
            mask,
            steps=task.steps,
            steps_per_epoch=task.steps_per_epoch,
            label_smoothing=config.label_smoothing,
            shapes={info.name: tuple(info.tensor.shape) for info in infos},
        )
    rescale_by = rescaling(config.method, infos, mask) if config.rescale else 1.0
    weights = WeightSource(init=config.init, seed=config.seed, rescale_by=rescale_by)
    spec = search_run(task, config.method, rule, mask, weights, config.seed)
    return Plan((spec,), (spec,))


def plan_trials(config: SearchConfig, data: Dataset) -> Plan | None:
    """A short search for each rate of a sweep."""
    if not config.lr_sweep:
        return None
    (spec,) = plan_search(config, data).graph
    return trials_of(spec, config.lr_sweep, config.sweep_share)


def decide(config: SearchConfig, trials: Plan, store: Store) -> tuple[SearchConfig, dict[str, Any]]:
    """The same search at the rate that validation chose."""
    rate, facts = chosen_rate(trials, store)
    return dataclasses.replace(config, lr=rate), facts


register_experiment(
    Experiment(
        "search",
        "find one strong ticket",
        SearchConfig,
        plan_search,
        trials=Trials(plan_trials, decide),
    )
)
