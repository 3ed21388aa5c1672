"""Run a comparison as its recipe says and keep what the README quotes.

    python benchmarks/reproduce.py mnist-lenet-300-100 --data-root DIR
    python benchmarks/reproduce.py digits

Runs `supermask compare` with `recipes/compare/<name>.toml` (`digits` has none: it is the default), then
writes `benchmarks/results/<name>.json`, the document without its learning curves, and
`benchmarks/results/<name>.png`, the accuracy figure. Interrupted, the same command goes on.
"""

import argparse
import os
import shutil
from pathlib import Path

from supermask.cli import main as supermask
from supermask.io import read_json, write_json

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name", help="a recipe of recipes/compare, or digits")
    parser.add_argument("--data-root", help="where data sets lie (else $SUPERMASK_DATA)")
    parser.add_argument("--jobs", default="0", help="runs at a time (default: one per core)")
    options = parser.parse_args()
    os.chdir(ROOT)  # the recorded command names paths from here
    if options.data_root:
        os.environ["SUPERMASK_DATA"] = options.data_root
    out = Path("runs") / options.name
    recipe = [] if options.name == "digits" else ["--config", f"recipes/compare/{options.name}.toml"]
    code = supermask(["compare", *recipe, "--jobs", options.jobs, "--out", str(out)])
    if code:
        raise SystemExit(code)
    document = read_json(out / "results.json")
    del document["curves"]
    write_json(RESULTS / f"{options.name}.json", document)
    shutil.copy(out / "accuracy-density.png", RESULTS / f"{options.name}.png")


if __name__ == "__main__":
    main()
