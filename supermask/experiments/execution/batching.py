"""Ensembles: runs that are executed as one program because that is faster; see `supermask.training.ensemble`.

The runs of an ensemble agree in all but seeds, densities and where their masks and weights come from, and
none needs another. Who is in an ensemble follows from the graph of runs, the environment and the number of
jobs, never from what happens to be ready, so that the same command gives the same bytes.
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise

import torch
from torch import nn

from supermask.experiments.execution.context import Environment, data_of, network_of
from supermask.experiments.execution.store import Store
from supermask.experiments.spec import RunSpec, Task, canonical_hash
from supermask.training.ensemble import is_perceptron, obstacle

MOST = 8
"""Members of an ensemble at most, where nobody asked for a number."""
LARGEST = {"cpu": 1 << 22}
"""Multiply-adds of a forward pass of one member (weights × batch) up to which a perceptron trains faster in
an ensemble, see `benchmarks/seeds_together.py`. A GPU has none until it is measured: there an ensemble gives
up CUDA graphs, which take away the same overhead."""

Ensembles = Mapping[str, tuple[str, ...]]
"""Identifier of a run → those of its ensemble, itself among them; runs that go alone are missing."""


def ensembles_of(ordered: Sequence[RunSpec], store: Store, environment: Environment, jobs: int) -> Ensembles:
    """The ensembles of a graph, without runs that are finished or have begun alone.

    Args:
        ordered: The whole graph, each run after those it needs.
        store: Where runs lie.
        environment: Where they execute; `together` is the size of an ensemble, None for what pays.
        jobs: Units at a time; where it is 0, unknown, nothing pays.
    """
    if environment.together in (0, 1) or environment.ranks.size > 1 or environment.compile:
        return {}
    alike: dict[str, list[RunSpec]] = {}
    depth: dict[str, int] = {}
    for spec in ordered:
        # Runs of one depth do not need one another, and waiting for all of them cannot go round in circles.
        depth[spec.id] = 1 + max((depth[need] for need in spec.needs), default=0)
        if (key := _likeness(spec, environment)) is not None:
            alike.setdefault(canonical_hash([key, depth[spec.id]]), []).append(spec)
    found: dict[str, tuple[str, ...]] = {}
    for specs in alike.values():
        most = environment.together or _paying(specs[0].task, environment)
        for ensemble in _parts(specs, most, 1 if environment.together else jobs):
            open = [spec for spec in ensemble if store.run(spec.id).result is None]
            if not store.begun_as_ensemble([spec.id for spec in open]):
                open = [spec for spec in open if not store.run(spec.id).checkpoint.exists()]
            if len(open) > 1:
                found |= dict.fromkeys([spec.id for spec in open], tuple(spec.id for spec in open))
    return found


def _likeness(spec: RunSpec, environment: Environment) -> list[object] | None:
    """What the runs of an ensemble have in common; None for a run that must go alone."""
    task, mask = spec.task, spec.mask
    if task.amp not in ("none", "bf16") or task.clip is not None:
        return None
    if environment.cuda_graphs or environment.accelerate:
        return None
    if spec.kind == "search" and spec.method == "edge-popup":
        own: list[object] = [mask.distribution, mask.options]
    elif spec.kind == "train":
        own = [mask.kind == "none", mask.pruned == "zero"]
    else:
        return None
    if obstacle(_network(task, environment)) is not None:
        return None
    everything = spec.as_dict()
    return [spec.kind, own, spec.start, everything["task"], everything["rule"]]


def _paying(task: Task, environment: Environment) -> int:
    """How many members to take where nobody said; 1 where an ensemble would not be faster."""
    device = torch.device(environment.device).type
    network = _network(task, environment)
    weights = sum(parameter.numel() for parameter in network.parameters())
    if not is_perceptron(network) or weights * task.batch_size > LARGEST.get(device, 0):
        return 1
    return MOST


def _parts(specs: Sequence[RunSpec], most: int, jobs: int) -> list[Sequence[RunSpec]]:
    """Parts of at most `most` runs, as equal as possible, and as many as keep all jobs busy."""
    if most < 2 or jobs < 1:
        return []
    count = min(len(specs), jobs * -(-len(specs) // (most * jobs)))
    edges = [len(specs) * i // count for i in range(count + 1)]
    return [specs[start:end] for start, end in pairwise(edges)]


_networks: dict[str, nn.Module] = {}


def _network(task: Task, environment: Environment) -> nn.Module:
    """The network of a task, without memory for it; made once."""
    key = canonical_hash([task.model, task.model_args, task.data_hash, task.image_size])
    if key not in _networks:
        data = data_of(task, environment)
        with torch.device("meta"):
            _networks[key] = network_of(task, data)
    return _networks[key]
