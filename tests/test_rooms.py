"""The rooms of the code: no circle of imports, nothing loose at the top, old paths still import."""

import ast
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

import supermask
from supermask._moved import MOVED

ROOT = Path(supermask.__file__).parent
AT_THE_TOP = {"__init__.py", "__main__.py", "checks.py", "info.py", "io.py", "suggest.py"}


def module_name(path: Path) -> str:
    """Dotted name of a file; a package's `__init__.py` has the name of the package."""
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports_of(path: Path, modules: dict[str, Path]) -> set[str]:
    """Modules of the library that a file imports anywhere in it, under TYPE_CHECKING and in functions too."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            names |= {f"{node.module}.{alias.name}" for alias in node.names} | {str(node.module)}
    found = {name for name in names if name in modules}
    # What is taken from a module inside a package is no use of the package's face.
    return {name for name in found if not any(other.startswith(f"{name}.") for other in found)} - {
        module_name(path)
    }


def graph() -> dict[str, set[str]]:
    """Every module of the library with the modules it imports; the faces of packages are looked through."""
    modules = {module_name(path): path for path in ROOT.rglob("*.py")}
    return {name: imports_of(path, modules) for name, path in modules.items()}


def circles(arrows: dict[str, set[str]]) -> list[set[str]]:
    """Strongly connected components of more than one node (Tarjan 1972)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[set[str]] = []

    def visit(node: str) -> None:
        index[node] = low[node] = len(index)
        stack.append(node)
        for other in sorted(arrows[node]):
            if other not in index:
                visit(other)
                low[node] = min(low[node], low[other])
            elif other in stack:
                low[node] = min(low[node], index[other])
        if low[node] == index[node]:
            component = set(stack[stack.index(node) :])
            del stack[stack.index(node) :]
            if len(component) > 1:
                found.append(component)

    for node in arrows:
        if node not in index:
            visit(node)
    return found


def test_a_circle_is_found_where_there_is_one():
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": {"a"}}) == [{"b", "c"}]
    assert circles({"a": {"b"}, "b": set(), "c": {"a", "b"}}) == []


def test_imports_never_run_in_a_circle():
    assert [sorted(circle) for circle in circles(graph())] == []


def test_only_packages_stand_at_the_top():
    loose = {path.name for path in ROOT.iterdir() if path.suffix == ".py"}
    assert loose <= AT_THE_TOP, f"these belong into a room: {sorted(loose - AT_THE_TOP)}"


@pytest.mark.parametrize("old", MOVED)
def test_a_path_of_the_last_version_still_imports(old):
    with pytest.deprecated_call(match=MOVED[old]):
        sys.modules.pop(f"supermask.{old}", None)
        module = import_module(f"supermask.{old}")
    assert module is import_module(f"supermask.{MOVED[old]}")


def test_an_old_path_gives_the_class_there_is():
    code = "import supermask as sm; from supermask.ticket import Ticket; assert Ticket is sm.Ticket"
    done = subprocess.run([sys.executable, "-W", "always", "-c", code], capture_output=True, text=True)
    assert done.returncode == 0 and "supermask.tickets.ticket" in done.stderr


def test_importing_the_library_touches_no_gpu_and_nothing_heavy():
    code = (
        "import sys, supermask, torch; assert not torch.cuda.is_initialized(); "
        "heavy = {'timm', 'torchvision', 'sklearn', 'matplotlib', 'supermask.experiments'}; "
        "heavy &= set(sys.modules); "
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_map_in_contributing_is_of_these_rooms():
    sys.path.insert(0, str(ROOT.parent / "tools"))
    try:
        tool = import_module("map_of_rooms")
    finally:
        sys.path.pop(0)
    page = tool.PAGE.read_text()
    assert tool.page_with_map(page) == page, "run python tools/map_of_rooms.py --write"


SOURCES = sorted(
    path for room in ("supermask", "benchmarks", "tools") for path in (ROOT.parent / room).rglob("*.py")
)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(ROOT.parent).as_posix())
def test_files_and_functions_can_be_seen_at_once(path):
    text = path.read_text()
    assert len(text.splitlines()) <= 350, "part the file"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            documented = len((ast.get_docstring(node, clean=False) or "").splitlines())
            lines = node.end_lineno - node.lineno + 1 - documented
            assert lines <= 60, f"{node.name} has {lines} lines besides its docstring; part it"
