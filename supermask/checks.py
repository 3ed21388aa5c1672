"""What arguments are, asked alike everywhere: text breaks a comparison, and NaN passes some."""

import math
from collections.abc import Mapping
from numbers import Integral, Real
from typing import Any, TypeGuard

MOST_PIXELS = 4096
"""Height and width that images can have."""


def is_number(value: object) -> TypeGuard[int | float]:
    """Whether it is a finite number, of NumPy or a `Fraction` as well; truth values are no numbers."""
    return not isinstance(value, bool) and isinstance(value, Real) and math.isfinite(value)


def is_count(value: object, least: int = 0) -> TypeGuard[int]:
    """Whether it is a whole number of `least` or more, as in `is_number`; truth values are no numbers."""
    return not isinstance(value, bool) and isinstance(value, Integral) and int(value) >= least


def check_mapping(value: object, what: str) -> Mapping[str, Any]:
    """`value` itself.

    Args:
        value: What should map names of parameters to something.
        what: The subject of the message, with what is wanted: `a mask maps names to bool tensors`.

    Raises:
        TypeError: It is no mapping.
    """
    if not isinstance(value, Mapping):
        raise TypeError(f"{what}, and cannot be a {type(value).__name__}")
    return value
