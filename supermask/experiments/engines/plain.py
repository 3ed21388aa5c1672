"""The plain engine: one run after another, in this process."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from supermask.experiments.engines.jobs import Advanced, Job, JobResult, perform
from supermask.experiments.engines.registry import Grid, Watcher, register_engine
from supermask.experiments.engines.scheduler import execute_graph
from supermask.experiments.execution.context import Environment
from supermask.experiments.execution.store import Store
from supermask.experiments.spec import RunSpec


@register_engine("plain")
@dataclass(frozen=True)
class PlainEngine:
    """Runs here, one at a time."""

    store: Store
    environment: Environment
    grid: Grid = field(default_factory=Grid)

    def run(self, specs: Iterable[RunSpec], watcher: Watcher) -> dict[str, dict[str, Any]]:
        """See `Engine.run`."""

        def workers() -> _Here:
            return _Here(self.store, self.environment)

        return execute_graph(specs, self.store, self.environment, self.grid, workers, watcher)


class _Here:
    """This process as the only worker; it works while it is waited for."""

    def __init__(self, store: Store, environment: Environment) -> None:
        self._store, self._environment = store, environment
        self._job: Job | None = None

    def __enter__(self) -> "_Here":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def free(self) -> int:
        return int(self._job is None)

    def submit(self, job: Job) -> None:
        self._job = job

    def wait(self, advanced: Advanced) -> list[JobResult]:
        assert self._job is not None
        job, self._job = self._job, None
        return [perform(job, self._store, self._environment, advanced)]
