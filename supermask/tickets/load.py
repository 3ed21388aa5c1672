"""A ticket file back to a network."""

import os
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from supermask.models import build
from supermask.models.limits import limited_construction
from supermask.tickets.bounds import Bounds
from supermask.tickets.ticket import Ticket, TicketError

PARTS_PER_PARAMETER, FREE_PARTS = 16, 1 << 12
"""Modules, parameters and buffers that a network may have. Networks of timm have up to 5 for each parameter,
and one whose layers share parameters more."""
CALLS_PER_PARAMETER, FREE_CALLS = 10_000, 1 << 20
"""Calls of functions that it may take to build: up to 4500 for each parameter in timm."""


def load(
    path: str | os.PathLike[str],
    device: torch.device | str = "cpu",
    *,
    max_parameters: int | None = None,
) -> nn.Module:
    """The network of a ticket, bit for bit, in evaluation mode.

    The network is built from the factory that the ticket names: one of this library's, timm's or
    torchvision's, and nothing else. For one that was built elsewhere use `Ticket.load(path).apply(model)`.
    Of `hf://user/name[@revision]` the ticket is fetched from the Hugging Face Hub; see `Ticket.push_to_hub`.

    Args:
        path: The file.
        device: Where to put the network.
        max_parameters: See `Ticket.load`.

    Raises:
        FileNotFoundError: There is no such file.
        TicketError: The file is damaged or hostile, names no factory, or does not fit what that builds.
    """
    return network_of(Ticket.load(path, max_parameters=max_parameters), device)


def network_of(ticket: Ticket, device: torch.device | str = "cpu") -> nn.Module:
    """The network of a ticket that is already in memory; see `load`."""
    if ticket.factory is None:
        raise TicketError(
            "the ticket does not say how its network is built, because it was built outside the library. "
            "Build it yourself and call ticket.apply(model)"
        )
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


def _check_shapes(ticket: Ticket, outline: nn.Module) -> None:
    if {name: tuple(p.shape) for name, p in outline.named_parameters()} != {
        entry.name: entry.shape for entry in ticket.entries
    }:
        name = (ticket.factory or {}).get("name")
        raise TicketError(f"the network {name!r:.80} has other parameters than the ticket")


def _cast(model: nn.Module, ticket: Ticket) -> None:
    """Give parameters and buffers the dtypes that the ticket records."""
    parameters, buffers = dict(model.named_parameters()), dict(model.named_buffers())
    for entry in ticket.entries:
        parameters[entry.name].data = parameters[entry.name].data.to(entry.dtype)
    for name, buffer in ticket.buffers.items():
        if name in buffers:
            buffers[name].data = buffers[name].data.to(buffer.dtype)
