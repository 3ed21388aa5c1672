"""What closes the gap between an untrained subnetwork and its own trained dense network?

    python benchmarks/close_gap.py --data-root DIR
    python benchmarks/close_gap.py --data-root DIR --only "rule/*" "dense/*"

One change at a time. CIFAR-10, the network of airbench at quarter width by
`recipes/compare/cifar10-airbench-quarter.toml`, one seed. Judged on a tenth of the training images, held out;
what stands in the tables says nothing of the test split. About four minutes of one core with AVX-512 and bf16
for each line. Writes `benchmarks/results/close-gap.json` after each run, and leaves in it the lines that were
finished elsewhere; interrupted, the same command goes on.
"""

import argparse
import dataclasses
import tomllib
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from supermask.experiments import PlainEngine
from supermask.experiments.compare.command import CompareConfig, plan_compare
from supermask.experiments.datasets import dataset
from supermask.experiments.execution.context import Environment
from supermask.experiments.execution.store import Store
from supermask.experiments.results import describe_machine
from supermask.experiments.spec import RunSpec
from supermask.io import read_json, write_json

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "close-gap.json"
RECIPE = ROOT / "recipes" / "compare" / "cifar10-airbench-quarter.toml"

#: What a line changes is changed from this; the searches by Adam at 0.02, as in the recipe.
COMMON: dict[str, Any] = {"val_fraction": 0.1, "seeds": (0,), "densities": (0.5,)}
RELATIVE = {"search_optimizer": "sgd", "search_args": {"step_size": "relative"}}
#: Rules of the scores, each tried with edge-popup and with signed supermasks.
RULES: dict[str, dict[str, Any]] = {
    "relative 0.01": {**RELATIVE, "search_lr": 0.01},
    "relative 0.03": {**RELATIVE, "search_lr": 0.03},
    "relative 0.1": {**RELATIVE, "search_lr": 0.1},
    "SGD 10": {"search_optimizer": "sgd", "search_lr": 10.0},
    "Adam 0.005": {"search_lr": 0.005},
    "Adam 0.02": {"search_lr": 0.02},
    "Adam 0.05": {"search_lr": 0.05},
}
#: The rate and decay of the dense network, so that its line is no straw man.
DENSE: dict[str, dict[str, Any]] = {
    "lr 1.5": {},
    "lr 0.75": {"lr": 0.75},
    "lr 3": {"lr": 3.0},
    "weight decay 2e-6": {"weight_decay": 2e-6},
    "weight decay 6.5e-4": {"weight_decay": 6.5e-4},
    "label smoothing 0.1": {"label_smoothing": 0.1},
    "5 epochs, warm-up 1.15": {"epochs": 5.0, "warmup_epochs": 1.15},
    "5 epochs, lr 0.75": {"epochs": 5.0, "lr": 0.75},
    "5 epochs, lr 3": {"epochs": 5.0, "lr": 3.0},
    "norms without shifts": {"model_args": {"width": 0.25, "shift": False}},
}
#: One change at a time of a search.
CHANGES: dict[str, dict[str, Any]] = {
    "no label smoothing": {"label_smoothing": 0.0},
    "Kaiming normal weights": {"search_init": "kaiming_normal"},
    "no rescale": {"rescale": False},
    "density 0.3": {"densities": (0.3,)},
    "density 0.7": {"densities": (0.7,)},
    "cosine": {"schedule": "cosine"},
    "weight decay 5e-4": {"search_weight_decay": 5e-4},
}
EPOCHS = (5.0, 20.0)
#: Weights for each connection, whose sum counts; in float32, for CPUs that only emulate bfloat16.
PARALLEL = (4, 8, 16)
#: Rules tried with eight of them. A step counts beside the size of the first scores, which are the smaller
#: the more weights a connection has; relative steps know that size.
PARALLEL_RULES: dict[str, dict[str, Any]] = {
    "relative 0.05": {**RELATIVE, "search_lr": 0.05},
    "relative 0.1": {**RELATIVE, "search_lr": 0.1},
    "Adam 0.002": {"search_lr": 0.002},
    "Adam 0.005": {"search_lr": 0.005},
}
#: Smaller batches, so more steps for as many images: how many images, and learning rates of the dense network
#: and, by relative steps, of a signed subnetwork with eight weights for each connection.
SMALL_BATCHES: tuple[tuple[int, tuple[float, ...], tuple[float, ...]], ...] = (
    (256, (0.375, 0.75), (0.01, 0.005)),
    (128, (0.19, 0.375), (0.01, 0.005)),
)
#: Rates and numbers of weights that relative steps were tried with over ten epochs.
PARALLEL_LONG = ((8, 0.01), (8, 0.02), (8, 0.05), (8, 0.1), (16, 0.01), (16, 0.02), (16, 0.05), (16, 0.1))


@dataclasses.dataclass(frozen=True, eq=False)
class Line:
    """A line of the tables: which table, what is trained or searched, and what is changed."""

    group: str
    method: str
    change: str
    options: dict[str, Any]

    @property
    def name(self) -> str:
        return f"{self.group}/{self.method}/{self.change}"


def lines() -> Iterator[Line]:
    """All that is tried."""
    searches = ("edge-popup", "signed-supermask")
    for change, options in DENSE.items():
        yield Line("dense", "dense", change, options)
    for change, options in RULES.items():
        for method in searches:
            yield Line("rule", method, change, options)
    for change, options in CHANGES.items():
        for method in searches:
            yield Line("change", method, change, options)
    for epochs in EPOCHS:
        for method in ("dense", *searches):
            yield Line("budget", method, f"{epochs:g} epochs", {"epochs": epochs})
    for count in PARALLEL:
        for method in searches:
            yield Line("parallel", method, f"{count} weights, 5 epochs", parallel(count))
    for rule, options in PARALLEL_RULES.items():
        for method in searches:
            yield Line("parallel", method, f"8 weights, 5 epochs, {rule}", {**parallel(8), **options})
        changed = raw({**parallel(8), **options})
        yield Line("parallel", "edge-popup", f"8 weights, 5 epochs, {rule}, raw ranking", changed)
    for size, rates, relative in SMALL_BATCHES:
        for rate in rates:
            yield Line("batch", "dense", f"{size} images, lr {rate}", {"batch_size": size, "lr": rate})
        for rate in relative:
            options = {**parallel(8), **RELATIVE, "search_lr": rate, "batch_size": size}
            options |= {"epochs": 9.9, "amp": "bf16"}
            yield Line("batch", "signed-supermask", f"{size} images, 8 weights, relative {rate}", options)
    for count, rate in PARALLEL_LONG:
        options = {**parallel(count), **RELATIVE, "search_lr": rate, "epochs": 9.9}
        yield Line("parallel", "signed-supermask", f"{count} weights, relative {rate}", options)
        yield Line("parallel", "edge-popup", f"{count} weights, relative {rate}, raw ranking", raw(options))


def parallel(count: int) -> dict[str, Any]:
    """What all lines with `count` weights for each connection change."""
    return {"model_args": {"width": 0.25, "parallel_weights": count}, "epochs": 5.0, "amp": "none"}


def raw(options: dict[str, Any]) -> dict[str, Any]:
    """The options, with scores that rank by their value."""
    return {**options, "search_args": {**options.get("search_args", {}), "ranking": "raw"}}


def config_of(line: Line, data_root: str | None = None) -> CompareConfig:
    """The comparison of one method that is behind a line."""
    recipe = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in tomllib.loads(RECIPE.read_text(encoding="utf-8")).items()
    }
    return CompareConfig(
        **{**recipe, **COMMON, **line.options, "methods": (line.method,), "data_root": data_root}
    )


class Printer:
    """Says what has finished, a line per run."""

    def advanced(self, spec: RunSpec, step: int) -> None:
        pass

    def finished(self, spec: RunSpec, result: dict[str, Any]) -> None:
        print(f"{spec.id}: validation {100 * result['val_accuracy']:.2f} %", flush=True)


def write(path: Path, store: Store, specs: dict[Line, RunSpec]) -> None:
    """Write what is finished, line by line, beside what the file has from other stores."""
    held = read_json(path)["rows"] if path.exists() else []
    found = {(row["group"], row["method"], row["change"]): row for row in held}
    for line, spec in specs.items():
        if result := store.run(spec.id).result:
            known = ("density", "seed", "steps", "val_accuracy", "seconds")
            key = line.group, line.method, line.change
            facts = dict(zip(("group", "method", "change"), key, strict=True))
            found[key] = {**facts, **{name: result[name] for name in known}}
    keys = [(line.group, line.method, line.change) for line in specs]
    rows = [found[key] for key in keys if key in found]
    document = {
        "schema": "supermask/close-gap/1",
        "recipe": str(RECIPE.relative_to(ROOT)),
        "machine": describe_machine("cpu", 1, 1),
        "val_fraction": COMMON["val_fraction"],
        "rows": rows,
    }
    write_json(path, document)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data-root", help="where data sets lie (else $SUPERMASK_DATA)")
    parser.add_argument("--store", type=Path, default=Path("runs/close-gap"), help="folder for the runs")
    parser.add_argument("--results", type=Path, default=RESULTS, help="file that grows by each run")
    parser.add_argument("--only", nargs="+", default=["*"], help="patterns of GROUP/METHOD/CHANGE")
    options = parser.parse_args()
    data = dataset("cifar10", options.data_root, None)
    specs = {line: plan_compare(config_of(line, options.data_root), data).rows[0] for line in lines()}
    store = Store(options.store)
    engine = PlainEngine(store, Environment(threads=1, data_root=options.data_root))
    write(options.results, store, specs)
    for pattern in options.only:
        for line, spec in specs.items():
            if fnmatchcase(line.name, pattern):
                print(line.name, flush=True)
                engine.run([spec], Printer())
                write(options.results, store, specs)


if __name__ == "__main__":
    main()
