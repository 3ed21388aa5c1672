"""A command from its configuration to its folder of results."""

import dataclasses
from datetime import timedelta
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress
from rich.progress import Task as RichTask
from rich.text import Text

from supermask.cli.placement import PLACES, check_memory_format, device_of, engine_of, environment_of
from supermask.distributed import Ranks, joined
from supermask.experiments import EXPERIMENTS
from supermask.experiments.config import ConfigError, TaskConfig
from supermask.experiments.datasets import dataset
from supermask.experiments.execution.store import Store
from supermask.experiments.plan import Plan
from supermask.experiments.results import describe_machine, write_results
from supermask.experiments.spec import RunSpec
from supermask.io import read_json, write_json
from supermask.report import write_report
from supermask.theory.run import TheoryConfig, run_theory


def run_command(command: str, config: TaskConfig, line: str, console: Console) -> dict[str, Any]:
    """Plan, execute, collect and report; returns the document of `results.json`.

    Where torchrun started several processes, they execute every run together, and rank 0 writes.

    Args:
        command: Name of a registered experiment.
        config: Its configuration; `config.out` is the folder.
        line: The command line, to be shown in the report.
        console: Where progress is shown, if it is a terminal.

    Raises:
        ConfigError: A value does not fit the data or the network.
        OSError: The folder cannot be written.
    """
    device = device_of(config)
    with joined(device) as ranks:
        return _run(command, config, line, console, device, ranks)


def _run(
    command: str, config: TaskConfig, line: str, console: Console, device: str, ranks: Ranks
) -> dict[str, Any]:
    out = Path(config.out)
    out.mkdir(parents=True, exist_ok=True)
    _check_folder(out, command)
    environment, jobs = environment_of(config, device, ranks)
    with ranks.one_per_machine_first():
        data = dataset(
            config.data, environment.data_root, config.image_size, config.selection, environment.cache
        )
    experiment = EXPERIMENTS[command]
    plan = experiment.plan(config, data)
    check_memory_format(config, plan, data, environment.device)
    store = Store(out / "runs")
    engine = engine_of(config, store, environment, jobs)
    with ProgressWatcher(plan, console) as watcher:
        engine.run(plan.graph, watcher)
    recorded = {key: value for key, value in dataclasses.asdict(config).items() if key not in PLACES}
    machine = describe_machine(environment.device, environment.threads, jobs)
    if ranks.size > 1:
        machine["ranks"] = ranks.size

    def collect() -> dict[str, Any]:
        document = experiment.document(plan, store, out, recorded, machine)
        document["command"] = line
        write_results(document, out)
        write_report(document, out)
        return document

    return ranks.from_main(collect)


def run_theory_command(config: TheoryConfig, line: str, console: Console) -> dict[str, Any]:
    """Prune random networks into trained ones and report; returns the document of `results.json`.

    Raises:
        ConfigError: A value does not fit.
        OSError: The folder cannot be written.
    """
    out = Path(config.out)
    out.mkdir(parents=True, exist_ok=True)
    _check_folder(out, "theory")
    with RichProgress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
    ) as bar:
        task = bar.add_task("theory", total=len(config.cases))
        document = run_theory(config, lambda row, done, _: bar.update(task, completed=done))
    document["command"] = line
    write_json(out / "results.json", document)
    write_report(document, out)
    return document


def _check_folder(out: Path, command: str) -> None:
    """Refuse to write one command's results over another's."""
    if not (out / "results.json").exists():
        return
    document = read_json(out / "results.json")
    schema = document.get("schema") if isinstance(document, dict) else None
    if schema != f"supermask/{command}/1":
        raise ConfigError(
            "out", str(out), f"it holds results of another command ({schema}); name another folder"
        )


class _End(TimeRemainingColumn):
    """When the work will end, or how long it took."""

    def render(self, task: RichTask) -> Text:
        if task.finished and task.finished_time is not None:
            return Text(f"steps in {timedelta(seconds=round(task.finished_time))}")
        return Text("steps, ends in ").append_text(super().render(task))


class ProgressWatcher:
    """One bar for the whole graph, in steps, with what runs and when it will end."""

    def __init__(self, plan: Plan, console: Console) -> None:
        self._left = {spec.id: spec.steps for spec in plan.graph}
        self._active: dict[str, int] = {}
        self._bar = RichProgress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            _End(),
            console=console,
            disable=not console.is_terminal,
            speed_estimate_period=60,
        )
        self._runs, self._done = len(self._left), 0
        self._task = self._bar.add_task("planning", total=sum(self._left.values()))

    def __enter__(self) -> "ProgressWatcher":
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def advanced(self, spec: RunSpec, step: int) -> None:
        before = self._active.get(spec.id, 0)
        self._active[spec.id] = max(step, before)  # one that is executed again starts at its checkpoint
        self._bar.update(self._task, advance=max(step - before, 0), description=self._describe())

    def finished(self, spec: RunSpec, result: dict[str, Any]) -> None:
        self._done += 1
        counted = self._active.pop(spec.id, None)
        if counted is None:
            # It was finished before this command, or too short to be seen: not part of the speed.
            total = self._bar.tasks[0].total or 0
            self._bar.update(self._task, total=total - self._left[spec.id])
        else:
            self._bar.update(self._task, advance=self._left[spec.id] - counted)
        self._bar.update(self._task, description=self._describe())

    def _describe(self) -> str:
        if self._done == self._runs:
            return f"{self._runs} runs done"
        names = ", ".join(id.rpartition("-")[0] for id in self._active) or "…"
        return f"run {self._done + len(self._active)} of {self._runs}: {names}"
