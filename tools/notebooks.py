"""Tutorials as executed notebooks: percent scripts `docs/tutorials/*.py` to `build/tutorials/*.ipynb`.

    python tools/notebooks.py [NAME ...]

Each runs in a folder of its own, without a network, and within the processor time that one may take. The site
shows what they print and draw; a cell that fails fails the build.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path

import cpu_time
import jupytext
import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

ROOT = Path(__file__).resolve().parent.parent
SOURCES = ROOT / "docs" / "tutorials"
EXECUTED = ROOT / "build" / "tutorials"
SECONDS = 60.0
"""Most processor time of a tutorial: what it takes on an idle machine, whatever else this one does."""


def execute(source: Path) -> float:
    """Execute a tutorial and write the notebook with its outputs; how many seconds it took.

    Raises:
        CellExecutionError: A cell failed.
    """
    notebook = jupytext.read(source, fmt="py:percent")
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="tutorial-") as folder:
        resources = {"metadata": {"path": folder}}
        client = NotebookClient(notebook, timeout=600, kernel_name="python3", resources=resources)
        client.extra_arguments = ["--log-level=40"]  # its connection is local, which it warns of
        client.execute()
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)  # when each began: no two builds would be alike
    EXECUTED.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, EXECUTED / f"{source.stem}.ipynb")
    return time.monotonic() - began


def main() -> None:
    names = sorted(path.stem for path in SOURCES.glob("*.py"))
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"by default all: {', '.join(names)}")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="most processor time of one")
    options = parser.parse_args()
    if unknown := set(options.names) - set(names):
        parser.error(f"there is no tutorial {', '.join(sorted(unknown))}; there are {', '.join(names)}")
    slow = []
    for name in options.names or names:
        before = cpu_time.of_children()
        try:
            took = execute(SOURCES / f"{name}.py")
        except CellExecutionError as error:
            sys.exit(f"{name}: {error}")
        computed = cpu_time.of_children() - before
        print(f"{name}: {took:.1f} s ({computed:.0f} s of CPU)", flush=True)
        slow += [name] if computed > options.seconds else []
    if slow:
        sys.exit(f"{', '.join(slow)}: more than {options.seconds:g} s of CPU")


if __name__ == "__main__":
    main()
