"""A finding: a measured number, why it matters, and the command that tests the remedy."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """Something that stands out.

    Attributes:
        kind: Which rule found it.
        size: How far beyond its threshold it is, to name the worst of several.
        measured: A sentence with the number.
        why: Why it matters, and what to try.
        command: A command line that tries it.
        others: Further runs of which the same was found.
    """

    kind: str
    size: float
    measured: str
    why: str
    command: str
    others: int = 0
