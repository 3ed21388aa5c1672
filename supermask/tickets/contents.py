"""What a ticket holds of a network: which values follow from its seed, and the rest as it stands."""

import warnings
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from supermask import ops
from supermask.masks import check_masks
from supermask.tickets.bounds import too_much_to_draw
from supermask.tickets.derivation import Derivation, derive
from supermask.tickets.entry import Entry, check_storable, persistent_buffers
from supermask.weights.init import Init, init_of
from supermask.weights.names import parameters_of


def contents_of(model: nn.Module, mask: Mapping[str, Tensor]) -> dict[str, Any]:
    """The arguments of `Ticket` that hold the network itself.

    Args:
        model: The network without wrappers; its parameters hold effective weights.
        mask: Parameter name → bool tensor.

    Raises:
        ValueError: The mask does not fit, or no file can hold the network.
    """
    check_storable(model)
    parameters = {name: p.detach().cpu().contiguous() for name, p in parameters_of(model).items()}
    _check_mask(parameters, mask)
    record = init_of(model) or Init("stored", 0, ())
    draws = record.named()
    kept = {name: mask[name].cpu() for name in parameters if name in mask}
    entries = []
    for name, weight in parameters.items():
        draw, found = draws.get(name), None
        if draw is not None:
            found = derive(weight, kept.get(name), draw, record.seed, record.generations)
        entries.append(Entry(name, tuple(weight.shape), weight.dtype, name in kept, found))
    masks = {name: ops.pack_mask(flags) for name, flags in kept.items()}
    buffers = {name: buffer.detach().cpu().clone() for name, buffer in persistent_buffers(model).items()}
    values = {entry.name: _values(entry, parameters, kept) for entry in entries if entry.derivation is None}
    held = [*masks.values(), *values.values(), *buffers.values()]
    held += [bits for entry in entries if entry.derivation for bits in _bits(entry.derivation)]
    stored = sum(tensor.numel() * tensor.element_size() for tensor in held)
    counts = {name: int(flags.sum()) for name, flags in kept.items()}
    for name in too_much_to_draw(entries, counts, stored):
        index = next(i for i, entry in enumerate(entries) if entry.name == name)
        entries[index] = replace(entries[index], derivation=None)
        values[name] = _values(entries[index], parameters, kept)
        warnings.warn(
            f"the ticket stores the values of {name}, although they follow from the seed: a file may not ask "
            "its reader to draw so much",
            stacklevel=4,
        )
    return {
        "entries": tuple(entries),
        "seed": record.seed,
        "init": record.init,
        "masks": masks,
        "values": {entry.name: values[entry.name] for entry in entries if entry.name in values},
        "buffers": buffers,
    }


def _values(entry: Entry, parameters: Mapping[str, Tensor], kept: Mapping[str, Tensor]) -> Tensor:
    weight = parameters[entry.name]
    return (weight[kept[entry.name]] if entry.masked else weight).clone()


def _bits(derivation: Derivation) -> list[Tensor]:
    return [bits for bits in (derivation.flips, derivation.generations) if bits is not None]


def _check_mask(parameters: Mapping[str, Tensor], mask: Mapping[str, Tensor]) -> None:
    check_masks(mask, parameters)
    for name, kept in mask.items():
        if torch.count_nonzero(parameters[name][~kept.cpu()]):
            raise ValueError(f"{name} has non-zero weights outside its mask; apply the mask first")
