"""Tickets: a mask and all it needs to become a network again, in one file. docs/ticket-format.md is exact.

A strong ticket holds a seed and its masks, at one bit per weight or less; a trained ticket holds the kept
weights beside them. Every other parameter is drawn from the seed, constant, or stored. Buffers (norm
statistics) are stored. A checksum of the effective weights and a digest over all that the file says, both
verified on loading, make "the same network, bit for bit" a fact and not a hope.
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
from supermask.io import DamagedFileError
from supermask.tickets.container import (
    FORMAT,
    VERSION,
    bytes_of,
    digest_of,
    entry_to_json,
    mask_tensors,
    read_ticket,
    text_of,
    write_ticket,
)
from supermask.tickets.contents import contents_of
from supermask.tickets.derivation import generation_numbers
from supermask.tickets.entry import Entry, TicketError, persistent_buffers
from supermask.tickets.hub import local_file
from supermask.tickets.parse import parse
from supermask.tickets.provenance import factory_of, plain_json, versions
from supermask.tickets.sharing import Shared
from supermask.weights.init import GENERATOR, Init
from supermask.weights.names import parameters_of, unwrap
from supermask.weights.roles import fixed_names


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
        version: Version of the format of the file that it was read from; `save` writes the present one.
    """

    entries: tuple[Entry, ...]
    seed: int
    init: str
    masks: dict[str, Tensor]
    values: dict[str, Tensor]
    buffers: dict[str, Tensor]
    factory: dict[str, Any] | None = None
    provenance: dict[str, Any] = field(default_factory=dict)
    version: int = VERSION

    @classmethod
    def from_model(
        cls,
        model: nn.Module,
        mask: Mapping[str, Tensor],
        *,
        factory: Mapping[str, Any] | None = None,
        provenance: Mapping[str, Any] | None = None,
    ) -> Self:
        """The ticket of `model` as it stands, with the weights outside `mask` at zero.

        Weights that follow from the model's seed bit for bit (see `supermask.tickets.derivation`) cost one
        bit each or less, and another bit where signs were inverted; others are stored. So are, with a
        warning, weights of which the file would ask its reader to draw too many (`tickets.bounds`).

        Args:
            model: The network; its parameters hold effective weights.
            mask: Parameter name → bool tensor.
            factory: How to build the model. By default what `create_model` left on it, or what timm
                recorded.
            provenance: JSON-able facts to record.

        Raises:
            ValueError: A mask of an unknown parameter or another shape; a pruned weight that is not 0; a
                parameter or buffer that no file can hold (complex, sparse, without values); a factory or
                provenance that is not JSON.
        """
        facts = plain_json(provenance or {}, "provenance")
        model = unwrap(model)
        made_by = plain_json(factory_of(model) if factory is None else factory, "factory")
        contents = contents_of(model, mask)
        return cls(**contents, factory=made_by, provenance={"versions": versions(made_by), **facts})

    @classmethod
    def of(cls, model: nn.Module, mask: Mapping[str, Tensor], **facts: Any) -> Self:
        """Another name of `from_model`."""
        return cls.from_model(model, mask, **facts)

    @property
    def strong(self) -> bool:
        """Whether there is a mask and every masked weight follows from the seed: none was trained."""
        masked = [entry for entry in self.entries if entry.masked]
        return bool(masked) and all(entry.derivation is not None for entry in masked)

    @property
    def kind(self) -> str:
        """`strong`, `trained` (masked, and with stored weights) or `dense` (without masks)."""
        return "strong" if self.strong else "trained" if self.masks else "dense"

    @property
    def protection(self) -> str:
        """What the file that the ticket was read from protects against damage."""
        if self.version >= 3:
            return "protected against damage as a whole, by a digest; not signed"
        return (
            "less protected: a checksum covers the weights only, and not names, buffers, factory and "
            "provenance; save it again to have a digest"
        )

    @property
    def kept(self) -> dict[str, int]:
        """Parameter name → number of weights kept."""
        return {name: int(mask.sum()) for name, mask in self.mask().items()}

    @property
    def density(self) -> float:
        """Fraction of the masked weights that is kept; 1 for a network without a mask."""
        total = sum(entry.numel for entry in self.entries if entry.masked)
        return sum(self.kept.values()) / total if total else 1.0

    @property
    def stored_bytes(self) -> int:
        """Bytes of all that is kept in memory: masks at one bit per weight, values, buffers."""
        return sum(tensor.numel() * tensor.element_size() for tensor in self._tensors().values())

    def mask(self) -> dict[str, Tensor]:
        """Parameter name → bool mask."""
        return {entry.name: self._mask(entry) for entry in self.entries if entry.masked}

    def weight(self, entry: Entry) -> Tensor:
        """The effective values of one parameter, on the CPU."""
        mask = self._mask(entry) if entry.masked else None
        if entry.derivation is not None:
            return entry.derivation.weight(self.seed, entry.dtype, mask)
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
            digest.update(bytes_of(self.weight(entry)))
        return digest.hexdigest()

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the ticket, atomically, in the present version of the format.

        Raises:
            OSError: The disk or the directory refuses; an older file at `path` is untouched.
        """
        write_ticket(path, self._header(), self._in_file())
        return Path(path)

    def digest(self) -> str:
        """SHA-256 over all that the ticket's file says, as `save` writes it; equal tickets have the same."""
        return digest_of(text_of(self._header()), self._in_file())

    def _in_file(self) -> dict[str, Tensor]:
        """All that is held, by its name in the file, with masks coded where that is smaller."""
        tensors = {name: tensor for name, tensor in self._tensors().items() if not name.startswith("mask/")}
        others = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
        return tensors | mask_tensors(self.entries, self.masks, others)

    def _tensors(self) -> dict[str, Tensor]:
        """All that is held, by its name in a file with masks in bits."""
        tensors = {f"mask/{name}": mask for name, mask in self.masks.items()}
        tensors |= {f"value/{name}": value for name, value in self.values.items()}
        tensors |= {f"buffer/{name}": buffer for name, buffer in self.buffers.items()}
        for entry in self.entries:
            if entry.derivation and entry.derivation.flips is not None:
                tensors[f"flip/{entry.name}"] = entry.derivation.flips
            if entry.derivation and entry.derivation.generations is not None:
                tensors[f"generation/{entry.name}"] = entry.derivation.generations
        return tensors

    def _header(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "version": VERSION,
            "generator": GENERATOR,
            "seed": self.seed,
            "init": self.init,
            "parameters": [entry_to_json(entry) for entry in self.entries],
            "sha256": self.checksum(),
            "factory": self.factory,
            "provenance": self.provenance,
        }

    @classmethod
    def load(cls, path: str | os.PathLike[str], *, max_parameters: int | None = None) -> Self:
        """Read and verify a ticket. Nothing in the file is executed, and no size in it is trusted.

        Args:
            path: The file, or `hf://user/name[@revision]` for one on the Hugging Face Hub.
            max_parameters: The largest network to accept. By default what the size of the file allows:
                constants and drawn parameters take no bytes in it, so a small file could ask for all memory.
                What `save` writes is within the default.

        Raises:
            FileNotFoundError: There is no such file.
            TicketError: The file is damaged, hostile or of a newer version; the message says how.
        """
        path = local_file(path)
        try:
            header, tensors = read_ticket(path)
            ticket = cls(**parse(tensors, header, max_parameters))
            if ticket.checksum() != header["sha256"]:
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
            TicketError: The model's parameters or buffers have other names, shapes or dtypes, or no values.
        """
        inner = unwrap(model)
        parameters, buffers = parameters_of(inner), persistent_buffers(inner)
        ours = {entry.name: f"{entry.shape} {entry.dtype}" for entry in self.entries}
        _compare("parameter", ours, {name: _kind_of(tensor) for name, tensor in parameters.items()})
        theirs = {name: _kind_of(tensor) for name, tensor in buffers.items()}
        _compare("buffer", {name: _kind_of(tensor) for name, tensor in self.buffers.items()}, theirs)
        for name, tensor in (parameters | buffers).items():
            if tensor.is_meta:
                raise TicketError(
                    f"{name} of the model is on the meta device and cannot hold values; call "
                    "model.to_empty(device='cpu') before ticket.apply(model)"
                )
        with torch.no_grad():
            for entry in self.entries:
                parameters[entry.name].copy_(self.weight(entry))
            for name, buffer in self.buffers.items():
                buffers[name].copy_(buffer)
        draws = tuple(entry.draw for entry in self.entries if entry.draw is not None)
        if draws:
            fixed = tuple(sorted(fixed_names(inner)))
            record = Init(self.init, self.seed, draws, self._last_generation(), fixed=fixed)
            inner.supermask_init = record  # type: ignore[assignment]
        return model

    def info(self) -> dict[str, Any]:
        """What the ticket is, as JSON-able facts: kind, density, layers, seed, provenance."""
        kept = self.kept
        return {
            "kind": self.kind,
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
                    "density": kept[e.name] / max(e.numel, 1),
                }
                for e in self.entries
                if e.masked
            ],
            "format_version": self.version,
            "protection": self.protection,
            "provenance": self.provenance,
        }

    def _mask(self, entry: Entry) -> Tensor:
        return ops.unpack_mask(self.masks[entry.name], entry.numel).view(entry.shape)

    def _last_generation(self) -> int:
        kept = self.kept
        return max(
            (
                int(generation_numbers(entry.derivation.generations, kept[entry.name]).max())
                for entry in self.entries
                if entry.derivation and entry.derivation.generations is not None and kept[entry.name]
            ),
            default=0,
        )


def dense_bytes(model: nn.Module) -> int:
    """Bytes of all parameters and persistent buffers of a model, stored plainly."""
    inner = unwrap(model)
    tensors = [*parameters_of(inner).values(), *persistent_buffers(inner).values()]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _kind_of(tensor: Tensor) -> str:
    return f"{tuple(tensor.shape)} {tensor.dtype}"


def _compare(what: str, ours: Mapping[str, str], theirs: Mapping[str, str]) -> None:
    for name in sorted(ours.keys() | theirs.keys()):
        if ours.get(name) != theirs.get(name):
            raise TicketError(
                f"the ticket does not fit the model: {what} {name} is {ours.get(name, 'absent')} in the "
                f"ticket and {theirs.get(name, 'absent')} in the model. Build the model with the arguments "
                "it was searched with"
            )
