"""A ticket file back to what a ticket holds, without trusting anything in it."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from supermask import ops
from supermask.tickets.derivation import Derivation, generation_numbers
from supermask.tickets.entry import DTYPES, FORMAT, STORED_DTYPES, VERSION, Entry, TicketError, version_of
from supermask.weights.init import GENERATOR, Draw, check_seed

MAX_DIGITS = 12
"""Binary digits of a generation number: a reader draws the whole parameter for each number in the file."""
DRAWS_PER_PARAMETER = 16
"""Draws that a file may ask for, as a multiple of the largest network that is accepted."""
_SCHEMES = (*ops.SCHEMES, "constant")
_KINDS = ("mask", "value", "buffer", "flip", "generation")

Tensors = Mapping[str, dict[str, Tensor]]
"""Kind → name of parameter or buffer → tensor."""


def parse(tensors: Mapping[str, Tensor], header: Mapping[str, Any], max_parameters: int) -> dict[str, Any]:
    """The arguments of `Ticket` from the tensors and the header of a file.

    Raises:
        TicketError: The file does not hold what it should, or asks for too much; the message says what.
    """
    version = header.get("version")
    if header.get("format") != FORMAT:
        raise TicketError("this is not a supermask ticket")
    if type(version) is not int or not 1 <= version <= VERSION or header.get("generator") != GENERATOR:
        raise TicketError(
            f"it has version {version!r} and generator {header.get('generator')!r}; "
            f"this library reads versions 1 to {VERSION} with {GENERATOR}"
        )
    try:
        seed = check_seed(header.get("seed"))  # type: ignore[arg-type]
    except ValueError as error:
        raise TicketError(str(error)) from None
    declared = header.get("parameters")
    if not isinstance(declared, list) or not declared:
        raise TicketError("its list of parameters is missing or empty")
    groups = _by_kind(tensors)
    entries = tuple(_entry(value, groups) for value in declared)
    _check_budget(entries, max_parameters)
    _check_tensors(entries, groups)
    _check_draws(entries, groups["mask"], max_parameters)
    if version_of(entries) > version:
        raise TicketError(f"it is of version {version} and has entries of version {version_of(entries)}")
    init, factory = header.get("init"), header.get("factory")
    provenance = header.get("provenance") or {}
    if not isinstance(init, str) or not isinstance(provenance, dict):
        raise TicketError("its init or provenance is not of the right kind")
    if factory is not None and not isinstance(factory, dict):
        raise TicketError("its factory is not a JSON object")
    return {
        "entries": entries,
        "seed": seed,
        "init": init,
        "masks": groups["mask"],
        "values": groups["value"],
        "buffers": groups["buffer"],
        "factory": factory,
        "provenance": provenance,
    }


def _by_kind(tensors: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    groups: dict[str, dict[str, Tensor]] = {kind: {} for kind in _KINDS}
    for key, tensor in tensors.items():
        kind, _, name = key.partition("/")
        if kind not in groups or not name:
            raise TicketError(f"it holds an unknown tensor {key!r}")
        groups[kind][name] = tensor
    return groups


def _entry(value: Any, tensors: Tensors) -> Entry:
    if not isinstance(value, dict) or not isinstance(value.get("name"), str):
        raise TicketError("an entry of its parameter list is not a named object")
    name, shape, dtype, masked = (
        value["name"],
        value.get("shape"),
        value.get("dtype"),
        value.get("masked"),
    )
    whole = isinstance(shape, list) and all(type(size) is int and 0 < size < 1 << 40 for size in shape)
    known = DTYPES if "scheme" in value else STORED_DTYPES
    if not whole or len(shape) > 8 or dtype not in known or not isinstance(masked, bool):  # type: ignore[arg-type]
        raise TicketError(f"parameter {name!r} has no sound shape, dtype and masked flag")
    way = None
    if "scheme" in value:
        way = _way(value, name, tuple(shape), masked, tensors)  # type: ignore[arg-type]
    elif value.keys() & {"binary", "factor", "flipped", "redrawn"}:
        raise TicketError(f"parameter {name!r} is stored, and yet said to vary a draw")
    return Entry(name, tuple(shape), known[dtype], masked, way)  # type: ignore[arg-type]


def _way(
    value: dict[str, Any], name: str, shape: tuple[int, ...], masked: bool, tensors: Tensors
) -> Derivation:
    scheme, scale = value["scheme"], value.get("scale")
    if scheme not in _SCHEMES or not _is_number(scale):
        raise TicketError(f"parameter {name!r} has an unknown scheme {scheme!r} or scale {scale!r}")
    factor = value.get("factor", 1.0)
    binary, flipped, redrawn = (value.get(key, False) for key in ("binary", "flipped", "redrawn"))
    flags_are_bools = all(isinstance(flag, bool) for flag in (binary, flipped, redrawn))
    if not flags_are_bools or not _is_number(factor) or factor <= 0:
        raise TicketError(
            f"parameter {name!r} has no sound factor and flags: factor {factor!r}, binary {binary!r}, "
            f"flipped {flipped!r}, redrawn {redrawn!r}"
        )
    if (flipped or redrawn) and not masked:
        raise TicketError(f"parameter {name!r} has no mask, so no kept weights to be flipped or redrawn")
    draw = Draw(name, shape, masked, scheme, float(scale), binary, float(factor))  # type: ignore[arg-type]
    flips = _wanted(tensors["flip"], name, "inverted signs") if flipped else None
    generations = _wanted(tensors["generation"], name, "generations") if redrawn else None
    return Derivation(draw, flips, generations)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 3e38


def _wanted(group: dict[str, Tensor], name: str, what: str) -> Tensor:
    if name not in group:
        raise TicketError(f"it lacks the {what} of {name}")
    return group[name]


def _check_budget(entries: tuple[Entry, ...], max_parameters: int) -> None:
    if len({entry.name for entry in entries}) != len(entries):
        raise TicketError("it names a parameter twice")
    stored = sum(entry.numel for entry in entries if entry.masked or entry.way is None)
    total = sum(entry.numel for entry in entries)
    # What is drawn or constant without a mask takes no bytes, so it is held to what does take some.
    if total > max_parameters or total - stored > max(1 << 24, 64 * stored):
        raise TicketError(f"it declares more parameters ({total}) than a file of its size should")


def _check_tensors(entries: tuple[Entry, ...], tensors: Tensors) -> None:
    """Every tensor that the entries ask for present, of the right type and size, and none besides."""
    if tensors["mask"].keys() != {entry.name for entry in entries if entry.masked}:
        raise TicketError("its masks are not those of its masked parameters")
    if tensors["value"].keys() != {entry.name for entry in entries if entry.way is None}:
        raise TicketError("its stored values are not those of the parameters without a scheme")
    ways = {entry.name: entry.way for entry in entries if entry.way}
    if tensors["flip"].keys() != {name for name, way in ways.items() if way.flips is not None}:
        raise TicketError("its inverted signs are not those of its flipped parameters")
    if tensors["generation"].keys() != {name for name, way in ways.items() if way.generations is not None}:
        raise TicketError("its generations are not those of its redrawn parameters")
    for entry in entries:
        count = entry.numel
        if entry.masked:
            mask = tensors["mask"][entry.name]
            _check_bits(mask, count, f"the mask of {entry.name}")
            count = int(ops.unpack_mask(mask, count).sum())
        if entry.way is None:
            _check_values(entry, tensors["value"][entry.name], count)
            continue
        if entry.way.flips is not None:
            _check_bits(entry.way.flips, count, f"the list of inverted signs of {entry.name}")
        if entry.way.generations is not None:
            _check_generations(entry.name, entry.way.generations, count)


def _check_values(entry: Entry, values: Tensor, count: int) -> None:
    shape = (count,) if entry.masked else entry.shape
    if values.dtype != entry.dtype or tuple(values.shape) != shape:
        raise TicketError(f"the stored values of {entry.name} have not the shape {shape}")


def _check_bits(bits: Tensor, count: int, what: str) -> None:
    if bits.dtype != torch.uint8 or tuple(bits.shape) != (-(-count // 8),):
        raise TicketError(f"{what} has not the {-(-count // 8)} bytes of its shape")
    if count % 8 and int(bits[-1]) >> (count % 8):
        raise TicketError(f"{what} has bits set past its end")


def _check_generations(name: str, planes: Tensor, count: int) -> None:
    if planes.dim() != 2 or not 0 < len(planes) <= MAX_DIGITS:
        raise TicketError(f"the generations of {name} are not 1 to {MAX_DIGITS} rows of bits")
    for plane in planes:
        _check_bits(plane, count, f"the generations of {name}")


def _check_draws(entries: tuple[Entry, ...], masks: Mapping[str, Tensor], max_parameters: int) -> None:
    """Bound the work: each generation that occurs in a parameter is a draw of the whole parameter."""
    total = 0
    for entry in entries:
        times = 1
        if entry.way and entry.way.generations is not None:
            kept = int(ops.unpack_mask(masks[entry.name], entry.numel).sum())
            times += len(generation_numbers(entry.way.generations, kept).unique())
        total += times * math.prod(entry.shape)
    if total > DRAWS_PER_PARAMETER * max_parameters:
        raise TicketError(
            f"it asks for {total} draws, more than a network of its size should; raise max_parameters if "
            "you trust it"
        )
