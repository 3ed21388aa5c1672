"""The network of a ticket that is in memory: built from the factory that the ticket names, within limits."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from supermask.models import build
from supermask.models.limits import limited_construction
from supermask.tickets.bounds import Bounds
from supermask.tickets.entry import Entry, TicketError

PARTS_PER_PARAMETER, FREE_PARTS = 16, 1 << 12
"""Modules, parameters and buffers that a network may have. Networks of timm have up to 5 for each parameter,
and one whose layers share parameters more."""
CALLS_PER_PARAMETER, FREE_CALLS = 10_000, 1 << 20
"""Calls of functions that it may take to build: up to 4500 for each parameter in timm."""


LARGEST_ARGUMENT = 1 << 14
"""Numbers among the arguments of a network; larger ones only where an axis of a parameter is as long."""


class Buildable(Protocol):
    """What of a ticket its network follows from; see `Ticket`."""

    @property
    def entries(self) -> Sequence[Entry]: ...
    @property
    def factory(self) -> Mapping[str, Any] | None: ...
    @property
    def buffers(self) -> Mapping[str, Tensor]: ...
    @property
    def stored_bytes(self) -> int: ...
    def apply(self, model: nn.Module) -> nn.Module: ...


def network_of(
    ticket: Buildable,
    device: torch.device | str = "cpu",
    *,
    otherwise: str = "Build it yourself and call ticket.apply(model)",
) -> nn.Module:
    """The network of a ticket that is already in memory, bit for bit, in evaluation mode; see `load`.

    Args:
        ticket: The ticket.
        device: Where the network goes.
        otherwise: What to do where the ticket names no factory, as the error says it.

    Raises:
        TicketError: The ticket names no factory, or does not fit what that builds.
    """
    if ticket.factory is None:
        raise TicketError(
            "the ticket does not say how its network is built, because it was built outside the library. "
            f"{otherwise}"
        )
    _check_arguments(ticket, ticket.factory)
    parts = PARTS_PER_PARAMETER * len(ticket.entries) + FREE_PARTS
    calls = CALLS_PER_PARAMETER * len(ticket.entries) + FREE_CALLS
    weights = sum(entry.numel for entry in ticket.entries)
    nbytes = max(Bounds.of_file(ticket.stored_bytes).nbytes, 8 * weights)
    try:
        with limited_construction(parts, nbytes, calls):
            _check_shapes(ticket, _outline(ticket.factory, nbytes))
        with limited_construction(parts, nbytes):
            model = build(ticket.factory)
        _cast(model, ticket)
    except TicketError:
        raise
    except (ValueError, MemoryError) as error:
        raise TicketError(f"the network of the ticket cannot be built: {error}") from None
    ticket.apply(model)
    return model.to(device).eval()


def _check_arguments(ticket: Buildable, factory: Mapping[str, Any]) -> None:
    """Refuse numbers that no network of such parameters has, before a constructor counts up to them."""
    tensors = [entry.shape for entry in ticket.entries] + [buffer.shape for buffer in ticket.buffers.values()]
    largest = max(LARGEST_ARGUMENT, 0, *(size for shape in tensors for size in shape))
    arguments = factory.get("args")
    for key, value in arguments.items() if isinstance(arguments, Mapping) else ():
        for number in value if isinstance(value, list | tuple) else [value]:
            if isinstance(number, int | float) and abs(number) > largest:
                raise TicketError(
                    f"the network of the ticket cannot be built: {key!r:.40} is {number!r:.40}, and its "
                    f"parameters allow for {largest} at most"
                )


def _outline(factory: Mapping[str, Any], nbytes: int) -> nn.Module:
    """The network without memory: on the meta device.

    Raises:
        ValueError: There is no such network, or its buffers and other tensors would take more than `nbytes`.
    """
    try:
        with torch.device("meta"):
            outline = build(factory)
    except ValueError as error:
        # RegNets compute their widths with tensors; the limits on what is registered hold for them too.
        if "meta tensor" not in str(error):
            raise
        return build(factory)
    tensors = {
        id(tensor): tensor.numel() * tensor.element_size()
        for module in outline.modules()
        for tensor in (*module.buffers(recurse=False), *vars(module).values())
        if isinstance(tensor, Tensor)
    }
    if sum(tensors.values()) > nbytes:
        raise ValueError(f"its buffers take more than {nbytes} bytes")
    return outline


def _check_shapes(ticket: Buildable, outline: nn.Module) -> None:
    if {name: tuple(p.shape) for name, p in outline.named_parameters()} != {
        entry.name: entry.shape for entry in ticket.entries
    }:
        name = (ticket.factory or {}).get("name")
        raise TicketError(f"the network {name!r:.80} has other parameters than the ticket")


def _cast(model: nn.Module, ticket: Buildable) -> None:
    """Give parameters and buffers the dtypes that the ticket records."""
    parameters, buffers = dict(model.named_parameters()), dict(model.named_buffers())
    for entry in ticket.entries:
        parameters[entry.name].data = parameters[entry.name].data.to(entry.dtype)
    for name, buffer in ticket.buffers.items():
        if name in buffers:
            buffers[name].data = buffers[name].data.to(buffer.dtype)
