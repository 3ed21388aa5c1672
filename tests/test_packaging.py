"""What is handed out: one version everywhere, workflows that parse, a library that loads on old systems."""

import re
import shutil
import tarfile
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
    "path", [str(path.relative_to(ROOT)) for path in (ROOT / ".github").rglob("*.yml")] + ["CITATION.cff"]
)
def test_files_for_others_parse(path):
    assert isinstance(yaml.safe_load((ROOT / path).read_text()), dict)


def test_workflows_run_what_stands_in_the_makefile():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for path in (ROOT / ".github/workflows").iterdir():
        assert set(re.findall(r"\bmake ([a-z-]+)", path.read_text())) <= targets, path


def test_every_supported_python_is_tested():
    workflow = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())
    tested = workflow["jobs"]["test"]["strategy"]["matrix"]["python"]
    classifiers = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["classifiers"]
    assert tested == [line.rpartition(" ")[2] for line in classifiers if re.search(r":: 3\.\d+$", line)]


def test_the_source_archive_holds_this_project_alone(tmp_path, monkeypatch):
    build = pytest.importorskip("scikit_build_core.build")
    tracked = ["supermask/__init__.py", "tests/a.py", "docs/tutorials/a.py", "mkdocs.yml", "Makefile"]
    others = [".venv/lib/ray/tests/a.py", "build/site/docs/a.html", "build/site/mkdocs.yml", "runs/a.json"]
    for name in [*tracked, *others]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text('__version__ = "1.2.3"\n')
    for name in ("pyproject.toml", ".gitignore", "LICENSE", "README.md"):
        shutil.copy(ROOT / name, tmp_path)
    monkeypatch.chdir(tmp_path)
    with tarfile.open(Path("dist", build.build_sdist("dist"))) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert names == {*tracked, "pyproject.toml", ".gitignore", "LICENSE", "README.md", "PKG-INFO"}


def test_type_checkers_see_the_annotations():
    assert (Path(sm.__file__).parent / "py.typed").is_file()
