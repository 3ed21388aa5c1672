"""Run an experiment as its recipe says and keep what the documentation quotes.

    python benchmarks/reproduce.py mnist-lenet-300-100 --data-root DIR
    python benchmarks/reproduce.py stability/cifar10-resnet-20 --data-root DIR
    python benchmarks/reproduce.py digits

`FOLDER/NAME` runs `supermask FOLDER` with `recipes/FOLDER/NAME.toml`; a name alone is one of
`recipes/compare` (`digits` has none: it is the default). Then `benchmarks/results/` gets NAME.json, the
document without its learning curves, and its figures: NAME.png, accuracy against density, or, of an
experiment with a page of its own, one NAME-FIGURE.png each. Interrupted, the same command goes on.
"""

import argparse
import os
import shutil
from pathlib import Path

from supermask.cli import main as supermask
from supermask.io import read_json, write_json

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"


def recipe_of(name: str) -> tuple[str, list[str]]:
    """Command, and the flags that hand it its recipe.

    Raises:
        SystemExit: There is no such recipe.
    """
    if name == "digits":
        return "compare", []
    command, _, recipe = name.rpartition("/")
    command = command or "compare"
    path = Path("recipes") / command / f"{recipe}.toml"
    if not (ROOT / path).is_file():
        have = sorted(
            str(p.relative_to(ROOT / "recipes").with_suffix("")) for p in ROOT.glob("recipes/*/*.toml")
        )
        raise SystemExit(f"there is no {path}; take one of {', '.join(have)}")
    return command, ["--config", str(path)]


def keep(out: Path, name: str, results: Path = RESULTS) -> None:
    """Copy what a finished run left in `out` to `results`."""
    document = read_json(out / "results.json")
    document.pop("curves", None)
    target = results / f"{name}.json"
    target.parent.mkdir(parents=True, exist_ok=True)
    write_json(target, document)
    accuracy = out / "accuracy-density.png"
    if accuracy.is_file():
        shutil.copy(accuracy, target.with_suffix(".png"))
        return
    for figure in sorted(out.glob("*.png")):
        shutil.copy(figure, target.with_name(f"{target.stem}-{figure.name}"))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("name", help="a recipe: stability/…, imp/…, one of recipes/compare, or digits")
    parser.add_argument("--data-root", help="where data sets lie (else $SUPERMASK_DATA)")
    parser.add_argument("--jobs", default="0", help="runs at a time (default: one per core)")
    options = parser.parse_args()
    os.chdir(ROOT)  # the recorded command names paths from here
    if options.data_root:
        os.environ["SUPERMASK_DATA"] = options.data_root
    command, recipe = recipe_of(options.name)
    out = Path("runs") / options.name
    jobs = [] if command == "theory" else ["--jobs", options.jobs]  # it has no runs to share out
    code = supermask([command, *recipe, *jobs, "--out", str(out)])
    if code:
        raise SystemExit(code)
    keep(out, options.name)


if __name__ == "__main__":
    main()
