"""Execute the runs of an ensemble as one training; see `batching`.

While they train they have one checkpoint, in the folder of the first. After the last step each gets one of
its own, as if it had trained alone, and is brought to its end from there like any other run: measured, saved
and finished. So an interrupted ensemble goes on bit for bit, and what is finished is never computed again.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch.optim import Optimizer

from supermask.distributed import BatchShard
from supermask.experiments.execution.context import Environment, RunContext
from supermask.experiments.execution.diagnosis import MaskWatch
from supermask.experiments.execution.kinds import begin_training, optimizer_of, planned_search
from supermask.experiments.execution.run import execute
from supermask.experiments.execution.store import Run, Store
from supermask.experiments.spec import RunSpec
from supermask.io import write_json
from supermask.masks import Mask
from supermask.prune import hold
from supermask.training.callbacks import Callbacks
from supermask.training.checkpoint import state_of
from supermask.training.ensemble import Ensemble, EnsembleSearch, member_state, stack_batches, stack_named
from supermask.training.loop import Checkpoint, DivergedError, Progress, fit

Advanced = Callable[[str, int], None]


def execute_ensemble(
    specs: Sequence[RunSpec], store: Store, environment: Environment, advanced: Advanced
) -> tuple[dict[str, Any], ...]:
    """Bring the runs of an ensemble to their ends and return their results.

    Args:
        specs: An ensemble, see `ensembles_of`.
        store: Where runs lie.
        environment: Where they execute.
        advanced: Is told a run's identifier and the number of its steps done.
    """
    runs = [store.open(spec) for spec in specs]
    with ExitStack() as locks:
        for run in sorted(runs, key=lambda run: run.folder):
            locks.enter_context(run.lock())
        begun = store.begun_as_ensemble([spec.id for spec in specs])
        if begun or not any(run.result or run.checkpoint.exists() for run in runs):
            _Ensemble(specs, runs, store, environment, advanced).train(begun)
            environment = dataclasses.replace(environment, log=())  # nothing is left to tell
    return tuple(
        execute(spec, store, environment, lambda step, id=spec.id: advanced(id, step))  # type: ignore[misc]
        for spec in specs
    )


class _Logs(Callbacks):
    """The logs of all runs, which begin and end together; records each has its own, of `_write_histories`."""

    def on_record(self, record: Mapping[str, float]) -> None:
        pass


class _Ensemble:
    """Runs that train together: their networks as one, and what moves it."""

    def __init__(
        self,
        specs: Sequence[RunSpec],
        runs: Sequence[Run],
        store: Store,
        environment: Environment,
        advanced: Advanced,
    ) -> None:
        self.specs, self.runs, self.advanced = specs, runs, advanced
        self.seconds = environment.checkpoint_seconds
        place = dataclasses.replace(environment, channels_last=False)
        self.contexts = [
            RunContext(spec, store, place, run, lambda _: None) for spec, run in zip(specs, runs, strict=True)
        ]
        self.logs = [Callbacks(context.loggers()) for context in self.contexts]
        models = [context.model for context in self.contexts]
        self.memory: dict[str, Any] = {}
        for index, context in enumerate(self.contexts):
            context.mask_watch = MaskWatch(self.memory, f"{index}/")
        self.masks: Sequence[Mask] = [{} for _ in specs]
        if specs[0].kind == "search":
            searches = [planned_search(context) for context in self.contexts]
            self.network = Ensemble(models)
            self.optimizer: Optimizer = EnsembleSearch(self.network, searches)
            self.own: Sequence[Optimizer] = searches
            return
        self.masks, values = zip(*map(begin_training, self.contexts), strict=True)
        self.network = Ensemble(models)
        self.optimizer = optimizer_of(specs[0], self.network.stack)
        held = stack_named(values) if values[0] is not None else None
        hold(self.optimizer, stack_named(self.masks), self.network.stack, held)
        self.own = [optimizer_of(spec, model) for spec, model in zip(specs, models, strict=True)]

    def train(self, begun: bool) -> None:
        """Train to the end, and leave each run a checkpoint of its own from which nothing is left to do.

        Args:
            begun: Whether to go on from the checkpoint of these runs.
        """
        first = self.runs[0]
        if not begun:
            first.ensemble_checkpoint.unlink(missing_ok=True)
            write_json(first.ensemble, [spec.id for spec in self.specs])
        self._save_snapshots(self.specs[0].start)
        for context, optimizer in zip(self.contexts, self.own, strict=True):
            context.watch_mask(optimizer)
        settings = self.contexts[0].training()
        smoothing = settings["label_smoothing"]
        try:
            progress = fit(
                self.network,
                self.optimizer,
                stack_batches([context.batch for context in self.contexts]),
                objective=lambda model, x, y: model.losses(x, y, smoothing).sum(),  # type: ignore[operator]
                evaluation=self._measure,
                memory=self.memory,
                on_step=self._step_done,
                on_record=self._write_histories,
                callbacks=[_Logs(self.logs)],
                checkpoint=Checkpoint(
                    first.ensemble_checkpoint, self.seconds, " ".join(spec.id for spec in self.specs)
                ),
                **settings,
            )
        except DivergedError as error:
            lost = zip(self.specs, self.network.loss_sums.tolist(), strict=True)
            names = ", ".join(spec.id for spec, loss in lost if not math.isfinite(loss))
            error.add_note(f"the loss of {names} diverged; the others go on with --together 0")
            raise
        for index in range(len(self.runs)):
            self._leave(index, progress)
        first.ensemble.unlink()
        first.ensemble_checkpoint.unlink(missing_ok=True)

    def _step_done(self, step: int) -> None:
        self._save_snapshots(step)
        for spec in self.specs:
            self.advanced(spec.id, step - spec.start)

    def _save_snapshots(self, step: int) -> None:
        for context, optimizer, mask in zip(self.contexts, self.own, self.masks, strict=True):
            context.save_snapshot(step, optimizer, mask)

    def _measure(self) -> dict[str, float]:
        """What goes to the curves, under `<number of the run>/<name>`."""
        found = {f"{i}/train_loss": loss for i, loss in enumerate(self.network.loss_sums.tolist())}
        self.network.loss_sums.zero_()
        for i, context in enumerate(self.contexts):
            measured = context.measure(self.own[i])
            found |= {f"{i}/{name}": value for name, value in measured.items()}
        return found

    def _write_histories(self, history: list[dict[str, float]]) -> None:
        for index, (run, log) in enumerate(zip(self.runs, self.logs, strict=True)):
            curve = self._curve(index, history)
            run.write_history(curve)
            log.on_record(curve[-1])

    def _curve(self, index: int, history: list[dict[str, float]]) -> list[dict[str, float]]:
        """The learning curve of one run."""
        curve, before, prefix = [], self.specs[0].start, f"{index}/"
        for entry in history:
            own = {key.removeprefix(prefix): v for key, v in entry.items() if key.startswith(prefix)}
            own["train_loss"] /= entry["step"] - before
            curve.append({"step": entry["step"], **own})
            before = int(entry["step"])
        return curve

    def _leave(self, index: int, progress: Progress) -> None:
        """Save the checkpoint that the run would have after its last step alone."""
        optimizer, model = self.own[index], self.contexts[index].model
        if self.specs[0].kind != "search":
            moved = self.optimizer.param_groups[0]["params"]
            optimizer.load_state_dict(member_state(self.optimizer.state_dict(), moved, index))
        alone = Progress(
            progress.step,
            seconds=progress.seconds / len(self.runs),
            history=self._curve(index, progress.history),
            together=len(self.runs),
        )
        scaler = torch.amp.GradScaler(enabled=False)
        state = state_of(alone, model, optimizer, scaler, BatchShard())
        Checkpoint(self.runs[index].checkpoint, training=self.specs[index].id).save(state)
