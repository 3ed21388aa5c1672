"""Runs of a graph trained as one program: who, with what results, and nothing lost."""

import json
from pathlib import Path

import pytest
import torch

from supermask.data import load_data
from supermask.experiments import CompareConfig, LocalEngine, PlainEngine
from supermask.experiments.compare.command import plan_compare
from supermask.experiments.engines.ready_queue import in_order
from supermask.experiments.engines.registry import Grid
from supermask.experiments.execution.batching import ensembles_of
from supermask.experiments.execution.context import Environment
from supermask.experiments.execution.store import Store
from supermask.experiments.plan import Plan
from supermask.masks import distance

from .watch import Watch

SHORT = {"epochs": 1, "batch_size": 64, "out": "unused", "model_args": {"width": "0.2"}}
METHODS = ("dense", "edge-popup", "imp-rewind", "random-mask")


@pytest.fixture(scope="module")
def plan() -> Plan:
    config = CompareConfig(densities=(0.5, 0.2), seeds=(0, 1, 2), methods=METHODS, rate=0.6, **SHORT)
    return plan_compare(config, load_data("digits"))


def run(plan: Plan, root: Path, together: int | None, **options) -> tuple[Store, Watch]:
    store, watch = Store(root), Watch()
    PlainEngine(store, Environment(together=together, **options)).run(plan.graph, watch)
    return store, watch


@pytest.fixture(scope="module")
def together(plan, tmp_path_factory) -> tuple[Store, Watch]:
    return run(plan, tmp_path_factory.mktemp("together"), 4)


def teams(plan: Plan, root: Path, together: int | None = 4, jobs: int = 1, **options) -> set[tuple[str, ...]]:
    environment = Environment(together=together, **options)
    return set(ensembles_of(in_order(plan.graph), Store(root), environment, jobs).values())


def names(ids) -> set[str]:
    return {id.rpartition("-s")[0] for id in ids}


def test_the_runs_of_a_team_differ_in_seed_density_and_masks_alone(plan, tmp_path):
    found = teams(plan, tmp_path)
    assert all(2 <= len(team) <= 4 for team in found)
    dense, *_ = [team for team in found if "dense-d1" in names(team)]
    assert names(dense) == {"dense-d1"} and len(dense) == 3
    searches = [team for team in found if names(team) <= {"edge-popup-d0.5", "edge-popup-d0.2"}]
    assert sorted(len(team) for team in searches) == [3, 3]
    by_id = {spec.id: spec for spec in plan.graph}
    for team in found:
        specs = [by_id[id] for id in team]
        assert len({(s.kind, s.start, s.rule, s.mask.kind == "none", s.steps) for s in specs}) == 1
        assert not any(need in team for s in specs for need in s.needs)


def test_who_is_in_a_team_depends_on_how_many_run_at_a_time_where_nobody_said(plan, tmp_path):
    assert not teams(plan, tmp_path, 0) and not teams(plan, tmp_path, 1)
    assert max(map(len, teams(plan, tmp_path, None))) > 4
    searches = [team for team in teams(plan, tmp_path, None, jobs=2) if "edge-popup" in team[0]]
    assert [len(team) for team in searches] == [3, 3]
    assert not [team for team in teams(plan, tmp_path, None, jobs=6) if "edge-popup" in team[0]]
    assert not teams(plan, tmp_path, None, jobs=0)
    for alone in ("compile", "cuda_graphs", "accelerate"):
        assert not teams(plan, tmp_path, **{alone: True})


@pytest.mark.parametrize(
    ("option", "some"),
    [
        ({"model": "conv-2", "model_args": {"width": "0.1"}}, True),
        ({"model": "resnet-20"}, True),
        ({"clip": 1.0}, False),
        ({"amp": "bf16"}, True),
        ({"amp": "pure-bf16"}, False),
    ],
)
def test_what_can_be_together_and_what_pays(tmp_path, option, some):
    config = CompareConfig(densities=(0.5,), seeds=(0, 1), methods=("edge-popup",), **{**SHORT, **option})
    plan = plan_compare(config, load_data("digits"))
    assert bool(teams(plan, tmp_path, 2)) == some
    assert bool(teams(plan, tmp_path, None)) == (option == {"amp": "bf16"})


def test_results_are_those_of_the_runs_alone_up_to_rounding(plan, together, tmp_path):
    alone, _ = run(plan, tmp_path, 0)
    store, watch = together
    assert sorted(watch.done) == sorted(spec.id for spec in plan.graph)
    assert all(watch.steps[spec.id] == spec.steps for spec in plan.graph if spec.steps)
    sizes = set()
    for spec in plan.graph:
        one, other = alone.run(spec.id), store.run(spec.id)
        theirs, ours = one.result, other.result
        sizes.add(ours.pop("together", 1))
        assert theirs.keys() == ours.keys() and ours["ticket_bytes"] == theirs["ticket_bytes"]
        assert ours["density"] == theirs["density"] and ours["total_steps"] == theirs["total_steps"]
        assert ours["test_accuracy"] == pytest.approx(theirs["test_accuracy"], abs=0.02)
        assert ours["test_loss"] == pytest.approx(theirs["test_loss"], rel=0.02)
        ticket, ours_ticket = one.ticket(), other.ticket()
        assert ticket.strong == ours_ticket.strong and ticket.factory == ours_ticket.factory
        if ticket.masks:
            assert distance(ticket.mask(), ours_ticket.mask()) < 0.01
        for name, weight in ticket.weights().items():
            close = torch.isclose(weight, ours_ticket.weights()[name], rtol=1e-2, atol=1e-3)
            assert close.float().mean() > 0.98, name
        curves = zip(one.history(), other.history(), strict=True)
        for point, own in curves:
            assert list(point) == list(own) and point["step"] == own["step"]
            assert own["train_loss"] == pytest.approx(point["train_loss"], rel=0.02)
        assert {p.name for p in one.folder.iterdir()} == {p.name for p in other.folder.iterdir()}
    assert sizes == {3}


def files(store: Store) -> dict[str, object]:
    """All that is the same whenever and however often a command is interrupted."""
    found: dict[str, object] = {}
    for path in store.root.rglob("*"):
        if path.name == "result.json":
            found[str(path.relative_to(store.root))] = {**json.loads(path.read_text()), "seconds": 0}
        elif path.suffix in (".ticket", ".jsonl"):
            found[str(path.relative_to(store.root))] = path.read_bytes()
    return found


@pytest.mark.parametrize("place", ["training", "between", "finishing"])
def test_an_interrupted_team_ends_with_the_same_bytes(plan, together, tmp_path, monkeypatch, place):
    from supermask.experiments.execution import ensemble as module

    searches = Plan(tuple(spec for spec in plan.graph if spec.method == "edge-popup"), ())
    calls = []

    def break_off(real, times):
        def call(*arguments, **options):
            calls.append(1)
            if len(calls) == times:
                raise KeyboardInterrupt
            return real(*arguments, **options)

        return call

    with monkeypatch.context() as patch:
        target, name, times = {
            "training": (module._Ensemble, "_step_done", 30),
            "between": (module._Ensemble, "_leave", 2),
            "finishing": (module, "execute", 2),
        }[place]
        patch.setattr(target, name, break_off(getattr(target, name), times))
        with pytest.raises(KeyboardInterrupt):
            run(searches, tmp_path, 4, checkpoint_seconds=0)
    finished = [spec for spec in searches.graph if Store(tmp_path).run(spec.id).result]
    assert len(finished) == {"training": 3, "between": 0, "finishing": 1}[place]
    stamps = {spec.id: (tmp_path / spec.id / "result.json").stat().st_mtime_ns for spec in finished}
    store, _ = run(searches, tmp_path, 4, checkpoint_seconds=0)
    whole = {key: v for key, v in files(together[0]).items() if key.startswith("edge-popup")}
    assert files(store) == whole
    assert stamps == {id: (tmp_path / id / "result.json").stat().st_mtime_ns for id in stamps}
    left = {path.name for path in tmp_path.rglob("*") if path.is_file()} - {".lock"}
    assert left == {"config.json", "metrics.jsonl", "final.ticket", "result.json"}


def test_processes_give_the_same_bytes_as_one(plan, together, tmp_path):
    store, some = Store(tmp_path), ("dense", "edge-popup")
    graph = [spec for spec in plan.graph if spec.method in some]
    LocalEngine(store, Environment(together=4), Grid(jobs=2)).run(graph, Watch())
    assert files(store) == {key: v for key, v in files(together[0]).items() if key.startswith(some)}


def test_another_seed_computes_only_itself(plan, together):
    store, _ = together
    config = CompareConfig(densities=(0.5, 0.2), seeds=(0, 1, 2, 3), methods=("edge-popup",), **SHORT)
    more = plan_compare(config, load_data("digits"))
    watch = Watch()
    PlainEngine(store, Environment(together=4)).run(more.graph, watch)
    assert names(watch.steps) == {"edge-popup-d0.5", "edge-popup-d0.2"}
    assert {id.split("-s")[1][0] for id in watch.steps} == {"3"}


def test_a_member_that_diverges_is_named(tmp_path):
    config = CompareConfig(
        densities=(0.5,), seeds=(0, 1), methods=("dense",), lr=1e6, schedule="constant", **SHORT
    )
    plan = plan_compare(config, load_data("digits"))
    from supermask.training.loop import DivergedError

    with pytest.raises(DivergedError) as caught:
        run(plan, tmp_path, 2)
    assert any("dense-d1-s" in note and "--together 0" in note for note in caught.value.__notes__)
