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
from importlib.metadata import version
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from supermask import ops
from supermask.init import GENERATOR, Draw, Init, init_of
from supermask.io import DamagedFileError, load_tensors, save_tensors
from supermask.parameters import unwrap
from supermask.ticket_entries import (
    Entry,
    TicketError,
    check_sizes,
    entries_of_file,
    entry_from_json,
    entry_to_json,
    seed_of_file,
)

FORMAT = "supermask/ticket"
VERSION = 1
MAX_PARAMETERS = 1 << 31
"""Largest network, in parameters, that `Ticket.load` rebuilds unless told otherwise."""


@dataclass(frozen=True, eq=False)
class Ticket:
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

        Weights that equal their draw from the model's seed bit for bit cost one bit each; others are
        stored.

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
        entries, packed, values = [], {}, {}
        for name, parameter in parameters.items():
            weight, kept = parameter.detach().cpu().contiguous(), mask.get(name)
            draw = draws.get(name)
            if kept is not None:
                packed[name] = ops.pack_mask(kept.cpu())
            if draw is None or not _same(weight, _effective(draw, record.seed, weight.dtype, kept)):
                draw = None
                values[name] = (weight if kept is None else weight[kept.cpu()]).clone()
            entries.append(Entry(name, tuple(parameter.shape), parameter.dtype, kept is not None, draw))
        buffers = _persistent_buffers(model)
        found = dict(factory) if factory is not None else factory_of(model)
        facts = {"versions": _versions(found), **(provenance or {})}
        return cls(tuple(entries), record.seed, record.init, packed, values, buffers, found, facts)

    @property
    def strong(self) -> bool:
        """Whether there is a mask and every masked weight follows from the seed: none was trained."""
        masked = [entry for entry in self.entries if entry.masked]
        return bool(masked) and all(entry.draw is not None for entry in masked)

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
        if entry.draw is not None:
            return _effective(entry.draw, self.seed, entry.dtype, mask)
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
        save_tensors(path, tensors, self._header())
        return Path(path)

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
    def load(cls, path: str | os.PathLike[str], *, max_parameters: int = MAX_PARAMETERS) -> Self:
        """Read and verify a ticket. Nothing in the file is executed, and no size in it is trusted.

        Args:
            path: The file.
            max_parameters: Refuse a ticket that declares a larger network: constants and drawn
                parameters take no bytes in the file, so a small file could ask for all memory.

        Raises:
            FileNotFoundError: There is no such file.
            TicketError: The file is damaged, hostile or of a newer version; the message says how.
        """
        try:
            tensors, header = load_tensors(path)
            ticket = cls._parse(tensors, header, max_parameters)
            if ticket.checksum() != header.get("sha256"):
                raise TicketError("the weights it rebuilds do not have the checksum it records")
        except (RuntimeError, OverflowError, MemoryError) as error:
            raise TicketError(f"{path} cannot be rebuilt: {error}") from None
        except DamagedFileError as error:
            prefix = "" if str(path) in str(error) else f"{path}: "
            raise TicketError(f"{prefix}{error}; get it again from its source") from None
        return ticket

    @classmethod
    def _parse(cls, tensors: dict[str, Tensor], header: dict[str, Any], max_parameters: int) -> Self:
        if header.get("format") != FORMAT:
            raise TicketError("this is not a supermask ticket")
        if header.get("version") != VERSION or header.get("generator") != GENERATOR:
            raise TicketError(
                f"it has version {header.get('version')!r} and generator {header.get('generator')!r}; "
                f"this library reads version {VERSION} with {GENERATOR}"
            )
        seed = seed_of_file(header.get("seed"))
        entries = tuple(entry_from_json(value) for value in entries_of_file(header.get("parameters")))
        if len({entry.name for entry in entries}) != len(entries):
            raise TicketError("it names a parameter twice")
        stored = sum(entry.numel for entry in entries if entry.masked or entry.draw is None)
        total = sum(entry.numel for entry in entries)
        # What is drawn or constant without a mask takes no bytes, so it is held to what does take some.
        if total > max_parameters or total - stored > max(1 << 24, 64 * stored):
            raise TicketError(f"it declares more parameters ({total}) than a file of its size should")
        groups: dict[str, dict[str, Tensor]] = {"mask": {}, "value": {}, "buffer": {}}
        for key, tensor in tensors.items():
            kind, _, name = key.partition("/")
            if kind not in groups or not name:
                raise TicketError(f"it holds an unknown tensor {key!r}")
            groups[kind][name] = tensor
        check_sizes(entries, groups["mask"], groups["value"])
        init, factory = header.get("init"), header.get("factory")
        provenance = header.get("provenance") or {}
        if not isinstance(init, str) or not isinstance(provenance, dict):
            raise TicketError("its init or provenance is not of the right kind")
        if factory is not None and not isinstance(factory, dict):
            raise TicketError("its factory is not a JSON object")
        return cls(
            entries,
            seed,
            init,
            groups["mask"],
            groups["value"],
            groups["buffer"],
            factory,
            provenance,
        )

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
            inner.supermask_init = Init(self.init, self.seed, draws)  # type: ignore[assignment]
        return model

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


def factory_of(model: nn.Module) -> dict[str, Any] | None:
    """How to build `model` again: what `create_model` recorded, or what timm did, checked by rebuilding."""
    recorded = getattr(model, "supermask_factory", None)
    if isinstance(recorded, dict):
        return recorded
    config = getattr(model, "pretrained_cfg", None)
    architecture = config.get("architecture") if isinstance(config, dict) else None
    classes = getattr(model, "num_classes", None)
    if not architecture or not isinstance(classes, int):
        return None
    return _timm_factory(model, architecture, classes)


def _timm_factory(model: nn.Module, architecture: str, classes: int) -> dict[str, Any] | None:
    """timm keeps the name and not the arguments; trust them only if the same structure comes out."""
    import timm

    try:
        with torch.device("meta"):
            twin = timm.create_model(architecture, num_classes=classes)
    except Exception:
        return None
    same = repr(twin) == repr(model) and [(n, p.shape) for n, p in twin.named_parameters()] == [
        (n, p.shape) for n, p in model.named_parameters()
    ]
    if not same:
        return None
    size = model.pretrained_cfg["input_size"]  # type: ignore[index]
    return {
        "name": f"timm/{architecture}",
        "args": {"num_classes": classes, "in_channels": size[0], "image_size": size[-1]},
    }


def _versions(factory: Mapping[str, Any] | None) -> dict[str, str]:
    """Versions that made a ticket; the structure of an external network depends on its library's."""
    packages = ["supermask", "torch"]
    library = str((factory or {}).get("name", "")).partition("/")[0]
    if library in ("timm", "torchvision"):
        packages.append(library)
    return {package: version(package) for package in packages}


def _effective(draw: Draw, seed: int, dtype: torch.dtype, mask: Tensor | None) -> Tensor:
    weight = draw.weight(seed, dtype)
    if mask is not None:
        weight.masked_fill_(~mask.cpu(), 0.0)
    return weight


def _same(a: Tensor, b: Tensor) -> bool:
    """Bitwise equality."""
    return torch.equal(a.view(-1).view(torch.uint8), b.view(-1).view(torch.uint8))


def _persistent_buffers(model: nn.Module) -> dict[str, Tensor]:
    state = model.state_dict(keep_vars=True)
    return {name: buffer.detach().cpu() for name, buffer in model.named_buffers() if name in state}


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
