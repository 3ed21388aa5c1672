"""Numbers as people read them: the same words on the terminal, in the figures and on the page."""

import math
from collections.abc import Mapping
from typing import Any

NONE = "–"
"""Stands where there is nothing to say, so that an empty cell is never mistaken for a lost number."""


def percent(fraction: float | None, decimals: int = 1) -> str:
    """0.9713 → `97.1`; the sign is left to the sentence or the heading."""
    return NONE if fraction is None else f"{100 * fraction:.{decimals}f}"


def over_seeds(entry: Mapping[str, Any]) -> str:
    """A mean in percent and, of several seeds, the least and the largest: `97.10 (96.84–97.31)`."""
    extremes = f" ({percent(entry['min'], 2)}–{percent(entry['max'], 2)})" if entry["n"] > 1 else ""
    return percent(entry["mean"], 2) + extremes


def points(difference: float | None) -> str:
    """A difference of two accuracies in percentage points: `+0.28`, `−1.40`."""
    if difference is None:
        return NONE
    rounded = round(100 * difference, 2) + 0.0  # adding zero turns −0.0 into 0.0
    return f"{rounded:+.2f}".replace("-", "−")


def density_text(density: float) -> str:
    """0.327680 → `0.328`; what is not 1 never reads as 1."""
    text = f"{density:.3g}"
    return text if float(text) != 1 or density == 1 else repr(density)


def sparsity_text(density: float) -> str:
    """The share of weights that is gone, for the parentheses beside a density: 0.3 → `70 %`."""
    return f"{100 * (1 - density):.4g} %"


def count_text(count: float | None) -> str:
    return NONE if count is None else f"{round(count):,}"


def large_count_text(count: float | None) -> str:
    """Three digits with a unit of a thousand or more: 4089184 → `4.09 M`."""
    if count is None:
        return NONE
    if count < 999.5:
        return f"{count:.0f}"
    power = 1 if count < 999.5e3 else 2 if count < 999.5e6 else 3
    return f"{_three_digits(count / 1000**power)} {('k', 'M', 'G')[power - 1]}"


def bytes_text(count: float | None) -> str:
    """Decimal units, three digits: 33412 → `33.4 kB`."""
    if count is None:
        return NONE
    if count < 999.5:
        return f"{count:.0f} B"
    return f"{large_count_text(count)}B"


def ratio_text(ratio: float | None) -> str:
    """Dense bytes over ticket bytes: `31.9×`."""
    return NONE if ratio is None else f"{_three_digits(ratio)}×"


def duration_text(seconds: float | None) -> str:
    if seconds is None:
        return NONE
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min"


def value_text(value: Any) -> str:
    """A value of the configuration, as one would type it."""
    if value is None or value == "" or value == [] or value == () or value == {}:
        return NONE
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Mapping):
        return ", ".join(f"{key}={value_text(item)}" for key, item in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(value_text(item) for item in value)
    return str(value)


def printable(text: Any) -> str:
    """`text` without control characters, which neither XML nor a terminal should be handed."""
    return "".join(
        character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in str(text)
    )


def _three_digits(value: float) -> str:
    """Three significant digits without an exponent; trailing zeros stay, so that columns align."""
    whole = max(1, math.floor(math.log10(value)) + 1) if value > 0 else 1
    return f"{value:.{max(0, 3 - whole)}f}"
