"""Methods by name, as they described themselves where they were registered, and a sane look for any other."""

from collections.abc import Iterable
from itertools import product

from supermask import experiments as experiments  # registers all methods
from supermask.report.formatting import printable
from supermask.report.methods.method import GROUPS, Method
from supermask.report.methods.palette import FAMILIES
from supermask.search.description import DESCRIPTIONS, Description

LONGEST_LABEL = 32
"""Characters; a longer name would squeeze the figures."""

# No method of ours has one of these markers with one of these colours, so that no look is taken.
_SPARE_COLOURS = ("wine", "forest", "olive", "purple", "indigo")
_SPARE_MARKERS = ("h", "8", "<", ">", "*")
_SPARE_LOOKS = [
    (_SPARE_COLOURS[index], _SPARE_MARKERS[(index + turn) % len(_SPARE_MARKERS)])
    for turn, index in product(range(len(_SPARE_MARKERS)), range(len(_SPARE_COLOURS)))
]
_UNKNOWN = Description(about="Not described in this report.")


def methods_of(names: Iterable[str]) -> dict[str, Method]:
    """Name → method in the order of the table.

    Groups stand in the order of `GROUPS`; within one the methods in the order in which they were registered,
    each followed by its variants, then those that nobody registered, by name.

    Raises:
        ValueError: A method was registered with a group or a colour that there is none of.
    """
    wanted = sorted(set(names))
    place = {name: index for index, name in enumerate(DESCRIPTIONS)}
    found: dict[str, tuple[tuple[int, bool, int, bool, str], Method]] = {}
    spare = 0
    for name in wanted:
        description = DESCRIPTIONS.get(name, _UNKNOWN)
        root = _root(name)
        colour, marker = _look(name)
        if colour is None:
            colour, marker = _SPARE_LOOKS[spare % len(_SPARE_LOOKS)]
            spare += 1
        method = _method(name, description, colour, marker or "o")
        last = DESCRIPTIONS.get(root, _UNKNOWN).last
        order = (list(GROUPS).index(method.group), last, place.get(root, len(place)), root != name, name)
        found[name] = order, method
    return {name: method for name, (_, method) in sorted(found.items(), key=lambda item: item[1][0])}


def _root(name: str) -> str:
    """What `name` is a variant of in the end; itself as a rule."""
    seen = {name}
    while (parent := DESCRIPTIONS.get(name, _UNKNOWN).variant_of) is not None and parent not in seen:
        seen.add(parent)
        name = parent
    return name


def _look(name: str) -> tuple[str | None, str | None]:
    """Family and marker of a method: its own, else those of the method that it varies."""
    description = DESCRIPTIONS.get(name, _UNKNOWN)
    parent = DESCRIPTIONS.get(_root(name), _UNKNOWN)
    return description.colour or parent.colour, description.marker or parent.marker


def _method(name: str, description: Description, family: str, marker: str) -> Method:
    if description.group not in GROUPS:
        raise ValueError(
            f"method {name!r} is registered in the group {description.group!r}; take one of "
            f"{', '.join(GROUPS)}"
        )
    if family not in FAMILIES:
        raise ValueError(
            f"method {name!r} is registered with the colour {family!r}; take one of {', '.join(FAMILIES)}"
        )
    return Method(
        name=name,
        label=_short(description.label or name, description.variant_of),
        group=description.group,
        colour=FAMILIES[family][0],
        marker="" if description.group == "dense" else marker,
        about=description.about,
        dash=description.dash,
        holds_pruned=description.holds_pruned,
    )


def _short(label: str, variant_of: str | None) -> str:
    label = printable(label)
    if len(label) <= LONGEST_LABEL:
        return label
    return f"variant of {variant_of}" if variant_of else f"{label[: LONGEST_LABEL - 1]}…"
