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
from supermask.experiments.execution.batching import Ensembles
from supermask.experiments.execution.context import Environment
from supermask.experiments.execution.ensemble import execute_ensemble
from supermask.experiments.execution.run import execute
from supermask.experiments.execution.store import Store
from supermask.experiments.spec import RunSpec

Job = tuple[RunSpec, ...]
"""Runs that one worker executes together; most often one."""
Advanced = Callable[[str, int], None]
"""Is told a run's identifier and the number of its steps done."""


@dataclass(frozen=True)
class Done:
    """A job is finished: the result of each of its runs."""

    job: Job
    results: tuple[dict[str, Any], ...]


@dataclass(frozen=True)
class Failed:
    """A run of a job raised an error; trying again would raise it again."""

    job: Job
    error: Exception


@dataclass(frozen=True)
class WorkerLost:
    """The worker of a job ended without a word, as when it is killed or its machine goes away."""

    job: Job
    reason: str


JobResult = Done | Failed | WorkerLost


def ready_jobs(ready: Sequence[RunSpec], waits: Callable[[str], bool], ensembles: Ensembles) -> list[Job]:
    """The jobs to hand out from the runs that can start, in the same order.

    The one place that decides which runs are executed as one: those of an ensemble, once all of it that still
    wait can start.

    Args:
        ready: Runs that can start.
        waits: Whether a run has not started yet, ready or not.
        ensembles: See `ensembles_of`.
    """
    startable, jobs = {spec.id: spec for spec in ready}, list[Job]()
    for spec in ready:
        if any(spec in job for job in jobs):
            continue
        ensemble = [id for id in ensembles.get(spec.id, (spec.id,)) if waits(id)]
        if startable.keys() >= set(ensemble):
            jobs.append(tuple(startable[id] for id in ensemble))
    return jobs


def self_contained(environment: Environment) -> Environment:
    """The same environment for a process that has another working directory and other variables."""
    root = environment.data_root or os.environ.get(ROOT_VARIABLE)
    cache = environment.cache or os.environ.get(CACHE_VARIABLE)
    return replace(environment, data_root=_resolved(root), cache=_resolved(cache))


def _resolved(folder: str | None) -> str | None:
    return str(Path(folder).expanduser().resolve()) if folder else None


def perform(job: Job, store: Store, environment: Environment, advanced: Advanced) -> Done | Failed:
    """Execute a job here; never raises an `Exception`."""
    try:
        if len(job) > 1:
            return Done(job, execute_ensemble(job, store, environment, advanced))
        (spec,) = job
        return Done(job, (execute(spec, store, environment, partial(advanced, spec.id)),))
    except Exception as error:
        error.add_note(f"in run {', '.join(spec.id for spec in job)}")
        return Failed(job, error)


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
    return pickle.dumps((Failed(outcome.job, error), f"\n{where}"))


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
