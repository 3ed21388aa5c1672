"""Methods by name: those of `method_table`, variants of them, and a sane look for any other."""

import dataclasses
from collections.abc import Iterable
from itertools import product
from typing import Any

from supermask.prune import criterion_names
from supermask.report.formatting import printable
from supermask.report.methods.method import GROUPS, Method
from supermask.report.methods.method_table import KNOWN
from supermask.search import SEARCHES

LONGEST_LABEL = 32
"""Characters; a longer name would squeeze the figures."""

_BY_NAME = {method.name: method for method in KNOWN}
_SIGNS: dict[str, tuple[str, str, Any, str]] = {
    "-same-sign": (", same sign", "^", (0, (5, 1.3)), "left as it was"),
    "-diff-sign": (", new sign", "v", (0, (1.4, 1.2)), "changed"),
}
"""Suffix of a criterion → end of its label, marker, dashes, and what training did to the sign."""
_FINE_TUNED = "-fine-tuned"
_ITERATIVE = ("imp-rewind", "imp", "lr-rewind")
_ACTIONS = {
    "pruned-at-final": "pruned weights stand at their trained values",
    "pruned-at-init": "pruned weights stand at their initial values",
    "pruned-at-init-unless-shrunk": "pruned weights stand at zero if training shrank them, else at their "
    "initial values",
    "kept-signs": "kept weights go back to their signs alone, times one constant for each layer",
}
"""What iterative pruning may do otherwise with weights: ends of its name, in the order they are taken off."""

# No known method has one of these markers, so that no look of an unlisted method is taken.
_SPARE_COLOURS = ("#882255", "#117733", "#999933", "#aa4499", "#332288")
_SPARE_MARKERS = ("h", "8", "<", ">", "*")
_SPARE_LOOKS = [
    (_SPARE_COLOURS[index], _SPARE_MARKERS[(index + turn) % len(_SPARE_MARKERS)])
    for turn, index in product(range(len(_SPARE_MARKERS)), range(len(_SPARE_COLOURS)))
]


def methods_of(names: Iterable[str]) -> dict[str, Method]:
    """Name → method in the order of the table.

    Groups stand in the order of `GROUPS`; within one the methods in the order in which they are listed, each
    followed by its variants, then those that nobody listed, by name.
    """
    wanted = sorted(set(names))
    order = [method.name for method in KNOWN]
    found: dict[str, tuple[tuple[int, int, str], Method]] = {}
    strange = 0
    for name in wanted:
        base, method = _described(name)
        if method is None:
            method = _unlisted(name, *_SPARE_LOOKS[strange % len(_SPARE_LOOKS)])
            strange += 1
        rank = order.index(base) if base in order else len(order)
        found[name] = (list(GROUPS).index(method.group), rank, name), method
    return {name: method for name, (_, method) in sorted(found.items(), key=lambda item: item[1][0])}


def _described(name: str) -> tuple[str, Method | None]:
    """The method that `name` is a variant of, itself as a rule, and what is known of it."""
    if name in _BY_NAME:
        return name, _BY_NAME[name]
    if (base := name.removesuffix(_FINE_TUNED)) != name:
        return base, _fine_tuned(name, base)
    for base in _ITERATIVE:
        if name.startswith(f"{base}-") and (method := _varied(name, base)) is not None:
            return base, method
    for suffix in _SIGNS:
        if (base := name.removesuffix(suffix)) != name:
            return base, _split_by_sign(name, base, suffix)
    return name, None


def _fine_tuned(name: str, base: str) -> Method | None:
    """The ticket of a search, its weights trained under its mask."""
    if base not in _BY_NAME:
        return None
    parent = _BY_NAME[base]
    return dataclasses.replace(
        parent,
        name=name,
        label=f"{parent.label}, fine-tuned",
        group="fine-tuned",
        about=f"The mask that {parent.label} found on frozen weights, then the weights trained under it.",
        dash=(0, (7, 1.5)),
    )


def _split_by_sign(name: str, base: str, suffix: str) -> Method | None:
    """A mask criterion for the weights whose sign training changed, or left."""
    if base == "large-final":  # by itself it is magnitude pruning
        parent = dataclasses.replace(
            _BY_NAME["one-shot"], label="large final", about="Keeps the largest trained weights."
        )
    elif base in _BY_NAME:
        parent = _BY_NAME[base]
    else:
        return None
    label, marker, dash, sign = _SIGNS[suffix]
    return dataclasses.replace(
        parent,
        name=name,
        label=parent.label.removeprefix("magnitude ").replace("initial", "init.") + label,
        group="criteria",
        marker=marker,
        about=f"{parent.about.removesuffix('.')}; only weights whose sign training {sign} come in question.",
        dash=dash,
    )


def _varied(name: str, base: str) -> Method | None:
    """Iterative pruning by another criterion, or with other values of what is pruned or kept."""
    criterion = name.removeprefix(f"{base}-")
    labels: list[str] = []
    changes: list[str] = []
    for action, change in _ACTIONS.items():
        if criterion == action or criterion.endswith(f"-{action}"):
            criterion = criterion.removesuffix(action).removesuffix("-")
            labels.insert(0, _BY_NAME[action].label)
            changes.insert(0, change)
    if criterion:
        if criterion not in criterion_names():
            return None
        labels.insert(0, criterion)
        changes.insert(0, f"the weights that stay are chosen by the criterion {criterion}")
    parent = _BY_NAME[base]
    label = ", ".join([parent.label, *labels])
    return dataclasses.replace(
        parent,
        name=name,
        label=label if len(label) <= LONGEST_LABEL else f"variant of {base}",
        about=f"{parent.label} in which {', and '.join(changes)}.",
        dash=(0, (3, 1.2)),
    )


def _unlisted(name: str, colour: str, marker: str) -> Method:
    label = printable(name)
    if len(label) > LONGEST_LABEL:
        label = f"{label[: LONGEST_LABEL - 1]}…"
    if name in SEARCHES:
        about = "A mask searched over frozen random weights; the weights are never trained."
        return Method(name, label, "strong", colour, marker, about)
    if name.removesuffix(_FINE_TUNED) in SEARCHES:
        about = "A mask searched over frozen random weights, then the weights trained under it."
        return Method(name, label, "fine-tuned", colour, marker, about)
    return Method(name, label, "other", colour, marker, "Not described in this report.")
