"""How a run executes: precision, memory format, compilation; and that each resumes bit for bit."""

import dataclasses
import json

import pytest
import torch

from supermask import ops
from supermask.cli import main
from supermask.data import DamagedDataError, load_data
from supermask.experiments import CompareConfig, ImpConfig, SearchConfig
from supermask.experiments.compare.command import plan_compare
from supermask.experiments.engines.ready_queue import in_order
from supermask.experiments.execution.context import Environment
from supermask.experiments.execution.run import execute
from supermask.experiments.execution.store import Store
from supermask.experiments.imp import plan_imp
from supermask.experiments.search import plan_search
from supermask.experiments.spec import RunSpec
from supermask.training import acceleration
from supermask.training.loop import Progress

from .test_train import Stop

SHORT = {"model": "conv-2", "model_args": {"width": "0.25"}, "epochs": 0.6, "batch_size": 64, "out": "unused"}


def run_of(kind: str, **options: object) -> RunSpec:
    digits, options = load_data("digits"), SHORT | options
    if kind == "search":
        return plan_search(SearchConfig(**options), digits).graph[0]
    return plan_imp(ImpConfig(rounds=0, rewind_to=4, **options), digits).graph[0]


def files(store: Store, spec: RunSpec) -> dict[str, bytes]:
    """Everything a run leaves but what time went by."""
    folder = store.root / spec.id
    left = {path.name: path.read_bytes() for path in folder.glob("*.ticket")}
    left |= {path.name: path.read_bytes() for path in folder.glob("metrics.jsonl")}
    result = json.loads((folder / "result.json").read_text())
    return left | {"result": json.dumps({k: v for k, v in result.items() if k != "seconds"}).encode()}


def test_a_run_of_other_data_than_planned_is_refused(tmp_path):
    spec = run_of("search")
    task = dataclasses.replace(spec.task, data_hash="0123456789ab")
    with pytest.raises(DamagedDataError, match=r"planned for 0123456789ab.*--data-root"):
        execute(dataclasses.replace(spec, task=task), Store(tmp_path), Environment())


def interrupted(spec: RunSpec, store: Store, environment: Environment) -> None:
    def stop(step: int) -> None:
        if step == 8:
            raise Stop

    with pytest.raises(Stop):
        execute(spec, store, environment, stop)
    torch.rand(10)
    execute(spec, store, environment)


COMPILED = pytest.param(
    {},
    {"compile": True},
    marks=[pytest.mark.slow, pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")],
)


@pytest.mark.parametrize("kind", ["search", "train"])
@pytest.mark.parametrize(
    ("options", "place"),
    [
        ({"amp": "pure-bf16"}, {}),
        ({}, {"channels_last": False}),
        ({"amp": "pure-bf16"}, {"channels_last": False}),
        COMPILED,
    ],
)
def test_an_interrupted_run_ends_with_the_same_bytes(tmp_path, kind, options, place):
    spec, environment = run_of(kind, **options), Environment(checkpoint_seconds=0.0, **place)
    one, other = Store(tmp_path / "one"), Store(tmp_path / "other")
    execute(spec, one, environment)
    interrupted(spec, other, environment)
    assert files(one, spec) == files(other, spec)
    assert len(files(one, spec)) == (4 if kind == "train" else 3)  # training leaves weights to rewind to


def test_pure_bf16_compares_as_autocast_does(tmp_path):
    """Every number and ticket; pruning and rewinding see float32 weights."""
    methods = ("dense", "edge-popup", "zhou", "imp", "imp-rewind", "reinit", "rigl", "one-shot")
    found = {}
    for amp in ("bf16", "pure-bf16"):
        config = CompareConfig(methods=methods, densities=(0.3,), rate=0.6, seeds=(0,), amp=amp, **SHORT)
        rows, store = plan_compare(config, load_data("digits")).rows, Store(tmp_path / amp)
        for spec in in_order(plan_compare(config, load_data("digits")).graph):
            execute(spec, store, Environment())
        own = {"run": "", "seconds": 0.0, "ticket_bytes": 0, "files": {}, "digest": ""}
        results = [store.run(row.id).result | own for row in rows]
        found[amp] = results, [store.run(row.id).ticket().checksum() for row in rows]
    assert found["bf16"] == found["pure-bf16"] and len(found["bf16"][0]) == len(methods)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
@pytest.mark.parametrize("amp", ["none", "pure-bf16"])
@pytest.mark.parametrize("kind", ["search", "train"])
def test_compiled_runs_learn_what_others_do(tmp_path, kind, amp):
    spec = run_of(kind, amp=amp)
    losses = []
    for place in (Environment(), Environment(compile=True)):
        store = Store(tmp_path / str(place.compile))
        execute(spec, store, place)
        lines = (store.root / spec.id / "metrics.jsonl").read_text().splitlines()
        losses.append([json.loads(line)["train_loss"] for line in lines])
    assert losses[1] == pytest.approx(losses[0], rel=1e-3 if amp == "none" else 3e-2)


def test_an_accelerated_run_computes_from_lists_and_learns_what_others_do(tmp_path, monkeypatch):
    if not ops.is_native("lists_of_weights_into", torch.device("cpu")) or (
        ops.instruction_set() not in acceleration.UP_TO_DENSITY
    ):
        pytest.skip("no lists for this instruction set")
    spec, losses, multiplied = run_of("search", model="lenet-300-100", model_args={}), [], []
    monkeypatch.setattr(acceleration, "FEWEST_FEATURES", 60)
    monkeypatch.setattr(acceleration, "fastest", lambda _: "lists")
    multiply = acceleration._Lists.multiply
    monkeypatch.setattr(
        acceleration._Lists,
        "multiply",
        lambda *given, **named: multiplied.append(1) or multiply(*given, **named),
    )
    for place in (Environment(), Environment(accelerate=True)):
        multiplied.clear()
        store = Store(tmp_path / str(place.accelerate))
        execute(spec, store, place)
        lines = (store.root / spec.id / "metrics.jsonl").read_text().splitlines()
        losses.append([json.loads(line)["train_loss"] for line in lines])
        assert (len(multiplied) > 2 * spec.task.steps) == place.accelerate
    assert losses[1][:2] == pytest.approx(losses[0][:2], rel=1e-3)  # later ones part: masks flip near the cut
    assert sum(losses[1]) == pytest.approx(sum(losses[0]), rel=3e-2)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--cuda-graphs", "--device", "cpu"], "graphs need a GPU"),
        (["--amp", "bf8"], "is not one of none, bf16"),
        (["--accelerate", "--amp", "bf16"], "it is for float32"),
        (["--accelerate", "--compile"], "leave it out with --compile"),
    ],
)
def test_wrong_flags_are_refused_before_anything_runs(tmp_path, capsys, flags, message):
    try:
        code = main(["search", "--epochs", "1", *flags, "--out", str(tmp_path / "out")])
    except SystemExit as exit:
        code = exit.code
    assert code == 2 and message in capsys.readouterr().err
    assert not (tmp_path / "out" / "runs").exists()


def test_the_help_says_what_auto_means(capsys):
    with pytest.raises(SystemExit):
        main(["search", "--help-all"])
    text = " ".join(capsys.readouterr().out.split())
    assert "auto: if the network has convolutions (default: auto)" in text
    assert "--no-channels-last" in text and "--no-cuda-graphs" in text


@pytest.mark.parametrize(
    ("model", "asked", "expected"),
    [("conv-2", None, True), ("conv-2", False, False), ("lenet-300-100", None, False)],
)
def test_convolutions_are_in_channels_last_unless_told_otherwise(
    tmp_path, monkeypatch, model, asked, expected
):
    spec, seen = run_of("search", model=model, model_args={}), []

    def spy(model, optimizer, batches, **options):
        weights = [p for p in model.parameters() if p.dim() == 4 and p.shape[1] > 1]
        seen.extend(not w.is_contiguous() for w in weights)
        return Progress(1)

    monkeypatch.setattr("supermask.experiments.execution.context.fit", spy)
    execute(spec, Store(tmp_path), Environment(channels_last=asked))
    assert any(seen) == expected
