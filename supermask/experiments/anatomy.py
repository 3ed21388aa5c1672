"""`supermask anatomy`: what the masks of several methods look like, and how they agree.

Density by layer, weights that lie on no path, vanished units and kernels, overlap between seeds and between
methods beside what chance gives, and how far a search's mask moves during training.
"""

import dataclasses
import math
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

from torch import Tensor

from supermask.analysis import masks as anatomy
from supermask.data import Dataset
from supermask.experiments.compare.command import CompareConfig, plan_compare
from supermask.experiments.compare.methods import MethodNames
from supermask.experiments.config import ConfigError, option
from supermask.experiments.execution.store import Store
from supermask.experiments.plan import Plan
from supermask.experiments.registry import Experiment, register_experiment
from supermask.experiments.results import describe_rows
from supermask.experiments.spec import RunSpec
from supermask.masks import distance
from supermask.tickets.network import network_of

LOOKS = 20
"""Masks of a search that are kept along its training."""
DEFAULT_METHODS = ("edge-popup", "imp", "imp-rewind", "one-shot", "random-mask")


@dataclass(frozen=True, kw_only=True)
class AnatomyConfig(CompareConfig):
    """Fields of `supermask anatomy`."""

    methods: tuple[str, ...] = option(DEFAULT_METHODS, "whose masks to look at", choices=MethodNames())
    densities: tuple[float, ...] = option((0.3, 0.1), "fractions of weights kept")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.methods == ("dense",):
            raise ConfigError("methods", self.methods, "name methods that have masks")


def plan_anatomy(config: AnatomyConfig, data: Dataset) -> Plan:
    """The runs of a comparison, with the masks of searches saved along the way."""
    plan = plan_compare(config, data)
    needed = {id for spec in plan.graph for id in spec.needs}

    def watched(spec: RunSpec) -> RunSpec:
        if spec.kind != "search" or spec.id in needed:
            return spec
        steps = spec.task.steps
        looks = sorted({round(steps * i / LOOKS) for i in range(LOOKS + 1)})
        return dataclasses.replace(spec, snapshots=tuple(looks))

    graph, rows = tuple(map(watched, plan.graph)), tuple(watched(row) for row in plan.rows)
    return Plan(graph, rows, plan.skipped)


def describe(plan: Plan, store: Store, out: Path) -> dict[str, Any]:
    """Rows as in `compare`, and what their masks look like.

    Masks of norms are left out.
    """
    described = describe_rows(plan, store, out)
    found = {spec.id: store.run(spec.id).mask() for spec in plan.rows if spec.mask.kind != "none"}
    weights = {
        id: {name: kept for name, kept in mask.items() if kept.dim() > 1} for id, mask in found.items()
    }
    masks = {id: mask for id, mask in weights.items() if mask}
    specs = [spec for spec in plan.rows if spec.id in masks]
    layers = [entry for spec in specs for entry in _layers(spec, store, masks[spec.id])]
    return {
        **described,
        "layers": layers,
        "overlaps": _overlaps(specs, masks),
        "distances": [entry for spec in specs if spec.snapshots for entry in _distances(spec, store)],
    }


def _layers(spec: RunSpec, store: Store, mask: Mapping[str, Tensor]) -> Iterable[dict[str, Any]]:
    ticket = store.run(spec.id).ticket()
    arguments = (ticket.factory or {}).get("args", {})
    size = arguments.get("image_size", spec.task.image_size)
    shape = (arguments.get("in_channels", 3), size, size)
    works, paths = anatomy.effective(network_of(ticket), mask, shape)
    densities, gone = anatomy.layer_densities(mask), anatomy.vanished(mask)
    on_data = {entry["layer"]: entry for entry in (store.run(spec.id).result or {}).get("layers", ())}
    for name in mask:
        yield {
            "method": spec.method,
            "density": spec.density,
            "seed": spec.seed,
            "layer": name,
            "layer_density": densities[name],
            "effective": int((works[name] & mask[name]).sum()) / max(int(mask[name].sum()), 1),
            **gone[name],
            "dead": on_data.get(name, {}).get("dead"),
            "log10_paths": paths if math.isfinite(paths) else None,
        }


def _overlaps(specs: Iterable[RunSpec], masks: Mapping[str, Mapping[str, Tensor]]) -> list[dict[str, Any]]:
    """Mean overlap between the masks of two methods at one density: across seeds, and with the same seed."""
    groups: dict[tuple[float, str, str, bool], list[tuple[float, float]]] = {}
    for first, second in combinations(specs, 2):
        if first.density != second.density:
            continue
        key = (first.density, first.method, second.method, first.seed == second.seed)
        groups.setdefault(key, []).append(anatomy.overlap(masks[first.id], masks[second.id]))
    return [
        {
            "density": density,
            "first": first,
            "second": second,
            "same_seed": same,
            "n": len(values),
            "overlap": statistics.fmean(value for value, _ in values),
            "by_chance": statistics.fmean(chance for _, chance in values),
        }
        for (density, first, second, same), values in groups.items()
    ]


def _distances(spec: RunSpec, store: Store) -> Iterable[dict[str, Any]]:
    """How much of a search's mask differs from its first, its last and the one before."""
    run = store.run(spec.id)
    masks = [run.ticket(step).mask() for step in spec.snapshots]
    for index, (step, mask) in enumerate(zip(spec.snapshots, masks, strict=True)):
        yield {
            "method": spec.method,
            "density": spec.density,
            "seed": spec.seed,
            "step": step,
            "from_first": distance(mask, masks[0]),
            "from_last": distance(mask, masks[-1]),
            "from_before": distance(mask, masks[max(index - 1, 0)]),
        }


register_experiment(
    Experiment(
        "anatomy", "what the masks of several methods look like", AnatomyConfig, plan_anatomy, describe
    )
)
