"""`--lr-sweep`: short searches at several learning rates, of which validation chooses one for the long one.

A trial is the search itself, with its whole schedule pressed into a share of the steps. It leaves no ticket
and never sees the test split. The best rate of a short search is on the large side for a long one.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from supermask.experiments.errors import ConfigError
from supermask.experiments.execution.store import Store
from supermask.experiments.plan import Plan
from supermask.experiments.spec import RunSpec, Task
from supermask.search import SEARCHES

KEY = "lr_sweep"
"""Where results and tickets record it."""


def check_sweep(rates: Sequence[float], share: float, val_fraction: float) -> None:
    """Refuse a sweep that has nothing to choose among, or nothing to choose by.

    Raises:
        ConfigError: It says which, and the remedy.
    """
    if not rates:
        return
    if len(rates) < 2 or len(set(rates)) != len(rates) or min(rates) <= 0:
        raise ConfigError(KEY, rates, "give at least two positive learning rates, each once")
    if not 0 < share <= 1:
        raise ConfigError("sweep_share", share, "take a fraction in (0, 1]")
    if not val_fraction:
        raise ConfigError(
            KEY,
            rates,
            "give a --val-fraction above 0 with it: rates are chosen on validation images, never on those of "
            "the test split",
        )


def trials_of(spec: RunSpec, rates: Sequence[float], share: float) -> Plan:
    """A short search for each rate.

    Args:
        spec: The long search.
        rates: Learning rates.
        share: Steps of each trial, as a share of those of `spec`.
    """
    trials = tuple(
        dataclasses.replace(
            spec,
            kind="trial",
            task=_shortened(spec.task, share),
            mask=dataclasses.replace(spec.mask, options=_pressed(spec.mask.options, spec.method, share)),
            rule=dataclasses.replace(spec.rule, lr=rate),
        )
        for rate in rates
    )
    return Plan(trials, trials)


def _pressed(options: Mapping[str, Any], method: str, share: float) -> dict[str, Any]:
    """Arguments of a search, of which those that are lengths fit into a share of it."""
    search, pressed = SEARCHES[method], dict(options)
    for name in options.keys() & {*search.in_steps, *search.in_epochs}:
        length = share * options[name]
        pressed[name] = max(1, round(length)) if name in search.in_steps else length
    return pressed


def _shortened(task: Task, share: float) -> Task:
    def part(steps: int) -> int:
        return max(1, round(share * steps))

    return dataclasses.replace(
        task,
        steps=part(task.steps),
        warmup_steps=min(round(share * task.warmup_steps), part(task.steps)),
        milestones=tuple(map(part, task.milestones)),
    )


def chosen_rate(trials: Plan, store: Store) -> tuple[float, dict[str, Any]]:
    """The rate of highest validation accuracy, and what the trials reached.

    Of equal accuracies the lower validation loss decides, then the smaller rate.

    Raises:
        ConfigError: All of them diverged.
    """
    tried = [_tried(spec, store) for spec in trials.graph]
    sound = [entry for entry in tried if entry["val_accuracy"] is not None]
    if not sound:
        rates = tuple(entry["lr"] for entry in tried)
        raise ConfigError(KEY, rates, "take smaller ones: the search diverged at every one of them")
    best = min(sound, key=_order)
    return best["lr"], {KEY: {"chosen": best["lr"], "tried": tried}}


def _order(entry: Mapping[str, Any]) -> tuple[float, float, float]:
    loss = entry["val_loss"]
    return -entry["val_accuracy"], float("inf") if loss is None else loss, entry["lr"]


def _tried(spec: RunSpec, store: Store) -> dict[str, Any]:
    run = store.run(spec.id)
    result, history = run.result, run.history()
    assert result is not None, f"{spec.id} is not finished"
    diverged = "diverged" in result
    changed = [point["mask_changed"] for point in history if "mask_changed" in point]
    return {
        "lr": spec.rule.lr,
        "steps": result["steps"],
        "val_accuracy": None if diverged else result["val_accuracy"],
        "val_loss": None if diverged or not history else history[-1].get("val_loss"),
        "mask_changed": sum(changed) if changed else None,
        "run": spec.id,
    }
