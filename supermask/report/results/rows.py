"""The document reduced to what is shown: a row per method and density over its seeds, a curve likewise."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from supermask.report.methods.catalogue import methods_of
from supermask.report.methods.method import Method

COMMANDS = ("compare", "search", "imp")
ROUNDING = 0.01
"""By how much, relatively, the kept density may differ from the density asked for without a word of it."""


@dataclass(frozen=True)
class SummaryRow:
    """One method at one density, over its seeds. Costs and sizes are means; None where unknown.

    Attributes:
        density: As asked for.
        kept_density: As found; methods whose density emerges may come out elsewhere.
        difference: Mean test accuracy less that of the dense network.
        val_accuracy: Mean on the validation split, the only thing that choices in the text rest on.
        steps: Steps of the run itself; `total_steps` adds those of the runs that it needed.
        multiply_adds: Of the kept weights, for one example.
    """

    method: Method
    density: float
    seeds: tuple[int, ...]
    mean: float
    min: float
    max: float
    difference: float | None
    val_accuracy: float | None
    steps: float | None
    total_steps: float | None
    seconds: float | None
    ticket_bytes: float | None
    dense_bytes: float | None
    kept_density: float | None = None
    multiply_adds: float | None = None

    @property
    def emerged(self) -> bool:
        """Whether the density came out another than asked for, by more than rounding."""
        kept = self.kept_density
        return kept is not None and abs(kept - self.density) > ROUNDING * self.density

    @property
    def true_density(self) -> float:
        """What was kept where that is not what was asked for, else what was asked for."""
        return self.kept_density if self.emerged and self.kept_density is not None else self.density

    @property
    def n(self) -> int:
        """Number of seeds."""
        return len(self.seeds)

    @property
    def ratio(self) -> float | None:
        """Dense bytes over ticket bytes; None for the dense network itself."""
        if self.method.group == "dense" or not self.dense_bytes or not self.ticket_bytes:
            return None
        return self.dense_bytes / self.ticket_bytes


@dataclass(frozen=True)
class Curve:
    """A quantity against the step: mean, least and largest over the seeds."""

    method: Method
    density: float
    steps: tuple[float, ...]
    mean: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]


def command_of(document: Mapping[str, Any]) -> str:
    """The command that wrote the document.

    Raises:
        ValueError: It is not a document of compare, search or imp, or has no rows.
    """
    schema = document.get("schema")
    for command in COMMANDS:
        if schema == f"supermask/{command}/1":
            if not document.get("rows") or not document.get("summary"):
                raise ValueError(
                    f"the document of schema {schema!r} has no rows to report; run the command to its end"
                )
            return command
    raise ValueError(
        f"no report for a document of schema {schema!r}; give the results.json that supermask compare, "
        "search or imp wrote"
    )


def summary_rows(document: Mapping[str, Any]) -> list[SummaryRow]:
    """The rows of the results table: grouped, then dense to sparse."""
    methods = methods_of(entry["method"] for entry in document["summary"])
    dense = next((entry["mean"] for entry in document["summary"] if entry["method"] == "dense"), None)
    runs: dict[tuple[str, float], list[Mapping[str, Any]]] = {}
    for run in document["rows"]:
        runs.setdefault((run["method"], run["density"]), []).append(run)
    rows = [
        _row(methods[entry["method"]], entry, runs[entry["method"], entry["density"]], dense)
        for entry in document["summary"]
    ]
    order = list(methods)
    return sorted(rows, key=lambda row: (order.index(row.method.name), -row.density))


def curves_of(document: Mapping[str, Any], key: str) -> list[Curve]:
    """Curves of `val_accuracy` or `train_loss`; runs that never recorded it (nothing trains) are left out."""
    runs: dict[tuple[str, float], list[dict[float, float]]] = {}
    for run in document.get("curves") or ():
        points = {point["step"]: point[key] for point in run["points"] if point.get(key) is not None}
        if points:
            runs.setdefault((run["method"], run["density"]), []).append(points)
    methods = methods_of(method for method, _ in runs)
    order = list(methods)
    curves = []
    for (name, density), seeds in runs.items():
        # Only steps that every seed has: a mean over changing seeds would jump where one of them ends.
        steps = sorted(set.intersection(*(set(points) for points in seeds)))
        if not steps:
            continue
        columns = [[points[step] for points in seeds] for step in steps]
        curves.append(
            Curve(
                methods[name],
                density,
                steps=tuple(steps),
                mean=tuple(statistics.fmean(column) for column in columns),
                low=tuple(min(column) for column in columns),
                high=tuple(max(column) for column in columns),
            )
        )
    return sorted(curves, key=lambda curve: (order.index(curve.method.name), -curve.density))


def _row(
    method: Method, entry: Mapping[str, Any], runs: Sequence[Mapping[str, Any]], dense: float | None
) -> SummaryRow:
    def mean(key: str) -> float | None:
        values = [run.get(key) for run in runs]
        return None if None in values else statistics.fmean(values)  # type: ignore[arg-type]

    return SummaryRow(
        method=method,
        density=entry["density"],
        seeds=tuple(run["seed"] for run in runs),
        mean=entry["mean"],
        min=entry["min"],
        max=entry["max"],
        difference=None if dense is None or method.name == "dense" else entry["mean"] - dense,
        val_accuracy=mean("val_accuracy"),
        steps=mean("steps"),
        total_steps=mean("total_steps"),
        seconds=mean("seconds"),
        # The dense network is no ticket: what weighs is its weights.
        ticket_bytes=mean("dense_bytes" if method.group == "dense" else "ticket_bytes"),
        dense_bytes=mean("dense_bytes"),
        kept_density=mean("kept_density"),
        multiply_adds=mean("multiply_adds"),
    )
