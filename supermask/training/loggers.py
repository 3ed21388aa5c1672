"""Loggers: callbacks that write a training's numbers where others look at them.

What a logger needs is imported when one is made, and comes with the extra of its name.
"""

import csv
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from supermask import extras
from supermask.training.callbacks import Callback


class CsvLogger(Callback):
    """A CSV file with a line for each record and a column for each number, made whole again on each start.

    Args:
        path: The file; its folder is made. A training that goes on keeps its lines up to where it goes on.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = Path(path)
        self._rows: list[dict[str, Any]] = []

    def on_start(self, facts: Mapping[str, Any]) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        done = int(facts.get("step", 0))
        if done and self._path.exists():
            with self._path.open(newline="", encoding="utf-8") as file:
                self._rows = [row for row in csv.DictReader(file) if int(float(row["step"])) <= done]
        self._write()

    def on_record(self, record: Mapping[str, float]) -> None:
        known = set(self._columns())
        self._rows.append(dict(record))
        if set(record) <= known and known:
            with self._path.open("a", newline="", encoding="utf-8") as file:
                csv.DictWriter(file, self._columns()).writerow(record)
        else:
            self._write()

    def _columns(self) -> list[str]:
        return list(dict.fromkeys(key for row in self._rows for key in row))

    def _write(self) -> None:
        with self._path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, self._columns())
            if self._rows:
                writer.writeheader()
            writer.writerows(self._rows)


class TensorBoardLogger(Callback):
    """Scalars for TensorBoard (`pip install 'supermask[tensorboard]'`).

    Args:
        folder: Where the event files go; `tensorboard --logdir` takes it or a folder above.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        extras.load("tensorboard", "tensorboard")
        self._folder = Path(folder)
        self._writer: Any = None

    def on_start(self, facts: Mapping[str, Any]) -> None:
        tensorboard: Any = extras.load("torch.utils.tensorboard", "tensorboard")
        done = int(facts.get("step", 0))
        # What an interrupted training wrote after its last checkpoint is not to be seen twice.
        self._writer = tensorboard.SummaryWriter(str(self._folder), purge_step=done + 1 if done else None)

    def on_record(self, record: Mapping[str, float]) -> None:
        assert self._writer is not None, "on_start comes before the first record"
        for name, value in record.items():
            if name != "step":
                self._writer.add_scalar(name, value, int(record["step"]))

    def on_end(self, error: BaseException | None = None) -> None:
        if self._writer is not None:
            self._writer.close()


class WandbLogger(Callback):
    """A run of Weights & Biases (`pip install 'supermask[wandb]'`).

    Args:
        name: Of the run; a training that goes on under the same name goes on in the same run.
        options: Further arguments of `wandb.init`, such as `project`, `mode` and `dir`.
    """

    def __init__(self, name: str, **options: Any) -> None:
        self._wandb: Any = extras.load("wandb", "wandb")
        self._options = {"project": "supermask", "name": name, "id": name, "resume": "allow", **options}
        self._run: Any = None

    def on_start(self, facts: Mapping[str, Any]) -> None:
        self._run = self._wandb.init(config=dict(facts), **self._options)

    def on_record(self, record: Mapping[str, float]) -> None:
        self._run.log(_numbers(record), step=int(record["step"]))

    def on_end(self, error: BaseException | None = None) -> None:
        if self._run is not None:
            self._run.finish(exit_code=0 if error is None else 1)


class TrackioLogger(Callback):
    """A run of trackio, which keeps it on this machine (`pip install 'supermask[trackio]'`).

    Args:
        name: Of the run.
        options: Further arguments of `trackio.init`, such as `project`.
    """

    def __init__(self, name: str, **options: Any) -> None:
        self._trackio: Any = extras.load("trackio", "trackio")
        self._options = {"project": "supermask", "name": name, "resume": "allow", **options}
        self._run: Any = None

    def on_start(self, facts: Mapping[str, Any]) -> None:
        self._run = self._trackio.init(config=dict(facts), **self._options)

    def on_record(self, record: Mapping[str, float]) -> None:
        self._run.log(_numbers(record), step=int(record["step"]))

    def on_end(self, error: BaseException | None = None) -> None:
        if self._run is not None:
            self._run.finish()


LOGGERS: dict[str, Callable[[str, Path], Callback]] = {
    "csv": lambda name, folder: CsvLogger(folder / "log.csv"),
    "tensorboard": lambda name, folder: TensorBoardLogger(folder / "tensorboard"),
    "trackio": lambda name, folder: TrackioLogger(name),
    "wandb": lambda name, folder: WandbLogger(name, dir=str(folder)),
}
"""Name on the command line → what makes a logger for a run of that name whose files lie in that folder."""


def _numbers(record: Mapping[str, float]) -> dict[str, float]:
    return {name: value for name, value in record.items() if name != "step"}
