"""One interface for whoever watches a training: `fit` and a loop of one's own tell the same."""

import csv
import itertools
import json
import subprocess
import sys
import time
import types

import pytest
import torch
from torch.nn import functional as F

import supermask as sm
from supermask.cli import main
from supermask.extras import MissingExtraError
from supermask.training.callbacks import Callback, Callbacks
from supermask.training.loggers import (
    LOGGERS,
    WHERE,
    CsvLogger,
    TensorBoardLogger,
    TrackioLogger,
    WandbLogger,
)


class Notes(Callback):
    """Writes down what it is told."""

    def __init__(self) -> None:
        self.told: list[tuple] = []

    def on_start(self, facts):
        self.told.append(("start", facts["step"]))

    def on_step(self, step):
        self.told.append(("step", step))

    def on_record(self, record):
        self.told.append(("record", dict(record)))

    def on_end(self, error=None):
        self.told.append(("end", error))


def train(small_net, batch, callbacks, steps=4, **options):
    """A short training of a search."""
    sm.randomize_(small_net, seed=0, density=0.5)
    search = sm.EdgePopup(small_net, density=0.5, lr=0.1)
    return sm.fit(
        small_net, search, lambda step: batch, steps=steps, evaluate_every=2, callbacks=callbacks, **options
    )


def test_fit_tells_of_everything_in_order(small_net, batch):
    notes = Notes()
    progress = train(small_net, batch, [notes])
    first, second = progress.history
    assert notes.told == [
        ("start", 0),
        *[("step", 1), ("step", 2), ("record", first)],
        *[("step", 3), ("step", 4), ("record", second)],
        ("end", None),
    ]


def test_a_loop_of_ones_own_tells_the_same(small_net, batch):
    notes, ours = Notes(), Notes()
    progress = train(small_net, batch, [notes])
    with Callbacks([ours]).watching() as watch:
        for step in range(1, 5):
            watch.on_step(step)
            if step % 2 == 0:
                watch.on_record(progress.history[step // 2 - 1])
    assert ours.told == notes.told


def test_an_error_is_told_and_goes_on(small_net, batch):
    notes = Notes()
    with pytest.raises(ZeroDivisionError):
        train(small_net, batch, [notes], evaluation=lambda: {"x": 1 / 0})
    name, error = notes.told[-1]
    assert name == "end" and isinstance(error, ZeroDivisionError)


def rows(path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_csv_has_a_line_for_each_record(small_net, batch, tmp_path):
    progress = train(small_net, batch, [CsvLogger(tmp_path / "new" / "log.csv")])
    read = [{key: float(value) for key, value in row.items()} for row in rows(tmp_path / "new" / "log.csv")]
    assert read == progress.history


def test_a_csv_goes_on_where_the_training_does(tmp_path):
    path = tmp_path / "log.csv"
    for start, steps in ((0, (1, 2, 3)), (2, (3, 4))):
        with Callbacks([CsvLogger(path)]).watching({"step": start}) as watch:
            for step in steps:
                watch.on_record({"step": step, "loss": float(step), **({"more": 1.0} if step == 4 else {})})
    assert [(row["step"], row["more"]) for row in rows(path)] == [
        ("1", ""),
        ("2", ""),
        ("3", ""),
        ("4", "1.0"),
    ]


def test_tensorboard_reads_the_numbers(small_net, batch, tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    progress = train(small_net, batch, [TensorBoardLogger(tmp_path)])
    read = accumulator.EventAccumulator(str(tmp_path))
    read.Reload()
    scalars = read.Scalars("train_loss")
    assert [event.step for event in scalars] == [2, 4]
    assert [event.value for event in scalars] == pytest.approx(
        [row["train_loss"] for row in progress.history]
    )


class Tracker(types.ModuleType):
    """A stand-in for wandb and trackio: both have a run with `log` and `finish`."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.calls: list[tuple] = []

    def init(self, **options):
        self.calls.append(("init", options))
        return self

    def log(self, numbers, step):
        self.calls.append(("log", numbers, step))

    def finish(self, **how):
        self.calls.append(("finish", how))


@pytest.mark.parametrize(
    ("module", "logger", "end"), [("wandb", WandbLogger, {"exit_code": 0}), ("trackio", TrackioLogger, {})]
)
def test_a_tracker_is_told_of_the_run(module, logger, end, monkeypatch):
    tracker = Tracker(module)
    monkeypatch.setitem(sys.modules, module, tracker)
    with Callbacks([logger("a-run", project="mine")]).watching({"lr": 0.1}) as watch:
        watch.on_record({"step": 3, "accuracy": 0.5})
    (_, options), *rest = tracker.calls
    assert options["config"] == {"step": 0, "lr": 0.1}
    assert (options["name"], options["project"], options["resume"]) == ("a-run", "mine", "allow")
    assert rest == [("log", {"accuracy": 0.5}, 3), ("finish", end)]


def test_wandb_is_told_of_an_error(monkeypatch):
    tracker = Tracker("wandb")
    monkeypatch.setitem(sys.modules, "wandb", tracker)
    with pytest.raises(ValueError), Callbacks([WandbLogger("a-run")]).watching():
        raise ValueError
    assert tracker.calls[-1] == ("finish", {"exit_code": 1})


@pytest.mark.parametrize("name", ["tensorboard", "trackio", "wandb"])
def test_a_logger_that_is_not_installed_is_named_with_its_extra(name, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingExtraError, match=rf"supermask\[{name}\]"):
        LOGGERS[name]("a-run", tmp_path, {})


def test_every_logger_of_the_command_line_says_where_it_writes(tmp_path, monkeypatch):
    for name in ("tensorboard", "trackio", "wandb"):
        monkeypatch.setitem(sys.modules, name, Tracker(name))
    assert LOGGERS.keys() == WHERE.keys()
    assert all(isinstance(make("a-run", tmp_path, {}), Callback) for make in LOGGERS.values())


def test_the_same_run_in_another_folder_is_another_one_for_wandb(tmp_path, monkeypatch):
    tracker = Tracker("wandb")
    monkeypatch.setitem(sys.modules, "wandb", tracker)
    for folder in ("a", "a", "b"):
        with Callbacks([LOGGERS["wandb"]("a-run", tmp_path / folder, {"seed": 3})]).watching():
            pass
    first, again, other = (options for kind, options in tracker.calls if kind == "init")
    assert first["id"] == again["id"] != other["id"] and first["config"] == {"seed": 3, "step": 0}


def numbers(path) -> list[dict[str, float]]:
    return [{key: float(value) for key, value in row.items()} for row in rows(path)]


def curve(folder) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture
def one_start_a_second(monkeypatch):
    """TensorBoard sorts its files by the second in their names."""
    writer = pytest.importorskip("tensorboard.summary.writer.event_file_writer")
    clock = itertools.count(int(time.time()))
    monkeypatch.setattr(writer, "time", types.SimpleNamespace(time=lambda: next(clock)))


def scalars(folder, name: str) -> list[tuple[int, float]]:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    read = accumulator.EventAccumulator(str(folder))
    read.Reload()
    return [(event.step, event.value) for event in read.Scalars(name)]


SMALL = "--epochs 0.5 --model-args width=0.1 --threads 1 --jobs 1 --checkpoint-seconds 0".split()


def test_a_command_logs_each_run_and_changes_none(tmp_path, capsys):
    command = ["search", *SMALL, "--density", "0.5", "--out"]
    assert main([*command, str(tmp_path / "a"), "--log", "csv", "tensorboard"]) == 0
    said = capsys.readouterr().err
    assert f"csv: {tmp_path}/a/runs/*/log.csv" in said and f"--logdir {tmp_path}/a/runs`" in said
    assert main([*command, str(tmp_path / "b")]) == 0
    assert "csv" not in capsys.readouterr().err
    (ours,), (theirs,) = ((tmp_path / out / "runs").iterdir() for out in "ab")
    assert ours.name == theirs.name and not (theirs / "log.csv").exists()
    assert (ours / "final.ticket").read_bytes() == (theirs / "final.ticket").read_bytes()
    assert numbers(ours / "log.csv") == curve(ours) == curve(theirs)
    expected = [(row["step"], pytest.approx(row["val_loss"])) for row in curve(ours)]
    assert scalars(ours / "tensorboard", "val_loss") == expected
    results = [json.loads((tmp_path / out / "results.json").read_text())["config"] for out in "ab"]
    assert results[0] == results[1]


@pytest.mark.parametrize("together", ["0", "2"])
def test_a_comparison_that_goes_on_logs_no_line_twice_and_loses_none(
    tmp_path, monkeypatch, together, one_start_a_second
):
    command = ["compare", *SMALL, *"--methods dense edge-popup --densities 0.5 --seeds 0 1".split()]
    command += ["--together", together, "--log", "csv", "tensorboard", "--out", str(tmp_path)]
    told = 0
    write = CsvLogger.on_record

    def interrupted(self, record):
        nonlocal told
        write(self, record)
        told += 1
        if told in (3, 7):
            raise KeyboardInterrupt

    monkeypatch.setattr(CsvLogger, "on_record", interrupted)
    assert [main(command), main(command), main(command)] == [130, 130, 0]
    folders = [path for path in (tmp_path / "runs").iterdir() if path.is_dir()]
    assert len(folders) == 4
    for folder in folders:
        assert numbers(folder / "log.csv") == curve(folder)
        steps = [row["step"] for row in curve(folder)]
        assert [step for step, _ in scalars(folder / "tensorboard", "train_loss")] == steps


def test_half_a_line_is_no_line(tmp_path):
    path = tmp_path / "log.csv"
    path.write_text("step,loss\n1,0.5\n2,0.25\n3,0.1\n1")
    with Callbacks([CsvLogger(path)]).watching({"step": 2}) as watch:
        watch.on_record({"step": 3, "loss": 0.125})
    assert path.read_text() == "step,loss\n1,0.5\n2,0.25\n3,0.125\n"


@pytest.mark.parametrize(
    ("words", "named"), [("wandb", "supermask[wandb]"), ("csv csv", "--log"), ("wandbb", "wandb")]
)
def test_a_log_that_cannot_be_is_refused_before_anything_runs(tmp_path, monkeypatch, capsys, words, named):
    monkeypatch.setitem(sys.modules, "wandb", None)
    try:
        code = main(["search", "--out", str(tmp_path / "a"), "--log", *words.split()])
    except SystemExit as error:
        code = error.code
    assert code == 2 and named in capsys.readouterr().err and not (tmp_path / "a").exists()


def test_no_logger_is_imported_unless_asked_for():
    code = (
        "import sys; from supermask.cli import run; import supermask.training.loggers; "
        "assert not {'tensorboard', 'wandb', 'trackio'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_watching_changes_no_bit(small_net, batch):
    import copy

    twin = copy.deepcopy(small_net)
    train(small_net, batch, [Notes()])
    train(twin, batch, [])
    images, labels = batch
    assert torch.equal(F.cross_entropy(small_net(images), labels), F.cross_entropy(twin(images), labels))
