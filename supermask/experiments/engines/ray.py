"""The Ray engine: the same graph on the machines of a Ray cluster, which share the folder of the store.

Ray places runs and says which worker or machine died. What is tried again is decided here as for every other
engine, so Ray's own retries are off. A cluster that was there before is left as it was; one that was started
here ends here.
"""

import importlib
import importlib.util
import os
import signal
import threading
import time
import uuid
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from supermask.experiments.engines.jobs import (
    Advanced,
    Failed,
    Job,
    JobResult,
    Throttle,
    WorkerLost,
    pack,
    perform,
    self_contained,
    unpack,
)
from supermask.experiments.engines.local import cores_here, gpus_here
from supermask.experiments.engines.registry import EngineError, Grid, Watcher, register_engine
from supermask.experiments.engines.scheduler import execute_graph
from supermask.experiments.execution.context import Environment
from supermask.experiments.execution.store import Run, Store
from supermask.experiments.spec import RunSpec
from supermask.io import DamagedFileError

PATIENCE = 0.5
"""Seconds that the driver waits for news before it looks at the cluster again."""
GRACE = 10.0
"""Seconds that cancelled runs have to end."""
WITHOUT_ROOM = 120.0
"""Seconds without any machine that could execute a run, after which the work is given up."""
SHARED_FOLDER = 60.0
"""Seconds in which every machine must see what another has written: NFS may be that late."""
OBJECT_STORE = 100 << 20
"""Bytes for Ray's objects in a cluster of ours: specifications and results are small."""


@register_engine("ray", elsewhere=True)
@dataclass(frozen=True)
class RayEngine:
    """Runs as tasks of a Ray cluster, `grid.jobs` at a time; 0 means as many as its machines have room for.

    A run takes `environment.threads` CPUs and, on `cuda`, `grid.gpu_share` of a GPU.

    Raises:
        EngineError: Ray is not installed.
    """

    store: Store
    environment: Environment
    grid: Grid = field(default_factory=lambda: Grid(jobs=0))

    def __post_init__(self) -> None:
        if importlib.util.find_spec("ray") is None:
            raise EngineError("--engine ray needs Ray, which is not installed: pip install 'supermask[ray]'")

    def run(self, specs: Iterable[RunSpec], watcher: Watcher) -> dict[str, dict[str, Any]]:
        """See `Engine.run`."""
        self.store.root.mkdir(parents=True, exist_ok=True)
        store = Store(self.store.root.resolve())
        environment = self_contained(self.environment)

        def workers() -> _Cluster:
            return _Cluster(store, environment, self.grid)

        results = execute_graph(specs, store, environment, self.grid, workers, watcher)
        await_results(store, results)
        return results


class _Cluster:
    """Tasks of a Ray cluster as workers."""

    def __init__(self, store: Store, environment: Environment, grid: Grid) -> None:
        self._ray: Any = importlib.import_module("ray")
        self._store, self._environment, self._grid = store, environment, grid
        self._cpus = max(environment.threads, 1)
        self._gpus = grid.gpu_share if environment.device.startswith("cuda") else 0.0
        self._running: dict[Any, Job] = {}
        self._connected = False
        self._token = store.root / f".shared-{uuid.uuid4().hex}"
        self._seen_room = time.monotonic()

    def __enter__(self) -> "_Cluster":
        try:
            self._connect()
            self._token.write_text(self._token.name)
            self._check_nodes()
            here = self._ray.get_runtime_context().get_node_id()
            self._board = _board(self._ray).options(num_cpus=0, **self._on(here)).remote()
            self._task = self._ray.remote(
                num_cpus=self._cpus, num_gpus=self._gpus, max_retries=0, scheduling_strategy="SPREAD"
            )(_work)
            return self
        except BaseException:
            self.__exit__()
            raise

    def __exit__(self, *_: object) -> None:
        with suppress(self._ray.exceptions.RayError):
            for ref in self._running:
                self._ray.cancel(ref, force=True)
            if self._running:
                self._ray.wait(list(self._running), num_returns=len(self._running), timeout=GRACE)
        self._token.unlink(missing_ok=True)
        if self._connected:
            self._ray.shutdown()
        elif hasattr(self, "_board"):
            self._ray.kill(self._board)

    def free(self) -> int:
        return (self._grid.jobs or self._room()) - len(self._running)

    def submit(self, job: Job) -> None:
        ref = self._task.remote(job, self._store, self._environment, self._token, Path.cwd(), self._board)
        self._running[ref] = job

    def wait(self, advanced: Advanced) -> list[JobResult]:
        self._look_for_room()
        if not self._running:
            time.sleep(PATIENCE)
            return []
        ended, _ = self._ray.wait(list(self._running), timeout=PATIENCE)
        with suppress(self._ray.exceptions.RayActorError):
            for id, step in self._ray.get(self._board.take.remote()).items():
                advanced(id, step)
        return [self._outcome(ref) for ref in ended]

    def _outcome(self, ref: Any) -> JobResult:
        job = self._running.pop(ref)
        try:
            return unpack(self._ray.get(ref))
        except self._ray.exceptions.RayTaskError as error:
            names = ", ".join(spec.id for spec in job)
            last = str(error).strip().splitlines()[-1]
            return Failed(job, EngineError(f"a machine of the cluster cannot execute run {names}: {last}"))
        except self._ray.exceptions.RayError as error:
            first = next(iter(str(error).strip().splitlines()), "")
            return WorkerLost(job, f"{type(error).__name__}: {first}")

    def _connect(self) -> None:
        """Start or join a cluster, unless this process is in one already."""
        if self._ray.is_initialized():
            return
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        address = self._grid.ray_address
        options: dict[str, Any] = {"address": address, "log_to_driver": False, "logging_level": "error"}
        if address == "local":
            options |= {
                "num_cpus": max(len(cores_here()), self._grid.jobs * self._cpus),
                "num_gpus": len(gpus_here("cuda")) if self._gpus else 0,
                "include_dashboard": False,
                "object_store_memory": OBJECT_STORE,
                "_system_config": {"worker_niceness": 0},  # a run is what this machine is for
            }
        try:
            with _own_sigterm():
                self._ray.init(**options)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise EngineError(
                f"--ray-address {address}: {str(error).splitlines()[0]}. Give the host:port of a cluster "
                "that runs (ray start --head prints it), auto on one of its machines, or local to start one"
            ) from None
        self._connected = True

    def _check_nodes(self) -> None:
        """Every machine that may execute a run must see the store and have the same versions."""
        nodes = [node for node in self._nodes() if self._fits(node)]
        if not nodes:
            raise EngineError(self._no_room("has"))
        look = self._ray.remote(num_cpus=0, max_retries=0)(_look)
        asked = [
            (
                node["NodeManagerAddress"],
                look.options(**self._on(node["NodeID"])).remote(self._token, _versions()),
            )
            for node in nodes
        ]
        for address, ref in asked:
            try:
                problem = self._ray.get(ref)
            except self._ray.exceptions.RayError as error:
                problem = f"does not execute supermask ({str(error).strip().splitlines()[-1]})"
            if problem:
                raise EngineError(f"machine {address} of the cluster {problem}")

    def _nodes(self) -> list[dict[str, Any]]:
        return [node for node in self._ray.nodes() if node["Alive"]]

    def _fits(self, node: dict[str, Any]) -> int:
        """How many runs a machine has room for."""
        has = node["Resources"]
        room = int(has.get("CPU", 0) / self._cpus)
        return min(room, int(has.get("GPU", 0)) * int(1 / self._gpus)) if self._gpus else room

    def _room(self) -> int:
        return sum(map(self._fits, self._nodes()))

    def _look_for_room(self) -> None:
        now = time.monotonic()
        if self._room():
            self._seen_room = now
        elif now - self._seen_room > WITHOUT_ROOM:
            raise EngineError(self._no_room(f"has had for {WITHOUT_ROOM:.0f} seconds"))

    def _no_room(self, has: str) -> str:
        gpus = f" and {self._gpus:g} GPU" if self._gpus else ""
        return (
            f"no machine of the Ray cluster {has} {self._cpus} CPU{gpus} for a run. Take fewer --threads, a "
            "smaller --gpu-share or --device cpu, or add machines; finished runs are kept"
        )

    def _on(self, node: str) -> dict[str, Any]:
        """Options of a task that executes on one machine."""
        strategies: Any = importlib.import_module("ray.util.scheduling_strategies")
        return {"scheduling_strategy": strategies.NodeAffinitySchedulingStrategy(node, soft=False)}


@contextmanager
def _own_sigterm() -> Iterator[None]:
    """Keep what this process does on SIGTERM: `ray.init` sets a handler that ends it."""
    here = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGTERM) if here else None
    try:
        yield
    finally:
        if here:
            signal.signal(signal.SIGTERM, before)


def _board(ray: Any) -> Any:
    """The actor that workers tell of their steps.

    A class of this function's own goes to the actor's process by value, which so need not import torch.
    """

    class Board:
        def __init__(self) -> None:
            self.news: dict[str, int] = {}

        def tell(self, id: str, step: int) -> None:
            self.news[id] = step

        def take(self) -> dict[str, int]:
            news, self.news = self.news, {}
            return news

    return ray.remote(Board)


# On the machines of the cluster ----------------------------------------------------------------------


def _work(job: Job, store: Store, environment: Environment, token: Path, folder: Path, board: Any) -> bytes:
    with suppress(OSError):
        os.chdir(folder)  # a data set may be named by a relative path
    try:
        if problem := _unshared(token):
            raise EngineError(f"a machine that came later {problem}")
        await_results(store, [need for spec in job for need in spec.needs])
    except Exception as error:
        return pack(Failed(job, error))
    told = Throttle(lambda id, step: board.tell.remote(id, step))
    return pack(perform(job, store, environment, told))


def _look(token: Path, versions: dict[str, str]) -> str:
    """What is wrong with this machine, to follow its name; empty if nothing is."""
    own = _versions()
    others = [
        f"{name} {own[name]} and not {version}" for name, version in versions.items() if own[name] != version
    ]
    return _unshared(token) or (f"has {', '.join(others)}, and would give other results" if others else "")


def _unshared(token: Path) -> str:
    deadline = time.monotonic() + SHARED_FOLDER / 4
    while True:
        try:
            if token.read_text() == token.name:
                return ""
            reason = "it is another one"
        except OSError as error:
            reason = str(error.strerror)
        if time.monotonic() > deadline:
            break
        time.sleep(PATIENCE)
    return (
        f"does not see the folder {token.parent} of the machine where the command runs ({reason}). All must "
        "share the folder of --out under the same path, by NFS or the like"
    )


def _versions() -> dict[str, str]:
    return {"supermask": version("supermask"), "torch": torch.__version__}


def await_results(store: Store, ids: Iterable[str]) -> None:
    """Wait until results that another machine has written can be seen here.

    Raises:
        EngineError: They cannot after `SHARED_FOLDER` seconds.
        DamagedFileError: They are damaged.
    """
    deadline = time.monotonic() + SHARED_FOLDER
    missing = [store.run(id) for id in ids]
    while missing := [run for run in missing if not _seen(run)]:
        if time.monotonic() > deadline:
            run = missing[0]
            if run.result is None:
                raise EngineError(
                    f"another machine has finished run {run.folder.name}, and {run.folder} still has no "
                    "result here. All machines must share the folder of --out"
                )
        time.sleep(PATIENCE)


def _seen(run: Run) -> bool:
    try:
        return run.result is not None
    except DamagedFileError:  # as when the result is seen before the ticket
        return False
