"""How far a command is, on the error stream: a bar on a terminal, and elsewhere a line now and then."""

import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress
from rich.progress import Task as RichTask
from rich.table import Column
from rich.text import Text

from supermask.experiments.execution.store import Store
from supermask.experiments.plan import Plan
from supermask.experiments.spec import RunSpec
from supermask.experiments.stability import order_of
from supermask.io import DamagedFileError, read_json
from supermask.training.loggers import WHERE

FIRST, BETWEEN = 5.0, 30.0
"""Seconds to the first line, and between two lines."""
LOOK = 2.0
"""Seconds between two looks at the learning curve of a run."""
BESIDE = 55
"""Columns of a terminal that a bar, the count of steps and the time left take, beside the runs' names."""


@contextmanager
def task_progress(
    name: str, total: int, console: Console, out: os.PathLike[str]
) -> Iterator[Callable[[int], None]]:
    """Show where results go and how many cases of some work are done; yields what is told their number."""
    console.print(
        f"{total} {'case' if total == 1 else 'cases'}; results go to {out}",
        highlight=False,
        soft_wrap=True,
        markup=False,
    )
    began, reached = time.monotonic(), 0
    bar = RichProgress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
    )
    lines = _Lines(console)
    with bar:
        task = bar.add_task(name, total=total)

        def told(done: int) -> None:
            nonlocal reached
            reached = done
            bar.update(task, completed=done)
            lines.say(lambda: f"{name}: {done} of {total}")

        yield told
    if reached == total:
        took = timedelta(seconds=round(time.monotonic() - began))
        lines.say(lambda: f"{name}: {total} of {total} in {took}", now=True)


class _Lines:
    """Lines on what is no terminal, at most one every `BETWEEN` seconds."""

    def __init__(self, console: Console, quiet: bool = False) -> None:
        self._console, self._quiet = console, quiet or console.is_terminal
        self._next = time.monotonic() + FIRST

    def say(self, text: Callable[[], str], *, now: bool = False) -> None:
        """Say how far things are, if it is time or must be said now."""
        if self._quiet or (not now and time.monotonic() < self._next):
            return
        if not now:
            self._next = time.monotonic() + BETWEEN
        self._console.print(text(), highlight=False, soft_wrap=True, markup=False)


class _End(TimeRemainingColumn):
    """When the work will end, or how long it took."""

    def render(self, task: RichTask) -> Text:
        if task.finished and task.finished_time is not None:
            return Text(f"steps in {timedelta(seconds=round(task.finished_time))}")
        return Text("steps, ends in ").append_text(super().render(task))


class ProgressWatcher:
    """Steps of the whole graph: what runs, its validation accuracy, and when all will end.

    Args:
        plan: The runs.
        console: A terminal has a bar, anything else gets lines.
        store: Where the runs lie, for their checkpoints and learning curves; None leaves both out.
        quiet: Say nothing, as ranks but the first do.
        logs: Loggers of the runs, by name; where each writes is told.
    """

    def __init__(
        self,
        plan: Plan,
        console: Console,
        store: Store | None = None,
        *,
        quiet: bool = False,
        logs: Iterable[str] = (),
    ) -> None:
        self._left = {spec.id: spec.steps for spec in plan.graph}
        self._active: dict[str, int] = {}
        self._names = {spec.id: _name_of(spec) for spec in plan.graph}
        self._accuracy: dict[str, tuple[float, str]] = {}
        self._begun: set[str] = set()
        self._since: float | None = None
        self._not_timed = 0
        self._store, self._console, self._quiet = store, console, quiet
        self._lines, self._logs = _Lines(console, quiet), tuple(logs)
        self._bar = RichProgress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(table_column=Column(no_wrap=True)),
            _End(table_column=Column(no_wrap=True)),
            console=console,
            disable=not console.is_terminal or quiet,
            speed_estimate_period=60,
        )
        self._runs, self._done = len(self._left), 0
        self._task = self._bar.add_task("starting", total=sum(self._left.values()))

    def __enter__(self) -> "ProgressWatcher":
        self._began = time.monotonic()
        if self._store is not None and not self._quiet:
            self._begun = _begun(self._left, self._store)
            steps = sum(self._left.values())
            runs = self._count()
            about = f"{runs} of {steps} steps together" if self._runs != 1 else f"{runs} of {steps} steps"
            self._say(f"{about}; results go to {self._store.root.parent}")
            for name in self._logs:
                self._say(f"log of each run, {name}: {WHERE[name].format(runs=self._store.root)}")
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()
        if self._done == self._runs:
            took = timedelta(seconds=round(time.monotonic() - self._began))
            self._lines.say(lambda: f"{self._describe()} in {took}", now=True)

    def advanced(self, spec: RunSpec, step: int) -> None:
        if spec.id not in self._active:
            self._say_resumed(spec, step)
            # A checkpoint may stand behind it, and the first step waits for what the later ones do not.
            self._not_timed += step
            self._since = self._since or time.monotonic()
        before = self._active.get(spec.id, 0)
        self._active[spec.id] = max(step, before)  # one that is executed again starts at its checkpoint
        self._bar.update(self._task, advance=max(step - before, 0), description=self._describe())
        self._lines.say(self._line)

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
        self._lines.say(self._line)

    def _count(self) -> str:
        return f"{self._runs} runs" if self._runs != 1 else "1 run"

    def _say_resumed(self, spec: RunSpec, step: int) -> None:
        """What is told first of a run is the step after its checkpoint."""
        if step > 1 and spec.id in self._begun:
            self._say(f"{spec.id}: resuming from step {spec.start + step - 1}")

    def _say(self, text: str) -> None:
        if not self._quiet:
            self._console.print(text, highlight=False, soft_wrap=True, markup=False)

    def _describe(self) -> str:
        if self._done == self._runs:
            return f"{self._count()} done"
        head = f"run {self._done + len(self._active)} of {self._runs}: "
        names = [self._names[id] + self._accuracy_of(id) for id in self._active]
        room = self._console.width - BESIDE - len(head) if self._console.is_terminal else None
        return head + _those_that_fit(names, room)

    def _line(self) -> str:
        task = self._bar.tasks[0]
        text = f"{self._describe()}; step {task.completed:.0f} of {task.total:.0f}"
        timed = task.completed - self._not_timed
        if self._since is not None and timed > 0 and task.total and task.completed < task.total:
            passed = time.monotonic() - self._since
            left = timedelta(seconds=round(passed / timed * (task.total - task.completed)))
            text += f", ends in about {left}"
        return text

    def _accuracy_of(self, id: str) -> str:
        """The last validation accuracy of a run, as it is added to its name."""
        looked, text = self._accuracy.get(id, (-LOOK, ""))
        if self._store is None or time.monotonic() - looked < LOOK:
            return text
        try:
            history = self._store.run(id).history()
        except (DamagedFileError, OSError):
            history = []
        value = history[-1].get("val_accuracy") if history else None
        text = "" if value is None else f" ({100 * value:.1f} % val)"
        self._accuracy[id] = time.monotonic(), text
        return text


def _name_of(spec: RunSpec) -> str:
    """A run as people speak of it: its identifier without the hash, with a data order that has a number."""
    order = order_of(spec.seed, spec.weights.seed)
    if not order:
        return spec.id.rpartition("-")[0]
    return f"{spec.method}-d{spec.density:.4g}-s{spec.weights.seed} order {order} from step {spec.start}"


def _those_that_fit(names: list[str], room: int | None) -> str:
    """Names in a row, the first ones and how many more where there is no room for all; None is any room."""
    if not names:
        return "…"
    for shown in range(len(names), 0, -1):
        text = ", ".join(names[:shown])
        text += f" and {len(names) - shown} more" if shown < len(names) else ""
        if room is None or len(text) <= room:
            return text
    return text


def _begun(ids: Iterable[str], store: Store) -> set[str]:
    """Runs that have a checkpoint, of their own or of those that they are trained with as one program."""
    begun = set()
    for id in ids:
        run = store.run(id)
        if run.checkpoint.exists():
            begun.add(id)
        if run.ensemble_checkpoint.exists():
            with suppress(DamagedFileError, OSError, TypeError):
                begun.update(read_json(run.ensemble))
    return begun
