"""Tutorials run as plain scripts, each is a page of the site, and pages link to what there is."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import supermask as sm

ROOT = Path(__file__).parent.parent
TUTORIALS = sorted((ROOT / "docs" / "tutorials").glob("*.py"))
NAMES = [path.stem for path in TUTORIALS]


def test_every_tutorial_is_a_page():
    pages = [
        page
        for entry in yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]
        for page in entry.get("Tutorials", [])
    ]
    assert sorted(target for page in pages for target in page.values()) == [
        f"tutorials/{name}.md" for name in NAMES
    ]
    assert len(NAMES) == 5


@pytest.mark.parametrize("path", TUTORIALS, ids=NAMES)
def test_a_tutorial_begins_with_its_title_and_links_to_pages(path):
    text = path.read_text()
    assert re.match(r"# %% \[markdown\]\n# # \w", text)
    for target in re.findall(r"\]\(([^)#\s]+)", text):
        page = (path.parent / target).resolve()
        assert page.exists() or page.name == "contributing.md", target


def test_the_paper_of_every_search_is_named():
    text = (ROOT / "docs" / "papers.md").read_text()
    for name, search in sm.SEARCHES.items():
        file = f"../supermask/search/{search.__module__.rpartition('.')[2]}.py"
        assert f"[{name}]({file})" in text, name
    for target in re.findall(r"\]\(([^)#\s]+)", text):
        assert (ROOT / "docs" / target).exists(), target


@pytest.mark.slow
@pytest.mark.parametrize("path", TUTORIALS, ids=NAMES)
def test_a_tutorial_runs(path, tmp_path):
    environment = {**os.environ, "MPLBACKEND": "agg", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, str(path)], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
