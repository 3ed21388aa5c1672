"""The local engine: processes on this machine, each with cores of its own and, of several GPUs, one.

Workers are forked off a server process that has everything imported and nothing begun, so that one starts in
no time, a dead one is replaced in no time, and they share the memory of what is imported.
"""

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

import torch

from supermask.experiments.engines.jobs import (
    Advanced,
    Job,
    JobResult,
    Throttle,
    WorkerLost,
    pack,
    perform,
    self_contained,
    unpack,
)
from supermask.experiments.engines.registry import Grid, Watcher, register_engine
from supermask.experiments.engines.scheduler import execute_graph
from supermask.experiments.execution.context import Environment
from supermask.experiments.execution.store import Store
from supermask.experiments.spec import RunSpec

MAX_JOBS = 8
"""Processes on a machine without a GPU that nobody asked for by number."""
PATIENCE = 0.2
"""Seconds that the parent waits for news before it looks at the whole again."""
GRACE = 5.0
"""Seconds that a worker has to end after SIGTERM before it is killed."""
VISIBLE = "CUDA_VISIBLE_DEVICES"


@register_engine("local")
@dataclass(frozen=True)
class LocalEngine:
    """Runs in `grid.jobs` processes on this machine; 0 means what `jobs_here` finds.

    A process that dies is replaced, and its run goes on from its checkpoint. The processes end with this one,
    however it ends.
    """

    store: Store
    environment: Environment
    grid: Grid = field(default_factory=Grid)

    def run(self, specs: Iterable[RunSpec], watcher: Watcher) -> dict[str, dict[str, Any]]:
        """See `Engine.run`."""

        def workers() -> _Pool:
            return _Pool(self.store, self_contained(self.environment), self.grid)

        return execute_graph(specs, self.store, self.environment, self.grid, workers, watcher)


@dataclass(frozen=True)
class WorkerSlot:
    """Where a worker belongs.

    Attributes:
        cores: Numbers of the cores that it is pinned to; empty for all.
        gpu: What `CUDA_VISIBLE_DEVICES` is for it; None leaves it as it is.
    """

    cores: tuple[int, ...] = ()
    gpu: str | None = None

    def take(self) -> None:
        """Put this process there. It must have one thread so far, and must not have touched a GPU."""
        if self.cores and hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(0, self.cores)
        if self.gpu is not None:
            os.environ[VISIBLE] = self.gpu


def worker_slots(jobs: int, cores: list[int], threads: int, gpus: list[str]) -> list[WorkerSlot]:
    """A place for each of `jobs` workers.

    The cores are dealt out in blocks, unless a block would have fewer than a worker has threads: then the
    system schedules better. GPUs go round; a worker sees its own as the only one, so that a run's random
    state does not depend on which it was.
    """
    share, more = divmod(len(cores), jobs)
    pinned = share >= max(threads, 1)
    found, start = [], 0
    for i in range(jobs):
        end = start + share + (i < more)
        block = tuple(cores[start:end]) if pinned else ()
        found.append(WorkerSlot(block, gpus[i % len(gpus)] if gpus else None))
        start = end
    return found


def cores_here() -> list[int]:
    """Numbers of the cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def gpus_here(device: str) -> list[str]:
    """What workers for `device` can have as `CUDA_VISIBLE_DEVICES`; none unless it is `cuda`, any of them."""
    if device != "cuda":
        return []
    named = [name for name in os.environ.get(VISIBLE, "").split(",") if name.strip()]
    return named or [str(i) for i in range(torch.cuda.device_count())]


def jobs_here(device: str, gpu_share: float = 1.0) -> int:
    """Runs that this machine has room for: one per core, or `1 / gpu_share` per GPU."""
    if device == "cpu":
        return min(len(cores_here()), MAX_JOBS)
    return max(len(gpus_here(device)), 1) * int(1 / gpu_share)


@dataclass
class _Worker:
    process: BaseProcess
    connection: Connection
    job: Job | None = None


class _Pool:
    """Worker processes, made when there is work for them. Each has a pipe of its own, so that one's death
    says whose it was and hurts no other."""

    def __init__(self, store: Store, environment: Environment, grid: Grid) -> None:
        self._store, self._environment = store, environment
        self._context: Any = multiprocessing.get_context("forkserver" if sys.platform == "linux" else "spawn")
        # Every optimizer of torch imports its compiler when it is made, which takes seconds.
        self._context.set_forkserver_preload([__name__, "torch._dynamo"])
        jobs = grid.jobs or jobs_here(environment.device, grid.gpu_share)
        self._slots = worker_slots(jobs, cores_here(), environment.threads, gpus_here(environment.device))
        self._workers: list[_Worker | None] = [None] * jobs

    def __enter__(self) -> "_Pool":
        return self

    def __exit__(self, *_: object) -> None:
        # Runs that go on have checkpoints; waiting for them helps nobody.
        workers = [worker for worker in self._workers if worker and worker.process.pid]
        for worker in workers:
            worker.process.terminate()
        for worker in workers:
            worker.process.join(GRACE)
            if worker.process.is_alive():
                worker.process.kill()
                worker.process.join()
            worker.connection.close()

    def free(self) -> int:
        return sum(worker is None or worker.job is None for worker in self._workers)

    def submit(self, job: Job) -> None:
        # A worker that is there already has torch and the data in memory.
        idle = [w for w in self._workers if w and w.job is None and w.process.is_alive()]
        worker = idle[0] if idle else self._start(next(i for i, w in enumerate(self._workers) if _gone(w)))
        worker.job = job
        with suppress(OSError):  # should it die now, `wait` sees it
            worker.connection.send(job)

    def wait(self, advanced: Advanced) -> list[JobResult]:
        busy = {slot: worker for slot, worker in enumerate(self._workers) if worker and worker.job}
        wait([handle for w in busy.values() for handle in (w.connection, w.process.sentinel)], PATIENCE)
        outcomes: list[JobResult] = []
        for slot, worker in busy.items():
            # Whether it lives is asked first: what it sent before its death is still in the pipe.
            alive = worker.process.is_alive()
            outcome = _news(worker, advanced)
            if outcome is None and not alive:
                outcome = WorkerLost(worker.job or (), _reason(worker.process))
            if not alive:
                worker.connection.close()
                self._workers[slot] = None
            if outcome is not None:
                worker.job = None
                outcomes.append(outcome)
        return outcomes

    def _start(self, slot: int) -> _Worker:
        ours, theirs = self._context.Pipe()
        arguments = (theirs, self._slots[slot], self._store, self._environment)
        process = self._context.Process(target=_serve, args=arguments, name=f"supermask-{slot}")
        worker = self._workers[slot] = _Worker(process, ours)
        with _without_interrupts():
            process.start()
        theirs.close()
        return worker


def _gone(worker: _Worker | None) -> bool:
    return worker is None or (worker.job is None and not worker.process.is_alive())


def _news(worker: _Worker, advanced: Advanced) -> JobResult | None:
    """Read what a worker has sent; its job's outcome, if that is among it."""
    while True:
        try:
            message = worker.connection.recv() if worker.connection.poll() else None
        except (EOFError, OSError):
            return None  # it died
        if message is None:
            return None
        if isinstance(message, bytes):
            return unpack(message)
        advanced(*message)


def _reason(process: BaseProcess) -> str:
    process.join()
    code = process.exitcode or 0
    if code >= 0:
        return f"exit code {code}"
    name = signal.Signals(-code).name
    return f"{name}, which is what the system sends when memory runs out" if name == "SIGKILL" else name


@contextmanager
def _without_interrupts() -> Iterator[None]:
    """A process that starts in here never hears Ctrl-C, which reaches all of a terminal: the parent decides.

    Blocked signals are inherited. One that comes meanwhile reaches this process at the end.
    """
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _serve(connection: Connection, slot: WorkerSlot, store: Store, environment: Environment) -> None:
    """A worker's life: units come through the pipe, news goes back through it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    slot.take()
    threading.Thread(target=_end_with_parent, daemon=True).start()
    while True:
        try:
            job: Job = connection.recv()
        except EOFError:
            return
        told = Throttle(lambda id, step: connection.send((id, step)))
        connection.send(pack(perform(job, store, environment, told)))


def _end_with_parent() -> None:
    """A worker whose parent was killed would wait for work for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
