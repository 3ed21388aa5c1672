"""`--lr-sweep`: validation chooses, the test split is not seen, a repeated command computes nothing again."""

import json
from pathlib import Path
from typing import Any

import pytest

from supermask.cli import main
from supermask.data import load_data
from supermask.experiments import EXPERIMENTS, SearchConfig
from supermask.experiments.config import ConfigError
from supermask.experiments.lr_sweep import trials_of
from supermask.experiments.search import plan_search
from supermask.experiments.searches import search_of
from supermask.models import create_model
from supermask.tickets.ticket import Ticket
from supermask.weights.init import randomize_

CALL = ["search", "--epochs", "5", "--lr-sweep", "1e-6", "0.1", "1e20", "--threads", "1", "--jobs", "1"]


@pytest.fixture(scope="module")
def swept(tmp_path_factory) -> Path:
    """The folder of a search with a sweep: of a rate that does nothing, a good one and one that diverges."""
    out = tmp_path_factory.mktemp("sweep")
    assert main([*CALL, "--out", str(out)]) == 0
    return out


def test_the_best_on_validation_is_chosen_and_recorded(swept):
    document = json.loads((swept / "results.json").read_text())
    sweep = document["lr_sweep"]
    assert [entry["lr"] for entry in sweep["tried"]] == [1e-6, 0.1, 1e20]
    best = max(sweep["tried"], key=lambda entry: entry["val_accuracy"] or 0.0)
    assert sweep["chosen"] == best["lr"] == 0.1 == document["config"]["lr"]
    assert [entry["val_accuracy"] is None for entry in sweep["tried"]] == [False, False, True]
    assert {entry["steps"] for entry in sweep["tried"]} == {10}  # a fifth of 50
    (row,) = document["rows"]
    assert row["steps"] == 50
    ticket = Ticket.load(swept / row["ticket"])
    assert ticket.provenance["lr_sweep"] == sweep
    page = (swept / "report.html").read_text()
    assert "The learning rate" in page and "diverged" in page and "chosen" in page


def test_trials_never_see_the_test_split_and_leave_no_ticket(swept):
    document = json.loads((swept / "results.json").read_text())
    for entry in document["lr_sweep"]["tried"]:
        run = swept / "runs" / entry["run"]
        result = json.loads((run / "result.json").read_text())
        assert result["test_accuracy"] is None and result["test_loss"] is None
        assert not list(run.glob("*.ticket"))


def test_the_same_command_computes_nothing_again(swept, capsys):
    def finished() -> dict[str, Any]:
        return {path.parent.name: path.stat().st_mtime_ns for path in (swept / "runs").glob("*/result.json")}

    before = finished()
    capsys.readouterr()
    assert main([*CALL, "--out", str(swept)]) == 0
    assert finished() == before and len(before) == 4
    said = capsys.readouterr().out
    assert "learning rate" in said and "chosen" in said and "diverged" in said


def test_the_long_search_is_the_one_without_a_sweep(swept):
    document = json.loads((swept / "results.json").read_text())
    (plain,) = plan_search(SearchConfig(epochs=5.0, lr=0.1), load_data("digits")).graph
    assert document["rows"][0]["run"] == plain.id


def test_schedules_are_pressed_into_the_share():
    config = SearchConfig(epochs=10.0, warmup_epochs=2.0, schedule="multistep", milestones=(5.0, 8.0))
    (spec,) = plan_search(config, load_data("digits")).graph
    trials = trials_of(spec, (0.1, 1.0), 0.1).graph
    task = trials[0].task
    assert (spec.task.steps, task.steps, task.warmup_steps, task.milestones) == (100, 10, 2, (5, 8))
    assert [trial.rule.lr for trial in trials] == [0.1, 1.0] and len({trial.id for trial in trials}) == 2


@pytest.mark.parametrize(
    ("method", "given", "pressed"),
    [
        ("edge-popup", {"density_schedule": "cubic", "schedule_steps": 60}, {"schedule_steps": 15}),
        ("iterand", {"period": 10}, {"period": 2}),  # steps; of 2.5 the even one
        ("gem-miner", {"period": 2.0, "penalty": 0.5}, {"period": 0.5}),  # epochs
        ("iterand", {"period": 1, "rate": 0.2}, {"period": 1}),
    ],
)
def test_periods_of_a_method_are_pressed_into_the_share(method, given, pressed):
    arguments = {name: str(value) for name, value in given.items()}
    config = SearchConfig(method=method, method_args=arguments, epochs=10.0, lr=0.1)
    (spec,) = plan_search(config, load_data("digits")).graph
    (trial,) = trials_of(spec, (0.1,), 0.25).graph
    assert spec.mask.options == given and trial.mask.options == given | pressed
    model = randomize_(create_model("lenet-300-100", in_channels=1, image_size=8))
    search = search_of(model, method, trial.rule, trial.mask, seed=0)
    search.plan(
        trial.task.steps, trial.task.steps_per_epoch
    )  # which a period of the long search would refuse


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"lr_sweep": (0.1, 1.0), "val_fraction": 0.0}, "--val-fraction above 0"),
        ({"lr_sweep": (0.1,)}, "at least two"),
        ({"lr_sweep": (0.1, 0.1)}, "each once"),
        ({"lr_sweep": (0.0, 0.1)}, "positive"),
        ({"lr_sweep": (0.1, 1.0), "sweep_share": 0.0}, r"\(0, 1\]"),
    ],
)
def test_a_sweep_with_nothing_to_choose_is_refused(changes, said):
    with pytest.raises(ConfigError, match=said):
        EXPERIMENTS["search"].config(**changes)


def test_where_every_rate_diverges_smaller_ones_are_asked_for(tmp_path, capsys):
    call = ["search", "--epochs", "5", "--lr-sweep", "1e20", "1e25", "--threads", "1", "--jobs", "1"]
    assert main([*call, "--out", str(tmp_path)]) == 2
    assert "take smaller ones" in capsys.readouterr().err
