"""Every benchmark of the documentation runs its smallest case, and writes what the tables are made from."""

import argparse
import importlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image

from supermask.io import read_json, write_json

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
COMMITTED = BENCHMARKS / "results" / "amd-epyc-zen4-2-cores"
LENET = {"in_channels": 1, "image_size": 8}


@pytest.fixture(autouse=True)
def scripts(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let scripts be imported by their short names, as they import each other, and forget them afterwards."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    before = set(sys.modules)
    yield
    for name in {path.stem for path in BENCHMARKS.glob("*.py")} - before:
        sys.modules.pop(name, None)


def small_generator(module: ModuleType, _: Path) -> dict[str, Any]:
    return {"SIZE": 1 << 8}


def small_training_step(module: ModuleType, _: Path) -> dict[str, Any]:
    return {"NETWORKS": {"lenet-300-100": LENET}}


def small_seeds_together(module: ModuleType, _: Path) -> dict[str, Any]:
    return {"CASES": [("lenet-300-100", LENET, 4, (2,))]}


def small_packed_models(module: ModuleType, _: Path) -> dict[str, Any]:
    return {"NETWORKS": {"lenet-300-100": (LENET, (2,))}, "OTHER_WEIGHTS": (), "TURN": 0.0}


def small_masked_linear(module: ModuleType, _: Path) -> dict[str, Any]:
    # Rotated copies of two layers; what is resident would be compiled as well, which takes seconds.
    limits = {"bytes_per_s": 1e10, "float32_per_s": 1e11, "bfloat16_per_s": 1e11}
    case = ((8, 16), "sign", 0.5, 1, torch.float32, True)
    return {"CASES": [case], "CACHE_BYTES": 1 << 8, "machine_limits": lambda *_: limits}


def small_throughput(module: ModuleType, _: Path) -> dict[str, Any]:
    figure = {**module.FIGURE, "network": "lenet-300-100", "batch_size": 4}
    return {"NETWORKS": [("lenet-300-100", 1, 8, 4, 4, 1)], "IMAGES": 32, "FIGURE": figure}


def small_selection(module: ModuleType, _: Path) -> dict[str, Any]:
    # Its sizes are part of what it is named for, so the layers are cut instead.
    drifting = module.drifting
    return {"drifting": lambda shapes, device: drifting([(4, 8)] * min(2, len(shapes)), device)}


def small_loader(module: ModuleType, root: Path) -> dict[str, Any]:
    for split in ("train", "test"):
        for name in ("cat", "dog"):
            folder = root / "cifar10" / split / name
            folder.mkdir(parents=True)
            for number in range(4):
                Image.new("RGB", (32, 32), (60 * number, 9, 9)).save(folder / f"{number}.png")
    return {"SETTINGS": (("cifar10", "crop-flip", 32, 32, 8),), "BATCH": 4, "WORKERS": 1}


def small_accelerated_step(module: ModuleType, _: Path) -> dict[str, Any]:
    small = ((16, 0.3),)
    return {"CASES": small, "TICKETS": small, "BATCH": 4, "NETWORKS": (("conv-2", 2, 0.3),)}


CASES = {
    "accelerated_step": (small_accelerated_step, "accelerated"),
    "generator": (small_generator, None),
    "training_step": (small_training_step, "steps"),
    "seeds_together": (small_seeds_together, "seeds"),
    "packed_models": (small_packed_models, "networks"),
    "masked_linear": (small_masked_linear, "linear"),
    "throughput": (small_throughput, "throughput"),
    "selection": (small_selection, "selection"),
    "loader": (small_loader, "loaders"),
}
"""Script → what makes it small, and the kind of its table."""


@pytest.mark.filterwarnings("ignore:`torch.jit.script_method`:DeprecationWarning")  # of torch's own mkldnn
@pytest.mark.parametrize("name", CASES)
def test_a_benchmark_runs_and_writes_what_its_table_is_made_from(name, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", [name, "--data-root", str(tmp_path)])
    module = importlib.import_module(name)
    make_small, kind = CASES[name]
    for attribute, value in make_small(module, tmp_path).items():
        assert hasattr(module, attribute)
        monkeypatch.setattr(module, attribute, value)
    options = argparse.Namespace(
        device="cpu",
        threads=1,
        seconds=0.0,
        out=tmp_path,
        batch=None,
        workers=1,
        amp="none",
        networks=None,
        clock="wall",
        cases=None,
        data_root=str(tmp_path),
    )
    monkeypatch.setattr(module, "arguments", lambda *_: options)
    if hasattr(module, "check_not_slower"):  # times of what is so small say nothing
        monkeypatch.setattr(module, "check_not_slower", dict)
    module.main()

    written = json.loads((tmp_path / f"{name}.json").read_text())
    committed = json.loads((COMMITTED / f"{name}.json").read_text())
    assert written["benchmark"] == name and set(committed) <= set(written)
    assert set(committed["machine"]) <= set(written["machine"])
    shapes = [set(row) for row in committed["rows"]]
    assert written["rows"] and all(any(shape <= set(row) for shape in shapes) for row in written["rows"])
    timings = [entry for row in written["rows"] for entry in found(row)]
    assert timings and all(entry["q1_ms"] <= entry["median_ms"] <= entry["q3_ms"] for entry in timings)
    assert all(entry["median_ms"] > 0 and entry["timings"] >= 5 for entry in timings)
    if kind:
        tables = importlib.import_module("readme_tables").KINDS
        ours, theirs = (tables[kind](document, name).splitlines() for document in (written, committed))
        head = next(line for line in ours if line.startswith("| "))
        assert kind == "seeds" or head == next(line for line in theirs if line.startswith("| "))
        body = [line for line in ours if line.startswith("| ") and line != head and "---" not in line]
        assert body and all(line.count("|") == head.count("|") for line in body)


def found(entry: Any) -> list[dict[str, float]]:
    """All timings within a row."""
    if not isinstance(entry, dict):
        return []
    return [entry] if "median_ms" in entry else [each for value in entry.values() for each in found(value)]


def test_every_variant_is_one_that_its_search_takes():
    from supermask.cli.entry import parse
    from supermask.cli.flags import read_config
    from supermask.experiments import SearchConfig

    module = importlib.import_module("variants")
    keys = [(method, flags) for method, flags, _ in module.VARIANTS]
    assert len(set(keys)) == len(keys)
    for method, flags in keys:
        words = ["search", *module.COMMON, "--method", method, *flags.split(), "--out", "x"]
        config = read_config(SearchConfig, parse(words))
        assert config.method == method and config.epochs == 10
    plain = {method for method, flags in keys if not flags}
    assert plain == {method for method, _ in keys}, "a method's own recipe stands beside its options"


def test_every_line_of_the_gap_changes_something():
    module = importlib.import_module("close_gap")
    lines = list(module.lines())
    assert len({line.name for line in lines}) == len(lines)
    configs = [module.config_of(line) for line in lines]
    known = [repr(config) for config in configs]
    assert len(set(known)) == len(known)
    base = next(c for line, c in zip(lines, configs, strict=True) if line.change == "lr 1.5")
    assert all(config.val_fraction == 0.1 and config.seeds == (0,) for config in configs)
    for line, config in zip(lines, configs, strict=True):
        added = config.model_args.keys() - base.model_args.keys()
        assert ("parallel_weights" in added) == ("weights" in line.change and "Kaiming" not in line.change)
        assert added <= {"parallel_weights", "shift"}
        assert config.model_args["width"] == base.model_args["width"]


def test_lines_of_the_gap_that_were_finished_elsewhere_stay(tmp_path):
    module = importlib.import_module("close_gap")
    first, second, third = list(module.lines())[:3]
    numbers = {"density": 0.5, "seed": 0, "steps": 4, "val_accuracy": 0.5, "seconds": 1.0}
    names = [{"group": x.group, "method": x.method, "change": x.change} for x in (first, second, third)]
    held = [{**names[2], **numbers}, {**names[0], **numbers, "val_accuracy": 0.1}]
    held.append({"group": "no more", "method": "dense", "change": "x", **numbers})
    path = tmp_path / "close-gap.json"
    write_json(path, {"rows": held})
    results = {"a": numbers | {"val_accuracy": 0.9}, "b": None, "c": None}
    store = SimpleNamespace(run=lambda key: SimpleNamespace(result=results[key]))
    specs = {line: SimpleNamespace(id=key) for line, key in zip((first, second, third), "abc", strict=True)}
    module.write(path, store, specs)
    assert read_json(path)["rows"] == [{**names[0], **results["a"]}, held[0]]


def test_the_table_of_the_gap_has_a_column_for_each_method():
    module = importlib.import_module("readme_tables")
    row = {"group": "rule", "change": "SGD 10", "density": 0.5, "seed": 0, "steps": 4, "seconds": 1.0}
    rows = [row | {"method": "edge-popup", "val_accuracy": 0.5}]
    rows += [row | {"method": "dense", "group": "dense", "change": "lr 1.5", "val_accuracy": 0.75}]
    machine = {"cpu": "a CPU", "threads": 1, "torch": "2"}
    table = module.KINDS["gaps"]({"rows": rows, "machine": machine}, "close-gap").splitlines()
    assert table[2:] == [
        "|  | tried | dense | edge-popup |",
        "| --- | --- | --- | --- |",
        "| trained | lr 1.5 | 75.00 |  |",
        "| rule of the scores | SGD 10 |  | 50.00 |",
    ]


def test_a_benchmark_fails_where_ours_is_slower_than_what_it_replaces():
    measure = importlib.import_module("_measure")
    measure.check_not_slower({"as fast": 1.0, "faster": 0.2, "within what is allowed": 1.05})
    with pytest.raises(
        SystemExit, match=r"more than 1\.05 times as long for\s+a layer: 1\.06\s+another: 3\.00"
    ):
        measure.check_not_slower({"as fast": 1.0, "a layer": 1.06, "another": 3.0})


@pytest.mark.filterwarnings("ignore:`torch.jit.script_method`:DeprecationWarning")  # of torch's own mkldnn
def test_a_rival_that_returns_no_product_is_not_the_fastest():
    module, exact = importlib.import_module("masked_linear"), torch.zeros(2, 3)
    calls = {"empty": lambda: torch.empty(0), "whole": lambda: torch.ones(2, 3)}
    assert module.failures(calls, exact) == {"empty": "returned the shape (0,) instead of (2, 3)"}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`torch.jit.script_method`:DeprecationWarning")
@pytest.mark.parametrize("shape", [(1024, 1024), (300, 784)])
@pytest.mark.parametrize("batch", [1, 8, 64])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_tuned_packed_layer_is_not_slower_than_the_faster_dense_one(shape, batch, dtype, monkeypatch):
    """With a margin for a machine that does other work; the benchmark itself allows 5 %."""
    module = importlib.import_module("masked_linear")
    monkeypatch.setattr(module, "resident_forms", lambda _: {})
    monkeypatch.setattr(module._rivals, "installed", lambda _: {})
    with torch.no_grad():
        row = module.compare(
            (shape, "sign", 0.5, batch, dtype, False), {"bytes_per_s": 1e10}, 1.0, clock="cpu"
        )
    module.check_not_slower({module.label(row): 1 / row["speedup"]}, most=1.25)


@pytest.mark.slow
@pytest.mark.parametrize(("network", "batch"), [("lenet-300-100", 64), ("conv-4", 8)])
def test_a_tuned_packed_network_is_not_slower_than_the_dense_one_of_its_type(network, batch):
    module = importlib.import_module("packed_models")
    with torch.no_grad():
        row = module.compare(network, batch, "kaiming_normal", 2.0, clock="cpu")
    factors = {"float32": 1 / row["against"]["dense"], "bfloat16": row["packed_bf16/dense_bf16"]}
    module.check_not_slower(factors, most=1.25)


def test_a_run_of_some_cases_keeps_the_rows_of_the_others(tmp_path):
    measure = importlib.import_module("_measure")
    (tmp_path / "a.json").write_text('{"rows": [], "tickets": [{"case": "b", "old": 1}, {"case": "c"}]}')
    of = {"a": None, "b": None, "c": {"case": "c", "new": 1}}
    arguments = (of, lambda row: row["case"], "tickets")
    some, every = (argparse.Namespace(out=tmp_path, cases=cases) for cases in (["c"], None))
    assert measure.with_earlier(some, "a", *arguments) == [{"case": "b", "old": 1}, of["c"]]
    assert measure.with_earlier(every, "a", *arguments) == [of["c"]]
