"""The one loop behind every engine: what starts, what is tried again, what ends the work.

An engine brings `Workers`, which execute units somewhere and tell what became of them.
"""

from collections import Counter
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Any, Protocol

from supermask.experiments.engines.jobs import Advanced, Died, Done, Outcome, Unit, groups
from supermask.experiments.engines.ready_queue import Schedule, in_order
from supermask.experiments.engines.registry import Grid, Watcher, WorkerDied
from supermask.experiments.execution.batching import Teams, teams_of
from supermask.experiments.execution.context import Environment
from supermask.experiments.execution.store import Store
from supermask.experiments.spec import RunSpec


class Workers(Protocol):
    """Those who execute units, as a context: they work inside of it, and none outlives it."""

    def __enter__(self) -> "Workers": ...
    def __exit__(
        self, type: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None: ...

    def free(self) -> int:
        """How many more units they can be given now."""
        ...

    def submit(self, unit: Unit) -> None:
        """Begin a unit."""
        ...

    def wait(self, advanced: Advanced) -> list[Outcome]:
        """Wait for a moment, pass on what the runs tell, and return what has ended."""
        ...


def drive(
    specs: Iterable[RunSpec],
    store: Store,
    environment: Environment,
    grid: Grid,
    workers: Callable[[], Workers],
    watcher: Watcher,
) -> dict[str, dict[str, Any]]:
    """Execute a graph by `workers`; see `Engine.run`. No workers are made when nothing is to be done."""
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
        with workers() as crew:
            teams = teams_of(ordered, store, environment, grid.jobs)
            _Drive(ordered, results, teams, grid, watcher).work(crew)
    return {spec.id: results[spec.id] for spec in ordered}


class _Drive:
    def __init__(
        self,
        ordered: list[RunSpec],
        results: dict[str, dict[str, Any]],
        teams: Teams,
        grid: Grid,
        watcher: Watcher,
    ) -> None:
        self.results, self.teams, self.grid, self.watcher = results, teams, grid, watcher
        self.schedule = Schedule(ordered, results)
        self.specs = {spec.id: spec for spec in ordered}
        self.again: list[Unit] = []
        self.deaths: Counter[tuple[str, ...]] = Counter()
        self.errors: list[Exception] = []

    def work(self, workers: Workers) -> None:
        while self.schedule.open:
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
            for unit in groups(self.schedule.ready(), self.schedule.waits, self.teams)[:free]:
                self.schedule.start(unit)
                workers.submit(unit)

    def _take(self, outcome: Outcome) -> None:
        unit = outcome.unit
        if isinstance(outcome, Done):
            for spec, result in zip(unit, outcome.results, strict=True):
                self.results[spec.id] = result
                self.schedule.finish(spec)
                self.watcher.finished(spec, result)
        elif isinstance(outcome, Died):
            self._bury(unit, outcome.reason)
        else:
            self._give_up(unit, outcome.error)

    def _bury(self, unit: Unit, reason: str) -> None:
        names = tuple(spec.id for spec in unit)
        self.deaths[names] += 1
        if self.deaths[names] <= self.grid.retries:
            self.again.append(unit)
        else:
            self._give_up(unit, _died(names, reason, self.deaths[names]))

    def _give_up(self, unit: Unit, error: Exception) -> None:
        if not self.grid.keep_going:
            raise error
        if len(unit) > 1:  # those that are sound must not be lost with one that is not
            self.again += [(spec,) for spec in unit]
            return
        lost = [other.id for spec in unit for other in self.schedule.drop(spec)]
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
