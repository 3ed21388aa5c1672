"""One run of a document as advice looks at it: its row, learning curve, layers and configuration."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

from supermask.report.formatting import density_text
from supermask.report.methods.catalogue import methods_of
from supermask.report.methods.method import Method

key_of = itemgetter("method", "density", "seed")
"""What a row, its learning curve and its layers have in common."""


@dataclass(frozen=True)
class Case:
    """A run.

    Attributes:
        command: The command that made it.
        config: That command's configuration.
        method: Of the run.
        row: Its entry in the table.
        points: Its learning curve; empty where nothing was recorded.
        layers: Its layers, see `experiments.execution.diagnosis`; None in results that do not have them yet.
        classes: Classes of the data set; None where unknown.
        steps_per_epoch: None where unknown.
    """

    command: str
    config: Mapping[str, Any]
    method: Method
    row: Mapping[str, Any]
    points: Sequence[Mapping[str, float]]
    layers: Sequence[Mapping[str, Any]] | None
    classes: int | None
    steps_per_epoch: int | None

    @property
    def name(self) -> str:
        """As a sentence names it."""
        if self.method.group == "dense":
            return f"{self.method.label}, seed {self.row['seed']}"
        return f"{self.method.label} at density {density_text(self.row['density'])}, seed {self.row['seed']}"

    @property
    def is_search(self) -> bool:
        """Whether scores moved, and no weight."""
        return self.method.group == "strong"

    @property
    def has_density(self) -> bool:
        """Whether it was asked for a density."""
        return self.method.group != "dense"

    def curve(self, key: str) -> list[float]:
        """A quantity of the learning curve; empty unless every entry has it."""
        values = [point.get(key) for point in self.points]
        return [] if None in values else values  # type: ignore[return-value]

    def asked(self, name: str) -> Any:
        """A field of the configuration, under the name that the run's command has for it."""
        if self.command != "search" and self.is_search and f"search_{name}" in self.config:
            return self.config[f"search_{name}"]
        return self.config.get(name)


def cases_of(document: Mapping[str, Any]) -> Iterator[Case]:
    """Every run that is no control: those are there to do badly."""
    methods = methods_of(row["method"] for row in document["rows"])
    curves = {key_of(entry): entry["points"] for entry in document.get("curves") or ()}
    units = {key_of(entry): entry for entry in document.get("units") or ()}
    for row in document["rows"]:
        method, key = methods[row["method"]], key_of(row)
        about = units.get(key, {})
        if method.group != "control":
            yield Case(
                command=str(document.get("schema")).split("/")[1],
                config=document.get("config") or {},
                method=method,
                row=row,
                points=curves.get(key, ()),
                layers=about.get("layers"),
                classes=about.get("classes"),
                steps_per_epoch=about.get("steps_per_epoch"),
            )
