"""Imports only go down: the house of the design, as a test."""

import ast
from pathlib import Path

import pytest

import supermask

ROOT = Path(supermask.__file__).parent
FLOORS = {
    "references": 0,
    "layouts": 0,
    "operators": 0,
    "ops": 0,
    "io": 0,
    "parameters": 1,
    "mask": 1,
    "init": 1,
    "norms": 1,
    "synced_norms": 1,
    "ticket": 2,
    "ticket_entries": 2,
    "ticket_reading": 2,
    "ticket_values": 2,
    "provenance": 2,
    "packed": 2,
    "search": 2,
    "prune": 2,
    "anatomy": 2,
    "connectivity": 2,
    "models": 3,
    "data": 3,
    "loading": 3,
    "superposition": 3,
    "schedule": 4,
    "checkpointing": 4,
    "precision": 4,
    "graphs": 4,
    "ranks": 2,
    "agreement": 3,
    "distributed": 3,
    "train": 4,
    "together": 4,
    "experiments": 5,
    "theory": 5,
    "report": 6,
    "arguments": 6,
    "commands": 6,
    "places": 6,
    "cli": 6,
    "__main__": 6,
    "info": 6,
}
FILES = sorted(path for path in ROOT.rglob("*.py") if path != ROOT / "__init__.py")


def room(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imported(path: Path) -> set[str]:
    """Rooms that a file imports from."""
    rooms = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            rooms |= {a.name.split(".")[1] for a in node.names if a.name.startswith("supermask.")}
        elif isinstance(node, ast.ImportFrom) and node.module:
            parts = node.module.split(".")
            if parts[0] == "supermask":
                rooms |= {parts[1]} if len(parts) > 1 else {alias.name for alias in node.names}
    return rooms


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_only_go_down(path):
    own = FLOORS[room(path)]
    for other in imported(path):
        assert FLOORS[other] <= own, f"{other} is on floor {FLOORS[other]}, above {own}"


def test_importing_the_library_touches_no_gpu_and_no_other_floor():
    import subprocess
    import sys

    code = (
        "import sys, supermask, torch; assert not torch.cuda.is_initialized(); "
        "heavy = {'timm', 'torchvision', 'sklearn', 'matplotlib', 'supermask.experiments'}; "
        "heavy &= set(sys.modules); "
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
