"""What a ticket file says of each parameter: written, and read back without trusting it."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from supermask import ops
from supermask.init import Draw, check_seed
from supermask.io import DamagedFileError

_DTYPES = {"F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32, "F64": torch.float64}
_DTYPE_NAMES = {dtype: name for name, dtype in _DTYPES.items()}
_SCHEMES = (*ops.SCHEMES, "constant")


class TicketError(DamagedFileError):
    """A ticket is damaged, hostile, of a newer version, or does not fit the model."""


@dataclass(frozen=True)
class Entry:
    """One parameter of a ticket: its draw from the seed, or None where the file stores values."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    masked: bool
    draw: Draw | None

    @property
    def numel(self) -> int:
        return math.prod(self.shape)


def seed_of_file(seed: Any) -> int:
    try:
        return check_seed(seed)
    except ValueError as error:
        raise TicketError(str(error)) from None


def entries_of_file(value: Any) -> list[Any]:
    if not isinstance(value, list) or not value:
        raise TicketError("its list of parameters is missing or empty")
    return value


def entry_to_json(entry: Entry) -> dict[str, Any]:
    value: dict[str, Any] = {
        "name": entry.name,
        "shape": list(entry.shape),
        "dtype": _DTYPE_NAMES[entry.dtype],
    }
    value["masked"] = entry.masked
    if entry.draw is not None:
        value |= {"scheme": entry.draw.scheme, "scale": entry.draw.scale}
    return value


def entry_from_json(value: Any) -> Entry:
    if not isinstance(value, dict) or not isinstance(value.get("name"), str):
        raise TicketError("an entry of its parameter list is not a named object")
    name, shape, dtype, masked = (
        value["name"],
        value.get("shape"),
        value.get("dtype"),
        value.get("masked"),
    )
    whole = isinstance(shape, list) and all(type(size) is int and 0 < size < 1 << 40 for size in shape)
    if not whole or len(shape) > 8 or dtype not in _DTYPES or not isinstance(masked, bool):  # type: ignore[arg-type]
        raise TicketError(f"parameter {name!r} has no sound shape, dtype and masked flag")
    draw = None
    if "scheme" in value:
        scheme, scale = value["scheme"], value.get("scale")
        sound = isinstance(scale, int | float) and not isinstance(scale, bool) and abs(scale) < 3e38
        if scheme not in _SCHEMES or not sound:
            raise TicketError(f"parameter {name!r} has an unknown scheme {scheme!r} or scale {scale!r}")
        draw = Draw(name, tuple(shape), masked, scheme, float(scale))  # type: ignore[arg-type]
    return Entry(name, tuple(shape), _DTYPES[dtype], masked, draw)  # type: ignore[arg-type]


def check_sizes(entries: tuple[Entry, ...], masks: dict[str, Tensor], values: dict[str, Tensor]) -> None:
    """Every mask and value present, of the right type and size, and none besides."""
    if masks.keys() != {entry.name for entry in entries if entry.masked}:
        raise TicketError("its masks are not those of its masked parameters")
    if values.keys() != {entry.name for entry in entries if entry.draw is None}:
        raise TicketError("its stored values are not those of the parameters without a scheme")
    for entry in entries:
        count = entry.numel
        if entry.masked:
            mask = masks[entry.name]
            if mask.dtype != torch.uint8 or tuple(mask.shape) != (-(-count // 8),):
                raise TicketError(f"the mask of {entry.name} has not the {-(-count // 8)} bytes of its shape")
            if count % 8 and int(mask[-1]) >> (count % 8):
                raise TicketError(f"the mask of {entry.name} has bits set past its end")
            count = int(ops.unpack_mask(mask, count).sum())
        if entry.draw is None:
            value = values[entry.name]
            expected = (count,) if entry.masked else entry.shape
            if value.dtype != entry.dtype or tuple(value.shape) != expected:
                raise TicketError(f"the stored values of {entry.name} have not the shape {expected}")
