"""Which recipe makes a stranger's first search good: a grid, judged on the validation split alone.

    python benchmarks/recipe_search.py --data-root DIR

One seed, MNIST, LeNet-300-100, 10 epochs. The test split is not looked at. Writes
`benchmarks/results/recipe-mnist-lenet.json`.
"""

import argparse
import dataclasses
import itertools
from pathlib import Path
from typing import Any

from supermask.experiments import PlainEngine, SearchConfig
from supermask.experiments.datasets import dataset
from supermask.experiments.execution.context import Environment
from supermask.experiments.execution.store import Store
from supermask.experiments.results import describe_machine
from supermask.experiments.search import plan_search
from supermask.experiments.spec import RunSpec
from supermask.io import write_json

RESULTS = Path(__file__).parent / "results"


class Printer:
    """Says what has finished, a line per run."""

    def advanced(self, spec: RunSpec, step: int) -> None:
        pass

    def finished(self, spec: RunSpec, result: dict[str, Any]) -> None:
        print(f"{spec.id}: validation {100 * result['val_accuracy']:.2f} %", flush=True)


def grid(data_root: str | None) -> list[SearchConfig]:
    """SGD over learning rate and weight decay, then one change at a time from the middle of it."""
    common = SearchConfig(
        data="mnist",
        data_root=data_root,
        model="lenet-300-100",
        epochs=10,
        batch_size=128,
        val_fraction=1 / 12,
    )
    rates, decays = (0.1, 0.2, 0.4, 0.8), (0.0, 1e-4, 5e-4, 1e-3)
    configs = [
        dataclasses.replace(common, density=density, lr=lr, weight_decay=decay)
        for density, lr, decay in itertools.product((0.3, 0.5), rates, decays)
    ]
    changes: list[dict[str, Any]] = [
        {"rescale": False},
        {"init": "kaiming_normal"},
        {"init": "kaiming_uniform"},
        {"distribution": "erk"},
        {"distribution": "global"},
        {"nesterov": True},
        {"batch_size": 64},
        {"augment": "shift"},
        {"label_smoothing": 0.1},
        {"optimizer": "adam", "lr": 1e-3, "weight_decay": 0.0},
        {"optimizer": "adam", "lr": 3e-3, "weight_decay": 0.0},
        {"optimizer": "adamw", "lr": 1e-3, "weight_decay": 1e-2},
        {"density": 0.2},
        {"density": 0.1},
    ]
    middle = dataclasses.replace(common, density=0.3, lr=0.2, weight_decay=5e-4)
    return configs + [dataclasses.replace(middle, **change) for change in changes]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data-root", help="folder with MNIST/raw (else $SUPERMASK_DATA)")
    parser.add_argument("--store", type=Path, default=Path("runs/recipe-search"), help="folder for the runs")
    options = parser.parse_args()
    environment = Environment(threads=1, data_root=options.data_root)
    engine = PlainEngine(Store(options.store), environment)
    data = dataset("mnist", options.data_root, None)
    rows = []
    for config in grid(options.data_root):
        spec = plan_search(config, data).graph[0]
        result = engine.run([spec], Printer())[spec.id]
        facts = dataclasses.asdict(config)
        varied = ("density", "lr", "weight_decay", "optimizer", "init", "rescale", "distribution", "nesterov")
        varied += ("batch_size", "augment", "label_smoothing")
        rows.append({key: facts[key] for key in varied} | {"val_accuracy": result["val_accuracy"]})
    rows.sort(key=lambda row: -row["val_accuracy"])
    document = {
        "schema": "supermask/recipe-search/1",
        "task": {"data": "mnist", "model": "lenet-300-100", "epochs": 10, "seed": 0, "val_images": 5000},
        "machine": describe_machine("cpu", 1, 1),
        "rows": rows,
    }
    write_json(RESULTS / "recipe-mnist-lenet.json", document)


if __name__ == "__main__":
    main()
