"""What is handed out: one version everywhere, workflows that parse, a library that loads on old systems."""

import re
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest
import yaml

import supermask as sm

ROOT = Path(__file__).parents[1]


def test_the_version_stands_in_one_place():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert project["project"]["dynamic"] == ["version"] and "version" not in project["project"]
    assert version("supermask") == sm.__version__
    assert yaml.safe_load((ROOT / "CITATION.cff").read_text())["version"] == sm.__version__
    assert re.search(rf"^## {re.escape(sm.__version__)}\b", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)


@pytest.mark.parametrize(
    "path", [path.name for path in sorted((ROOT / ".github").rglob("*.yml"))] + ["CITATION.cff"]
)
def test_files_for_others_parse(path):
    (found,) = [file for file in (ROOT, *(ROOT / ".github").rglob("*")) if (file / path).is_file()]
    assert isinstance(yaml.safe_load((found / path).read_text()), dict)


def test_workflows_run_what_stands_in_the_makefile():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for path in (ROOT / ".github/workflows").iterdir():
        assert set(re.findall(r"\bmake ([a-z-]+)", path.read_text())) <= targets, path


def test_every_supported_python_is_tested():
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())
    tested = workflow["jobs"]["test"]["strategy"]["matrix"]["python"]
    classifiers = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["classifiers"]
    assert tested == [line.rpartition(" ")[2] for line in classifiers if re.search(r":: 3\.\d+$", line)]


def test_type_checkers_see_the_annotations():
    assert (Path(sm.__file__).parent / "py.typed").is_file()
