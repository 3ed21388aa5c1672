"""Results of every experiment are kept by one script, and become tables of the documentation."""

import runpy
import shlex
from pathlib import Path

import pytest

from supermask.cli import main as supermask
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
