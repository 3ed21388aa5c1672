"""Engines execute a graph of runs: each run after the runs it needs, each at most once.

`LocalEngine` works in this process, or in a few worker processes of one thread each. A worker that dies
ends the job with an error; what was finished stays in the store, and the same command goes on from there.
"""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from queue import Empty
from typing import Any, Protocol

from supermask.experiments.execute import execute
from supermask.experiments.execution import Environment
from supermask.experiments.spec import RunSpec
from supermask.experiments.store import Store


class Watcher(Protocol):
    """Follows the execution of a graph."""

    def advanced(self, spec: RunSpec, step: int) -> None: ...
    def finished(self, spec: RunSpec, result: dict[str, Any]) -> None: ...


class WorkerDied(RuntimeError):
    """A worker process ended without a word."""


def in_order(specs: Iterable[RunSpec]) -> list[RunSpec]:
    """Distinct runs, each after those it needs.

    Raises:
        ValueError: A run needs one that is not in the graph, or itself.
    """
    waiting = {spec.id: spec for spec in specs}
    ordered: dict[str, RunSpec] = {}
    while waiting:
        ready = [spec for spec in waiting.values() if all(need in ordered for need in spec.needs)]
        if not ready:
            stuck = next(iter(waiting.values()))
            raise ValueError(f"run {stuck.id} needs {', '.join(stuck.needs)}, which the graph cannot deliver")
        for spec in ready:
            ordered[spec.id] = waiting.pop(spec.id)
    return list(ordered.values())


@dataclass(frozen=True)
class LocalEngine:
    """Runs here, or in `jobs` processes on this machine."""

    store: Store
    environment: Environment
    jobs: int = 1

    def run(self, specs: Iterable[RunSpec], watcher: Watcher) -> dict[str, dict[str, Any]]:
        """Execute the graph; returns run identifier → result, in the order of `specs`."""
        ordered = in_order(specs)
        results: dict[str, dict[str, Any]] = {}
        ranks = self.environment.ranks
        finished = ranks.from_main(lambda: {spec.id: self.store.run(spec.id).result for spec in ordered})
        for spec in ordered:
            if (done := finished[spec.id]) is not None:
                results[spec.id] = done
                watcher.finished(spec, done)
        todo = [spec for spec in ordered if spec.id not in results]
        if self.jobs == 1 or len(todo) <= 1:
            for spec in todo:
                told = partial(watcher.advanced, spec)
                results[spec.id] = execute(spec, self.store, self.environment, told)
                watcher.finished(spec, results[spec.id])
        else:
            self._run_pool(todo, results, watcher)
        return {spec.id: results[spec.id] for spec in ordered}

    def _run_pool(self, todo: list[RunSpec], results: dict[str, dict[str, Any]], watcher: Watcher) -> None:
        context = multiprocessing.get_context("spawn")
        steps = context.Queue()
        by_id = {spec.id: spec for spec in todo}
        pool = ProcessPoolExecutor(self.jobs, context, _start_worker, (steps,))
        running: dict[Future[dict[str, Any]], RunSpec] = {}
        waiting = list(todo)
        try:
            while waiting or running:
                for spec in [s for s in waiting if all(need in results for need in s.needs)]:
                    if len(running) == self.jobs:
                        break
                    waiting.remove(spec)
                    running[pool.submit(_work, spec, self.store.root, self.environment)] = spec
                done, _ = wait(running, timeout=0.2, return_when=FIRST_COMPLETED)
                _drain(steps, lambda id, step: watcher.advanced(by_id[id], step))
                for future in done:
                    spec = running.pop(future)
                    results[spec.id] = future.result()
                    watcher.finished(spec, results[spec.id])
        except BrokenProcessPool:
            raise WorkerDied(
                "a worker process died (out of memory, or killed). Finished runs are kept; the same command "
                "goes on from there, with --jobs 1 if memory is short"
            ) from None
        finally:
            # On an error or an interrupt the workers' runs have checkpoints; waiting for them helps nobody.
            for process in list((pool._processes or {}).values()):
                if waiting or running:
                    process.terminate()
            pool.shutdown(cancel_futures=True)


_steps: Any = None


def _start_worker(steps: Any) -> None:
    global _steps
    _steps = steps
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A worker whose parent was killed would wait for work for ever."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _work(spec: RunSpec, root: Path, environment: Environment) -> dict[str, Any]:
    return execute(spec, Store(root), environment, lambda step: _tell(spec, step))


def _tell(spec: RunSpec, step: int) -> None:
    if step % 10 == 0:
        _steps.put((spec.id, step))


def _drain(steps: Any, tell: Callable[[str, int], None]) -> None:
    while True:
        try:
            tell(*steps.get_nowait())
        except Empty:
            return
