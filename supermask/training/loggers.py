"""Loggers: callbacks that write a training's numbers where others look at them.

What a logger needs is imported when one is made, and comes with the extra of its name.
"""

import csv
import hashlib
import io
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from supermask import extras
from supermask.io import write_text
from supermask.training.callbacks import Callback

PROJECT = "supermask"
"""Where trackers put a run unless told otherwise."""


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
        self._rows = self._rows_until(int(facts.get("step", 0)))
        self._write()

    def on_record(self, record: Mapping[str, float]) -> None:
        known = set(self._columns())
        self._rows.append(dict(record))
        if set(record) <= known and known:
            with self._path.open("a", newline="", encoding="utf-8") as file:
                csv.DictWriter(file, self._columns(), lineterminator="\n").writerow(record)
        else:
            self._write()

    def _columns(self) -> list[str]:
        return list(dict.fromkeys(key for row in self._rows for key in row))

    def _rows_until(self, step: int) -> list[dict[str, Any]]:
        """What the file holds up to a step; what a training wrote after its last checkpoint is told again."""
        if not step or not self._path.exists():
            return []
        text = self._path.read_text(encoding="utf-8")
        whole = text[: text.rfind("\n") + 1]  # a full disk can leave part of a line
        return [row for row in csv.DictReader(io.StringIO(whole)) if int(float(row["step"])) <= step]

    def _write(self) -> None:
        text = io.StringIO()
        writer = csv.DictWriter(text, self._columns(), lineterminator="\n")
        if self._rows:
            writer.writeheader()
        writer.writerows(self._rows)
        write_text(self._path, text.getvalue())


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
        # What an interrupted training wrote after its last checkpoint is not to be seen twice.
        self._writer = tensorboard.SummaryWriter(str(self._folder), purge_step=int(facts.get("step", 0)) + 1)

    def on_record(self, record: Mapping[str, float]) -> None:
        assert self._writer is not None, "on_start comes before the first record"
        for name, value in record.items():
            if name != "step":
                self._writer.add_scalar(name, value, int(record["step"]))

    def on_end(self, error: BaseException | None = None) -> None:
        if self._writer is not None:
            self._writer.close()


class _RunLogger(Callback):
    """A run of a service whose module has `init`, and whose runs have `log` and `finish`.

    Args:
        module: The service's.
        options: Arguments of `init`; to a `config` the facts of the training are added.
    """

    def __init__(self, module: Any, options: Mapping[str, Any]) -> None:
        self._module, self._options = module, options
        self._run: Any = None

    def on_start(self, facts: Mapping[str, Any]) -> None:
        config = {**self._options.get("config", {}), **facts}
        self._run = self._module.init(**{**self._options, "config": config})

    def on_record(self, record: Mapping[str, float]) -> None:
        numbers = {name: value for name, value in record.items() if name != "step"}
        self._run.log(numbers, step=int(record["step"]))

    def on_end(self, error: BaseException | None = None) -> None:
        if self._run is not None:
            self._finish(error)

    def _finish(self, error: BaseException | None) -> None:
        self._run.finish()


class WandbLogger(_RunLogger):
    """A run of Weights & Biases (`pip install 'supermask[wandb]'`).

    Args:
        name: Of the run; a training that goes on under the same name goes on in the same run.
        options: Further arguments of `wandb.init`, such as `project`, `mode` and `dir`; to a `config` the
            facts of the training are added.
    """

    def __init__(self, name: str, **options: Any) -> None:
        # Runs that train together are open at the same time, and none may end another.
        own = {"id": name, "resume": "allow", "reinit": "create_new"}
        super().__init__(extras.load("wandb", "wandb"), {"project": PROJECT, "name": name, **own, **options})

    def _finish(self, error: BaseException | None) -> None:
        self._run.finish(exit_code=0 if error is None else 1)


class TrackioLogger(_RunLogger):
    """A run of trackio, which keeps it on this machine (`pip install 'supermask[trackio]'`).

    Args:
        name: Of the run.
        options: Further arguments of `trackio.init`, such as `project`; to a `config` the facts of the
            training are added.
    """

    def __init__(self, name: str, **options: Any) -> None:
        own = {"resume": "allow"}
        super().__init__(
            extras.load("trackio", "trackio"), {"project": PROJECT, "name": name, **own, **options}
        )


def _wandb_of(name: str, folder: Path, about: Mapping[str, Any]) -> Callback:
    # The same run in another folder is another one there, or it could not begin again.
    place = hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:8]
    settings = {"quiet": True}  # hundreds of runs with a summary each would hide the command's own lines
    return WandbLogger(name, dir=str(folder), id=f"{name}-{place}", config=dict(about), settings=settings)


LOGGERS: dict[str, Callable[[str, Path, Mapping[str, Any]], Callback]] = {
    "csv": lambda name, folder, about: CsvLogger(folder / "log.csv"),
    "tensorboard": lambda name, folder, about: TensorBoardLogger(folder / "tensorboard"),
    "trackio": lambda name, folder, about: TrackioLogger(name, config=dict(about)),
    "wandb": _wandb_of,
}
"""Name on the command line → what makes a logger of a run, given its name, its folder and facts about it."""
WHERE = {
    "csv": "{runs}/*/log.csv",
    "tensorboard": "`tensorboard --logdir {runs}` shows it",
    "trackio": f"`trackio show --project {PROJECT}` shows it",
    "wandb": f"project {PROJECT} of Weights & Biases",
}
"""The same names → where the numbers of runs are found whose folders lie in `runs`."""
