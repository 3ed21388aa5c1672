"""What a method is in a report: its name, its group and its look.

Methods describe themselves where they are registered; `catalogue` finds them by name.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

GROUPS = {
    "dense": "Dense network",
    "strong": "Strong tickets: weights never trained",
    "trained": "Trained tickets: magnitude pruning",
    "fine-tuned": "Strong tickets, fine-tuned",
    "initial": "Pruning at initialization",
    "moving": "Moving masks: found in training",
    "criteria": "Mask criteria: which weights stay",
    "actions": "Mask actions: which values they take",
    "control": "Controls",
    "other": "Other methods",
}
TOGETHER = 10
"""More methods than that are shown by group: in one panel nobody could tell them apart."""


@dataclass(frozen=True)
class Method:
    """A method and its look.

    Attributes:
        name: As in `results.json`.
        label: As in figures and sentences.
        group: A key of `GROUPS`.
        colour: Hexadecimal, lower case; `palette.DARK` holds its counterpart on dark ground.
        marker: A marker of matplotlib.
        about: One sentence for the reader who meets the method here.
        dash: A dash pattern of matplotlib; controls and variants of another method are dashed.
        holds_pruned: Whether pruned weights are held at other values than zero: fewer weights train, none is
            gone.
    """

    name: str
    label: str
    group: str
    colour: str
    marker: str
    about: str
    dash: Any = "solid"
    holds_pruned: bool = False

    @property
    def is_ticket(self) -> bool:
        return self.group not in ("dense", "control")

    @property
    def is_trained(self) -> bool:
        """Whether it is a ticket whose weights are known to have been trained."""
        return self.is_ticket and self.group not in ("strong", "other")


class HasMethod(Protocol):
    """What belongs to a method: a row of the summary, a curve."""

    @property
    def method(self) -> Method:
        """The method."""
        ...


Item = TypeVar("Item", bound=HasMethod)


def is_crowded(items: Sequence[HasMethod]) -> bool:
    """Whether there are too many methods for one panel."""
    return len({item.method for item in items}) > TOGETHER


def by_group(items: Sequence[Item]) -> dict[str, list[Item]]:
    """Group → its items. Those of the dense network, which every panel shows, are left out."""
    groups: dict[str, list[Item]] = {}
    for item in items:
        if item.method.group != "dense":
            groups.setdefault(item.method.group, []).append(item)
    return groups
