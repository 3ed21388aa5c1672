"""How far a long piece of work is: a bar on a terminal, and otherwise a line about once a minute."""

import importlib.util
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

SECONDS = 60.0
"""Between two lines."""


@contextmanager
def progress(
    console: "Console | None" = None, clock: Callable[[], float] = time.monotonic
) -> Iterator[Callable[[str, int], Callable[[int], None]]]:
    """Show how far work is, on the error stream.

    Args:
        console: Where a bar goes, if it is a terminal.
        clock: Seconds since some moment.

    Yields:
        A function that begins a task, given what is done and to how many, and ends the one before. It returns
        one that any thread may call with how many more are done.
    """
    if not (console.is_terminal if console else sys.stderr.isatty() and importlib.util.find_spec("rich")):
        yield _Lines(clock).begin
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = console or Console(stderr=True)
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=console) as bar:
        task = bar.add_task("", visible=False)

        def begin(what: str, total: int) -> Callable[[int], None]:
            bar.reset(task, description=what, total=total, visible=True)
            return lambda more: bar.update(task, advance=more)

        yield begin


class _Lines:
    """A line at most every `SECONDS`, counted over all tasks, so that short work says nothing."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock, self._last = clock, clock()
        self._lock = threading.Lock()

    def begin(self, what: str, total: int) -> Callable[[int], None]:
        """See `progress`."""
        done = 0

        def advance(more: int) -> None:
            nonlocal done
            with self._lock:
                done += more
                if (now := self._clock()) - self._last >= SECONDS:
                    self._last = now
                    print(f"{what}: {done} of {total} images", file=sys.stderr, flush=True)

        return advance
