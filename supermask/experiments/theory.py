"""`supermask theory`: error against overparameterization, for each construction, size and seed.

`run_theory` leaves `results.json` and `results.csv` in its folder, and each finished case in `cases/`, so
that an interrupted run goes on and a larger one begins with what is there.
"""

import csv
import dataclasses
import functools
import hashlib
import io
import json
import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from supermask.checks import MOST_PIXELS
from supermask.data import Dataset, load_data
from supermask.experiments.config import ConfigError, option
from supermask.experiments.registry import Computation, register_experiment
from supermask.experiments.results import describe_machine
from supermask.io import DamagedFileError, read_json, write_json, write_text
from supermask.theory.constructions import CONSTRUCTIONS
from supermask.theory.measure import measure
from supermask.theory.target import Target, train_attention, train_perceptron

FORMAT = 1
"""Part of a case's name: raised when the same options would give other numbers."""
MOST = 1_000_000
"""Seeds, and units of a layer, that anybody can mean; what memory cannot hold is told when it is made."""
SIZES = ("accuracy", "kept_weights", "random_weights")
TARGET = ("target_accuracy", "target_weights", "mean_output_norm")
ERRORS = ("mean_weight_error", "max_weight_error", "mean_output_error", "max_output_error")


@dataclass(frozen=True, kw_only=True)
class TheoryConfig:
    """`supermask theory`: random networks pruned into trained ones, by construction."""

    data: str = option("digits", "data set by name, or a folder with train/ and test/ or val/")
    data_root: str | None = option(None, "where data sets lie (else $SUPERMASK_DATA, else ./data)")
    image_size: int | None = option(None, "resize images to this many pixels a side")
    constructions: tuple[str, ...] = option(
        tuple(CONSTRUCTIONS), "which constructions", choices=tuple(CONSTRUCTIONS)
    )
    malach: tuple[int, ...] = option((8, 16, 32, 64, 128, 256), "random units for each input, Malach")
    pensia: tuple[int, ...] = option((12, 16, 20, 24, 28, 32), "random units for each input, Pensia")
    orseau: tuple[int, ...] = option((32, 64, 96, 128, 160), "random units for each input, Orseau")
    attention: tuple[int, ...] = option(
        (6, 8, 10, 12, 14, 16, 18, 20), "random hidden dimensions for each input and head, attention"
    )
    hidden: tuple[int, ...] = option((64, 32), "hidden widths of the target perceptron; 300 100 is LeNet")
    heads: int = option(4, "heads of the target attention")
    head_width: int = option(8, "hidden dimensions of each of its heads")
    epochs: float = option(20.0, "passes over the training split for the targets")
    seeds: int = option(3, "random networks for each construction and size")
    images: int = option(1000, "most test images to measure errors and accuracy on")
    out: str = option("", "folder for results; required")

    def __post_init__(self) -> None:
        for name in ("image_size", "heads", "head_width", "epochs", "seeds", "images"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value > 0):
                raise ConfigError(name, value, "take a positive number")
        most_of = {**dict.fromkeys(("seeds", "heads", "head_width"), MOST), "image_size": MOST_PIXELS}
        for name, most in most_of.items():
            if (getattr(self, name) or 0) > most:
                raise ConfigError(name, getattr(self, name), f"take at most {most}")
        for name in ("hidden", *CONSTRUCTIONS):
            if any(not 1 <= value <= MOST for value in getattr(self, name)):
                raise ConfigError(name, getattr(self, name), f"take integers from 1 to {MOST}")
        for name in self.constructions:
            if name not in CONSTRUCTIONS:
                raise ConfigError("constructions", name, f"choose from {', '.join(CONSTRUCTIONS)}")
            if not getattr(self, name):
                raise ConfigError(name, (), "give at least one size, or leave out the construction")
        if not self.constructions:
            raise ConfigError("constructions", (), f"choose from {', '.join(CONSTRUCTIONS)}")
        if not self.out:
            raise ConfigError("out", self.out, "give a folder for the results")

    @property
    def cases(self) -> list[tuple[str, int, int]]:
        """Construction, n and seed of every case, without repetitions."""
        return list(
            dict.fromkeys(
                (name, n, seed)
                for name in self.constructions
                for n in sorted(getattr(self, name))
                for seed in range(self.seeds)
            )
        )


def run_theory(
    config: TheoryConfig, on_row: Callable[[dict[str, Any], int, int], None] | None = None
) -> dict[str, Any]:
    """Compute every case that is not there yet and write the results.

    Args:
        config: What to do.
        on_row: Called after every case with its row, how many there are by now, and how many there will be.

    Returns:
        The document that `results.json` holds: `schema`, `config`, `machine`, `rows`, `summary`, `rates`.

    Raises:
        DataError: The data set cannot be had.
        DamagedFileError: A finished case is damaged.
        ValueError: A random layer would be too large.
        OSError: The folder cannot be written.
    """
    out = Path(config.out)
    (out / "cases").mkdir(parents=True, exist_ok=True)
    data = load_data(config.data, config.data_root, config.image_size)
    target = functools.cache(lambda kind: _train(kind, data, config))
    rows: list[dict[str, Any]] = []
    for name, n, seed in config.cases:
        path = out / "cases" / f"{name}-{n}-{seed}-{_hash(name, data, config)}.json"
        row = _finished(path)
        if row is None:
            began = time.monotonic()
            aim = target(CONSTRUCTIONS[name].target)
            row = {"construction": name, "n": n, "seed": seed}
            row |= measure(aim, CONSTRUCTIONS[name].prune(aim.network, n, seed))
            row["seconds"] = round(time.monotonic() - began, 3)
            write_json(path, row)
        rows.append(row)
        if on_row:
            on_row(row, len(rows), len(config.cases))
    summary = summarize(rows)
    document = {
        "schema": "supermask/theory/1",
        "config": dataclasses.asdict(config),
        "machine": describe_machine("cpu", 0, 1),
        "rows": rows,
        "summary": summary,
        "rates": fit_rates(summary),
    }
    document["config"] = json.loads(json.dumps(document["config"]))  # tuples as lists, as they are read back
    write_json(out / "results.json", document)
    write_text(out / "results.csv", _csv(rows))
    return document


def summarize(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Over the seeds of each construction and n: means of errors, accuracy and sizes, spread of the errors.

    Errors spread over powers of ten. Their mean is the mean of what was measured, not of logarithms.
    """
    groups: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for row in rows:
        groups.setdefault((row["construction"], row["n"]), []).append(row)
    summary = []
    for (name, n), members in groups.items():
        entry: dict[str, Any] = {"construction": name, "n": n, "seeds": len(members)}
        for key in ERRORS:
            values = [row[key] for row in members]
            entry[key] = {"mean": statistics.fmean(values), "min": min(values), "max": max(values)}
        for key in SIZES:
            entry[key] = statistics.fmean(row[key] for row in members)
        for key in TARGET:
            entry[key] = members[0][key]
        summary.append(entry)
    return summary


def fit_rates(summary: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """How fast the mean weight error of each construction falls, beside the prediction.

    Returns:
        For each construction with two sizes or more: `slope`, the least-squares slope of log error against
        the predicted log error (1 where theory and measurement agree), and `offset`, which with `log_error`
        of the construction gives the predicted line through the middle of the points.
    """
    rates = []
    for name, construction in CONSTRUCTIONS.items():
        points = [
            (construction.log_error(entry["n"]), math.log(entry["mean_weight_error"]["mean"]))
            for entry in summary
            if entry["construction"] == name and entry["mean_weight_error"]["mean"] > 0
        ]
        if len({x for x, _ in points}) < 2:
            continue
        predicted, measured = zip(*points, strict=True)
        rates.append(
            {
                "construction": name,
                "slope": statistics.linear_regression(predicted, measured).slope,
                "offset": statistics.fmean(measured) - statistics.fmean(predicted),
                "law": construction.law,
            }
        )
    return rates


def _train(kind: str, data: Dataset, config: TheoryConfig) -> Target:
    if kind == "attention":
        return train_attention(data, config.heads, config.head_width, config.epochs, config.images)
    return train_perceptron(data, config.hidden, config.epochs, config.images)


def _hash(name: str, data: Dataset, config: TheoryConfig) -> str:
    """Eight digits for all that a case depends on beside construction, n and seed."""
    attention = CONSTRUCTIONS[name].target == "attention"
    facts = {
        "format": FORMAT,
        "data": data.fingerprint,
        "epochs": config.epochs,
        "images": min(config.images, len(data.test)),
        "target": [config.heads, config.head_width] if attention else list(config.hidden),
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:8]


def _finished(path: Path) -> dict[str, Any] | None:
    if not path.exists():
        return None
    row = read_json(path)
    if not isinstance(row, dict) or not _is_case(row, path):
        raise DamagedFileError(f"{path} is damaged; delete it to have it made again")
    return row


def _is_case(row: dict[str, Any], path: Path) -> bool:
    """Whether a row is that of the case that a file is named after, with a number for everything else."""
    named = f"{row.get('construction')}-{row.get('n')}-{row.get('seed')}-"
    numbers = [value for key, value in row.items() if key != "construction"]
    return (
        {*ERRORS, *SIZES, *TARGET} <= row.keys()
        and all(type(value) in (int, float) and math.isfinite(value) for value in numbers)
        and path.name.startswith(named)
    )


def _csv(rows: Sequence[dict[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def compute(config: TheoryConfig, told: Callable[[int], None]) -> dict[str, Any]:
    """As `run_theory`; `told` gets the number of cases that are done."""
    return run_theory(config, lambda row, done, total: told(done))


register_experiment(
    Computation(
        "theory",
        "strong tickets by construction: random networks pruned into trained ones",
        TheoryConfig,
        lambda config: len(config.cases),
        compute,
    )
)
