"""What every ticket can do beyond its file: show and compare itself, go to the Hub and to other formats."""

import copy
import os
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from supermask.export import example_of, write_onnx, write_program
from supermask.masks import summary
from supermask.tickets import hub
from supermask.tickets.entry import Entry
from supermask.tickets.network import network_of


class Shared(ABC):
    """Base of `Ticket`: everything here follows from what a ticket holds and from its file."""

    entries: tuple[Entry, ...]
    seed: int
    init: str
    buffers: dict[str, Tensor]
    factory: dict[str, Any] | None

    @property
    @abstractmethod
    def strong(self) -> bool:
        """Whether no masked weight was trained."""

    @property
    @abstractmethod
    def stored_bytes(self) -> int:
        """Bytes of all that is kept in memory."""

    @abstractmethod
    def apply(self, model: nn.Module) -> nn.Module:
        """Put the ticket onto a model."""

    @abstractmethod
    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the ticket."""

    @abstractmethod
    def mask(self) -> dict[str, Tensor]:
        """Name → bool mask."""

    @abstractmethod
    def checksum(self) -> str:
        """SHA-256 over the effective weights."""

    @abstractmethod
    def info(self) -> Mapping[str, Any]:
        """What the ticket is."""

    def __eq__(self, other: object) -> bool:
        """Whether both give the same network under the same masks, bit for bit, from the same seed.

        What is recorded about their making is not compared.
        """
        if not isinstance(other, Shared):
            return NotImplemented
        return self is other or (
            self._identity() == other._identity()
            and _same(self.buffers, other.buffers)
            and _same(self.mask(), other.mask())
            and self.checksum() == other.checksum()
        )

    def __hash__(self) -> int:
        return hash(str(self._identity()))

    def _identity(self) -> tuple[Any, ...]:
        """What can be compared without a weight being drawn."""
        outlines = [(entry.name, entry.shape, entry.dtype, entry.masked) for entry in self.entries]
        return self.seed, self.init, self.strong, self.factory, outlines

    def __repr__(self) -> str:
        return summary.as_text(*self._summary())

    def _repr_html_(self) -> str:
        return summary.as_html(*self._summary())

    def _summary(self) -> tuple[str, list[summary.LayerCount], list[str]]:
        info = self.info()
        network = (self.factory or {}).get("name") or "a network built elsewhere"
        weak = (
            ""
            if info["format_version"] >= 3
            else f", format version {info['format_version']} (less protected)"
        )
        made = {key: info["provenance"].get(key) for key in ("method", "data", "run")}
        recorded = ", ".join(f"{key} {value}" for key, value in made.items() if value is not None)
        return (
            f"Ticket ({info['kind']}) of {network}",
            summary.counts_of(self.mask()),
            [f"init {self.init}, seed {self.seed}{weak}", recorded or "nothing recorded of its making"],
        )

    def push_to_hub(
        self,
        repository: str,
        *,
        accuracy: float | None = None,
        private: bool = False,
        revision: str | None = None,
        message: str = "Upload a supermask ticket",
        token: str | None = None,
    ) -> str:
        """Put the ticket and a model card onto the Hugging Face Hub; `sm.load("hf://user/name")` reads it.

        Args:
            repository: `user/name`; it is made if there is none.
            accuracy: On the test split, as a fraction, for the card.
            private: Whether a repository that is made is seen by its owner alone.
            revision: Branch to commit to; by default the main one.
            message: Of the commit.
            token: By default the one that `hf auth login` stored.

        Returns:
            The address of the commit.

        Raises:
            ValueError: `repository` is no such name, or `accuracy` is no fraction.
            MissingExtraError: huggingface_hub is not installed: `pip install 'supermask[hub]'`.
            HubError: The Hub refuses, or is not reached.
        """
        if accuracy is not None and not 0 <= accuracy <= 1:
            raise ValueError(f"accuracy is a fraction from 0 to 1, not {accuracy}")
        with tempfile.TemporaryDirectory() as folder:
            file = self.save(Path(folder, hub.FILE))
            card = hub.card(self.info(), file.stat().st_size, repository, accuracy)
            return hub.upload(
                file, card, repository, private=private, revision=revision, message=message, token=token
            )

    def to_onnx(
        self,
        path: str | os.PathLike[str],
        *,
        weights: str = "float32",
        model: nn.Module | None = None,
        example: Tensor | None = None,
    ) -> Path:
        """Write the network as ONNX, once onnxruntime has given the network's outputs with it.

        The graph has one input, `input`, and one output, `output`, each with a first dimension of any size.

        Args:
            path: The file; one that is there is replaced when the new one is whole.
            weights: `float32`, or `2bit`: linear layers whose kept weights are of one magnitude, as signed
                constants are, hold two bits per weight (`MatMulNBits`, which onnxruntime has).
            model: The network as it was built, for tickets that do not say how; it is left as it is.
            example: A batch of at least two inputs; by default random images of the size that the ticket
                records.

        Raises:
            ValueError: `weights` is none of these.
            TicketError: The ticket says nothing of its network and no `model` was given, or it does not fit.
            ExportError: The network cannot be followed or written, has no layer for two bits, or no `example`
                was given where one is needed.
            MissingExtraError: An exporter is not installed: `pip install 'supermask[onnx]'`.
            OSError: The file cannot be written.
        """
        network, example = self._to_export(model, example)
        return write_onnx(network, path, example, weights=weights)

    def to_pt2(
        self,
        path: str | os.PathLike[str],
        *,
        model: nn.Module | None = None,
        example: Tensor | None = None,
    ) -> Path:
        """Write the network as a program of `torch.export`; `torch.export.load(path).module()` runs it.

        Args:
            path: The file, usually named `*.pt2`.
            model: As in `to_onnx`.
            example: As in `to_onnx`.

        Raises:
            TicketError: As in `to_onnx`.
            ExportError: `torch.export` cannot follow the network, or no `example` was given where one is
                needed.
            OSError: The file cannot be written.
        """
        network, example = self._to_export(model, example)
        return write_program(network, path, example)

    def _to_export(self, model: nn.Module | None, example: Tensor | None) -> tuple[nn.Module, Tensor]:
        if model is None:
            network = network_of(self, otherwise="Give it as model=, and an example= of its inputs")
        else:
            network = self.apply(copy.deepcopy(model).cpu())
        return network, example_of(self.factory) if example is None else example


def _same(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> bool:
    """Equal names, types, shapes and values; one NaN equals another."""
    if ours.keys() != theirs.keys():
        return False
    pairs = [(ours[name], theirs[name]) for name in ours]
    return all(
        a.dtype == b.dtype
        and a.shape == b.shape
        and bool(torch.isclose(a, b, rtol=0, atol=0, equal_nan=True).all())
        for a, b in pairs
    )
