"""What a method is in a report: its name, its group and its look.

`known` lists the methods, `catalogue` finds them by name and describes those that nobody listed.
"""

from dataclasses import dataclass
from typing import Any

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


@dataclass(frozen=True)
class Method:
    """A method and its look.

    Attributes:
        name: As in `results.json`.
        label: As in figures and sentences.
        group: A key of `GROUPS`.
        colour: Hexadecimal, lower case; `DARK` holds its counterpart on dark ground.
        marker: A marker of matplotlib.
        about: One sentence for the reader who meets the method here.
        dash: A dash pattern of matplotlib; controls and variants of another method are dashed.
    """

    name: str
    label: str
    group: str
    colour: str
    marker: str
    about: str
    dash: Any = "solid"

    @property
    def is_ticket(self) -> bool:
        return self.group not in ("dense", "control")

    @property
    def is_trained(self) -> bool:
        """Whether it is a ticket whose weights are known to have been trained."""
        return self.is_ticket and self.group not in ("strong", "other")


DARK = {
    "#15191e": "#eef1f4",
    "#d55e00": "#ff8b45",
    "#0072b2": "#58acf0",
    "#56b4e9": "#a5dcff",
    "#009e73": "#35c79c",
    "#cc79a7": "#e3a0c6",
    "#e69f00": "#f7c04a",
    "#44aa99": "#6fd3c2",
    "#8a5a2b": "#c9935c",
    "#5e3c99": "#ae8df0",
    "#b2182b": "#f2707c",
    "#59636e": "#b4bec9",
    "#87909a": "#8d97a2",
    "#a59c8a": "#c4b998",
    "#a97f5f": "#bf9575",
    "#882255": "#d4709f",
    "#117733": "#53b874",
    "#999933": "#c4c45c",
    "#aa4499": "#d57fc7",
    "#332288": "#9a8cf0",
}
"""Colour on light ground → on dark ground."""
