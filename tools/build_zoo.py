"""Make the tickets of the zoo from recipes of this repository, with a card for each.

    python tools/build_zoo.py --runs runs/zoo --data-root data

A command that has ended in its folder below `--runs` is not run again.
"""

import argparse
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import supermask as sm
from supermask.analysis.units import multiply_adds
from supermask.cli import main as supermask
from supermask.data import iterate_eval, load_data
from supermask.io import write_json
from supermask.tickets.load import network_of
from supermask.tickets.ticket import Ticket
from supermask.zoo import FOLDER

ROOT = Path(__file__).parent.parent
MOST = 4_000_000
"""Bytes of all tickets together."""
VERSIONS = ("supermask", "torch", "cpu", "device")


@dataclass(frozen=True)
class Entry:
    """A ticket to be made.

    Attributes:
        name: In the zoo.
        recipe: Below `recipes/`; its folder is the command.
        about: One sentence for the card.
        method: Of the row that is taken, where the recipe has several.
    """

    name: str
    recipe: str
    about: str
    method: str | None = None


ENTRIES = (
    Entry("digits-lenet-300-100", "search/digits-lenet-300-100.toml", "Seconds of search; for first steps."),
    Entry(
        "mnist-lenet-300-100",
        "search/mnist-lenet-300-100-short.toml",
        "Ten epochs of edge-popup on the perceptron of the lottery ticket papers.",
    ),
    Entry(
        "cifar10-airbench-quarter",
        "search/cifar10-airbench-quarter-signed.toml",
        "Ten epochs of signed supermask on the network of airbench at a quarter of its width.",
    ),
    Entry(
        "mnist-lenet-300-100-slots",
        "compare/mnist-slots.toml",
        "Ten epochs of the slot machine, which chooses one of eight drawn values for each connection.",
        method="slot-machine",
    ),
    Entry(
        "cifar10-airbench-parallel",
        "compare/cifar10-airbench-parallel.toml",
        "Ten epochs of signed supermask on the network of airbench at half of its width, eight weights for "
        "each connection.",
    ),
    Entry(
        "cifar10-airbench-parallel-mask",
        "compare/cifar10-airbench-parallel-mask.toml",
        "The same by edge-popup, a mask alone.",
    ),
)


def finished(entry: Entry, runs: Path, data_root: str | None) -> dict[str, Any]:
    """The results of an entry's recipe, computed now where they are not there yet."""
    recipe = ROOT / "recipes" / entry.recipe
    out = runs / recipe.stem
    if not (out / "results.json").is_file():
        where = ["--data-root", data_root] if data_root else []
        command = [recipe.parent.name, "--config", str(recipe), *where, "--jobs", "1", "--out", str(out)]
        if code := supermask(command):
            raise SystemExit(code)
    return json.loads((out / "results.json").read_text(encoding="utf-8")) | {"folder": out}


def accuracy_of(file: Path, data_name: str, data_root: str | None) -> float:
    """Accuracy of a ticket on the test split in float32, whatever its search computed in."""
    data = load_data(data_name, data_root)
    batches = iterate_eval(data.test, 500, data.mean, data.std, image_size=data.image_size)
    return float(sm.evaluate(sm.load(file), batches)["accuracy"])


def add(entry: Entry, results: dict[str, Any], data_root: str | None) -> int:
    """Put the first seed's ticket of an entry and its card into the zoo; returns its bytes."""
    rows = [row for row in results["rows"] if entry.method in (None, row["method"])]
    row, config = min(rows, key=lambda row: row["seed"]), results["config"]
    file = FOLDER / f"{entry.name}.ticket"
    shutil.copyfile(results["folder"] / row["ticket"], file)
    ticket = Ticket.load(file)
    assert ticket.factory is not None
    arguments = ticket.factory["args"]
    shape = (arguments["in_channels"], arguments["image_size"], arguments["image_size"])
    card = {
        "name": entry.name,
        "about": entry.about,
        "data": config["data"],
        "model": config["model"],
        "method": row["method"],
        "density": ticket.density,
        "seed": row["seed"],
        "accuracy": accuracy_of(file, config["data"], data_root),
        "bytes": file.stat().st_size,
        "dense_bytes": row["dense_bytes"],
        "multiply_adds": multiply_adds(network_of(ticket), ticket.mask(), shape),
        "recipe": f"recipes/{entry.recipe}",
        "made": {key: results["machine"][key] for key in VERSIONS},
    }
    write_json(file.with_suffix(".json"), card)
    return int(card["bytes"])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=Path, default=Path("runs/zoo"), help="where runs lie")
    parser.add_argument("--data-root", help="where data sets lie")
    names = [entry.name for entry in ENTRIES]
    parser.add_argument("--only", nargs="+", choices=names, default=names, help="those to be made now")
    options = parser.parse_args()
    for entry in ENTRIES:
        if entry.name in options.only:
            size = add(entry, finished(entry, options.runs, options.data_root), options.data_root)
            print(f"{entry.name}: {size} bytes")
    total = sum(file.stat().st_size for file in FOLDER.glob("*.ticket"))
    if total > MOST:
        raise SystemExit(f"the tickets have {total} bytes together; the package has room for {MOST}")


if __name__ == "__main__":
    main()
