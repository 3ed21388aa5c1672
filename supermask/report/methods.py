"""How each method is called, grouped and drawn. A method that nobody listed here still gets a sane look."""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import cycle
from typing import Any

from supermask.report.text import printable
from supermask.search import SEARCHES

GROUPS = {
    "dense": "Dense network",
    "strong": "Strong tickets: weights never trained",
    "trained": "Trained tickets: magnitude pruning",
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
        dash: A dash pattern of matplotlib; controls are dashed.
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
        return self.group in ("strong", "trained", "other")


# Hues of Okabe and Ito, which colour-blind readers can tell apart; the controls are greys that differ in
# lightness, marker and dashes. Warm is "weights never trained", cool is "weights trained".
KNOWN = (
    Method("dense", "dense", "dense", "#15191e", "", "Every weight, trained as usual."),
    Method(
        "edge-popup", "edge-popup", "strong", "#d55e00", "o",
        "A mask searched over frozen random weights: scores are learned, weights never are.",
    ),
    Method(
        "imp", "IMP", "trained", "#0072b2", "s",
        "Iterative magnitude pruning: train, prune the smallest weights, go back to initialization, repeat.",
    ),
    Method(
        "imp-rewind", "IMP with rewind", "trained", "#56b4e9", "D",
        "IMP that goes back to an early step of training instead of initialization.",
    ),
    Method(
        "lr-rewind", "IMP with learning-rate rewind", "trained", "#009e73", "p",
        "IMP that keeps the trained weights and restarts only the learning-rate schedule.",
    ),
    Method(
        "one-shot", "one-shot", "trained", "#cc79a7", "^",
        "The trained dense network pruned once to the density, then trained again from initialization.",
    ),
    Method(
        "reinit", "reinit", "control", "#59636e", "v",
        "The mask of the IMP ticket on newly drawn weights, trained.", (0, (4, 1.6)),
    ),
    Method(
        "random-mask", "random mask", "control", "#87909a", "X",
        "A random mask of the same density, trained.", (0, (1.2, 1.4)),
    ),
    Method(
        "shuffled-mask", "shuffled mask", "control", "#a59c8a", "P",
        "The mask of the IMP ticket shuffled within each layer, trained.", (0, (4, 1.4, 1.2, 1.4)),
    ),
    Method(
        "random-mask-frozen", "random mask, frozen weights", "control", "#a97f5f", "d",
        "A random mask on the frozen weights that edge-popup searches; nothing is trained.", (0, (6, 2.4)),
    ),
)  # fmt: skip

DARK = {
    "#15191e": "#eef1f4",
    "#d55e00": "#ff8b45",
    "#0072b2": "#58acf0",
    "#56b4e9": "#a5dcff",
    "#009e73": "#35c79c",
    "#cc79a7": "#e3a0c6",
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

_SPARE_COLOURS = ("#882255", "#117733", "#999933", "#aa4499", "#332288")
_SPARE_MARKERS = ("h", "8", "<", ">", "*")
LONGEST_LABEL = 32
"""Characters; a longer name would squeeze the figures."""


def methods_of(names: Iterable[str]) -> dict[str, Method]:
    """Name → method in the order of the table: by group, known ones as listed above, new ones by name."""
    wanted = set(names)
    found = [method for method in KNOWN if method.name in wanted]
    strange = sorted(wanted - {method.name for method in found})
    looks = zip(cycle(_SPARE_COLOURS), cycle(_SPARE_MARKERS), strict=False)
    found += [_unlisted(name, *look) for name, look in zip(strange, looks, strict=False)]
    groups = list(GROUPS)
    found.sort(key=lambda method: groups.index(method.group))  # stable: keeps the order within a group
    return {method.name: method for method in found}


def _unlisted(name: str, colour: str, marker: str) -> Method:
    label = printable(name)
    if len(label) > LONGEST_LABEL:
        label = f"{label[: LONGEST_LABEL - 1]}…"
    if name in SEARCHES:
        about = "A mask searched over frozen random weights; the weights are never trained."
        return Method(name, label, "strong", colour, marker, about)
    return Method(name, label, "other", colour, marker, "Not described in this report.")
