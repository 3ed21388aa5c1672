"""Units of work: what a worker is handed, what it does with it, and what becomes of it."""

import os
import pickle
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from supermask.data.cache import CACHE_VARIABLE
from supermask.data.registry import ROOT_VARIABLE
from supermask.experiments.execution.batching import Teams
from supermask.experiments.execution.context import Environment
from supermask.experiments.execution.ensemble import execute_together
from supermask.experiments.execution.run import execute
from supermask.experiments.execution.store import Store
from supermask.experiments.spec import RunSpec

Unit = tuple[RunSpec, ...]
"""Runs that one worker executes together; most often one."""
Advanced = Callable[[str, int], None]
"""Is told a run's identifier and the number of its steps done."""


@dataclass(frozen=True)
class Done:
    """A unit is finished: the result of each of its runs."""

    unit: Unit
    results: tuple[dict[str, Any], ...]


@dataclass(frozen=True)
class Failed:
    """A run of a unit raised an error; trying again would raise it again."""

    unit: Unit
    error: Exception


@dataclass(frozen=True)
class Died:
    """The worker of a unit ended without a word, as when it is killed or its machine goes away."""

    unit: Unit
    reason: str


Outcome = Done | Failed | Died


def groups(ready: Sequence[RunSpec], waits: Callable[[str], bool], teams: Teams) -> list[Unit]:
    """The units to hand out from the runs that can start, in the same order.

    The one place that decides which runs are executed as one: those of a team, once all that still wait of it
    can start.

    Args:
        ready: Runs that can start.
        waits: Whether a run has not started yet, ready or not.
        teams: See `teams_of`.
    """
    startable, units = {spec.id: spec for spec in ready}, list[Unit]()
    for spec in ready:
        if any(spec in unit for unit in units):
            continue
        team = [id for id in teams.get(spec.id, (spec.id,)) if waits(id)]
        if startable.keys() >= set(team):
            units.append(tuple(startable[id] for id in team))
    return units


def self_contained(environment: Environment) -> Environment:
    """The same environment for a process that has another working directory and other variables."""
    root = environment.data_root or os.environ.get(ROOT_VARIABLE)
    cache = environment.cache or os.environ.get(CACHE_VARIABLE)
    return replace(environment, data_root=_resolved(root), cache=_resolved(cache))


def _resolved(folder: str | None) -> str | None:
    return str(Path(folder).expanduser().resolve()) if folder else None


def perform(unit: Unit, store: Store, environment: Environment, advanced: Advanced) -> Done | Failed:
    """Execute a unit here; never raises an `Exception`."""
    try:
        if len(unit) > 1:
            return Done(unit, execute_together(unit, store, environment, advanced))
        (spec,) = unit
        return Done(unit, (execute(spec, store, environment, partial(advanced, spec.id)),))
    except Exception as error:
        error.add_note(f"in run {', '.join(spec.id for spec in unit)}")
        return Failed(unit, error)


class Elsewhere(Exception):
    """Where in another process an error was raised: its traceback as text."""


def pack(outcome: Done | Failed) -> bytes:
    """An outcome for another process.

    A traceback cannot travel and goes along as text; an error that cannot becomes a RuntimeError.
    """
    if isinstance(outcome, Done):
        return pickle.dumps((outcome, ""))
    error = outcome.error
    where = "".join(traceback.format_exception(error))
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        error = RuntimeError(f"{type(error).__name__}: {error}")
        for note in outcome.error.__notes__:
            error.add_note(note)
    return pickle.dumps((Failed(outcome.unit, error), f"\n{where}"))


def unpack(data: bytes) -> Done | Failed:
    """What `pack` packed; the cause of an error is where it was raised."""
    outcome, where = pickle.loads(data)
    if isinstance(outcome, Failed):
        outcome.error.__cause__ = Elsewhere(where)
    return outcome


class Throttle:
    """Passes on what a run tells of its steps, at most five times a second."""

    SECONDS = 0.2

    def __init__(self, advanced: Advanced) -> None:
        self._advanced, self._told = advanced, float("-inf")

    def __call__(self, id: str, step: int) -> None:
        now = time.monotonic()
        if now - self._told >= self.SECONDS:
            self._told = now
            self._advanced(id, step)
