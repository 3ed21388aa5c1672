"""What the runs of one seed have in common, and how runs are made from it."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from supermask.experiments.errors import ConfigError
from supermask.experiments.spec import MaskSource, OptimizerSpec, RunSpec, Task, WeightSource
from supermask.masks import allocate, keep_count
from supermask.prune import density_path
from supermask.prune.controls import reinit_seed
from supermask.search import SEARCHES
from supermask.weights.roles import ParameterInfo


def counts(infos: list[ParameterInfo], density: float, distribution: str = "uniform") -> dict[str, int]:
    """Name → weights to keep."""
    shapes = {info.name: info.tensor.shape for info in infos}
    return allocate(shapes, density, distribution, {info.name: info.inputs[0] for info in infos})


def rescaling(method: str, infos: list[ParameterInfo], mask: MaskSource) -> float | dict[str, float]:
    """The density that each layer is rescaled for: its own where the distribution fixes it."""
    density = SEARCHES[method].rescale_density(mask.density)
    if density is None:
        return 1.0
    if mask.distribution in ("uniform", "global"):
        return density
    own = counts(infos, density, mask.distribution)
    return {info.name: own[info.name] / info.tensor.numel() for info in infos}


def check_weights_left(name: str, densities: Iterable[float], infos: Sequence[ParameterInfo]) -> None:
    """Refuse densities at which fewer weights are left than there are layers, of which each keeps one.

    Args:
        name: The field that they come from.
        densities: Fractions of all masked weights.
        infos: The masked parameters.

    Raises:
        ConfigError: It names the first of them.
    """
    layers, weights = len(infos), sum(info.tensor.numel() for info in infos)
    for density in densities:
        if round(density * weights) < layers:
            remedy = f"take at least {layers / weights:.2g}: each of {layers} layers keeps a weight"
            raise ConfigError(name, density, remedy)


class RunBuilder:
    """One seed of an experiment: it makes runs of one task and one rule, and remembers all that it made.

    Attributes:
        task: Data, network and length.
        infos: The masked parameters.
        rule: How weights move.
        weights: Where they start.
        seed: Of everything in these runs.
        graph: Identifier → run, parents before children.
    """

    def __init__(
        self, task: Task, infos: list[ParameterInfo], rule: OptimizerSpec, init: str, seed: int
    ) -> None:
        self.task, self.infos, self.rule, self.seed = task, infos, rule, seed
        self.weights = WeightSource(init=init, seed=seed)
        self.graph: dict[str, RunSpec] = {}

    def counts(self, density: float, distribution: str = "uniform") -> dict[str, int]:
        """Name → weights to keep at a density."""
        return counts(self.infos, density, distribution)

    def keep(self, density: float, scope: str = "layerwise") -> dict[str, int] | int:
        """Weights to keep at a density, per layer or (scope `global`) in all.

        Raises:
            ConfigError: In all they are fewer than there are layers, of which each keeps one.
        """
        check_weights_left("densities", (density,), self.infos)
        return self.counts(density) if scope != "global" else keep_count(self.weight_count, density)

    @property
    def weight_count(self) -> int:
        """Masked weights in all."""
        return sum(info.tensor.numel() for info in self.infos)

    def add(self, spec: RunSpec) -> RunSpec:
        """Remember a run; its parents must have been made here before."""
        return self.graph.setdefault(spec.id, spec)

    def train(
        self,
        method: str,
        *,
        kind: str = "train",
        weights: WeightSource | None = None,
        rule: OptimizerSpec | None = None,
        mask: MaskSource | None = None,
        density: float = 1.0,
        seed: int | None = None,
        start: int = 0,
        snapshots: tuple[int, ...] = (),
        others: tuple[str, ...] = (),
        options: Mapping[str, Any] = MappingProxyType({}),
    ) -> RunSpec:
        """A run of the common rule from the common initialization, unless told otherwise."""
        spec = RunSpec(
            method=method,
            kind=kind,
            task=self.task,
            rule=rule or self.rule,
            weights=weights or self.weights,
            seed=self.seed if seed is None else seed,
            mask=mask or MaskSource(),
            density=density,
            start=start,
            snapshots=snapshots,
            others=others,
            options=dict(options),
        )
        return self.add(spec)

    def prune_iteratively(
        self,
        method: str,
        dense: RunSpec,
        densities: Sequence[float],
        *,
        rate: float,
        scope: str,
        rewind_to: int = 0,
        rewind: str = "weights",
    ) -> dict[float, RunSpec]:
        """Density → IMP ticket, through rounds that prune about `rate` of the survivors each.

        Args:
            dense: The trained dense network; with `rewind_to`, it saves its weights at that step.
            scope: Rank `layerwise` or `global`.
            rewind_to: Step that every round goes back to; 0 is initialization.
            rewind: `weights` go back, or `lr`: only the schedule does, and they stay as trained.
        """
        for density in densities:
            self.keep(density, scope)  # refuse those that cannot be before those on the way to them
        weights = self.weights
        if rewind_to:
            weights = dataclasses.replace(weights, run=dense.id, step=rewind_to)
        path, parent = {}, dense
        for density in density_path(densities, rate):
            mask = MaskSource(kind="magnitude", run=parent.id, keep=self.keep(density, scope))
            if rewind == "lr":
                weights = dataclasses.replace(self.weights, run=parent.id)
            parent = self.train(method, weights=weights, mask=mask, density=density, start=rewind_to)
            path[density] = parent
        return {density: path[density] for density in densities if density in path}

    def reinit(self, ticket: RunSpec) -> RunSpec:
        """The control of a ticket: its mask on newly drawn weights, trained."""
        weights = dataclasses.replace(self.weights, seed=reinit_seed(self.seed), signs=ticket.weights.signs)
        mask = MaskSource(kind="same", run=ticket.id)
        return self.train("reinit", weights=weights, mask=mask, density=ticket.density)


def search_run(
    task: Task, method: str, rule: OptimizerSpec, mask: MaskSource, weights: WeightSource, seed: int
) -> RunSpec:
    """One strong ticket."""
    return RunSpec(
        method=method,
        kind="search",
        task=task,
        rule=rule,
        weights=weights,
        seed=seed,
        mask=mask,
        density=mask.density,
    )
