"""Specifications, plans, the store and the engine."""

import dataclasses
import json
import random
import signal
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from supermask.data import Images, load_data
from supermask.experiments import (
    EXPERIMENTS,
    CompareConfig,
    ConfigError,
    Grid,
    ImpConfig,
    LocalEngine,
    PlainEngine,
    SearchConfig,
    WorkerDied,
)
from supermask.experiments.compare.command import plan_compare
from supermask.experiments.compare.options import DEFAULT_METHODS
from supermask.experiments.engines.ready_queue import in_order
from supermask.experiments.execution.context import Environment
from supermask.experiments.execution.run import execute
from supermask.experiments.execution.store import Store
from supermask.experiments.imp import plan_imp
from supermask.experiments.plan import Plan, task_of
from supermask.experiments.results import summarize
from supermask.experiments.search import plan_search
from supermask.experiments.spec import MaskSource, Task, canonical_hash
from supermask.io import DamagedFileError
from supermask.masks import distance
from supermask.tickets.ticket import Ticket
from supermask.training.loop import Progress

SHORT = {"epochs": 2, "batch_size": 64, "out": "unused"}


class Watch:
    def __init__(self):
        self.steps, self.done = [], []

    def advanced(self, spec, step):
        self.steps.append((spec.id, step))

    def finished(self, spec, result):
        self.done.append(spec.id)


@pytest.fixture(scope="module")
def digits():
    return load_data("digits")


@pytest.fixture(scope="module")
def comparison(tmp_path_factory, digits) -> tuple[Plan, Store]:
    """A whole comparison, executed once for all tests of this module."""
    config = CompareConfig(densities=(0.5, 0.2), seeds=(0,), **SHORT)
    plan = plan_compare(config, digits)
    store = Store(tmp_path_factory.mktemp("store"))
    PlainEngine(store, Environment()).run(plan.graph, Watch())
    return plan, store


def row(plan: Plan, method: str, density: float = 1.0):
    (found,) = [spec for spec in plan.rows if spec.method == method and spec.density == density]
    return found


def test_every_method_has_its_rows(comparison):
    plan, _ = comparison
    cells = {(spec.method, spec.density) for spec in plan.rows}
    assert cells == {("dense", 1.0)} | {(m, d) for m in DEFAULT_METHODS if m != "dense" for d in (0.5, 0.2)}
    assert len(plan.rows) == len(cells)


def test_each_kind_of_run_is_what_its_name_says(comparison):
    plan, store = comparison

    def ticket(method, density=1.0):
        return store.run(row(plan, method, density).id).ticket()

    dense = store.run(row(plan, "dense").id)
    initial = dense.ticket(step=row(plan, "dense").snapshots[0])
    strong = ticket("edge-popup", 0.2)
    assert strong.strong and ticket("random-mask-frozen", 0.2).strong
    frozen = ticket("random-mask-frozen", 0.2).weights()
    name = "layers.0.weight" if "layers.0.weight" in frozen else next(n for n, m in strong.masks.items())
    both = strong.mask()[name] & ticket("random-mask-frozen", 0.2).mask()[name]
    assert torch.equal(strong.weights()[name][both], frozen[name][both])
    for method in DEFAULT_METHODS[1:]:
        assert ticket(method, 0.2).kept == strong.kept
    imp, shuffled = ticket("imp", 0.2), ticket("shuffled-mask", 0.2)
    assert distance(imp.mask(), shuffled.mask()) > 0.1
    assert distance(imp.mask(), ticket("reinit", 0.2).mask()) == 0
    assert not any((imp.mask()[n] & ~ticket("imp", 0.5).mask()[n]).any() for n in imp.mask())
    one_shot = ticket("one-shot", 0.2).mask()
    for n, weight in dense.ticket().weights().items():
        if n in one_shot:
            kept = weight.abs()[one_shot[n]].min()
            assert kept >= weight.abs()[~one_shot[n]].max()
    assert initial.factory == imp.factory


def test_a_reinit_control_differs_in_its_draw_alone(comparison):
    plan, _ = comparison
    ticket, control = row(plan, "imp", 0.2), row(plan, "reinit", 0.2)
    assert ticket.weights.seed == 0 != control.weights.seed
    same = {"method": "", "weights": ticket.weights, "mask": ticket.mask}
    assert dataclasses.replace(ticket, **same) == dataclasses.replace(control, **same)
    assert control.mask.kind == "same" and control.mask.run == ticket.id


def test_frozen_weights_are_rescaled_as_asked(comparison, digits):
    plan, store = comparison
    for density in (0.5, 0.2):
        entry = store.run(row(plan, "edge-popup", density).id).ticket().entries[0]
        assert entry.draw.scale == pytest.approx((2 / 64 / density) ** 0.5)
    plain = plan_search(SearchConfig(rescale=False, **SHORT), digits).graph[0]
    assert plain.weights.rescale_by == 1.0


def test_a_run_trains_as_its_task_says(digits, tmp_path, monkeypatch):
    from supermask.experiments.execution import context

    seen = {}

    def spy(model, optimizer, batches, **options):
        seen.update(options, model=model, optimizer=optimizer, batch=batches(0))
        return Progress(1)

    monkeypatch.setattr(context, "fit", spy)
    config = ImpConfig(
        rounds=0,
        model="conv-2",
        model_args={"width": "0.25"},
        label_smoothing=0.1,
        clip=2.0,
        amp="bf16",
        schedule="multistep",
        milestones=(1.0,),
        warmup_epochs=0.5,
        lr=0.3,
        nesterov=True,
        weight_decay=0.01,
        **SHORT,
    )
    spec = plan_imp(config, digits).graph[0]
    execute(spec, Store(tmp_path), Environment(channels_last=True))
    assert (seen["amp"], seen["label_smoothing"], seen["clip"]) == ("bf16", 0.1, 2.0)
    schedule = seen["schedule"]
    assert (schedule.kind, schedule.steps, schedule.warmup, schedule.milestones) == (
        "multistep",
        40,
        10,
        (20,),
    )
    group = seen["optimizer"].param_groups[0]
    assert (group["lr"], group["nesterov"], group["weight_decay"], group["momentum"]) == (
        0.3,
        True,
        0.01,
        0.9,
    )
    assert seen["batch"][0].shape == (64, 1, 8, 8)
    weight = next(p for p in seen["model"].parameters() if p.dim() == 4 and p.shape[1] > 1)
    assert weight.is_contiguous(memory_format=torch.channels_last)


def test_steps_are_counted_along_the_chain(comparison):
    plan, store = comparison
    steps = plan.rows[0].task.steps

    def total(method, density):
        return store.run(row(plan, method, density).id).result["total_steps"]

    assert total("edge-popup", 0.5) == total("random-mask", 0.5) == steps
    assert total("random-mask-frozen", 0.5) == 0
    assert total("one-shot", 0.5) == 2 * steps
    assert total("imp", 0.5) == (1 + 3) * steps and total("imp", 0.2) == (1 + 7) * steps
    rewind = row(plan, "imp-rewind", 0.5).start
    assert total("imp-rewind", 0.5) == steps + 3 * (steps - rewind)


def test_a_second_execution_computes_nothing(comparison):
    plan, store = comparison
    watch = Watch()
    stamps = {path: path.stat().st_mtime_ns for path in store.root.rglob("*") if path.suffix != ".lock"}
    PlainEngine(store, Environment()).run(plan.graph, watch)
    assert not watch.steps and len(watch.done) == len({spec.id for spec in plan.graph})
    assert stamps == {path: path.stat().st_mtime_ns for path in stamps}


def test_two_processes_give_the_same_bytes_as_one(comparison, tmp_path):
    plan, store = comparison
    graph = [spec for spec in plan.graph if spec.method in ("dense", "edge-popup", "one-shot")]
    other = Store(tmp_path)
    watch = Watch()
    LocalEngine(other, Environment(), Grid(jobs=2)).run(graph, watch)
    assert sorted(watch.done) == sorted(spec.id for spec in graph)
    for spec in graph:
        assert other.run(spec.id).ticket_path().read_bytes() == store.run(spec.id).ticket_path().read_bytes()


def test_a_worker_that_dies_ends_the_job_with_the_reason(digits, tmp_path):
    config = CompareConfig(
        densities=(0.5,), seeds=(0, 1), methods=("edge-popup",), **{**SHORT, "epochs": 500}
    )
    plan = plan_compare(config, digits)

    class Killer(Watch):
        def advanced(self, spec, step):
            import multiprocessing

            for child in multiprocessing.active_children():
                child.kill()

    engine = LocalEngine(Store(tmp_path), Environment(checkpoint_seconds=0.1), Grid(jobs=2, retries=0))
    with pytest.raises(WorkerDied, match="the same command goes on"):
        engine.run(plan.graph, Killer())


def test_a_task_has_all_that_the_configuration_says_of_it(digits):
    """Whatever a task and a configuration have under one name is taken over, the flags of torchrun too."""
    given = {
        "data": "other",
        "image_size": 8,
        "val_fraction": 0.2,
        "model": "lenet-5",
        "batch_size": 32,
        "augment": "shift",
        "crop_scale": 0.5,
        "schedule": "multistep",
        "milestones": (1.0,),
        "decay": 0.5,
        "label_smoothing": 0.1,
        "clip": 1.0,
        "amp": "bf16",
        "sync_norms": True,
    }
    fields = {field.name: field.default for field in dataclasses.fields(SearchConfig)}
    shared = fields.keys() & {field.name for field in dataclasses.fields(Task)} - {"model_args"}
    assert shared <= given.keys() and all(given[name] != fields[name] for name in shared)
    task = task_of(SearchConfig(epochs=2, out="unused", **given), digits)
    assert {name: getattr(task, name) for name in shared - {"milestones"}} == {
        name: given[name] for name in shared - {"milestones"}
    }
    assert task.milestones == (task.steps // 2,)


def test_plans_refuse_what_cannot_be(digits):
    with pytest.raises(ConfigError, match=r"--rewind-to 99999"):
        plan_imp(ImpConfig(rewind_to=99999, **SHORT), digits)
    with pytest.raises(ConfigError, match="--warmup-epochs"):
        task_of(SearchConfig(warmup_epochs=3, **SHORT), digits)
    for field, value in (
        ("density", 0.0),
        ("density", 1.2),
        ("epochs", 0),
        ("batch_size", -4),
        ("val_fraction", 1.0),
        ("jobs", -1),
    ):
        with pytest.raises(ConfigError, match=f"--{field.replace('_', '-')}"):
            SearchConfig(**{**SHORT, field: value})
    with pytest.raises(ConfigError, match="--seeds"):
        CompareConfig(seeds=(1, 1), **SHORT)


def test_imp_plan_has_a_ticket_per_round_and_its_controls(digits):
    config = ImpConfig(rounds=3, rewind_to=5, reinit=True, output_rate=0.1, **SHORT)
    plan = plan_imp(config, digits)
    assert [spec.method for spec in plan.rows] == ["dense"] + ["imp-rewind", "reinit"] * 3
    assert [spec.start for spec in plan.rows] == [0] + [5, 0] * 3
    assert plan.rows[0].snapshots == (5,)
    last = plan.rows[-2]
    assert last.mask.keep[
        "layers.4.weight" if "layers.4.weight" in last.mask.keep else list(last.mask.keep)[-1]
    ] == round(1000 * 0.9**3)
    assert in_order(reversed(plan.graph))[0].method == "dense"
    twice = plan_imp(dataclasses.replace(config, seeds=(0, 3)), digits)
    assert twice.rows[: len(plan.rows)] == plan.rows
    assert [spec.seed for spec in twice.rows] == [0] * 7 + [3] * 7


def test_learning_rate_rewinding_goes_on_from_the_round_before(digits):
    config = CompareConfig(methods=("lr-rewind",), densities=(0.5, 0.3), seeds=(0,), rate=0.3, **SHORT)
    plan = plan_compare(config, digits)
    dense, *rounds = plan.graph
    assert dense.method == "dense" and [spec.density for spec in plan.rows] == [0.5, 0.3]
    assert len(rounds) == 3 and tuple(rounds[1:]) == plan.rows
    for before, spec in pairwise(plan.graph):
        assert spec.weights.run == spec.mask.run == before.id and spec.weights.step is None
        assert spec.start == 0


def test_hashes_depend_on_all_that_matters_and_nothing_else(digits):
    base = plan_search(SearchConfig(**SHORT), digits).graph[0]
    assert (
        base.id
        == plan_search(SearchConfig(**{**SHORT, "out": "elsewhere"}, jobs=3, threads=2), digits).graph[0].id
    )
    changes = [
        {"lr": 0.3},
        {"seed": 1},
        {"density": 0.31},
        {"model": "conv-2"},
        {"epochs": 3},
    ]
    changes += [{"init": "kaiming_normal"}, {"rescale": False}, {"distribution": "erk"}, {"augment": "shift"}]
    ids = {plan_search(SearchConfig(**{**SHORT, **change}), digits).graph[0].id for change in changes}
    assert len(ids | {base.id}) == len(changes) + 1
    assert canonical_hash({"b": 1, "a": [1.5, None]}) == canonical_hash({"a": [1.5, None], "b": 1})


def test_a_distribution_that_does_not_go_with_the_density_is_refused():
    with pytest.raises(ConfigError, match=r"--distribution '2:4': .*fixes the density at 0\.5"):
        SearchConfig(**{**SHORT, "density": 0.3}, distribution="2:4")
    with pytest.raises(ConfigError, match=r"--distribution 'even': .*N:M such as 2:4"):
        CompareConfig(**SHORT, distribution="even")


def test_changed_data_is_another_run(digits):
    pixels = digits.train.pixels.clone()
    pixels[5, 0, 3, 3] ^= 1
    changed = dataclasses.replace(digits, train=Images(pixels, digits.train.labels))
    config = SearchConfig(**SHORT)
    assert plan_search(config, digits).graph[0].id != plan_search(config, changed).graph[0].id


@pytest.mark.filterwarnings("ignore::supermask.masks.LayerCollapseWarning")
@pytest.mark.parametrize(("distribution", "density"), [("erk", 0.1), ("global", 0.1), ("2:4", 0.5)])
def test_the_control_of_a_search_keeps_its_counts_per_layer(digits, tmp_path, distribution, density):
    methods = ("edge-popup", "random-mask-frozen")
    config = CompareConfig(
        densities=(density,), seeds=(0,), methods=methods, distribution=distribution, **SHORT
    )
    plan = plan_compare(config, digits)
    store = Store(tmp_path)
    PlainEngine(store, Environment()).run(plan.graph, Watch())
    found, control = (store.run(spec.id).ticket() for spec in plan.rows)
    assert found.kept == control.kept and distance(found.mask(), control.mask()) > 0.05
    if distribution == "2:4":
        for mask in (*found.mask().values(), *control.mask().values()):
            assert (mask.view(len(mask), -1, 4).sum(dim=2) == 2).all()
    for entry in found.entries:
        if entry.masked and distribution != "global":
            density = found.kept[entry.name] / entry.numel
            fan_in = entry.shape[1]
            assert entry.draw.scale == pytest.approx((2 / fan_in / density) ** 0.5)


def test_a_frozen_network_gets_norm_statistics(digits, tmp_path):
    config = CompareConfig(
        densities=(0.5,), seeds=(0,), methods=("random-mask-frozen",), model="resnet-20", **SHORT
    )
    spec = next(s for s in plan_compare(config, digits).graph if s.kind == "frozen")
    execute(spec, Store(tmp_path), Environment())
    buffers = Store(tmp_path).run(spec.id).ticket().buffers
    means = [b for name, b in buffers.items() if name.endswith("running_mean")]
    assert means and all(mean.any() for mean in means)


def test_a_damaged_result_or_history_names_the_remedy(digits, tmp_path):
    spec = plan_search(SearchConfig(**SHORT), digits).graph[0]
    store = Store(tmp_path)
    execute(spec, store, Environment())
    run = store.run(spec.id)
    (run.folder / "metrics.jsonl").write_text("{nonsense")
    with pytest.raises(DamagedFileError, match=r"delete .* to have it made again"):
        run.history()
    (run.folder / "result.json").write_text("{}")
    with pytest.raises(DamagedFileError, match=r"delete .* to have it made again"):
        execute(spec, store, Environment())


def test_what_a_killed_process_left_is_swept(digits, tmp_path):
    spec = plan_search(SearchConfig(**SHORT), digits).graph[0]
    store = Store(tmp_path)
    run = store.open(spec)
    (run.folder / ".final.ticket.abc.tmp").write_bytes(b"half")
    execute(spec, store, Environment(checkpoint_seconds=0))
    left = {path.name for path in run.folder.iterdir()} - {".lock"}
    assert left == {"config.json", "metrics.jsonl", "final.ticket", "result.json"}


def test_a_graph_with_a_missing_parent_is_refused(digits):
    plan = plan_imp(ImpConfig(rounds=1, **SHORT), digits)
    with pytest.raises(ValueError, match="cannot deliver"):
        in_order(plan.graph[1:])


def test_a_damaged_checkpoint_stops_the_run_and_is_kept(digits, tmp_path):
    spec = plan_search(SearchConfig(**SHORT), digits).graph[0]
    store = Store(tmp_path)
    run = store.open(spec)
    run.checkpoint.write_bytes(b"\x08\0\0\0\0\0\0\0 garbage")
    with pytest.raises(DamagedFileError, match=r"checkpoint\.safetensors.*[Dd]elete"):
        execute(spec, store, Environment())
    assert run.checkpoint.read_bytes().endswith(b"garbage") and run.result is None


def test_a_damaged_ticket_of_a_parent_names_the_remedy(digits, tmp_path):
    plan = plan_imp(ImpConfig(rounds=1, **SHORT), digits)
    store = Store(tmp_path)
    parent, child = plan.graph
    execute(parent, store, Environment())
    path = store.run(parent.id).ticket_path()
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DamagedFileError, match=f"Delete .*{parent.id} to have the run made again"):
        execute(child, store, Environment())


def test_results_have_the_designed_keys(comparison, tmp_path):
    plan, store = comparison
    document = EXPERIMENTS["compare"].document(plan, store, store.root.parent, {"data": "digits"}, {})
    assert document["schema"] == "supermask/compare/1"
    assert json.loads(json.dumps(document, allow_nan=False)) == document
    for entry, spec in zip(document["rows"], plan.rows, strict=True):
        assert entry["method"] == spec.method and 0 <= entry["test_accuracy"] <= 1
        if spec.method == "dense":
            assert entry["ticket"] is None
        else:
            ticket = Ticket.load(store.root.parent / entry["ticket"])
            assert entry["ticket_bytes"] == (store.root.parent / entry["ticket"]).stat().st_size
            assert ticket.density == entry["kept_density"]
    assert all(
        len(curve["points"]) >= 10 for curve in document["curves"] if curve["method"] != "random-mask-frozen"
    )


def test_summary_arithmetic():
    rows = [{"method": "m", "density": 0.5, "test_accuracy": a} for a in (0.5, 0.7, 0.9)]
    assert summarize(rows) == [
        {"method": "m", "density": 0.5, "n": 3, "mean": pytest.approx(0.7), "min": 0.5, "max": 0.9}
    ]


def test_specifications_are_plain_data(digits):
    spec = plan_imp(ImpConfig(rounds=1, **SHORT), digits).graph[1]
    assert json.loads(json.dumps(spec.as_dict()))["mask"]["kind"] == "magnitude"
    assert dataclasses.replace(spec, mask=MaskSource()).id != spec.id


# Nothing is lost.


def command(out: Path) -> list[str]:
    words = "compare --epochs 4 --batch-size 128 --densities 0.3 --seeds 3 --jobs 1 --threads 1"
    words += " --methods dense edge-popup imp imp-rewind reinit --checkpoint-seconds 0"
    return [*words.split(), "--out", str(out)]


def outcome(out: Path) -> dict[str, object]:
    """All that a comparison left, times and its own folder's name aside."""
    document = json.loads((out / "results.json").read_text())
    for entry in document["rows"]:
        del entry["seconds"]
    del document["command"]
    tickets = {str(path.relative_to(out)): path.read_bytes() for path in out.rglob("*.ticket")}
    curves = {str(path.relative_to(out)): path.read_bytes() for path in out.rglob("metrics.jsonl")}
    return {"document": document, "tickets": tickets, "curves": curves}


def test_a_comparison_killed_at_twenty_moments_ends_with_the_same_bytes(tmp_path):
    from .killed_process import MOMENTS

    forks = subprocess.Popen(
        [sys.executable, "-m", "tests.killed_process"],
        cwd=Path(__file__).parent.parent,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )

    def run(out: Path, last: int = 0, moment: str = "") -> tuple[int, int]:
        assert forks.stdin and forks.stdout
        print(json.dumps([command(out), last, moment]), file=forks.stdin, flush=True)
        code, files = json.loads(forks.stdout.readline())
        return code, files

    with forks:
        code, files = run(tmp_path / "whole")
        assert code == 0 and files > 500
        reference = outcome(tmp_path / "whole")
        chance, killed, series = random.Random(0), 0, 0
        while killed < 20:
            # Twenty lives of so many files go through the whole comparison about once.
            last = chance.randint(1, files // 10)
            code, _ = run(tmp_path / f"killed-{series}", last, MOMENTS[killed % len(MOMENTS)])
            if code == -signal.SIGKILL:
                killed += 1
            else:
                assert code == 0 and outcome(tmp_path / f"killed-{series}") == reference
                series += 1
        assert run(tmp_path / f"killed-{series}")[0] == 0
        assert outcome(tmp_path / f"killed-{series}") == reference


def test_a_long_dense_training_costs_what_the_sparsest_imp_ticket_does(digits):
    schedule = {"schedule": "multistep", "milestones": (0.5,), "warmup_epochs": 0.25}
    config = CompareConfig(
        densities=(0.5, 0.1), seeds=(0,), methods=("dense", "dense-long", "imp"), **{**SHORT, **schedule}
    )
    plan = plan_compare(config, digits)
    (long,) = [spec for spec in plan.rows if spec.method == "dense-long"]
    sparsest, cost = row(plan, "imp", 0.1), 0
    while sparsest is not None:
        cost += sparsest.steps
        sparsest = next((spec for spec in plan.graph if spec.id == sparsest.mask.run), None)
    dense, times = row(plan, "dense"), cost / row(plan, "dense").steps
    assert long.steps == cost and times == int(times) > 5
    assert long.task.milestones == tuple(times * step for step in dense.task.milestones)
    assert long.task.warmup_steps == times * dense.task.warmup_steps
    assert (long.density, long.mask.kind, long.needs) == (1.0, "none", ())
