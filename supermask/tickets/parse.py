"""A ticket file back to what a ticket holds, without trusting anything in it."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from supermask import ops
from supermask.io import is_text
from supermask.tickets.bounds import Bounds
from supermask.tickets.container import VERSION
from supermask.tickets.derivation import LARGEST, MAX_DIGITS, Derivation
from supermask.tickets.entry import (
    DTYPE_NAMES,
    DTYPES,
    MAX_DIMENSIONS,
    STORED_DTYPES,
    Entry,
    TicketError,
)
from supermask.tickets.provenance import plain_json
from supermask.weights.init import GENERATOR, Draw, check_seed

_SCHEMES = (*ops.SCHEMES, "constant")
_KINDS = ("mask", "coded", "value", "buffer", "flip", "generation")
_KEYS = {"format", "version", "generator", "seed", "init", "parameters", "sha256", "factory", "provenance"}
_STORED_KEYS = {"name", "shape", "dtype", "masked"}
_DRAWN_KEYS = _STORED_KEYS | {"scheme", "scale"}
_VARIED_KEYS = {"binary", "factor", "flipped", "redrawn"}
_ZERO_ROW = {"zero_row"}

Tensors = Mapping[str, dict[str, Tensor]]
"""Kind → name of parameter or buffer → tensor."""


def parse(
    tensors: Mapping[str, Tensor], header: Mapping[str, Any], max_parameters: int | None = None
) -> dict[str, Any]:
    """The arguments of `Ticket` from the tensors and the header of a file.

    Args:
        tensors: Name in the file → tensor.
        header: The header, of the right format.
        max_parameters: The largest network that is accepted; None for what the size of the file allows.

    Raises:
        TicketError: The file does not hold what it should, or asks for too much; the message says what.
    """
    version = _check_version(header)
    declared = header.get("parameters")
    if not isinstance(declared, list) or not declared:
        raise TicketError("its list of parameters is missing or empty")
    groups = _by_kind(tensors)
    entries = tuple(_entry(value, groups, version) for value in declared)
    if len({entry.name for entry in entries}) != len(entries):
        raise TicketError("it names a parameter twice")
    stored = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    bounds = Bounds.of_file(stored) if max_parameters is None else Bounds.of_trust(max_parameters)
    bounds.check_sizes(entries)
    masks = _masks(entries, groups, version)
    kept = _check_tensors(entries, masks, groups)
    bounds.check_draws(entries, kept)
    return {
        "entries": entries,
        "masks": masks,
        "values": groups["value"],
        "buffers": groups["buffer"],
        "version": version,
        **_facts(header),
    }


def _check_version(header: Mapping[str, Any]) -> int:
    version, generator = header.get("version"), header.get("generator")
    if type(version) is not int or not 1 <= version <= VERSION or generator != GENERATOR:
        raise TicketError(
            f"it has version {version!r:.40} and generator {generator!r:.40}; "
            f"this library reads versions 1 to {VERSION} with {GENERATOR}"
        )
    if other := header.keys() ^ (_KEYS | {"digest"} if version >= 3 else _KEYS):
        raise TicketError(f"its header lacks, or has beside what it should, {', '.join(sorted(other))!r:.80}")
    return version


def _facts(header: Mapping[str, Any]) -> dict[str, Any]:
    """Seed, init, factory and provenance."""
    init, factory, provenance = header["init"], header["factory"], header["provenance"]
    if not isinstance(init, str) or not isinstance(provenance, dict):
        raise TicketError("its init or provenance is not of the right kind")
    if factory is not None and not isinstance(factory, dict):
        raise TicketError("its factory is not a JSON object")
    try:
        return {
            "seed": check_seed(header["seed"]),
            "init": plain_json(init, "its init"),
            "factory": plain_json(factory, "its factory"),
            "provenance": plain_json(provenance, "its provenance"),
        }
    except ValueError as error:
        raise TicketError(str(error)) from None


def _by_kind(tensors: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    groups: dict[str, dict[str, Tensor]] = {kind: {} for kind in _KINDS}
    for key, tensor in tensors.items():
        kind, _, name = key.partition("/")
        if kind not in groups or not name:
            raise TicketError(f"it holds an unknown tensor {key!r:.80}")
        groups[kind][name] = tensor
    return groups


def _entry(value: Any, tensors: Tensors, version: int) -> Entry:
    if not isinstance(value, dict) or not isinstance(value.get("name"), str) or not is_text(value["name"]):
        raise TicketError("an entry of its parameter list is not a named object")
    shape: Any = value.get("shape")
    dtype: Any = value.get("dtype")
    name, masked = value["name"], value.get("masked")
    types = DTYPES if version < 3 or "scheme" in value else STORED_DTYPES
    typed = isinstance(dtype, str) and dtype in types
    if not _is_shape(shape) or not typed or not isinstance(masked, bool):
        raise TicketError(f"parameter {name!r:.80} has no sound shape, dtype and masked flag")
    if "scheme" not in value and value.keys() & (_VARIED_KEYS | _ZERO_ROW):
        raise TicketError(f"parameter {name!r:.80} is stored, and yet said to vary a draw")
    keys = _STORED_KEYS if "scheme" not in value else _DRAWN_KEYS
    if value.keys() - _ZERO_ROW not in (keys, keys | _VARIED_KEYS) or (version < 3 and "zero_row" in value):
        raise TicketError(f"parameter {name!r:.80} is not described by the keys that it should be")
    if version < 2 and value.keys() & _VARIED_KEYS:
        raise TicketError("it is of version 1 and has entries of version 2")
    derivation = _derivation(value, tuple(shape), tensors) if "scheme" in value else None
    return Entry(name, tuple(shape), types[dtype], masked, derivation)


def _is_shape(value: Any) -> bool:
    return (
        isinstance(value, list)
        and len(value) <= MAX_DIMENSIONS
        and all(type(size) is int and 0 <= size < 1 << 40 for size in value)
    )


def _derivation(value: dict[str, Any], shape: tuple[int, ...], tensors: Tensors) -> Derivation:
    name, masked, scheme, scale = value["name"], value["masked"], value["scheme"], value.get("scale")
    if scheme not in _SCHEMES or not _is_number(scale):
        raise TicketError(
            f"parameter {name!r:.80} has an unknown scheme {scheme!r:.40} or scale {scale!r:.40}"
        )
    factor = value.get("factor", 1.0)
    binary, flipped, redrawn = (value.get(key, False) for key in ("binary", "flipped", "redrawn"))
    flags_are_bools = all(isinstance(flag, bool) for flag in (binary, flipped, redrawn))
    if not flags_are_bools or not _is_number(factor) or factor <= 0:
        raise TicketError(
            f"parameter {name!r:.80} has no sound factor and flags: factor {factor!r:.40}, binary "
            f"{binary!r:.40}, flipped {flipped!r:.40}, redrawn {redrawn!r:.40}"
        )
    if (flipped or redrawn) and not masked:
        raise TicketError(f"parameter {name!r:.80} has no mask, so no kept weights to be flipped or redrawn")
    zero_row = _zero_row(value, shape)
    draw = Draw(name, shape, masked, scheme, float(scale), binary, float(factor), zero_row)  # type: ignore[arg-type]
    flips = _wanted(tensors["flip"], name, "inverted signs") if flipped else None
    generations = _wanted(tensors["generation"], name, "generations") if redrawn else None
    return Derivation(draw, flips, generations)


def _zero_row(value: dict[str, Any], shape: tuple[int, ...]) -> int | None:
    if "zero_row" not in value:
        return None
    row = value["zero_row"]
    if type(row) is not int or not shape or not 0 <= row < shape[0]:
        raise TicketError(
            f"parameter {value['name']!r:.80} has a zero_row, {row!r:.40}, that is none of its rows"
        )
    return row


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < LARGEST


def _wanted(group: dict[str, Tensor], name: str, what: str) -> Tensor:
    if name not in group:
        raise TicketError(f"it lacks the {what} of {name}")
    return group[name]


def _masks(entries: tuple[Entry, ...], tensors: Tensors, version: int) -> dict[str, Tensor]:
    """Name → packed bits, in the order of the entries, from masks in bits and coded ones."""
    plain, coded = tensors["mask"], tensors["coded"]
    wanted = {entry.name for entry in entries if entry.masked}
    if plain.keys() | coded.keys() != wanted or plain.keys() & coded.keys() or (coded and version < 3):
        raise TicketError("its masks are not those of its masked parameters")
    masks = {}
    for entry in entries:
        what = f"the mask of {entry.name}"
        if entry.name in plain:
            _check_bits(plain[entry.name], entry.numel, what)
            masks[entry.name] = plain[entry.name]
        elif entry.name in coded:
            try:
                masks[entry.name] = ops.pack_mask(ops.decode_mask(coded[entry.name], entry.numel))
            except ValueError as error:
                raise TicketError(f"{what} is not coded as it should be: {error}") from None
    return masks


def _check_tensors(
    entries: tuple[Entry, ...], masks: Mapping[str, Tensor], tensors: Tensors
) -> dict[str, int]:
    """Check that there is every tensor that is asked for, of its type and size, and none besides.

    Returns:
        Name of a masked parameter → weights kept.
    """
    if tensors["value"].keys() != {entry.name for entry in entries if entry.derivation is None}:
        raise TicketError("its stored values are not those of the parameters without a scheme")
    derived = {entry.name: entry.derivation for entry in entries if entry.derivation}
    if tensors["flip"].keys() != {name for name, found in derived.items() if found.flips is not None}:
        raise TicketError("its inverted signs are not those of its flipped parameters")
    if tensors["generation"].keys() != {
        name for name, found in derived.items() if found.generations is not None
    }:
        raise TicketError("its generations are not those of its redrawn parameters")
    kept = {}
    for entry in entries:
        count = entry.numel
        if entry.masked:
            count = kept[entry.name] = int(ops.unpack_mask(masks[entry.name], count).sum())
        if entry.derivation is None:
            _check_values(entry, tensors["value"][entry.name], count)
            continue
        if entry.derivation.flips is not None:
            _check_bits(entry.derivation.flips, count, f"the list of inverted signs of {entry.name}")
        if entry.derivation.generations is not None:
            _check_generations(entry.name, entry.derivation.generations, count)
    return kept


def _check_values(entry: Entry, values: Tensor, count: int) -> None:
    shape = (count,) if entry.masked else entry.shape
    if values.dtype != entry.dtype or tuple(values.shape) != shape:
        raise TicketError(
            f"the stored values of {entry.name} have not the shape {shape} "
            f"and type {DTYPE_NAMES[entry.dtype]}"
        )


def _check_bits(bits: Tensor, count: int, what: str) -> None:
    if DTYPE_NAMES[bits.dtype] != "U8" or tuple(bits.shape) != (-(-count // 8),):
        raise TicketError(f"{what} has not the {-(-count // 8)} bytes of its shape")
    if count % 8 and int(bits[-1]) >> (count % 8):
        raise TicketError(f"{what} has bits set past its end")


def _check_generations(name: str, planes: Tensor, count: int) -> None:
    if planes.dim() != 2 or not 0 < len(planes) <= MAX_DIGITS:
        raise TicketError(f"the generations of {name} are not 1 to {MAX_DIGITS} rows of bits")
    for plane in planes:
        _check_bits(plane, count, f"the generations of {name}")
