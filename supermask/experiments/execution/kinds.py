"""Kinds of runs: what happens between a fresh network and its ticket.

A new kind is a function from an `Execution` to an `Outcome` under `register_kind`.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from supermask.analysis.connectivity import error_along_line, instability
from supermask.experiments.execution.context import Execution
from supermask.experiments.execution.mask_sources import final_weights, mask_of
from supermask.experiments.searches import search_of
from supermask.experiments.spec import RunSpec
from supermask.masks import Mask
from supermask.prune import EarlyBird, Rewire, apply_mask, hold, pruned_values
from supermask.search import BASES, Search
from supermask.training.loop import Progress, estimate_norm_statistics


@dataclass(frozen=True)
class Outcome:
    """What a run leaves on its model.

    Attributes:
        mask: Name → bool mask; empty for a dense network.
        progress: Steps and time of the training.
        facts: Further numbers for the result, by name.
    """

    mask: Mask
    progress: Progress
    facts: dict[str, Any] = field(default_factory=dict)
    whole: bool = False
    """Whether the ticket holds all weights, because those outside the mask are not zero."""
    ticket: bool = True
    """Whether there is a ticket to save: not where a run only measures."""


Kind = Callable[[Execution], Outcome]
KINDS: dict[str, Kind] = {}
REWIRE_EVERY, REWIRE_UNTIL = 100, 0.75
"""RigL's steps between two changes (or an epoch, where that is shorter), and the share of the training that
has any."""


def register_kind(name: str) -> Callable[[Kind], Kind]:
    """Decorator: make a kind known to `execute` under `name`."""

    def register(kind: Kind) -> Kind:
        KINDS[name] = kind
        return kind

    return register


@register_kind("train")
def train(execution: Execution) -> Outcome:
    """The weights move, under the run's mask."""
    mask, values = begin_training(execution)
    optimizer = optimizer_of(execution.spec, execution.model)
    hold(optimizer, mask, execution.model, values)
    return Outcome(mask, execution.fit(optimizer, mask), whole=values is not None)


def begin_training(execution: Execution) -> tuple[Mask, dict[str, Tensor] | None]:
    """Put the weights in place; returns the mask, and where the pruned ones are held if not at zero."""
    execution.model.requires_grad_(True)
    execution.load_weights()
    mask, action = mask_of(execution), execution.spec.mask.pruned
    if action == "zero":
        return mask, None
    return mask, pruned_values(action, execution.starting_weights(), final_weights(execution))


def optimizer_of(spec: RunSpec, model: nn.Module) -> Optimizer:
    """The run's rule over all parameters of a module."""
    return BASES[spec.rule.optimizer](model.parameters(), **spec.rule.options())


@register_kind("rewire")
def rewire(execution: Execution) -> Outcome:
    """The weights move, and so does their mask: SET or RigL, as `options["rule"]` says."""
    execution.model.requires_grad_(True)
    mask = mask_of(execution)
    optimizer = optimizer_of(execution.spec, execution.model)
    handle = Rewire(
        optimizer,
        mask,
        execution.model,
        every=max(1, min(REWIRE_EVERY, execution.loader.steps_per_epoch)),
        until=round(REWIRE_UNTIL * execution.spec.task.steps),
        seed=execution.spec.seed,
        **execution.spec.options,
    )
    progress = execution.fit(optimizer, mask)
    return Outcome(handle.mask, progress)


@register_kind("early-bird")
def early_bird(execution: Execution) -> Outcome:
    """The weights move, without a mask until the early-bird ticket is drawn."""
    execution.model.requires_grad_(True)
    optimizer = optimizer_of(execution.spec, execution.model)
    handle = EarlyBird(
        optimizer,
        execution.model,
        density=execution.spec.density,
        every=max(1, execution.loader.steps_per_epoch),
        until=max(1, execution.spec.task.steps // 2),
        **execution.spec.options,
    )
    progress = execution.fit(optimizer, {})
    by = "agreement" if handle.agreed else "patience"
    return Outcome(handle.mask, progress, {"drawn_at": handle.drawn, "drawn_by": by})


@register_kind("search")
def search(execution: Execution) -> Outcome:
    """The scores move; the weights stay as drawn."""
    optimizer = planned_search(execution)
    progress = execution.fit(optimizer, {})
    facts = optimizer.further_metrics(lambda: execution.accuracy(execution.data.test))
    trained = [parameter.detach().clone() for parameter in optimizer.masked_parameters.values()]
    optimizer.settle()
    if not all(map(torch.equal, trained, optimizer.masked_parameters.values())):
        # Norms saw another network than the one that is put in place.
        steps = min(execution.loader.steps_per_epoch, 100)
        estimate_norm_statistics(execution.model, execution.batch, steps)
    return Outcome(optimizer.mask, progress, facts)


def planned_search(execution: Execution) -> Search:
    """The run's search, before its first step."""
    spec = execution.spec
    optimizer = search_of(execution.model, spec.method, spec.rule, spec.mask, spec.seed)
    optimizer.plan(execution.spec.task.steps, execution.loader.steps_per_epoch)
    return optimizer


@register_kind("path")
def path(execution: Execution) -> Outcome:
    """Nothing moves: the error between two trained networks is measured along the line that joins them."""
    spec, model = execution.spec, execution.model
    assert spec.weights.run is not None
    ends = []
    for run in (spec.weights.run, *spec.others):
        execution.store.run(run).ticket().apply(model)
        ends.append({name: value.clone() for name, value in model.state_dict().items()})
    steps = min(execution.loader.steps_per_epoch, 100)

    def error() -> float:
        estimate_norm_statistics(model, execution.batch, steps)
        accuracy = execution.evaluate(execution.data.test)["accuracy"]
        assert accuracy is not None
        return 1 - accuracy

    errors = error_along_line(model, ends[0], ends[1], error, **spec.options)
    facts = {"errors": errors, "instability": instability(errors)}
    return Outcome({}, Progress(0), facts, ticket=False)


@register_kind("frozen")
def frozen(execution: Execution) -> Outcome:
    """Nothing moves; norms only get to see the network."""
    mask = mask_of(execution)
    apply_mask(execution.model, mask)
    steps = min(execution.loader.steps_per_epoch, 100)
    estimate_norm_statistics(execution.model, execution.batch, steps)
    return Outcome(mask, Progress(0))
