"""Results of every experiment are kept by one script, and become tables of the documentation."""

import runpy
import shlex
from pathlib import Path

import pytest

from supermask.cli import main as supermask
from supermask.data import load_data
from supermask.io import read_json

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
SHORT = "--data digits --model lenet-300-100 --epochs 0.2 --seeds 0 1 --jobs 1"
CASES = {
    "imp": ("rounds", "--rounds 2 --reinit"),
    "stability": ("stability", "--starts 0 --orders 2 --points 3"),
    "transfer": ("transfer", "--places digits digits:adam --densities 0.5 --rate 0.5"),
    "anatomy": ("anatomy", "--methods edge-popup one-shot --densities 0.5"),
}


@pytest.mark.parametrize("command", CASES)
def test_results_are_kept_and_become_a_table(command, tmp_path, capsys, monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    kind, flags = CASES[command]
    out = tmp_path / "out"
    assert supermask(shlex.split(f"{command} {SHORT} {flags} --out {out}")) == 0
    results = tmp_path / "results"
    runpy.run_path(str(BENCHMARKS / "reproduce.py"))["keep"](out, f"{command}/small", results)
    document = read_json(results / command / "small.json")
    assert "curves" not in document and document["schema"] == f"supermask/{command}/1"
    assert list((results / command).glob("small*.png"))
    tables = runpy.run_path(str(BENCHMARKS / "readme_tables.py"))
    tables["filled"].__globals__["RESULTS"] = results
    page = tables["filled"](f"before\n<!-- {kind}: {command}/small -->\n<!-- end -->\nafter")
    lines = [line for line in page.splitlines() if line.startswith("|")]
    head, rows = lines[0].count("|"), lines[2:]
    assert f"reproduce.py {command}/small`" in page and all(row.count("|") == head for row in rows)
    checks = {
        "imp": lambda: _percent(document["summary"][-1]["mean"]) in rows[-1],
        "stability": lambda: _percent(document["stability"][0]["mean"]) in rows[0],
        "transfer": lambda: all(_percent(cell["mean"]) in page for cell in document["matrix"]),
        "anatomy": lambda: [row.split()[1] for row in rows] == ["edge-popup", "one-shot"],
    }
    assert checks[command]()


def _percent(value: float) -> str:
    return f"{100 * value:.2f}"


def test_a_recipe_is_found_by_its_name():
    recipe_of = runpy.run_path(str(BENCHMARKS / "reproduce.py"))["recipe_of"]
    assert recipe_of("digits") == ("compare", [])
    assert recipe_of("mnist-searches") == ("compare", ["--config", "recipes/compare/mnist-searches.toml"])
    assert recipe_of("imp/mnist-rounds")[0] == "imp"
    with pytest.raises(SystemExit, match=r"no recipes/stability/none\.toml; take one of anatomy/"):
        recipe_of("stability/none")


def test_pruned_filters_are_measured_as_a_smaller_network(tmp_path, monkeypatch):
    """`sizes` tables the comparison, `shrunk.py` its tickets without the filters that are gone."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    out, results = tmp_path / "out", tmp_path / "results"
    flags = (
        f"compare {SHORT} --model conv-2 --model-args width=0.1 --methods dense filters-l1 --densities 0.5 "
        f"--out {out}"
    )
    assert supermask(shlex.split(flags)) == 0
    runpy.run_path(str(BENCHMARKS / "reproduce.py"))["keep"](out, "small", results)
    document = read_json(results / "small.json")
    tables = runpy.run_path(str(BENCHMARKS / "readme_tables.py"))
    tables["filled"].__globals__["RESULTS"] = results
    dense, pruned = tables["filled"]("<!-- sizes: small -->\n<!-- end -->").splitlines()[5:7]
    assert dense.split(" | ")[-1] == f"{document['rows'][0]['dense_bytes'] / 1000:.0f} |"
    kept = [row["kept_density"] for row in document["rows"][2:]]
    assert pruned.startswith(f"| filters-l1 | {sum(kept) / 2:.3g} | ")

    row = document["rows"][2]
    shrunk = runpy.run_path(str(BENCHMARKS / "shrunk.py"))
    measured = shrunk["measure"](out / row["ticket"], load_data("digits"), seconds=0.01)
    masked, small = measured["masked"], measured["small"]
    assert small["weights"] == round(row["kept_density"] * masked["weights"])
    assert measured["other_predictions"] == 0 and masked["accuracy"] == row["test_accuracy"]
    assert small["bytes"] < masked["bytes"] and small["macs"] < masked["macs"]
    page = {"machine": {"cpu": "x", "threads": 1, "torch": "2"}, "command": "c", "model": "m", "batch": 64}
    lines = tables["KINDS"]["shrunk"]({**page, "rows": [{"seed": 0, **measured}]}, "").splitlines()
    assert [line.split(" | ")[2] for line in lines[4:]] == [
        f"{network['weights']:,}" for network in (masked, small)
    ]
