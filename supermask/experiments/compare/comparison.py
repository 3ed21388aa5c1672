"""One seed of `compare`: the runs that several methods build on."""

import dataclasses
from collections.abc import Callable, Iterable
from functools import cached_property

from supermask.experiments.compare.options import CompareOptions
from supermask.experiments.compare.recipes import recipe_of, rule_and_mask_for
from supermask.experiments.errors import ConfigError, NotApplicable, RefusedError
from supermask.experiments.runs import RunBuilder, rescaling, search_run
from supermask.experiments.searches import check_search
from supermask.experiments.spec import RunSpec, Task, WeightSource
from supermask.prune import FilterLayer, density_path, filter_counts, filter_fractions, weights_left
from supermask.weights.roles import ParameterInfo


class ComparisonBuilder(RunBuilder):
    """One seed of `compare`: what several methods build on is made once.

    Attributes:
        config: What the user said.
        parameters: All parameters of the network.
        rewind_to: Early step that late rewinding goes back to.
        filter_layers: Finds the layers of the network that can lose filters.
        default_lr: Of searches on the network that are given none.
    """

    def __init__(
        self,
        config: CompareOptions,
        task: Task,
        parameters: list[ParameterInfo],
        rewind_to: int,
        seed: int,
        filter_layers: Callable[[], dict[str, FilterLayer]],
        default_lr: float,
    ) -> None:
        infos = [info for info in parameters if info.role == "masked"]
        super().__init__(task, infos, config.rule, config.init, seed)
        self.config, self.parameters, self.rewind_to = config, parameters, rewind_to
        self.filter_layers, self.default_lr = filter_layers, default_lr
        self._paths: dict[str, dict[float, RunSpec]] = {}

    @property
    def densities(self) -> list[float]:
        """The densities of pruned networks: those below 1, if there is one."""
        return [d for d in self.config.densities if d < 1] or list(self.config.densities)

    def filters(self) -> dict[float, dict[str, int]]:
        """Density of weights → filters to keep in each layer: at the densities asked for, or as given.

        Raises:
            NotApplicable: Even one filter in each layer leaves more weights than that, or the network has no
                filter that could go.
            ConfigError: The user's fractions do not fit the network.
        """
        shapes = {info.name: tuple(info.tensor.shape) for info in self.infos}
        found: dict[float, dict[str, int]] = {}
        for density in self.densities if not self.config.filters else ():
            try:
                found[density] = filter_counts(self.filter_layers(), shapes, density)
            except ValueError as error:
                raise NotApplicable(f"density {density:g}, filters of {self.task.model}: {error}") from None
        if self.config.filters:
            layers = self.filter_layers()
            try:
                counts = filter_fractions(layers, self.config.filter_fractions)
            except ValueError as error:
                raise ConfigError("filters", self.config.filters, str(error)) from None
            found[weights_left(layers, shapes, counts)] = counts
        return found

    def check_search(self, method: str, densities: Iterable[float]) -> None:
        """Refuse a search that cannot be what the comparison asks for.

        Raises:
            NotApplicable: With the search's own words.
        """
        shapes = {info.name: tuple(info.tensor.shape) for info in self.infos}
        for density in densities:
            try:
                rule, mask = rule_and_mask_for(self.config, method, density, self.default_lr)
                check_search(
                    method,
                    rule,
                    mask,
                    steps=self.task.steps,
                    steps_per_epoch=self.task.steps_per_epoch,
                    label_smoothing=self.task.label_smoothing,
                    shapes=shapes,
                )
            except (ConfigError, RefusedError) as error:
                raise NotApplicable(str(error)) from None

    def search(self, method: str, density: float) -> RunSpec:
        """A mask search, by the method's own recipe where it has one and the user does not say otherwise."""
        config = self.config
        rule, mask = rule_and_mask_for(config, method, density, self.default_lr)
        recipe = recipe_of(config, method)
        rescale = recipe.get("rescale", config.rescale)
        weights = WeightSource(
            init=recipe.get("init", config.search_init),
            seed=self.seed,
            rescale_by=rescaling(method, self.infos, mask) if rescale else 1.0,
        )
        return self.add(search_run(self.task, method, rule, mask, weights, self.seed))

    @cached_property
    def dense(self) -> RunSpec:
        """The trained dense network, with its early weights kept for rewinding."""
        return self.train("dense", snapshots=(self.rewind_to,))

    @cached_property
    def dense_long(self) -> RunSpec:
        """The control of IMP's cost: the dense network in one training of all steps of the sparsest ticket.

        The schedule is stretched to them, its milestones and warm-up with it.
        """
        times, task = 1 + len(density_path(self.densities, self.config.rate)), self.task
        stretched = dataclasses.replace(
            task,
            steps=times * task.steps,
            warmup_steps=times * task.warmup_steps,
            milestones=tuple(times * step for step in task.milestones),
        )
        return self.add(dataclasses.replace(self.dense, method="dense-long", task=stretched, snapshots=()))

    def pruned(self, method: str = "imp") -> dict[float, RunSpec]:
        """Density → ticket of iterative magnitude pruning; `imp`, `imp-rewind` or `lr-rewind`."""
        if method == "imp-rewind" and self.rewind_to >= self.task.steps:
            raise NotApplicable("a training of one step has no earlier one to rewind to; take more --epochs")
        if method not in self._paths:
            self._paths[method] = self.prune_iteratively(
                method,
                self.dense,
                self.densities,
                rate=self.config.rate,
                scope=self.config.scope,
                rewind_to=self.rewind_to if method == "imp-rewind" else 0,
                rewind="lr" if method == "lr-rewind" else "weights",
            )
        return self._paths[method]
