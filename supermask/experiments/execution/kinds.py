"""Kinds of runs: what happens between a fresh network and its ticket.

A new kind is a function from a `RunContext` to a `RunOutcome` under `register_kind`.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from supermask.analysis.connectivity import error_along_line, instability
from supermask.experiments.execution.context import RunContext
from supermask.experiments.execution.mask_sources import final_weights, mask_of
from supermask.experiments.searches import search_of
from supermask.experiments.spec import RunSpec
from supermask.masks import Mask, NonFiniteScoreError
from supermask.prune import EarlyBird, Rewire, apply_mask, hold, pruned_values
from supermask.search import BASES, Search
from supermask.training.loop import DivergedError, Progress, estimate_norm_statistics


@dataclass(frozen=True)
class RunOutcome:
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
    test: bool = True
    """Whether the test split is looked at: not by a run that decides something about others."""


Kind = Callable[[RunContext], RunOutcome]
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
def train(context: RunContext) -> RunOutcome:
    """The weights move, under the run's mask."""
    mask, values = begin_training(context)
    optimizer = optimizer_of(context.spec, context.model)
    hold(optimizer, mask, context.model, values)
    return RunOutcome(mask, context.fit(optimizer, mask), whole=values is not None)


def begin_training(context: RunContext) -> tuple[Mask, dict[str, Tensor] | None]:
    """Put the weights in place; returns the mask, and where the pruned ones are held if not at zero."""
    context.model.requires_grad_(True)
    context.load_weights()
    mask, action = mask_of(context), context.spec.mask.pruned
    if action == "zero":
        return mask, None
    return mask, pruned_values(action, context.starting_weights(), final_weights(context))


def optimizer_of(spec: RunSpec, model: nn.Module) -> Optimizer:
    """The run's rule over all parameters of a module."""
    return BASES[spec.rule.optimizer](model.parameters(), **spec.rule.options())


@register_kind("rewire")
def rewire(context: RunContext) -> RunOutcome:
    """The weights move, and so does their mask: SET or RigL, as `options["rule"]` says."""
    context.model.requires_grad_(True)
    mask = mask_of(context)
    optimizer = optimizer_of(context.spec, context.model)
    handle = Rewire(
        optimizer,
        mask,
        context.model,
        every=max(1, min(REWIRE_EVERY, context.loader.steps_per_epoch)),
        until=round(REWIRE_UNTIL * context.spec.task.steps),
        seed=context.spec.seed,
        **context.spec.options,
    )
    progress = context.fit(optimizer, mask)
    return RunOutcome(handle.mask, progress)


@register_kind("early-bird")
def early_bird(context: RunContext) -> RunOutcome:
    """The weights move, without a mask until the early-bird ticket is drawn."""
    context.model.requires_grad_(True)
    optimizer = optimizer_of(context.spec, context.model)
    handle = EarlyBird(
        optimizer,
        context.model,
        density=context.spec.density,
        every=max(1, context.loader.steps_per_epoch),
        until=max(1, context.spec.task.steps // 2),
        **context.spec.options,
    )
    progress = context.fit(optimizer, {})
    by = "agreement" if handle.agreed else "patience"
    return RunOutcome(handle.mask, progress, {"drawn_at": handle.drawn, "drawn_by": by})


@register_kind("search")
def search(context: RunContext) -> RunOutcome:
    """The scores move; the weights stay as drawn."""
    optimizer = planned_search(context)
    progress = context.fit(optimizer, {})
    facts = optimizer.further_metrics(lambda: context.accuracy(context.data.test))
    _settle(context, optimizer)
    return RunOutcome(optimizer.mask, progress, facts)


@register_kind("trial")
def trial(context: RunContext) -> RunOutcome:
    """A search that is only to be compared with others on validation; it may diverge."""
    optimizer = planned_search(context)
    try:
        progress = context.fit(optimizer, {})
    except (DivergedError, NonFiniteScoreError) as error:
        return RunOutcome({}, Progress(0), {"diverged": str(error)}, ticket=False, test=False)
    _settle(context, optimizer)
    return RunOutcome(optimizer.mask, progress, ticket=False, test=False)


def _settle(context: RunContext, optimizer: Search) -> None:
    """Put the network of the search in place."""
    trained = [parameter.detach().clone() for parameter in optimizer.masked_parameters.values()]
    optimizer.settle()
    if not all(map(torch.equal, trained, optimizer.masked_parameters.values())):
        # Norms saw another network than the one that is put in place.
        steps = min(context.loader.steps_per_epoch, 100)
        estimate_norm_statistics(context.model, context.batch, steps)


def planned_search(context: RunContext) -> Search:
    """The run's search, before its first step."""
    spec = context.spec
    optimizer = search_of(context.model, spec.method, spec.rule, spec.mask, spec.seed)
    optimizer.plan(context.spec.task.steps, context.loader.steps_per_epoch)
    return optimizer


@register_kind("path")
def path(context: RunContext) -> RunOutcome:
    """Nothing moves: the error between two trained networks is measured along the line that joins them."""
    spec, model = context.spec, context.model
    assert spec.weights.run is not None
    ends = []
    for run in (spec.weights.run, *spec.others):
        context.store.run(run).ticket().apply(model)
        ends.append({name: value.clone() for name, value in model.state_dict().items()})
    steps = min(context.loader.steps_per_epoch, 100)

    def error() -> float:
        estimate_norm_statistics(model, context.batch, steps)
        accuracy = context.evaluate(context.data.test)["accuracy"]
        assert accuracy is not None
        return 1 - accuracy

    errors = error_along_line(model, ends[0], ends[1], error, **spec.options)
    facts = {"errors": errors, "instability": instability(errors)}
    return RunOutcome({}, Progress(0), facts, ticket=False)


@register_kind("frozen")
def frozen(context: RunContext) -> RunOutcome:
    """Nothing moves; norms only get to see the network."""
    mask = mask_of(context)
    apply_mask(context.model, mask)
    steps = min(context.loader.steps_per_epoch, 100)
    estimate_norm_statistics(context.model, context.batch, steps)
    return RunOutcome(mask, Progress(0))
