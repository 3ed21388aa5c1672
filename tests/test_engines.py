"""Engines: what starts when, what is tried again, and that the local one is the plain one, faster."""

import json
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from supermask.cli import main
from supermask.cli.placement import environment_of
from supermask.data import load_data
from supermask.distributed import Ranks
from supermask.experiments import (
    CompareConfig,
    EngineError,
    Grid,
    LocalEngine,
    PlainEngine,
    SearchConfig,
    WorkerDied,
    config,
)
from supermask.experiments.compare.command import plan_compare
from supermask.experiments.config import ConfigError
from supermask.experiments.engines import ENGINES, jobs, local, ray, scheduler
from supermask.experiments.engines.jobs import Done, Failed, WorkerLost, pack, unpack
from supermask.experiments.engines.local import WorkerSlot, worker_slots
from supermask.experiments.engines.ready_queue import ReadyQueue, chain_lengths
from supermask.experiments.execution.context import Environment
from supermask.experiments.execution.store import Store
from supermask.experiments.spec import MaskSource, OptimizerSpec, RunSpec, Task, WeightSource
from supermask.training.loop import DivergedError

TASK = Task(
    data="none",
    data_hash="0",
    image_size=None,
    val_fraction=0.0,
    model="none",
    model_args={},
    steps=10,
    batch_size=1,
    augment="none",
    schedule="constant",
    warmup_steps=0,
    milestones=(),
    label_smoothing=0.0,
    clip=None,
    amp="none",
)


def run(name: str, *needs: RunSpec, steps: int = 10) -> RunSpec:
    """A run that needs others; it is never executed."""
    return RunSpec(
        method=name,
        kind="train",
        task=TASK,
        rule=OptimizerSpec(),
        weights=WeightSource(init="none", seed=0),
        seed=0,
        mask=MaskSource(kind="same", run=needs[0].id) if needs else MaskSource(),
        others=tuple(other.id for other in needs[1:]),
        start=10 - steps,
    )


def result_of(spec: RunSpec) -> dict[str, object]:
    """What a store takes for the result of a run."""
    numbers = ("test_accuracy", "test_loss", "val_accuracy", "seconds", "density")
    counts = ("steps", "total_steps", "dense_bytes")
    result = dict.fromkeys(numbers, 1.0) | dict.fromkeys(counts, 1) | {"ticket_bytes": None}
    return result | {"run": spec.id, "method": spec.method, "seed": spec.seed}


class Watch:
    def __init__(self) -> None:
        self.steps, self.done = [], []

    def advanced(self, spec, step):
        self.steps.append((spec.method, step))

    def finished(self, spec, result):
        self.done.append(spec.method)


class Crew:
    """Workers that compute nothing: they end units in the order they came, as `fates` says.

    Attributes:
        log: Methods of the runs in the order in which they were begun.
        ended: Whether the work has been left.
    """

    def __init__(self, lanes: int = 1, fates: dict[str, list[object]] | None = None) -> None:
        self.lanes, self.fates = lanes, fates or {}
        self.running, self.log, self.ended = [], [], False

    def __call__(self) -> "Crew":
        return self

    def __enter__(self) -> "Crew":
        return self

    def __exit__(self, *_):
        self.ended = True

    def free(self):
        return self.lanes - len(self.running)

    def submit(self, unit):
        assert self.free() > 0
        self.running.append(unit)
        self.log.append("+".join(spec.method for spec in unit))

    def wait(self, advanced):
        unit = self.running.pop(0)
        advanced(unit[0].id, 1)
        fates = self.fates.get(unit[0].method)
        fate = fates.pop(0) if fates else None
        if isinstance(fate, str):
            return [WorkerLost(unit, fate)]
        if isinstance(fate, Exception):
            return [Failed(unit, fate)]
        return [Done(unit, tuple({"name": spec.method} for spec in unit))]


def go(graph, crew, tmp_path, **grid):
    watch = Watch()
    results = scheduler.execute_graph(graph, Store(tmp_path), Environment(), Grid(**grid), crew, watch)
    return results, watch


@pytest.fixture
def imp():
    """A dense network with two rounds of IMP and a control after each, and a search that stands alone."""
    dense = run("dense")
    first = run("imp-1", dense)
    second = run("imp-2", first)
    return [run("search"), dense, run("control-1", first), first, second, run("control-2", second)]


# Scheduling.


def test_chains_are_as_long_as_their_steps(imp):
    lengths = {spec.method: chain_lengths([imp[i] for i in (0, 1, 3, 2, 4, 5)])[spec.id] for spec in imp}
    assert lengths == {
        "dense": 40, "imp-1": 30, "imp-2": 20, "control-1": 10, "control-2": 10, "search": 10
    }  # fmt: skip


def test_the_longest_chain_goes_first_and_the_graph_decides_among_equals(imp, tmp_path):
    one = Crew()
    go(imp, one, tmp_path)
    assert one.log == ["dense", "imp-1", "imp-2", "search", "control-1", "control-2"]
    two = Crew(lanes=2)
    results, watch = go(imp, two, tmp_path)
    assert two.log == ["dense", "search", "imp-1", "imp-2", "control-1", "control-2"]
    assert list(results) == [spec.id for spec in scheduler.in_order(imp)] and two.ended
    assert sorted(watch.done) == sorted(spec.method for spec in imp) and ("dense", 1) in watch.steps


def test_a_chain_counts_by_its_steps_and_not_by_its_runs(tmp_path):
    short = run("short", steps=1)
    graph = [short, run("after", short, steps=1), run("long", steps=9)]
    crew = Crew()
    go(graph, crew, tmp_path)
    assert crew.log == ["long", "short", "after"]


def test_no_run_starts_before_all_that_it_needs(tmp_path):
    a, b = run("a"), run("b", steps=5)
    crew = Crew(lanes=3)
    go([a, b, run("both", a, b)], crew, tmp_path)
    assert crew.log == ["a", "b", "both"]
    schedule = ReadyQueue([a, b, both := run("both", a, b)])
    schedule.start([a, b])
    schedule.finish(a)
    assert schedule.ready() == []
    schedule.finish(b)
    assert schedule.ready() == [both]


def test_grouped_runs_are_handed_out_as_one_and_tried_again_as_one(imp, tmp_path, monkeypatch):
    def pairs(ready, *_):
        return [tuple(ready[i : i + 2]) for i in range(0, len(ready), 2)]

    monkeypatch.setattr(scheduler, "ready_jobs", pairs)
    crew = Crew(fates={"dense": ["killed"]})
    results, watch = go(imp, crew, tmp_path)
    assert crew.log == ["dense+search", "dense+search", "imp-1", "imp-2+control-1", "control-2"]
    assert len(results) == len(watch.done) == 6


def test_runs_without_a_team_are_handed_out_alone(imp):
    assert jobs.ready_jobs(imp, lambda id: True, {}) == [(spec,) for spec in imp]


# Deaths and failures.


def test_a_run_whose_worker_dies_is_executed_again_before_all_else(imp, tmp_path):
    crew = Crew(fates={"dense": ["killed", "killed"]})
    results, _ = go(imp, crew, tmp_path, retries=2)
    assert crew.log[:4] == ["dense", "dense", "dense", "imp-1"] and len(results) == 6


def test_a_run_whose_workers_keep_dying_is_named(imp, tmp_path):
    crew = Crew(fates={"imp-1": ["killed"] * 3})
    with pytest.raises(WorkerDied, match=rf"run {imp[3].id} died 3 times \(killed\).*--retries"):
        go(imp, crew, tmp_path, retries=2)
    assert crew.ended and crew.log == ["dense", "imp-1", "imp-1", "imp-1"]
    with pytest.raises(WorkerDied, match=r"died once \(SIGKILL\)"):
        go(imp, Crew(fates={"dense": ["SIGKILL"]}), tmp_path, retries=0)


def test_a_run_that_raises_is_not_executed_again(imp, tmp_path):
    crew = Crew(lanes=2, fates={"search": [DivergedError("nan")]})
    with pytest.raises(DivergedError, match="nan"):
        go(imp, crew, tmp_path)
    assert crew.ended and crew.log.count("search") == 1 and "control-2" not in crew.log


def test_runs_that_do_not_need_a_failed_one_can_go_on(imp, tmp_path):
    crew = Crew(fates={"imp-1": [DivergedError("nan")], "search": [OSError(28, "No space left on device")]})
    with pytest.raises(DivergedError) as caught:
        go(imp, crew, tmp_path, keep_going=True)
    assert crew.log == ["dense", "imp-1", "search"]
    lost, also = caught.value.__notes__
    assert all(imp[i].id in lost for i in (2, 4, 5)) and "No space left" in also


def test_runs_of_a_failed_team_are_tried_alone_before_they_are_lost(tmp_path, monkeypatch):
    monkeypatch.setattr(scheduler, "ready_jobs", lambda ready, *_: [tuple(ready)] if ready else [])
    crew = Crew(fates={"sick": [DivergedError("nan"), DivergedError("nan")]})
    with pytest.raises(DivergedError, match="nan"):
        go([run("sick"), run("sound")], crew, tmp_path, keep_going=True)
    assert crew.log == ["sick+sound", "sick", "sound"]


def test_nobody_is_called_when_all_is_done(tmp_path):
    spec = run("done")
    finished = Store(tmp_path).open(spec)
    finished.finish(result_of(spec))

    def nobody():
        raise AssertionError

    results, watch = go([spec], nobody, tmp_path)
    assert results == {spec.id: finished.result} and watch.done == ["done"]


def test_an_error_travels_with_its_run_and_where_it_was_raised(tmp_path):
    class Stubborn(RuntimeError):  # local, so pickle cannot find it
        pass

    spec = run("x")
    for error, kind in ((DivergedError("nan"), DivergedError), (Stubborn("no"), RuntimeError)):
        try:
            raise error
        except Exception:
            error.add_note(f"in run {spec.id}")
            arrived = unpack(pack(Failed((spec,), error)))
        assert type(arrived.error) is kind and str(error) in str(arrived.error)
        assert arrived.error.__notes__ == [f"in run {spec.id}"] and arrived.job == (spec,)
        assert "test_an_error_travels" in str(arrived.error.__cause__)
    assert pickle.loads(pack(Done((spec,), ({"a": 1},))))[0] == Done((spec,), ({"a": 1},))


def test_a_failure_says_in_which_run(tmp_path, capsys, monkeypatch):
    def diverging(*_):
        raise DivergedError("the training loss is nan")

    monkeypatch.setattr(jobs, "execute", diverging)
    assert main(["search", "--epochs", "1", "--out", str(tmp_path)]) == 1
    message = capsys.readouterr().err
    assert "supermask: the training loss is nan" in message and "in run edge-popup-d0.3-s0-" in message


def test_progress_counts_no_step_twice_when_a_run_is_executed_again(graph):
    from rich.console import Console

    from supermask.cli.progress import ProgressWatcher
    from supermask.experiments.plan import Plan

    spec = graph[0]
    watcher = ProgressWatcher(Plan((spec,), (spec,)), Console())
    for step in (8, 2, 9):
        watcher.advanced(spec, step)
        watcher.advanced(spec, step)
    (task,) = watcher._bar.tasks
    assert task.completed == 9
    watcher.finished(spec, {})
    assert task.completed == task.total == spec.steps


# Places.


def test_cores_are_dealt_out_in_blocks():
    assert worker_slots(3, [0, 1, 2, 3, 4, 5, 6, 7], 2, []) == [
        WorkerSlot((0, 1, 2)), WorkerSlot((3, 4, 5)), WorkerSlot((6, 7))
    ]  # fmt: skip
    assert worker_slots(2, [3, 5], 2, []) == [
        WorkerSlot(),
        WorkerSlot(),
    ]  # a block would be smaller than the threads
    assert worker_slots(3, [0, 1], 1, []) == [WorkerSlot()] * 3
    assert [place.gpu for place in worker_slots(4, [0], 1, ["0", "1"])] == ["0", "1", "0", "1"]


def test_gpus_are_those_that_this_process_may_see(monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert local.gpus_here("cuda") == ["0", "1"] and local.gpus_here("cuda:1") == local.gpus_here("cpu") == []
    assert (
        local.jobs_here("cuda") == 2 and local.jobs_here("cuda", 0.3) == 6 and local.jobs_here("cuda:1") == 1
    )
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,GPU-ab12")
    assert local.gpus_here("cuda") == ["3", "GPU-ab12"]


def test_the_command_line_chooses_the_engine(tmp_path, capsys):
    from supermask.cli.placement import device_of, engine_of, environment_of
    from supermask.distributed import Ranks

    def chosen(**options):
        config = CompareConfig(out="x", **options)
        return engine_of(config, Store(tmp_path), *environment_of(config, device_of(config), Ranks()))

    assert type(chosen(jobs=1)) is PlainEngine and type(chosen(jobs=2, device="cpu")) is LocalEngine
    engine = chosen(jobs=3, engine="local", retries=5, keep_going=True, gpu_share=0.5)
    assert engine.grid == Grid(jobs=3, retries=5, keep_going=True, gpu_share=0.5)
    assert type(chosen(jobs=1, engine="local")) is LocalEngine
    assert type(chosen(engine="plain", device="cpu")) is PlainEngine
    with pytest.raises(ConfigError, match="--engine 'plain': take local for --jobs 2"):
        chosen(engine="plain", jobs=2)
    with pytest.raises(ConfigError, match="--device 'cuda:1': take cpu or cuda with --engine ray"):
        chosen(engine="ray", device="cuda:1")
    assert main(["search", "--gpu-share", "2", "--out", str(tmp_path)]) == 2
    assert "--gpu-share 2.0: take a fraction from 0.01 to 1" in capsys.readouterr().err
    assert set(ENGINES) == {"plain", "local", "ray"}


def test_without_ray_the_remedy_is_named(tmp_path, monkeypatch, capsys):
    find = ray.importlib.util.find_spec
    monkeypatch.setattr(ray.importlib.util, "find_spec", lambda name: None if name == "ray" else find(name))
    assert main(["search", "--engine", "ray", "--out", str(tmp_path)]) == 1
    assert "pip install 'supermask[ray]'" in capsys.readouterr().err


def test_results_of_other_machines_are_waited_for(tmp_path, monkeypatch):
    monkeypatch.setattr(ray, "PATIENCE", 0.01)
    monkeypatch.setattr(ray, "SHARED_FOLDER", 0.05)
    spec, store = run("late"), Store(tmp_path)
    with pytest.raises(EngineError, match=f"{spec.id} still has no result here"):
        ray.await_results(store, [spec.id])
    monkeypatch.setattr(ray.time, "sleep", lambda _: store.open(spec).finish(result_of(spec)))
    ray.await_results(store, [spec.id])
    token = tmp_path / "token"
    assert "does not see the folder" in ray._unshared(token)
    token.write_text("token")
    assert ray._unshared(token) == ""
    own = ray._versions()
    assert ray._look(token, own) == "" and "torch" in ray._look(token, {**own, "torch": "1.0"})


# Real processes.


@pytest.fixture(scope="module")
def graph():
    """IMP over two rounds with its controls, and a search; long enough to be met on their way."""
    methods = ("edge-popup", "imp", "reinit", "shuffled-mask")
    config = CompareConfig(
        densities=(0.64,), seeds=(0,), methods=methods, epochs=30, batch_size=64, out="unused"
    )
    return plan_compare(config, load_data("digits")).graph


@pytest.fixture(scope="module")
def plain(tmp_path_factory, graph) -> dict[str, object]:
    store = Store(tmp_path_factory.mktemp("plain"))
    PlainEngine(store, Environment()).run(graph, Watch())
    return left(store)


def left(store: Store) -> dict[str, object]:
    """All that runs left in the store, times aside."""
    found: dict[str, object] = {}
    for path in sorted(store.root.rglob("*")):
        if path.name == "result.json":
            result = json.loads(path.read_bytes())
            found[str(path.relative_to(store.root))] = {**result, "seconds": 0}
        elif path.is_file() and path.name != ".lock":
            found[str(path.relative_to(store.root))] = path.read_bytes()
    return found


def children() -> list[int]:
    return [process.pid for process in multiprocessing.active_children()]


def test_local_workers_are_pinned_and_a_killed_one_costs_nothing_but_time(graph, plain, tmp_path):
    class Killer(Watch):
        killed, seen = 0, frozenset()

        def advanced(self, spec, step):
            super().advanced(spec, step)
            if len(pids := children()) == 2 and step > 3 and not self.killed:
                if hasattr(os, "sched_getaffinity"):
                    self.seen = {frozenset(os.sched_getaffinity(pid)) for pid in pids}
                self.killed = pids[0]
                os.kill(self.killed, signal.SIGKILL)

    store, watch = Store(tmp_path), Killer()
    engine = LocalEngine(store, Environment(checkpoint_seconds=0.1), Grid(jobs=2))
    results = engine.run(graph, watch)
    assert watch.killed and not children()
    if len(cores := local.cores_here()) >= 2:
        assert watch.seen == {frozenset(place.cores) for place in worker_slots(2, cores, 1, [])}
    assert sorted(results) == sorted({spec.id for spec in graph}) and left(store) == plain
    assert len(watch.done) == len(results)


def test_an_interrupt_leaves_no_process_and_the_next_start_goes_on(graph, plain, tmp_path):
    class Impatient(Watch):
        pids, news = (), 0

        def advanced(self, spec, step):
            self.news += 1  # every run tells of its first step, and a quick one of no other
            if self.news == 3:
                self.pids = children()
                raise KeyboardInterrupt

    store, watch = Store(tmp_path), Impatient()
    engine = LocalEngine(store, Environment(checkpoint_seconds=0.1), Grid(jobs=2))
    with pytest.raises(KeyboardInterrupt):
        engine.run(graph, watch)
    assert watch.pids and not children() and not any(Path(f"/proc/{pid}").exists() for pid in watch.pids)
    PlainEngine(store, Environment()).run(graph, Watch())  # any engine goes on where another stopped
    assert left(store) == plain


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks for processes in /proc")
@pytest.mark.parametrize("engine", ["local", "ray"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_command_takes_all_its_processes_with_it(number, engine, tmp_path):
    if engine == "ray":
        pytest.importorskip("ray")
    out = tmp_path / "out"
    words = (
        f"compare --methods dense edge-popup --seeds 0 1 --epochs 4000 --jobs 2 --threads 1 --engine {engine}"
    )
    # What is started in the background may ignore SIGINT; a command at a terminal does not.
    code = "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
    code += "from supermask.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", code, *words.split(), "--checkpoint-seconds", "0"]
    # All descendants inherit this, wherever they end up.
    marked = {**os.environ, "SUPERMASK_TEST": str(tmp_path), "RAY_worker_niceness": "0"}
    process = subprocess.Popen([*command, "--out", str(out)], env=marked, stderr=subprocess.PIPE, text=True)
    try:
        deadline = time.monotonic() + 300
        while len(list(out.rglob("*.safetensors"))) < 2:  # of runs alone and of seeds together
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.2)
        process.send_signal(number)
        _, said = process.communicate(timeout=120)
    finally:
        process.kill()
    if number == signal.SIGKILL:
        assert process.returncode == -signal.SIGKILL
    else:
        assert process.returncode == 130 and "the same command goes on" in said and "Traceback" not in said
    deadline = time.monotonic() + 120
    while marked_processes(str(tmp_path)):
        assert time.monotonic() < deadline, marked_processes(str(tmp_path))
        time.sleep(0.2)


def marked_processes(mark: str) -> list[str]:
    """Command lines of living processes whose environment holds the mark."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if f"SUPERMASK_TEST={mark}".encode() in (folder / "environ").read_bytes():
                found.append((folder / "cmdline").read_bytes().replace(b"\0", b" ").decode())
        except OSError:
            continue
    return found


@pytest.mark.parametrize(
    ("variable", "jobs", "threads", "expected"),
    [("3", 2, 0, 3), ("3", 1, 5, 5), (None, 2, 0, 4), ("many", 1, 0, 8), ("0", 1, 0, 8), ("", 8, 0, 1)],
)
def test_threads_are_those_asked_for_or_of_the_system_or_a_share_of_the_cores(
    monkeypatch: pytest.MonkeyPatch, variable: str | None, jobs: int, threads: int, expected: int
) -> None:
    monkeypatch.setattr(config, "cores_here", lambda: list(range(8)))
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if variable is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", variable)
    asked = SearchConfig(jobs=jobs, threads=threads)
    assert environment_of(asked, "cpu", Ranks())[0].threads == expected
    of_ranks = environment_of(SearchConfig(threads=threads), "cpu", Ranks(rank=0, size=2, local_size=2))
    assert of_ranks[0].threads == (threads or 4)  # torchrun sets the variable by itself
