"""Rows as columns of plain text."""

from collections.abc import Mapping, Sequence
from typing import Any


def print_columns(rows: Sequence[Mapping[str, Any]], titled: bool = False) -> None:
    """Print rows with the same keys as columns, with their keys above if `titled`."""
    lines = [[*map(str, row.values())] for row in rows]
    if titled and rows:
        lines.insert(0, [*map(str, rows[0])])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    for line in lines:
        print("  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip())
