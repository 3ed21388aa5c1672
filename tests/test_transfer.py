"""`supermask transfer`: which mask trains where, the matrix, and what is refused."""

import dataclasses
import json

import pytest
import torch

from supermask.cli import main
from supermask.data import load_data
from supermask.experiments import ConfigError, TransferConfig, transfer
from supermask.experiments.execution import context
from supermask.experiments.execution.context import Environment
from supermask.experiments.execution.run import execute
from supermask.experiments.execution.store import Store
from supermask.experiments.transfer import plan_transfer
from supermask.report import headline

SHORT = {"epochs": 0.2, "seeds": (0,), "densities": (0.5,), "out": "x"}


def test_every_ticket_trains_everywhere_from_the_same_initialization():
    config = TransferConfig(places=("digits", "digits:adam"), rewind_to=2, **{**SHORT, "epochs": 1})
    plan = plan_transfer(config, load_data("digits"))
    runs = {spec.id: spec for spec in plan.graph}
    cells = {(row.options["source"], row.options["target"]): row for row in plan.rows}
    assert cells.keys() == {
        (source, target)
        for source in ("digits", "digits:adam", "random mask", "dense")
        for target in ("digits", "digits:adam")
    }
    for (source, target), row in cells.items():
        assert row.rule.optimizer == ("adam" if target == "digits:adam" else "sgd")
        assert row.rule.lr == (1e-3 if target == "digits:adam" else 0.1)
        if source in ("digits", "digits:adam"):
            found = runs[row.mask.run]
            assert found.rule.optimizer == ("adam" if source == "digits:adam" else "sgd")
            # Rewound to the early weights of the target's own dense training.
            assert row.weights.run == cells["dense", target].id and row.weights.step == row.start == 2
    assert len({row.weights.seed for row in plan.rows}) == 1


def test_layers_of_another_shape_take_a_random_mask(tmp_path, monkeypatch):
    digits = load_data("digits")
    parts = {
        part: images.take((images.labels < 5).nonzero().flatten())
        for part, images in (("train", digits.train), ("test", digits.test))
    }
    fewer = dataclasses.replace(digits, classes=digits.classes[:5], **parts)
    sets = {"digits": digits, "fewer": fewer}
    for module in (transfer, context):
        monkeypatch.setattr(module, "dataset", lambda name, *_: sets[name])
    plan = plan_transfer(TransferConfig(places=("digits", "fewer"), **SHORT), digits)
    store, done = Store(tmp_path), {}
    for spec in plan.graph:
        execute(spec, store, Environment())
        done[spec.options.get("source"), spec.options.get("target")] = spec
    moved = done["digits", "fewer"]
    theirs, ours = store.run(moved.mask.run).ticket().mask(), store.run(moved.id).ticket().mask()
    *hidden, output = ours
    assert all(torch.equal(theirs[name], ours[name]) for name in hidden)
    assert theirs[output].shape[0] == 10 and ours[output].shape[0] == 5
    assert int(ours[output].sum()) * 2 == ours[output].numel()


def test_the_command_makes_a_matrix_and_a_page(tmp_path):
    flags = ["--epochs", "1", "--seeds", "0", "--densities", "0.3", "--jobs", "1", "--out", str(tmp_path)]
    assert main(["transfer", "--places", "digits", "digits:adam", *flags]) == 0
    document = json.loads((tmp_path / "results.json").read_text())
    rows = {(row["source"], row["target"]): row["test_accuracy"] for row in document["rows"]}
    for cell in document["matrix"]:
        assert cell["mean"] == rows[cell["source"], cell["target"]] and cell["n"] == 1
    page = (tmp_path / "report.html").read_text().replace("\N{NO-BREAK SPACE}", " ")
    assert headline(document) in page
    assert (tmp_path / "transfer-0.3.png").exists()


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"places": ("digits",)}, "places"),
        ({"places": ("digits", "digits")}, "places"),
        ({"places": ("digits", "digits:lion")}, "places"),
        ({"places": ("digits", "digits:adam"), "densities": (1.0,)}, "densities"),
        ({"places": ("digits", "digits:adam"), "rewind_to": -1}, "rewind-to"),
    ],
)
def test_wrong_values_are_refused(wrong, named):
    with pytest.raises(ConfigError, match=f"--{named}"):
        TransferConfig(**{**SHORT, **wrong})


def test_a_rewind_past_the_end_is_refused():
    config = TransferConfig(places=("digits", "digits:adam"), rewind_to=10_000, **SHORT)
    with pytest.raises(ConfigError, match="stay below"):
        plan_transfer(config, load_data("digits"))
