"""What a ticket says of each parameter, and what kinds of tensors a ticket can hold."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from supermask.io import DamagedFileError, is_text
from supermask.tickets.derivation import Derivation
from supermask.weights.init import Draw
from supermask.weights.names import buffers_of, parameters_of, unwrap

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
"""Types of stored parameters and of buffers."""
DTYPE_NAMES = {dtype: name for name, dtype in STORED_DTYPES.items()}
MAX_DIMENSIONS = 32
"""Of a parameter or buffer: what every NumPy reads."""


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
        derivation: How its values follow from the seed; None where the file stores them.
    """

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    masked: bool
    derivation: Derivation | None

    @property
    def numel(self) -> int:
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of its effective values in memory."""
        return self.numel * self.dtype.itemsize

    @property
    def draw(self) -> Draw | None:
        """The draw that its values follow from; None where the file stores them."""
        return self.derivation.draw if self.derivation else None


def persistent_buffers(model: nn.Module) -> dict[str, Tensor]:
    """Name → buffer, of those that a state dict holds."""
    return buffers_of(model)


def check_storable(model: nn.Module, values: bool = True) -> None:
    """Refuse, by name, a parameter or persistent buffer that no ticket can hold.

    Args:
        model: Any module.
        values: Refuse what is on the meta device, too, which has no values.

    Raises:
        ValueError: One is without values, not dense, of a type outside `STORED_DTYPES`, of more than
            `MAX_DIMENSIONS` dimensions, or has a name that is not text.
    """
    inner = unwrap(model)
    for kind, tensors in (
        ("parameter", parameters_of(inner)),
        ("buffer", persistent_buffers(inner)),
    ):
        for name, tensor in tensors.items():
            obstacle = _obstacle(name, tensor)
            if values and tensor.is_meta:
                obstacle = "is on the meta device, without values; call model.to_empty(device='cpu') first"
            if obstacle:
                raise ValueError(f"{kind} {name!r} {obstacle}")


def _obstacle(name: str, tensor: Tensor) -> str | None:
    """Why no ticket can hold it, and what to do."""
    if tensor.layout != torch.strided:
        return f"is {tensor.layout}, and a ticket holds dense tensors; make it dense"
    if tensor.dtype not in DTYPE_NAMES:
        kinds = ", ".join(str(dtype).removeprefix("torch.") for dtype in DTYPE_NAMES)
        return f"is of type {tensor.dtype}, and a ticket holds {kinds}; cast it"
    if tensor.dim() > MAX_DIMENSIONS:
        return f"has {tensor.dim()} dimensions, and a ticket holds up to {MAX_DIMENSIONS}; reshape it"
    return None if is_text(name) else "has a name that UTF-8 cannot write; rename it"
