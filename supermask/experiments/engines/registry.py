"""What an engine is, and which there are."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Protocol

from supermask.experiments.execution.context import Environment
from supermask.experiments.execution.store import Store
from supermask.experiments.spec import RunSpec


class Watcher(Protocol):
    """Follows the execution of a graph."""

    def advanced(self, spec: RunSpec, step: int) -> None: ...
    def finished(self, spec: RunSpec, result: dict[str, Any]) -> None: ...


class Engine(Protocol):
    """Executes graphs of runs."""

    def run(self, specs: Iterable[RunSpec], watcher: Watcher) -> dict[str, dict[str, Any]]:
        """Execute the graph; returns run identifier → result, in the order of `specs`.

        Runs that the store has finished are not computed again.

        Raises:
            ValueError: A run needs one that is not in the graph, or itself.
            EngineError: The engine itself cannot go on; WorkerDied when the workers of a run keep dying.
            Exception: Whatever a run raised, with a note that names the run.
        """
        ...


class EngineError(RuntimeError):
    """The place where runs execute does not do what it must; the message says the remedy."""


class WorkerDied(EngineError):
    """The workers that executed a run ended without a word, more often than it may be tried."""


@dataclass(frozen=True)
class Grid:
    """How a graph of runs is spread; nothing here is part of a run's identity.

    Attributes:
        jobs: Runs at a time; 0 means as many as there is room for.
        retries: How often a run is executed again after the death of its worker.
        keep_going: When a run fails, still execute those that do not need it.
        gpu_share: Part of a GPU that one run takes.
        ray_address: The Ray cluster: `local` starts one, `auto` or host:port takes one that runs.
    """

    jobs: int = 1
    retries: int = 2
    keep_going: bool = False
    gpu_share: float = 1.0
    ray_address: str = "local"


@dataclass(frozen=True)
class EngineEntry:
    """An engine of the registry.

    Attributes:
        make: From a store, an environment and a grid to the engine.
        elsewhere: Whether runs execute on other machines too, so that this one's devices and cores say
            nothing about them.
    """

    make: Callable[[Store, Environment, Grid], Engine]
    elsewhere: bool = False


ENGINES: dict[str, EngineEntry] = {}


def register_engine(
    name: str, *, elsewhere: bool = False
) -> Callable[[Callable[[Store, Environment, Grid], Engine]], Callable[[Store, Environment, Grid], Engine]]:
    """Decorator: make an engine known to `--engine` under `name`; see `EngineEntry`."""

    def register(make: Callable[[Store, Environment, Grid], Engine]) -> Callable[..., Engine]:
        ENGINES[name] = EngineEntry(make, elsewhere)
        return make

    return register
