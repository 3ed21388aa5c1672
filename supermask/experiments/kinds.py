"""Kinds of runs: what happens between a fresh network and its ticket.

A new kind is a function from an `Execution` to an `Outcome` under `register_kind`.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from supermask.experiments.execution import Execution
from supermask.experiments.mask_sources import final_weights, mask_of
from supermask.mask import Mask
from supermask.prune import apply_mask, hold, pruned_values
from supermask.search import BASES, SEARCHES, Search
from supermask.train import Progress, estimate_norm_statistics


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


Kind = Callable[[Execution], Outcome]
KINDS: dict[str, Kind] = {}


def register_kind(name: str) -> Callable[[Kind], Kind]:
    """Decorator: make a kind known to `execute` under `name`."""

    def register(kind: Kind) -> Kind:
        KINDS[name] = kind
        return kind

    return register


@register_kind("train")
def train(execution: Execution) -> Outcome:
    """The weights move, under the run's mask."""
    execution.model.requires_grad_(True)
    execution.load_weights()
    mask, action = mask_of(execution), execution.spec.mask.pruned
    rule = execution.spec.rule
    optimizer = BASES[rule.optimizer](execution.model.parameters(), **rule.options())
    values = None
    if action != "zero":
        values = pruned_values(action, execution.initial_weights, final_weights(execution))
    hold(optimizer, mask, execution.model, values)
    return Outcome(mask, execution.fit(optimizer, mask), whole=values is not None)


@register_kind("search")
def search(execution: Execution) -> Outcome:
    """The scores move; the weights stay as drawn."""
    source, rule = execution.spec.mask, execution.spec.rule
    optimizer: Search = SEARCHES[execution.spec.method](
        execution.model,
        density=source.density,
        distribution=source.distribution,
        base=rule.optimizer,
        seed=execution.spec.seed,
        **rule.options(),
        **source.options,
    )
    optimizer.plan(execution.spec.task.steps, execution.loader.steps_per_epoch)
    progress = execution.fit(optimizer, {})
    optimizer.settle()
    return Outcome(optimizer.mask, progress)


@register_kind("frozen")
def frozen(execution: Execution) -> Outcome:
    """Nothing moves; norms only get to see the network."""
    mask = mask_of(execution)
    apply_mask(execution.model, mask)
    steps = min(execution.loader.steps_per_epoch, 100)
    estimate_norm_statistics(execution.model, execution.batch, steps)
    return Outcome(mask, Progress(0))
