"""Tickets: a mask and all it needs to become a network again, in one file. docs/ticket-format.md is exact.

A strong ticket holds a seed and one bit per weight; a trained ticket holds the kept weights beside the
bits. Every other parameter is drawn from the seed, constant, or stored. Buffers (norm statistics) are
stored. A checksum of the effective weights, verified on loading, makes "the same network, bit for bit" a
fact and not a hope.
"""

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from supermask import ops
from supermask.io import DamagedFileError, load_tensors, save_tensors
from supermask.tickets.derivation import derive, generation_numbers
from supermask.tickets.entry import FORMAT, Entry, TicketError, entry_to_json, version_of
from supermask.tickets.hub import local_file
from supermask.tickets.parse import parse
from supermask.tickets.provenance import factory_of, versions
from supermask.tickets.sharing import Shared
from supermask.weights.init import GENERATOR, Init, init_of
from supermask.weights.roles import unwrap

MAX_PARAMETERS = 1 << 31
"""Largest network, in parameters, that `Ticket.load` rebuilds unless told otherwise."""


@dataclass(frozen=True, eq=False, repr=False)
class Ticket(Shared):
    """A subnetwork as data.

    Attributes:
        entries: One per parameter of the network.
        seed: Seed of everything drawn (0 where nothing is).
        init: Name of the initialization, or `stored`.
        masks: Name → packed mask bits (uint8, row-major, least significant bit first).
        values: Name → stored values: the kept ones of a masked parameter in row-major order, all of
            another.
        buffers: Name → buffer.
        factory: `{"name": …, "args": {…}}` that builds the model, or None when it was built elsewhere.
        provenance: What is recorded about its making.
    """

    entries: tuple[Entry, ...]
    seed: int
    init: str
    masks: dict[str, Tensor]
    values: dict[str, Tensor]
    buffers: dict[str, Tensor]
    factory: dict[str, Any] | None = None
    provenance: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        model: nn.Module,
        mask: Mapping[str, Tensor],
        *,
        factory: Mapping[str, Any] | None = None,
        provenance: Mapping[str, Any] | None = None,
    ) -> Self:
        """The ticket of `model` as it stands, with the weights outside `mask` at zero.

        Weights that follow from the model's seed bit for bit (see `tickets.derivation`) cost one bit each,
        and another bit where signs were inverted; others are stored.

        Args:
            model: The network; its parameters hold effective weights.
            mask: Parameter name → bool tensor.
            factory: How to build the model. By default what `create_model` left on it, or what timm
                recorded.
            provenance: JSON-able facts to record.

        Raises:
            ValueError: A mask of an unknown parameter or another shape, or a pruned weight that is not 0.
        """
        model = unwrap(model)
        parameters = dict(model.named_parameters())
        _check_mask(parameters, mask)
        record = init_of(model) or Init("stored", 0, ())
        draws = record.named()
        entries = []
        masks: dict[str, Tensor] = {}
        values: dict[str, Tensor] = {}
        for name, parameter in parameters.items():
            weight, draw = parameter.detach().cpu().contiguous(), draws.get(name)
            kept = mask[name].cpu() if name in mask else None
            way = derive(weight, kept, draw, record.seed, record.generations) if draw else None
            if kept is not None:
                masks[name] = ops.pack_mask(kept)
            if way is None:
                values[name] = (weight if kept is None else weight[kept]).clone()
            entries.append(Entry(name, tuple(weight.shape), weight.dtype, kept is not None, way))
        made_by = dict(factory) if factory is not None else factory_of(model)
        return cls(
            entries=tuple(entries),
            seed=record.seed,
            init=record.init,
            masks=masks,
            values=values,
            buffers=_persistent_buffers(model),
            factory=made_by,
            provenance={"versions": versions(made_by), **(provenance or {})},
        )

    @property
    def strong(self) -> bool:
        """Whether there is a mask and every masked weight follows from the seed: none was trained."""
        masked = [entry for entry in self.entries if entry.masked]
        return bool(masked) and all(entry.way is not None for entry in masked)

    @property
    def kept(self) -> dict[str, int]:
        """Parameter name → number of weights kept."""
        return {name: int(mask.sum()) for name, mask in self.mask().items()}

    @property
    def density(self) -> float:
        """Fraction of the masked weights that is kept; 1 for a network without a mask."""
        total = sum(entry.numel for entry in self.entries if entry.masked)
        return sum(self.kept.values()) / total if total else 1.0

    def mask(self) -> dict[str, Tensor]:
        """Parameter name → bool mask."""
        return {
            entry.name: ops.unpack_mask(self.masks[entry.name], entry.numel).view(entry.shape)
            for entry in self.entries
            if entry.masked
        }

    def weight(self, entry: Entry) -> Tensor:
        """The effective values of one parameter, on the CPU."""
        mask = None
        if entry.masked:
            mask = ops.unpack_mask(self.masks[entry.name], entry.numel).view(entry.shape)
        if entry.way is not None:
            return entry.way.weight(self.seed, entry.dtype, mask)
        if mask is None:
            return self.values[entry.name].clone()
        weight = torch.zeros(entry.shape, dtype=entry.dtype, device="cpu")
        weight[mask] = self.values[entry.name]
        return weight

    def weights(self) -> dict[str, Tensor]:
        """Parameter name → effective values W ⊙ M, on the CPU."""
        return {entry.name: self.weight(entry) for entry in self.entries}

    def checksum(self) -> str:
        """SHA-256 over the effective weights: row-major, little-endian, in the order of the entries."""
        digest = hashlib.sha256()
        for entry in self.entries:
            weight = self.weight(entry).contiguous()
            digest.update(weight.view(-1).view(torch.uint8).numpy().data)
        return digest.hexdigest()

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the ticket, atomically.

        Raises:
            OSError: The disk or the directory refuses; an older file at `path` is untouched.
        """
        tensors = {f"mask/{name}": mask for name, mask in self.masks.items()}
        tensors |= {f"value/{name}": value for name, value in self.values.items()}
        tensors |= {f"buffer/{name}": buffer for name, buffer in self.buffers.items()}
        for entry in self.entries:
            if entry.way and entry.way.flips is not None:
                tensors[f"flip/{entry.name}"] = entry.way.flips
            if entry.way and entry.way.generations is not None:
                tensors[f"generation/{entry.name}"] = entry.way.generations
        save_tensors(path, tensors, self._header())
        return Path(path)

    def _header(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "version": version_of(self.entries),
            "generator": GENERATOR,
            "seed": self.seed,
            "init": self.init,
            "parameters": [entry_to_json(entry) for entry in self.entries],
            "sha256": self.checksum(),
            "factory": self.factory,
            "provenance": self.provenance,
        }

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, max_parameters: int = MAX_PARAMETERS) -> Self:
        """Read and verify a ticket. Nothing in the file is executed, and no size in it is trusted.

        Args:
            path: The file, or `hf://user/name[@revision]` for one on the Hugging Face Hub.
            max_parameters: Refuse a ticket that declares a larger network: constants and drawn
                parameters take no bytes in the file, so a small file could ask for all memory.

        Raises:
            FileNotFoundError: There is no such file.
            TicketError: The file is damaged, hostile or of a newer version; the message says how.
        """
        path = local_file(path)
        try:
            tensors, header = load_tensors(path)
            ticket = cls(**parse(tensors, header, max_parameters))
            if ticket.checksum() != header.get("sha256"):
                raise TicketError("the weights it rebuilds do not have the checksum it records")
        except (RuntimeError, OverflowError, MemoryError) as error:
            raise TicketError(f"{path} cannot be rebuilt: {error}") from None
        except DamagedFileError as error:
            prefix = "" if str(path) in str(error) else f"{path}: "
            raise TicketError(f"{prefix}{error}; get it again from its source") from None
        return ticket

    def apply(self, model: nn.Module) -> nn.Module:
        """Put the ticket onto a model that somebody else built; its wrappers are looked through.

        Everything is checked before the first value is written.

        Raises:
            TicketError: The model's parameters or buffers have other names, shapes or dtypes.
        """
        inner = unwrap(model)
        parameters = dict(inner.named_parameters())
        ours = {entry.name: f"{entry.shape} {entry.dtype}" for entry in self.entries}
        theirs = {name: f"{tuple(p.shape)} {p.dtype}" for name, p in parameters.items()}
        _compare("parameter", ours, theirs)
        buffers = dict(inner.named_buffers())
        _compare(
            "buffer",
            {name: str(tuple(buffer.shape)) for name, buffer in self.buffers.items()},
            {name: str(tuple(buffer.shape)) for name, buffer in _persistent_buffers(inner).items()},
        )
        with torch.no_grad():
            for entry in self.entries:
                parameters[entry.name].copy_(self.weight(entry))
            for name, buffer in self.buffers.items():
                buffers[name].copy_(buffer)
        draws = tuple(entry.draw for entry in self.entries if entry.draw is not None)
        if draws:
            record = Init(self.init, self.seed, draws, self._last_generation())
            inner.supermask_init = record  # type: ignore[assignment]
        return model

    def _last_generation(self) -> int:
        kept = self.kept
        return max(
            (
                int(generation_numbers(entry.way.generations, kept[entry.name]).max())
                for entry in self.entries
                if entry.way and entry.way.generations is not None
            ),
            default=0,
        )

    def info(self) -> dict[str, Any]:
        """What the ticket is, as JSON-able facts: kind, density, layers, seed, provenance."""
        kept = self.kept
        return {
            "kind": "strong" if self.strong else "trained" if self.masks else "dense",
            "density": self.density,
            "init": self.init,
            "seed": self.seed,
            "factory": self.factory,
            "parameters": sum(entry.numel for entry in self.entries),
            "masked_weights": sum(entry.numel for entry in self.entries if entry.masked),
            "kept_weights": sum(kept.values()),
            "layers": [
                {
                    "name": e.name,
                    "shape": list(e.shape),
                    "kept": kept[e.name],
                    "density": kept[e.name] / e.numel,
                }
                for e in self.entries
                if e.masked
            ],
            "provenance": self.provenance,
        }


def dense_bytes(model: nn.Module) -> int:
    """Bytes of all parameters and persistent buffers of a model, stored plainly."""
    tensors = [
        *dict(unwrap(model).named_parameters()).values(),
        *_persistent_buffers(unwrap(model)).values(),
    ]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _persistent_buffers(model: nn.Module) -> dict[str, Tensor]:
    state = model.state_dict(keep_vars=True)
    return {name: buffer.detach().cpu().clone() for name, buffer in model.named_buffers() if name in state}


def _check_mask(parameters: Mapping[str, Tensor], mask: Mapping[str, Tensor]) -> None:
    for name, kept in mask.items():
        if name not in parameters:
            raise ValueError(f"the mask names {name}, which is no parameter of the model")
        if kept.dtype != torch.bool or kept.shape != parameters[name].shape:
            raise ValueError(
                f"the mask of {name} is {kept.dtype} of shape {tuple(kept.shape)}; "
                f"it must be bool of shape {tuple(parameters[name].shape)}"
            )
        if torch.count_nonzero(parameters[name].detach()[~kept]):
            raise ValueError(f"{name} has non-zero weights outside its mask; apply the mask first")


def _compare(what: str, ours: Mapping[str, str], theirs: Mapping[str, str]) -> None:
    for name in ours.keys() | theirs.keys():
        if ours.get(name) != theirs.get(name):
            raise TicketError(
                f"the ticket does not fit the model: {what} {name} is {ours.get(name, 'absent')} in the "
                f"ticket and {theirs.get(name, 'absent')} in the model. Build the model with the arguments "
                "it was searched with"
            )
