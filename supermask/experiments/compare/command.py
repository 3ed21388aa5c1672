"""The command `supermask compare`: its configuration, checked, and its plan."""

from dataclasses import dataclass
from functools import cache, partial

from supermask.data import Dataset
from supermask.experiments.compare.comparison import ComparisonBuilder
from supermask.experiments.compare.methods import METHODS, MethodNames
from supermask.experiments.compare.options import DEFAULT_METHODS, CompareOptions
from supermask.experiments.compare.recipes import (
    check_used,
    densities_of,
    rule_and_mask_for,
    search_of_method,
)
from supermask.experiments.config import (
    ConfigError,
    check_densities,
    check_density_field,
    check_distinct,
    check_distribution_field,
    option,
)
from supermask.experiments.errors import NotApplicable
from supermask.experiments.plan import Plan, filter_layers_of, planned_network, task_of
from supermask.experiments.registry import Experiment, register_experiment
from supermask.experiments.runs import check_weights_left
from supermask.experiments.searches import check_search, length_without_data, refusals
from supermask.experiments.spec import RunSpec
from supermask.search.relative_steps import RATE, default_rate
from supermask.weights.roles import classify


def all_methods() -> tuple[str, ...]:
    """What `--methods all` stands for."""
    return tuple(dict.fromkeys((*DEFAULT_METHODS, *METHODS)))


@dataclass(frozen=True, kw_only=True)
class CompareConfig(CompareOptions):
    """`supermask compare`: dense, strong tickets, IMP tickets and their controls, side by side."""

    methods: tuple[str, ...] = option(
        DEFAULT_METHODS, "what to compare; all for everything there is", choices=MethodNames()
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.methods == ("all",):
            object.__setattr__(self, "methods", all_methods())
        elif "all" in self.methods:
            raise ConfigError("methods", self.methods, "give all alone, or the methods by name")
        check_densities(self)
        for density in self.densities:
            check_distribution_field(self.distribution, density)
        check_distinct(self, "methods", "densities", "seeds")
        check_used(self)
        self._check_filters()
        for method in () if self.everything else self.methods:
            if search := search_of_method(method):
                for density in densities_of(self, search):
                    with refusals("search_args", method):
                        check_search(
                            search,
                            *rule_and_mask_for(self, search, density, RATE),
                            **length_without_data(self.epochs, self.label_smoothing),
                        )

    def _check_filters(self) -> None:
        if self.filters and not any(method.startswith("filters-") for method in self.methods):
            raise ConfigError("filters", self.filters, "leave it out: none of --methods prunes filters")
        for pattern, share in self.filters.items():
            try:
                check_density_field("filters", float(share))
            except ValueError:
                raise ConfigError("filters", f"{pattern}={share}", "take a fraction in (0, 1]") from None

    @property
    def everything(self) -> bool:
        """Whether all methods were asked for, so that those without meaning here are left out."""
        return self.methods == all_methods()


def plan_compare(config: CompareConfig, data: Dataset) -> Plan:
    """Every method at every density with every seed."""
    task = task_of(config, data)
    rewind_to = max(1, round(0.05 * task.steps)) if config.rewind_to is None else config.rewind_to
    if config.rewind_to is not None and not 0 < rewind_to < task.steps:
        remedy = f"take a step from 1 to {task.steps - 1}" if task.steps > 1 else "leave it out"
        raise ConfigError("rewind_to", rewind_to, f"{remedy}: a training has {task.steps} steps")
    network = planned_network(task, data)
    parameters, default_lr = classify(network), default_rate(network)
    check_weights_left("densities", config.densities, [info for info in parameters if info.role == "masked"])
    filters = cache(partial(filter_layers_of, task, data))
    parts = [
        ComparisonBuilder(config, task, parameters, rewind_to, seed, filters, default_lr)
        for seed in config.seeds
    ]
    rows: list[RunSpec] = []
    skipped: dict[str, str] = {}
    for method in config.methods:
        try:
            rows += [row for part in parts for row in METHODS[method](part)]
        except NotApplicable as error:
            if not config.everything:
                raise ConfigError("methods", method, f"leave it out: {error}") from None
            skipped[method] = str(error)
    rows.sort(key=lambda row: (config.methods.index(row.method), -row.density, config.seeds.index(row.seed)))
    return Plan(tuple(spec for part in parts for spec in part.graph.values()), tuple(rows), skipped)


register_experiment(
    Experiment(
        "compare",
        "dense, strong tickets, IMP tickets and controls, side by side",
        CompareConfig,
        plan_compare,
    )
)
