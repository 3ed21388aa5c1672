"""Advice: made results for each finding and for none, commands that parse, and runs with a planted fault."""

import dataclasses
import json
import math
import shlex
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from supermask.cli import main
from supermask.cli.entry import parse
from supermask.cli.flags import read_config
from supermask.experiments import EXPERIMENTS
from supermask.models.registry import _FACTORIES, register_model
from supermask.report import write_report
from supermask.report.advice import Advice, advise
from supermask.report.advice.advise import SOUND
from supermask.report.advice.cases import cases_of
from supermask.report.advice.commands import search_again
from supermask.report.advice.rules import movement
from supermask.search import SEARCHES

Change = Callable[[dict[str, Any]], None]


def healthy(method: str = "edge-popup", density: float = 0.5, command: str = "search") -> dict[str, Any]:
    """Results of a sound search of 200 steps in ten epochs, as a command writes them."""
    points = [
        {
            "step": 10 * (i + 1),
            "train_loss": 0.9 * 0.8**i + 0.02,
            "val_loss": 0.9 * 0.8**i + 0.06,
            "val_accuracy": 0.97 - 0.4 * 0.6**i,
            "mask_changed": 0.05 * 0.8**i,
        }
        for i in range(20)
    ]
    key = {"method": method, "density": density, "seed": 0}
    row = {
        **key, "test_accuracy": 0.965, "val_accuracy": 0.97, "test_loss": 0.1, "steps": 200,
        "total_steps": 200, "seconds": 1.0, "ticket": "runs/x/final.ticket", "ticket_bytes": 7000,
        "dense_bytes": 200_000, "kept_density": density, "run": "x",
    }  # fmt: skip
    layers = [
        {
            "layer": name,
            "weights": n,
            "kept": round(density * n),
            "units": units,
            "empty": 0,
            "dead": units // 10,
        }
        for name, n, units in (("fc1.weight", 19_200, 300), ("fc2.weight", 30_000, 100))
    ]
    config = {"data": "digits", "model": "lenet-300-100", "epochs": 10.0, "val_fraction": 0.1}
    config |= {"schedule": "cosine", "rescale": True, "distribution": "uniform", "augment": "none"}
    config |= {"method": method, "density": density, "lr": 0.1, "init": "signed_constant", "seed": 0}
    if command == "compare":
        config |= {"methods": [method], "densities": [density], "seeds": [0], "own_recipes": True}
        config |= {"search_lr": 0.1, "search_init": "signed_constant", "init": "kaiming_normal"}
        del config["method"], config["density"], config["seed"]
    return {
        "schema": f"supermask/{command}/1",
        "command": f"supermask {command} --out runs/mine --data-root 'my data' --threads 2",
        "config": config,
        "machine": {},
        "rows": [row],
        "summary": [
            {"method": method, "density": density, "n": 1, "mean": 0.965, "min": 0.965, "max": 0.965}
        ],
        "curves": [{**key, "points": points}],
        "units": [{**key, "classes": 10, "steps_per_epoch": 20, "layers": layers}],
    }


def points(document: dict[str, Any]) -> list[dict[str, float]]:
    return document["curves"][0]["points"]


def kinds(document: dict[str, Any]) -> list[str]:
    return [finding.kind for finding in advise(document).findings]


def dead(document: dict[str, Any]) -> None:
    document["units"][0]["layers"][0]["dead"] = 300


def collapsed(document: dict[str, Any]) -> None:
    document["units"][0]["layers"][1] |= {"kept": 120, "empty": 30}


def still(document: dict[str, Any]) -> None:
    for point in points(document):
        point["mask_changed"] = 1e-5


def restless(document: dict[str, Any]) -> None:
    points(document)[-1]["mask_changed"] = 0.06


def overfitted(document: dict[str, Any]) -> None:
    points(document)[-1]["val_loss"] = 0.31


def underfitted(document: dict[str, Any]) -> None:
    for point in points(document):
        point["train_loss"] = 1.1


def unscaled(document: dict[str, Any]) -> None:
    document["config"]["rescale"] = False


def stored(document: dict[str, Any]) -> None:
    document["rows"][0]["ticket_bytes"] = 210_000


def rising(document: dict[str, Any]) -> None:
    for index, point in enumerate(points(document)):
        point["val_accuracy"] = 0.5 + 0.01 * index


def hopeless(document: dict[str, Any]) -> None:
    document["rows"][0]["test_accuracy"] = 0.104


# What is planted → two pieces of what is said, and a flag of the command with its value.
FINDINGS: dict[str, tuple[Change, str, str, tuple[str, Any]]] = {
    "dead units": (dead, "300 of 300 units of fc1.weight", "no training image", ("init", "kaiming_normal")),
    "layer near collapse": (collapsed, "1.2 kept weights for each of", "30 units", ("distribution", "erk")),
    "mask stands still": (still, "0.02 % of the kept", "0.002 % per epoch", ("lr_sweep", (0.1, 1, 10, 100))),
    "mask never settled": (restless, "6 % of", "last 10 of 200 steps", ("lr_sweep", (0.01, 0.0333, 0.1))),
    "overfitting": (overfitted, "to 0.310 at the end", "step 190", ("augment", "shift")),
    "underfitting": (underfitted, "1.100", "10 classes has 2.303", ("epochs", 30.0)),
    "no rescaling": (unscaled, "0.5 of the variance", "0.25 through 2 layers", ("rescale", True)),
    "weights not from a seed": (stored, "210,000 bytes", "200,000", ("lr", 0.1)),
    "budget too small": (rising, "5.0 points", "69.0 %", ("epochs", 20.0)),
    "near chance": (hopeless, "10.4 %", "a guess 10.0 %", ("epochs", 30.0)),
}


@pytest.mark.parametrize(("size", "found"), [(150_000, False), (16 * 110_000, True)])
def test_a_bit_for_each_of_sixteen_weights_is_no_stored_weight(size, found):
    document = healthy()  # of 200,000 bytes, which count the sums
    document["config"]["model_args"] = {"parallel_weights": "16"}
    document["rows"][0]["ticket_bytes"] = size
    assert ("weights not from a seed" in [f.kind for f in advise(document).findings]) == found


def test_a_mask_that_keeps_everything_does_not_stand_still():
    """A slot machine chooses among values and prunes nothing."""
    document = healthy(command="search")
    still(document)
    (case,) = (case for case in cases_of(document) if case.is_search)
    assert list(movement(document, case))
    whole = dataclasses.replace(case, row={**case.row, "density": 1})
    assert not list(movement(document, whole))


@pytest.mark.parametrize("command", ["search", "compare"])
@pytest.mark.parametrize("kind", FINDINGS)
def test_a_planted_fault_is_found_alone_with_its_number_and_a_command_that_parses(kind, command):
    plant, *numbers, (flag, value) = FINDINGS[kind]
    document = healthy(command=command)
    plant(document)
    (finding,) = advise(document).findings
    assert finding.kind == kind
    assert all(number in f"{finding.measured} {finding.why}" for number in numbers), finding.measured
    words = shlex.split(finding.command)
    options = parse(words[1:])
    config = read_config(EXPERIMENTS["search"].config, options)
    assert getattr(config, flag) == value
    assert (config.method, config.data_root, config.threads) == ("edge-popup", "my data", 2)
    assert config.out.startswith("runs/mine-") and config.density == 0.5 and len(finding.why) > 40


def test_densities_out_of_range_are_named_unless_another_is_in_it():
    document = healthy(density=0.1, command="compare")
    assert kinds(document) == ["density out of range"]
    assert "--density 0.5" in advise(document).findings[0].command
    other = healthy(command="compare")
    for part in ("rows", "summary", "curves", "units"):
        document[part] += other[part]
    assert kinds(document) == []


def test_a_validation_loss_that_was_zero_is_no_division_by_it():
    document = healthy()
    for point, loss in zip(points(document)[-2:], (0.0, 1e-4), strict=True):
        point["val_loss"], point["train_loss"] = loss, 0.0
    assert "overfitting" not in kinds(document)
    points(document)[-1]["val_loss"] = 0.5
    assert "overfitting" in kinds(document)


def test_a_loss_that_still_falls_or_was_never_small_is_not_called_overfitting():
    document = healthy()
    overfitted(document)
    underfitted(document)
    for point in points(document):
        point["train_loss"] = 1.1
        point["val_loss"] = max(point["val_loss"], 1.2)
    points(document)[-1]["val_loss"] = 2.0
    assert kinds(document) == ["underfitting"]
    document = healthy()
    rising(document)
    count = len(points(document))
    for index, point in enumerate(points(document)):
        point["val_loss"] = 0.2 if index == 1 else 1.0 - 0.5 * index / count  # lowest by chance, early
    assert kinds(document) == ["budget too small"]


def test_a_sound_run_yields_nothing():
    advice = advise(healthy())
    assert advice == Advice([], [], 1) and advice.summary == SOUND


def test_controls_are_not_advised_on():
    document = healthy(method="reinit", command="compare")
    dead(document)
    assert kinds(document) == []


def test_the_worst_of_several_runs_is_named_and_the_others_are_counted():
    document = healthy(command="compare")
    for seed, dying in ((1, 200), (2, 250)):
        other = healthy(command="compare")
        other["units"][0]["layers"][0]["dead"] = dying
        for part in ("rows", "curves", "units"):
            other[part][0]["seed"] = seed
            document[part] += other[part]
    (finding,) = advise(document).findings
    assert "seed 2: 250 of 300" in finding.measured and finding.others == 1


def test_a_trained_network_is_trained_again_by_its_own_command():
    document = healthy(method="dense", density=1.0, command="compare")
    rising(document)
    (finding,) = advise(document).findings
    config = read_config(EXPERIMENTS["compare"].config, parse(shlex.split(finding.command)[1:]))
    assert (config.methods, config.epochs, config.seeds, config.init) == (
        ("dense",),
        20.0,
        (0,),
        "kaiming_normal",
    )


def test_a_search_with_a_recipe_of_its_own_keeps_it():
    document = healthy(method="gem-miner", command="compare")
    still(document)
    (finding,) = advise(document).findings
    config = read_config(EXPERIMENTS["search"].config, parse(shlex.split(finding.command)[1:]))
    assert config.lr_sweep == (0.03, 0.3, 3.0, 30.0) and config.optimizer == "adam"


@pytest.mark.parametrize("command", ["search", "compare"])
def test_a_search_without_a_rate_is_tried_at_others_in_its_own_units(command):
    document = healthy(command=command)
    document["rows"][0] |= {"lr": 0.005, "step_size": "relative"}
    document["config"]["lr" if command == "search" else "search_lr"] = None
    still(document)
    (found,) = advise(document).findings
    assert "at the rate 0.005" in found.measured
    config = read_config(EXPERIMENTS["search"].config, parse(shlex.split(found.command)[1:]))
    assert config.lr_sweep == (0.005, 0.015, 0.05, 0.15) and config.nesterov
    rule, mask = config.rule_and_mask(0.005)
    assert mask.options == {"step_size": "relative"} and rule.weight_decay == 0
    document["config"]["val_fraction"] = 0.0
    (found,) = advise(document).findings
    assert read_config(EXPERIMENTS["search"].config, parse(shlex.split(found.command)[1:])).lr == 0.015


def test_older_results_say_what_is_unknown():
    document = healthy()
    del document["units"]
    for point in points(document):
        del point["mask_changed"], point["val_accuracy"], point["val_loss"]
    advice = advise(document)
    assert not advice.findings and len(advice.unknown) == 3
    assert "known" in advice.summary and advice.summary != SOUND
    document["curves"] = []
    assert len(advise(document).unknown) == 3


def test_a_chosen_distribution_and_arguments_go_before_the_recipe(monkeypatch):
    document = healthy(command="compare", method="concrete")
    case = next(iter(cases_of(document)))
    assert "--distribution" not in search_again(document, case, "again")  # it is global, as the recipe says
    document["config"] |= {"distribution": "erk", "search_args": {"slack": "1.5"}}
    monkeypatch.setattr(
        SEARCHES["concrete"], "recipe", {**SEARCHES["concrete"].recipe, "method_args": {"temperature": "0.5"}}
    )
    line = search_again(document, case, "again").split()
    assert line[line.index("--distribution") + 1] == "erk"
    start = line.index("--method-args") + 1
    assert set(line[start : start + 2]) == {"temperature=0.5", "slack=1.5"}


def test_the_page_has_the_box(tmp_path):
    document = healthy()
    assert SOUND in write_report(document, tmp_path).read_text()
    dead(document)
    page = write_report(document, tmp_path).read_text().replace("\N{NO-BREAK SPACE}", " ")
    assert "300 of 300 units" in page and advise(document).findings[0].command.replace("'", "&#39;") in page


@pytest.fixture
def model_with_dead_units():
    """A network whose hidden units have a bias that no image reaches."""

    @register_model("dead-on-arrival")
    def build(num_classes: int, in_channels: int, image_size: int) -> nn.Module:
        """A perceptron."""
        return nn.Sequential(
            nn.Flatten(), _Shifted(in_channels * image_size**2, 50), nn.ReLU(), nn.Linear(50, num_classes)
        )

    yield "dead-on-arrival"
    del _FACTORIES["dead-on-arrival"]


class _Shifted(nn.Linear):
    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        return super().forward(inputs) - 1e4


TINY = ["--epochs", "2", "--threads", "1", "--jobs", "1", "--device", "cpu"]


def test_a_run_of_dead_units_is_recognized(tmp_path, model_with_dead_units, capsys):
    out = ["--out", str(tmp_path)]
    assert main(["search", "--model", model_with_dead_units, *TINY, *out]) == 0
    layers = json.loads((tmp_path / "results.json").read_text())["units"][0]["layers"]
    assert [(layer["dead"], layer["units"]) for layer in layers] == [(50, 50), (0, 10)]
    capsys.readouterr()
    assert main(["advise", str(tmp_path)]) == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "50 of 50 units of 1.weight are dead on data" in said and "near chance" in said


def test_a_run_at_a_tiny_rate_is_recognized_from_its_folder_its_results_and_itself(tmp_path, capsys):
    assert main(["search", "--lr", "1e-6", *TINY, "--out", str(tmp_path)]) == 0
    capsys.readouterr()
    (run,) = (tmp_path / "runs").iterdir()
    for path in (tmp_path, tmp_path / "results.json", run):
        assert main(["advise", str(path), "--json"]) == 0
        found = json.loads(capsys.readouterr().out)["findings"]
        assert {"mask stands still", "near chance"} <= {entry["kind"] for entry in found}
        assert all(math.isfinite(entry["size"]) for entry in found)


@pytest.mark.parametrize("content", [None, "{}", '{"schema": "supermask/theory/1", "rows": [1]}'])
def test_what_holds_no_results_is_refused(tmp_path, content, capsys):
    if content is not None:
        (tmp_path / "results.json").write_text(content)
    assert main(["advise", str(tmp_path)]) == 2
    assert "holds no results" in capsys.readouterr().err
