"""The one loop behind every engine: what starts, what is tried again, what ends the work.

An engine brings `Workers`, which execute jobs somewhere and tell what became of them.
"""

from collections import Counter
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Any, Protocol

from supermask.experiments.engines.jobs import Advanced, Done, Job, JobResult, WorkerLost, ready_jobs
from supermask.experiments.engines.ready_queue import ReadyQueue, in_order
from supermask.experiments.engines.registry import Grid, Watcher, WorkerDied
from supermask.experiments.execution.batching import Ensembles, ensembles_of
from supermask.experiments.execution.context import Environment
from supermask.experiments.execution.store import Store
from supermask.experiments.spec import RunSpec


class Workers(Protocol):
    """Those who execute jobs, as a context: they work inside of it, and none outlives it."""

    def __enter__(self) -> "Workers": ...
    def __exit__(
        self, type: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None: ...

    def free(self) -> int:
        """How many more jobs they can be given now."""
        ...

    def submit(self, job: Job) -> None:
        """Begin a job."""
        ...

    def wait(self, advanced: Advanced) -> list[JobResult]:
        """Wait for a moment, pass on what the runs tell, and return what has ended."""
        ...


def execute_graph(
    specs: Iterable[RunSpec],
    store: Store,
    environment: Environment,
    grid: Grid,
    make_workers: Callable[[], Workers],
    watcher: Watcher,
) -> dict[str, dict[str, Any]]:
    """Execute a graph by workers; see `Engine.run`. None are made when nothing is to be done."""
    ordered = in_order(specs)
    results: dict[str, dict[str, Any]] = {}
    finished = environment.ranks.from_main(
        lambda: {spec.id: store.run(spec.id).checked_result() for spec in ordered}
    )
    for spec in ordered:
        if (done := finished[spec.id]) is not None:
            results[spec.id] = done
            watcher.finished(spec, done)
    if len(results) < len(ordered):
        with make_workers() as workers:
            ensembles = ensembles_of(ordered, store, environment, grid.jobs)
            Scheduler(ordered, results, ensembles, grid, watcher).work(workers)
    return {spec.id: results[spec.id] for spec in ordered}


class Scheduler:
    def __init__(
        self,
        ordered: list[RunSpec],
        results: dict[str, dict[str, Any]],
        ensembles: Ensembles,
        grid: Grid,
        watcher: Watcher,
    ) -> None:
        self.results, self.ensembles, self.grid, self.watcher = results, ensembles, grid, watcher
        self.queue = ReadyQueue(ordered, results)
        self.specs = {spec.id: spec for spec in ordered}
        self.again: list[Job] = []
        self.failures: Counter[tuple[str, ...]] = Counter()
        self.errors: list[Exception] = []

    def work(self, workers: Workers) -> None:
        while self.queue.open:
            self._hand_out(workers)
            for outcome in workers.wait(self._advanced):
                self._take(outcome)
        if self.errors:
            raise _first(self.errors)

    def _advanced(self, id: str, step: int) -> None:
        self.watcher.advanced(self.specs[id], step)

    def _hand_out(self, workers: Workers) -> None:
        free = workers.free()
        while free > 0 and self.again:
            workers.submit(self.again.pop(0))
            free -= 1
        if free > 0:
            for job in ready_jobs(self.queue.ready(), self.queue.waits, self.ensembles)[:free]:
                self.queue.start(job)
                workers.submit(job)

    def _take(self, outcome: JobResult) -> None:
        job = outcome.job
        if isinstance(outcome, Done):
            for spec, result in zip(job, outcome.results, strict=True):
                self.results[spec.id] = result
                self.queue.finish(spec)
                self.watcher.finished(spec, result)
        elif isinstance(outcome, WorkerLost):
            self._retry_or_fail(job, outcome.reason)
        else:
            self._give_up(job, outcome.error)

    def _retry_or_fail(self, job: Job, reason: str) -> None:
        names = tuple(spec.id for spec in job)
        self.failures[names] += 1
        if self.failures[names] <= self.grid.retries:
            self.again.append(job)
        else:
            self._give_up(job, _died(names, reason, self.failures[names]))

    def _give_up(self, job: Job, error: Exception) -> None:
        if not self.grid.keep_going:
            raise error
        if len(job) > 1:  # those that are sound must not be lost with one that is not
            self.again += [(spec,) for spec in job]
            return
        lost = [other.id for spec in job for other in self.queue.drop(spec)]
        if lost:
            error.add_note(f"and so {', '.join(lost)} could not be executed")
        self.errors.append(error)


def _died(names: tuple[str, ...], reason: str, times: int) -> WorkerDied:
    often = "once" if times == 1 else f"{times} times"
    return WorkerDied(
        f"the worker of run {', '.join(names)} died {often} ({reason}). Finished runs are kept; the same "
        "command goes on from there, with fewer --jobs if memory is short, or more --retries if machines "
        "come and go"
    )


def _first(errors: list[Exception]) -> Exception:
    """The first of the errors, which decides the exit code, with a note of each other."""
    first, *others = errors
    for other in others:
        first.add_note("; ".join([f"also: {other}", *getattr(other, "__notes__", ())]))
    return first
