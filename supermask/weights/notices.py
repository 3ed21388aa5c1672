"""Warnings about models that will not do what their owner expects, each with a remedy.

They point at the first line outside this library, so that Python's default filter shows each once for each
place in the user's code.
"""

import os
import sys
import warnings

_PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep


class FrozenNoiseWarning(UserWarning):
    """Matrices that no rule knows were drawn at random, and no search moves them."""


class NotDrawnWarning(UserWarning):
    """A search begins on weights that do not follow from a seed."""


class OtherDensityWarning(UserWarning):
    """Weights were scaled for another density than that of the search."""


class FrozenParameterWarning(UserWarning):
    """A search stops the gradient of a parameter that somebody wanted to train."""


class ChangedNetworkWarning(UserWarning):
    """A network is not what the factory that it remembers builds."""


def tell(message: str, category: type[Warning]) -> None:
    """Warn, at the line outside this library that called it."""
    level, frame = 2, sys._getframe(1)
    while frame.f_back is not None and os.path.abspath(frame.f_code.co_filename).startswith(_PACKAGE):
        level, frame = level + 1, frame.f_back
    warnings.warn(message, category, stacklevel=level)


def first_of(names: list[str], count: int = 4) -> str:
    """The first few names, for a message."""
    more = f" and {len(names) - count} more" if len(names) > count else ""
    return ", ".join(names[:count]) + more
