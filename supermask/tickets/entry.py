"""What a ticket says of each parameter, and how a file writes it."""

import math
from dataclasses import dataclass
from typing import Any

import torch

from supermask.io import DamagedFileError
from supermask.tickets.derivation import Derivation
from supermask.weights.init import Draw

FORMAT = "supermask/ticket"
VERSION = 2
"""The newest version of the format. A ticket of plain draws and stored values is written as version 1."""
DTYPES = {"F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32, "F64": torch.float64}
"""Types of parameters that can follow from a seed, by their names in the file."""
STORED_DTYPES = DTYPES | {
    "BOOL": torch.bool,
    "U8": torch.uint8,
    "I8": torch.int8,
    "I16": torch.int16,
    "I32": torch.int32,
    "I64": torch.int64,
}
"""Types of stored parameters."""
_DTYPE_NAMES = {dtype: name for name, dtype in STORED_DTYPES.items()}


class TicketError(DamagedFileError):
    """A ticket is damaged, hostile, of a newer version, or does not fit the model."""


@dataclass(frozen=True, eq=False)
class Entry:
    """One parameter of a ticket.

    Attributes:
        name: Qualified name.
        shape: Its shape.
        dtype: Its type.
        masked: Whether a mask applies.
        way: How its values follow from the seed; None where the file stores them.
    """

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    masked: bool
    way: Derivation | None

    @property
    def numel(self) -> int:
        return math.prod(self.shape)

    @property
    def draw(self) -> Draw | None:
        """The draw that its values follow from; None where the file stores them."""
        return self.way.draw if self.way else None


def version_of(entries: tuple[Entry, ...]) -> int:
    """The oldest version of the format that has all that `entries` say."""
    return 1 if all(entry.way is None or entry.way.plain for entry in entries) else 2


def entry_to_json(entry: Entry) -> dict[str, Any]:
    value: dict[str, Any] = {
        "name": entry.name,
        "shape": list(entry.shape),
        "dtype": _DTYPE_NAMES[entry.dtype],
        "masked": entry.masked,
    }
    if (way := entry.way) is not None:
        value |= {"scheme": way.draw.scheme, "scale": way.draw.scale}
        if not way.plain:
            value |= {"binary": way.draw.binary, "factor": way.draw.factor}
            value |= {"flipped": way.flips is not None, "redrawn": way.generations is not None}
    return value
