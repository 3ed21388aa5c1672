"""What a method is called and how it is shown: it says so itself, where it is registered."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Description:
    """A method for readers of tables, figures and help.

    Attributes:
        label: As in figures and sentences; by default the name.
        about: One sentence for the reader who meets the method here.
        group: Which methods it stands with: `dense`, `strong` (weights never trained), `trained`,
            `fine-tuned`, `initial` (pruned at initialization), `moving` (masks found in training),
            `criteria`, `actions`, `control` or `other`.
        colour: A family of the report's palette, such as `blue`; by default that of the method it varies, or
            one that no other method has.
        marker: A marker of matplotlib; by default as for the colour.
        dash: A dash pattern of matplotlib; controls and variants of another method are dashed.
        variant_of: Name of the method that it varies.
        last: Whether it stands at the end of its group; else methods stand as they were registered.
        search: Name of the search that it runs, to which the arguments of searches go.
        holds_pruned: Whether pruned weights are held at other values than zero.
        best_at: Least and largest density at which its authors found it best; None where that is unknown.
    """

    label: str = ""
    about: str = ""
    group: str = "other"
    colour: str | None = None
    marker: str | None = None
    dash: Any = "solid"
    variant_of: str | None = None
    last: bool = False
    search: str | None = None
    holds_pruned: bool = False
    best_at: tuple[float, float] | None = None


DESCRIPTIONS: dict[str, Description] = {}
"""Name of a method → its description, in the order of registration."""


def describe(name: str, **description: Any) -> None:
    """Remember what a method is called and how it is shown.

    Args:
        name: As in results.
        description: Fields of `Description`.
    """
    DESCRIPTIONS[name] = Description(**{"label": name, **description})
