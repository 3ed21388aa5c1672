"""The file of a ticket: a safetensors container, a header of JSON, and a digest over all of it.

docs/ticket-format.md is exact. The digest finds damage; it is no signature, because whoever changes a file on
purpose can make a new one.
"""

import hashlib
import json
import os
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from supermask import ops
from supermask.io import read_tensors, write_tensors
from supermask.tickets.bounds import Bounds
from supermask.tickets.entry import DTYPE_NAMES, Entry, TicketError

FORMAT = "supermask/ticket"
VERSION = 3
"""The version that is written. Versions 1 and 2 had no digest and no coded masks; they are still read."""
_BEFORE_DIGEST = ', "digest": "'


def entry_to_json(entry: Entry) -> dict[str, Any]:
    """What the header says of a parameter."""
    value: dict[str, Any] = {
        "name": entry.name,
        "shape": list(entry.shape),
        "dtype": DTYPE_NAMES[entry.dtype],
        "masked": entry.masked,
    }
    if (derivation := entry.derivation) is not None:
        value |= {"scheme": derivation.draw.scheme, "scale": derivation.draw.scale}
        if not derivation.plain:
            value |= {"binary": derivation.draw.binary, "factor": derivation.draw.factor}
            value |= {"flipped": derivation.flips is not None, "redrawn": derivation.generations is not None}
        if derivation.draw.zero_row is not None:
            value["zero_row"] = derivation.draw.zero_row
    return value


def mask_tensors(entries: tuple[Entry, ...], masks: Mapping[str, Tensor], others: int) -> dict[str, Tensor]:
    """The masks as the file has them: `coded/<name>` where that is smaller, else `mask/<name>`.

    Args:
        entries: All parameters.
        masks: Name → packed bits.
        others: Bytes of the file's other tensors.
    """
    plain = {f"mask/{name}": mask for name, mask in masks.items()}
    smallest = dict[str, Tensor]()
    for entry in entries:
        if entry.masked:
            packed = masks[entry.name]
            coded = ops.encode_mask(ops.unpack_mask(packed, entry.numel)) if entry.numel else packed
            smaller = coded.numel() < packed.numel()
            smallest[f"{'coded' if smaller else 'mask'}/{entry.name}"] = coded if smaller else packed
    # A reader does work by the bytes of a file: one whose masks have nearly no entropy says it with bits.
    nbytes = others + sum(tensor.numel() for tensor in smallest.values())
    try:
        Bounds.of_file(nbytes).check_sizes(entries)
    except TicketError:
        return plain
    return smallest


def digest_of(text: str, tensors: Mapping[str, Tensor]) -> str:
    """SHA-256, in hexadecimal, over the header's text before its digest and over all tensors.

    Each piece is preceded by its length in bytes (eight bytes, little-endian): the text; and for each tensor,
    in the order of the names' code points, its name, its dtype as safetensors calls it, its sizes in decimal
    with commas between, and its values.
    """
    digest = hashlib.sha256()

    def add(piece: Any) -> None:
        digest.update(len(piece).to_bytes(8, "little"))
        digest.update(piece)

    add(text.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        add(name.encode())
        add(DTYPE_NAMES[tensor.dtype].encode())
        add(",".join(map(str, tensor.shape)).encode())
        add(bytes_of(tensor))
    return digest.hexdigest()


def bytes_of(tensor: Tensor) -> memoryview:
    """The values of a tensor on the CPU, row-major."""
    return tensor.contiguous().view(-1).view(torch.uint8).numpy().data


def text_of(header: Mapping[str, Any]) -> str:
    """The header as the file has it, before its digest."""
    return json.dumps(header, ensure_ascii=False, allow_nan=False)[:-1]


def write_ticket(
    path: str | os.PathLike[str], header: Mapping[str, Any], tensors: Mapping[str, Tensor]
) -> None:
    """Write a file of the present version, with its digest; atomically.

    Raises:
        OSError: The disk or the directory refuses.
    """
    text = text_of(header)
    write_tensors(path, tensors, f'{text}{_BEFORE_DIGEST}{digest_of(text, tensors)}"}}')


def read_ticket(path: str | os.PathLike[str]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Header and tensors of a file, after the check of its digest. Versions before 3 have none.

    Raises:
        FileNotFoundError: There is no such file.
        DamagedFileError: It is not a sound container.
        TicketError: The header is not that of a ticket, or the content is not what was saved.
    """
    tensors, text = read_tensors(path)
    try:
        # Versions 1 and 2 could be given NaN to record; it is no JSON, and comes back as text.
        header = json.loads(text, parse_constant=str)
    except (ValueError, RecursionError) as error:
        raise TicketError(f"its header is not JSON: {error}") from None
    if not isinstance(header, dict):
        raise TicketError("its header is not a JSON object")
    if header.get("format") != FORMAT:
        raise TicketError("this is not a supermask ticket")
    for name, tensor in tensors.items():
        if tensor.dtype not in DTYPE_NAMES:
            raise TicketError(f"its tensor {name!r:.80} is of type {tensor.dtype}, which no ticket holds")
        if tensor.dtype == torch.bool and tensor.numel() and int(tensor.view(torch.uint8).max()) > 1:
            raise TicketError(f"its tensor {name!r:.80} has truth values that are neither 0 nor 1")
    if header.get("version") == VERSION:
        body, _, ending = text.rpartition(_BEFORE_DIGEST)
        if ending != f'{digest_of(body, tensors)}"}}':
            raise TicketError(
                "it is not what was saved: its content does not have the digest that it records"
            )
    return header, tensors
