"""What the document says, reduced to what is shown: a line per method and density, a curve likewise."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from supermask.report.catalogue import methods_of
from supermask.report.methods import Method
from supermask.report.text import (
    bytes_text,
    count_text,
    density_text,
    duration_text,
    percent,
    points,
    ratio_text,
)

COMMANDS = ("compare", "search", "imp")
ROUNDING = 0.01
"""By how much, relatively, the kept density may differ from the density asked for without a word of it."""


@dataclass(frozen=True)
class Line:
    """One method at one density, over its seeds. Costs and sizes are means; None where unknown.

    Attributes:
        density: As asked for.
        kept_density: As found; methods whose density emerges may come out elsewhere.
        difference: Mean test accuracy less that of the dense network.
        val_accuracy: Mean on the validation split, the only thing that choices in the text rest on.
        steps: Steps of the run itself; `total_steps` adds those of the runs that it needed.
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


def lines_of(document: Mapping[str, Any]) -> list[Line]:
    """The lines of the results table: grouped, then dense to sparse."""
    command_of(document)
    methods = methods_of(entry["method"] for entry in document["summary"])
    dense = next((entry["mean"] for entry in document["summary"] if entry["method"] == "dense"), None)
    runs: dict[tuple[str, float], list[Mapping[str, Any]]] = {}
    for row in document["rows"]:
        runs.setdefault((row["method"], row["density"]), []).append(row)
    lines = [
        _line(methods[entry["method"]], entry, runs[entry["method"], entry["density"]], dense)
        for entry in document["summary"]
    ]
    order = list(methods)
    return sorted(lines, key=lambda line: (order.index(line.method.name), -line.density))


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


def summary_table(document: Mapping[str, Any]) -> list[dict[str, str]]:
    """The results table as text: a dict per line whose keys are the headings, for a terminal to print."""
    return [
        {
            "method": line.method.name,
            "density": density_text(line.density)
            + (f" (kept {density_text(line.true_density)})" if line.emerged else ""),
            "seeds": str(line.n),
            "test accuracy %": percent(line.mean, 2),
            "min–max": f"{percent(line.min, 2)}–{percent(line.max, 2)}",
            "to dense": points(line.difference),
            "steps": count_text(line.steps),
            "total steps": count_text(line.total_steps),
            "time": duration_text(line.seconds),
            "ticket": bytes_text(line.ticket_bytes),
            "smaller": ratio_text(line.ratio),
        }
        for line in lines_of(document)
    ]


def _line(
    method: Method, entry: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], dense: float | None
) -> Line:
    def mean(key: str) -> float | None:
        values = [row.get(key) for row in rows]
        return None if None in values else statistics.fmean(values)  # type: ignore[arg-type]

    return Line(
        method=method,
        density=entry["density"],
        seeds=tuple(row["seed"] for row in rows),
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
    )
