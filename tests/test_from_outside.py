"""A search or a method is one file, also outside the package: commands, comparison, page and docs find it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from supermask.cli import catalogue

ROOT = Path(__file__).parent.parent
METHODS = ("dense", "outside-search", "outside-method")
SCRIPT = """
import json, sys
sys.path.insert(0, "benchmarks")
import tests.outside
from _tables import KINDS
from supermask.cli import main

out, *methods = sys.argv[1:]
flags = "--data digits --epochs 0.2 --densities 0.5 --seeds 0 --jobs 1 --threads 1 --methods"
assert main(["compare", *flags.split(), *methods, "--out", out]) == 0
print("--- list")
assert main(["list", "methods"]) == 0
print("--- table")
print(KINDS["family"](json.load(open(f"{out}/results.json")), "outside"))
"""
"""One process, because each imports torch: it registers, compares, lists, and makes a table of the docs."""


@pytest.fixture(scope="module")
def outside(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, str]:
    """The folder of a comparison with methods from outside, the list of methods, and a table of the docs."""
    out = tmp_path_factory.mktemp("outside")
    command = [sys.executable, "-c", SCRIPT, str(out), *METHODS]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    _, _, said = done.stdout.partition("--- list")
    listed, _, table = said.partition("--- table")
    return out, listed, table


def test_the_comparison_has_its_rows(outside: tuple[Path, str, str]) -> None:
    document = json.loads((outside[0] / "results.json").read_text(encoding="utf-8"))
    assert {row["method"] for row in document["rows"]} == set(METHODS)
    tickets = [row["ticket"] for row in document["rows"] if row["method"] != "dense"]
    assert len(tickets) == 2 and all((outside[0] / ticket).is_file() for ticket in tickets)


def test_the_page_has_label_group_sentence_and_colour(outside: tuple[Path, str, str]) -> None:
    page = (outside[0] / "report.html").read_text(encoding="utf-8")
    assert "Somebody&#39;s own search." in page and "Somebody&#39;s own way to a trained ticket." in page
    assert 'style="color: var(--c-b2182b)"' in page and 'style="color: var(--c-44aa99)"' in page
    strong, trained = page.index("Strong tickets: weights never trained"), page.index("Trained tickets:")
    assert strong < page.index("search from outside</th>") < trained < page.index("method from outside</th>")


def test_the_command_line_lists_it(outside: tuple[Path, str, str]) -> None:
    assert "outside-search" in outside[1] and "outside-method" in outside[1]


def test_the_table_of_the_docs_has_it(outside: tuple[Path, str, str]) -> None:
    table = outside[2]
    assert "| `outside-search` | Somebody's own search. |" in table
    assert "| `outside-method` | Somebody's own way to a trained ticket. |" in table
    assert table.index("**Strong tickets") < table.index("outside-search") < table.index("**Trained tickets")


@pytest.mark.parametrize("registry", ["search", "data", "models"])
def test_a_registry_that_is_imported_is_asked(registry: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalogue, "live", lambda: "asked")
    for name in catalogue.REGISTRIES:
        monkeypatch.delitem(sys.modules, name, raising=False)
    assert catalogue.catalogue() != "asked"
    monkeypatch.setitem(sys.modules, f"supermask.{registry}.registry", sys)
    assert catalogue.catalogue() == "asked"
