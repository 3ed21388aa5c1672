"""Linear mode connectivity: the formula against closed forms, and the command on a small network."""

import dataclasses
import json

import pytest
import torch
from torch import nn

from supermask.analysis.connectivity import error_along_line, instability, line
from supermask.cli import main
from supermask.experiments import ConfigError, StabilityConfig
from supermask.experiments.datasets import dataset
from supermask.experiments.execution.context import Environment, RunContext
from supermask.experiments.execution.run import execute
from supermask.experiments.execution.store import Store
from supermask.experiments.stability import plan_stability, summarize
from supermask.report import headline


def test_the_error_follows_the_line():
    model = nn.Linear(1, 1)
    first = {"weight": torch.tensor([[2.0]]), "bias": torch.tensor([0.0])}
    second = {"weight": torch.tensor([[-2.0]]), "bias": torch.tensor([1.0])}

    def error():  # a quadratic of both parameters: the expected values follow by hand
        return float(4 - model.weight.square().sum() + model.bias.sum())

    errors = error_along_line(model, first, second, error, points=5)
    alphas = line(5)
    expected = [4 - (2 * a - 2 * (1 - a)) ** 2 + (1 - a) for a in alphas]
    assert alphas == [0.0, 0.25, 0.5, 0.75, 1.0] and errors == pytest.approx(expected)
    assert instability(errors) == pytest.approx(max(expected) - (expected[0] + expected[-1]) / 2)
    assert torch.equal(model.weight, first["weight"])


def test_integer_buffers_are_not_interpolated():
    model = nn.BatchNorm1d(2)
    first, second = ({name: value.clone() for name, value in model.state_dict().items()} for _ in range(2))
    first["num_batches_tracked"].fill_(7)
    error_along_line(model, first, second, lambda: 0.0, points=2)
    assert int(model.num_batches_tracked) == 7


def test_states_of_different_networks_are_refused():
    model = nn.Linear(2, 1)
    with pytest.raises(ValueError, match="different networks"):
        error_along_line(model, model.state_dict(), nn.Linear(3, 1).state_dict(), lambda: 0.0)
    with pytest.raises(ValueError, match="at least two points"):
        line(1)


def test_every_copy_makes_a_step_of_its_own():
    config = StabilityConfig(
        out="x", seeds=(0,), starts=(0.5, 0.99), densities=(0.5,), orders=2, epochs=0.5, batch_size=256
    )
    plan = plan_stability(config, dataset("digits", None, None))
    assert plan.rows[0].task.steps == 2  # of which 0.99 is rounded to both
    assert {row.start for row in plan.rows} == {1}
    assert all(spec.steps >= 1 for spec in plan.graph if spec.kind == "train")


def test_copies_share_what_they_share():
    config = StabilityConfig(out="x", seeds=(0, 1), starts=(0.0, 0.5), densities=(0.5,), orders=3, epochs=1)
    plan = plan_stability(config, dataset("digits", None, None))
    steps = plan.rows[0].task.steps
    assert len(plan.rows) == 2 * 2 * 2 * 3  # seeds, starts, networks, pairs
    runs = {spec.id: spec for spec in plan.graph}
    for row in plan.rows:
        first, second = runs[row.weights.run], runs[row.others[0]]
        assert first.seed != second.seed and first.weights.seed == second.weights.seed == row.seed
        if first.mask.kind == "magnitude":  # the ticket itself, and a copy that has its mask
            assert second.mask.kind == "same" and second.mask.run == first.id
            first = dataclasses.replace(first, mask=second.mask)
        # Both begin at the same step with the same weights and a new optimizer: only the noise differs.
        alike = {"method": "", "seed": 0, "snapshots": ()}
        assert dataclasses.replace(first, **alike) == dataclasses.replace(second, **alike)
        assert first.start == row.start and first.weights.step == (row.start or None)
    assert {row.start for row in plan.rows} == {0, round(0.5 * steps)}
    # A dense network that is trained from step 0 is a copy at step 0 alone.
    whole = {spec.id for spec in plan.graph if spec.method == "dense" and spec.kind == "train"}
    ends = {(row.start > 0, run) for row in plan.rows for run in (row.weights.run, *row.others)}
    assert {started for started, run in ends if run in whole} == {False}


def test_copies_begin_with_the_optimizer_at_rest(tmp_path):
    """A step after they part, a copy is where SGD's first step leads from the snapshot, without momentum."""
    flags = {
        "epochs": 1,
        "seeds": (0,),
        "starts": (0.5,),
        "orders": 2,
        "momentum": 0.9,
        "schedule": "constant",
    }
    config = StabilityConfig(out="x", lr=0.05, weight_decay=0.0, **flags)
    plan = plan_stability(config, dataset("digits", None, None))
    dense, *copies = [spec for spec in plan.graph if spec.kind == "train"]
    (start,) = dense.snapshots
    store = Store(tmp_path)
    execute(dense, store, Environment())
    begin = store.run(dense.id).ticket(start)
    assert len(copies) == 2
    for copy in copies:
        task = dataclasses.replace(copy.task, steps=start + 1)
        spec = dataclasses.replace(copy, task=task)
        execute(spec, store, Environment())
        after = store.run(spec.id).ticket().weights()
        execution = RunContext(spec, store, Environment(), store.run(spec.id), lambda _: None)
        begin.apply(execution.model)
        execution.model.requires_grad_(True).train()
        inputs, labels = execution.batch(start)
        nn.functional.cross_entropy(execution.model(inputs), labels).backward()
        for name, parameter in execution.model.named_parameters():
            expected = parameter.detach() - 0.05 * parameter.grad
            assert torch.allclose(after[name], expected, rtol=1e-5, atol=1e-7)
            assert not torch.equal(after[name], begin.weights()[name])


def test_the_command_measures_reports_and_resumes(tmp_path):
    flags = ["--epochs", "2", "--starts", "0", "0.5", "--seeds", "0", "--orders", "2", "--points", "5"]
    call = ["stability", *flags, "--densities", "0.3", "--jobs", "1", "--out", str(tmp_path)]
    assert main(call) == 0
    first = (tmp_path / "results.json").read_bytes()
    document = json.loads(first)
    assert document["schema"] == "supermask/stability/1"
    assert {(row["density"], row["step"] > 0) for row in document["rows"]} == {
        (1.0, False), (1.0, True), (0.3, False), (0.3, True),
    }  # fmt: skip
    for row, entry in zip(document["rows"], document["lines"], strict=True):
        assert row["instability"] == pytest.approx(instability(entry["errors"]))
        assert row["accuracy"] == pytest.approx(1 - (entry["errors"][0] + entry["errors"][-1]) / 2)
    assert headline(document) in (tmp_path / "report.html").read_text().replace("\N{NO-BREAK SPACE}", " ")
    assert (tmp_path / "instability.png").exists() and (tmp_path / "error-along-line.png").exists()
    assert main(call) == 0
    assert (tmp_path / "results.json").read_bytes() == first


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"starts": (1.0,)}, "starts"),
        ({"orders": 1}, "orders"),
        ({"points": 1}, "points"),
        ({"seeds": (0, 0)}, "seeds"),
        ({"densities": (0.0,)}, "densities"),
        ({"rate": 1.0}, "rate"),
    ],
)
def test_wrong_values_are_refused(wrong, named):
    with pytest.raises(ConfigError, match=f"--{named}"):
        StabilityConfig(out="x", **wrong)


def test_the_summary_has_the_standard_deviation_of_the_sample():
    """The n − 1 of Bessel; one line alone has none."""
    row = {"method": "dense", "density": 1.0, "step": 0, "accuracy": 0.9}
    values = (0.01, 0.02, 0.06)
    (entry,) = summarize([{**row, "instability": value} for value in values])
    mean = sum(values) / 3
    assert entry["std"] == pytest.approx((sum((value - mean) ** 2 for value in values) / 2) ** 0.5)
    assert summarize([{**row, "instability": 0.01}])[0]["std"] is None
