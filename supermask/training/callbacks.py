"""What a training tells those who watch it: one small interface for `fit` and for loops of your own."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any


class Callback:
    """Base of everything that watches a training; each method does nothing unless it is overridden.

    Steps are counted from 1 on: step n is the n-th optimizer step.
    """

    def on_start(self, facts: Mapping[str, Any]) -> None:
        """The training begins, or goes on.

        Args:
            facts: JSON-able; `step` is the number of steps already done.
        """

    def on_step(self, step: int) -> None:
        """Step `step` is done. What this asks of the device, the training waits for."""

    def on_record(self, record: Mapping[str, float]) -> None:
        """Numbers are there, such as `train_loss` and `accuracy`; `step` says when they were taken."""

    def on_end(self, error: BaseException | None = None) -> None:
        """The training is over, by itself or by an error."""


class Callbacks(Callback):
    """Several as one, asked in their order.

    A loop of your own tells them what `fit` would::

        with Callbacks([CsvLogger("log.csv")]).watching({"lr": 0.1}) as watch:
            for step, (images, labels) in enumerate(loader, start=1):
                ...
                watch.on_step(step)
                watch.on_record({"step": step, "train_loss": loss.item()})
    """

    def __init__(self, callbacks: Iterable[Callback] = ()) -> None:
        self._callbacks = tuple(callbacks)

    def on_start(self, facts: Mapping[str, Any]) -> None:
        for callback in self._callbacks:
            callback.on_start(facts)

    def on_step(self, step: int) -> None:
        for callback in self._callbacks:
            callback.on_step(step)

    def on_record(self, record: Mapping[str, float]) -> None:
        for callback in self._callbacks:
            callback.on_record(record)

    def on_end(self, error: BaseException | None = None) -> None:
        for callback in self._callbacks:
            callback.on_end(error)

    @contextmanager
    def watching(self, facts: Mapping[str, Any] | None = None) -> Iterator["Callbacks"]:
        """Inside this context a training runs; afterwards all are told how it ended."""
        self.on_start({"step": 0, **(facts or {})})
        try:
            yield self
        except BaseException as error:
            self.on_end(error)
            raise
        self.on_end()
