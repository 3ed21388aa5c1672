"""The plain engine: one run after another, in this process."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from supermask.experiments.engines.jobs import Advanced, Outcome, Unit, perform
from supermask.experiments.engines.registry import Grid, Watcher, register_engine
from supermask.experiments.engines.scheduler import drive
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

        return drive(specs, self.store, self.environment, self.grid, workers, watcher)


class _Here:
    """This process as the only worker; it works while it is waited for."""

    def __init__(self, store: Store, environment: Environment) -> None:
        self._store, self._environment = store, environment
        self._unit: Unit | None = None

    def __enter__(self) -> "_Here":
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def free(self) -> int:
        return int(self._unit is None)

    def submit(self, unit: Unit) -> None:
        self._unit = unit

    def wait(self, advanced: Advanced) -> list[Outcome]:
        assert self._unit is not None
        unit, self._unit = self._unit, None
        return [perform(unit, self._store, self._environment, advanced)]
