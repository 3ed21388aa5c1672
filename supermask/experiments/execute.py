"""Execute one run: build the network, train or search, measure once on the test split, save.

A run that was interrupted goes on from its checkpoint and ends with the same bytes; a finished one is
not computed again.
"""

import math
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from supermask.data import Dataset, Images, Loader, iterate_eval, load_data
from supermask.experiments.spec import RunSpec, Task
from supermask.experiments.store import Run, Store
from supermask.init import randomize_
from supermask.mask import Mask, density, random_mask
from supermask.models import create_model
from supermask.parameters import masked
from supermask.prune import apply_mask, hold, magnitude, shuffle
from supermask.search import BASES, SEARCHES, Search
from supermask.ticket import Ticket, dense_bytes
from supermask.train import (
    Checkpoint,
    Progress,
    Schedule,
    estimate_norm_statistics,
    evaluate,
    fit,
)

SPLIT_SEED = 0
"""The validation split is the same for all seeds: seeds vary the run, not the data."""
EVALUATIONS = 20
"""Points of a learning curve."""
EVAL_BATCH = 500


@dataclass(frozen=True)
class Environment:
    """Where runs execute; nothing here is part of a run's identity."""

    device: str = "cpu"
    threads: int = 1
    data_root: str | None = None
    channels_last: bool = False
    compile: bool = False
    checkpoint_seconds: float = 30.0


@lru_cache(maxsize=2)
def dataset(name: str, root: str | None, image_size: int | None) -> Dataset:
    """A data set, loaded once per process."""
    return load_data(name, root, image_size)


def execute(
    spec: RunSpec, store: Store, environment: Environment, on_step: Callable[[int], None] = lambda _: None
) -> dict[str, Any]:
    """Bring a run to its end and return its result; `on_step` gets the number of steps done."""
    run = store.open(spec)
    if (done := run.result) is not None:
        return done
    with run.lock():
        run.sweep()
        if (done := run.result) is not None:
            return done
        return _Execution(spec, store, environment, run, on_step).run_to_end()


class _Execution:
    def __init__(
        self, spec: RunSpec, store: Store, environment: Environment, run: Run, on_step: Callable[[int], None]
    ) -> None:
        self.spec, self.store, self.environment, self.run, self.on_step = (
            spec,
            store,
            environment,
            run,
            on_step,
        )
        torch.set_num_threads(environment.threads)
        torch.manual_seed(spec.seed)
        self.data = dataset(spec.task.data, environment.data_root, spec.task.image_size)
        self.train_split, self.val_split = self.data.split(spec.task.val_fraction, seed=SPLIT_SEED)
        self.loader = self._loader(spec.task)
        self.model = self._model(spec.task)

    def run_to_end(self) -> dict[str, Any]:
        mask, progress = {"train": self._train, "search": self._search, "frozen": self._frozen}[
            self.spec.kind
        ]()
        ticket = Ticket.of(self.model, mask, provenance=self._provenance())
        ticket.save(self.run.ticket_path())
        test = self._evaluate(self.data.test)
        val = self._evaluate(self.val_split) if len(self.val_split) else {"accuracy": None}
        parents = [self.store.run(id).result or {} for id in self.spec.needs]
        return self.run.finish(
            {
                "method": self.spec.method,
                "density": density(mask) if mask else 1.0,
                "seed": self.spec.seed,
                "test_accuracy": test["accuracy"],
                "test_loss": test["loss"],
                "val_accuracy": val["accuracy"],
                "steps": self.spec.steps,
                "total_steps": self.spec.steps + max((p.get("total_steps", 0) for p in parents), default=0),
                "seconds": round(progress.seconds, 3),
                "ticket_bytes": self.run.ticket_path().stat().st_size,
                "dense_bytes": dense_bytes(self.model),
            }
        )

    # The three kinds.

    def _train(self) -> tuple[Mask, Progress]:
        self._load_weights()
        mask = self._mask()
        apply_mask(self.model, mask)
        rule = self.spec.rule
        optimizer = BASES[rule.optimizer](self.model.parameters(), **rule.options())
        hold(optimizer, mask, self.model)
        return mask, self._fit(optimizer, mask)

    def _search(self) -> tuple[Mask, Progress]:
        source, rule = self.spec.mask, self.spec.rule
        search: Search = SEARCHES[self.spec.method](
            self.model,
            density=source.density,
            distribution=source.distribution,
            base=rule.optimizer,
            seed=self.spec.seed,
            **rule.options(),
            **source.options,
        )
        search.plan(self.spec.task.steps, self.loader.steps_per_epoch)
        progress = self._fit(search, {})
        search.settle()
        return search.mask, progress

    def _frozen(self) -> tuple[Mask, Progress]:
        mask = self._mask()
        apply_mask(self.model, mask)
        estimate_norm_statistics(self.model, self._batch, min(self.loader.steps_per_epoch, 100))
        return mask, Progress(0)

    # Their parts.

    def _loader(self, task: Task) -> Loader:
        return Loader(
            self.train_split,
            batch_size=task.batch_size,
            seed=self.spec.seed,
            mean=self.data.mean,
            std=self.data.std,
            augment=task.augment,  # type: ignore[arg-type]  # checked by the loader
            device=self.environment.device,
        )

    def _model(self, task: Task) -> nn.Module:
        source = self.spec.weights
        model = create_model(
            task.model,
            num_classes=self.data.num_classes,
            in_channels=self.data.in_channels,
            image_size=self.data.image_size,
            **task.model_args,
        )
        model = model.to(self.environment.device)
        if self.environment.channels_last:
            model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        randomize_(model, source.init, source.seed, density=source.rescale_by)
        if self.spec.kind == "train":
            model.requires_grad_(True)
        return model

    def _load_weights(self) -> None:
        source = self.spec.weights
        if source.run is not None:
            self.store.run(source.run).ticket(source.step).apply(self.model)

    def _mask(self) -> Mask:
        source = self.spec.mask
        shapes = {info.name: tuple(info.tensor.shape) for info in masked(self.model)}
        if source.kind == "none":
            return {}
        if source.kind == "random":
            assert isinstance(source.keep, dict)
            return random_mask(shapes, source.keep, self.spec.seed, source.distribution)
        assert source.run is not None
        parent = self.store.run(source.run).ticket()
        if source.kind == "same":
            return parent.mask()
        if source.kind == "shuffle":
            return shuffle(parent.mask(), self.spec.seed)
        if source.kind == "magnitude":
            assert source.keep is not None
            weights = {name: value for name, value in parent.weights().items() if name in shapes}
            return magnitude(weights, source.keep, parent.mask() or None)
        raise ValueError(f"unknown mask source {source.kind!r}")

    def _fit(self, optimizer: Optimizer, mask: Mask) -> Progress:
        task, spec = self.spec.task, self.spec

        def step_done(step: int) -> None:
            if step == spec.snapshot:
                Ticket.of(self.model, mask).save(self.run.ticket_path(step))
            self.on_step(step - spec.start)

        if spec.snapshot == spec.start:
            Ticket.of(self.model, mask).save(self.run.ticket_path(spec.start))
        model = torch.compile(self.model) if self.environment.compile else self.model
        return fit(
            model,  # type: ignore[arg-type]
            optimizer,
            self._batch,
            steps=task.steps,
            start=spec.start,
            schedule=Schedule(task.schedule, task.steps, task.warmup_steps, task.milestones),
            amp=task.amp,
            label_smoothing=task.label_smoothing,
            clip=task.clip,
            evaluation=(lambda: self._validation(optimizer)) if len(self.val_split) else None,
            evaluate_every=max(1, task.steps // EVALUATIONS),
            on_step=step_done,
            on_record=self.run.write_history,
            checkpoint=Checkpoint(self.run.checkpoint, self.environment.checkpoint_seconds),
        )

    def _validation(self, optimizer: Optimizer) -> dict[str, float]:
        with optimizer.evaluating() if isinstance(optimizer, Search) else nullcontext():
            measured = self._evaluate(self.val_split)
        return {f"val_{name}": value for name, value in measured.items() if value is not None}

    def _evaluate(self, images: Images) -> dict[str, float | None]:
        """Accuracy and loss; a loss that is not finite, as fp16 can give, is None."""
        batches = iterate_eval(images, EVAL_BATCH, self.data.mean, self.data.std, self.environment.device)
        measured = evaluate(self.model, map(self._formatted, batches), self.spec.task.amp)
        return {name: value if math.isfinite(value) else None for name, value in measured.items()}

    def _batch(self, step: int) -> tuple[Tensor, Tensor]:
        return self._formatted(self.loader.batch(step))

    def _formatted(self, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        if not self.environment.channels_last:
            return batch
        return batch[0].contiguous(memory_format=torch.channels_last), batch[1]

    def _provenance(self) -> dict[str, Any]:
        return {
            "run": self.spec.id,
            "method": self.spec.method,
            "data": self.spec.task.data,
            "image_size": self.spec.task.image_size,
        }
