"""A ticket file back to a network."""

import os

import torch
from torch import nn

from supermask.models import build
from supermask.tickets.ticket import Ticket, TicketError


def load(path: str | os.PathLike[str], device: torch.device | str = "cpu") -> nn.Module:
    """The network of a ticket, bit for bit, in evaluation mode.

    The network is built from the factory that the ticket names: one of this library's, timm's or
    torchvision's, and nothing else. For one that was built elsewhere use `Ticket.load(path).apply(model)`.
    Of `hf://user/name[@revision]` the ticket is fetched from the Hugging Face Hub; see `Ticket.push_to_hub`.

    Raises:
        FileNotFoundError: There is no such file.
        TicketError: The file is damaged or hostile, names no factory, or does not fit what that builds.
    """
    return network_of(Ticket.load(path), device)


def network_of(ticket: Ticket, device: torch.device | str = "cpu") -> nn.Module:
    """The network of a ticket that is already in memory; see `load`."""
    if ticket.factory is None:
        raise TicketError(
            "the ticket does not say how its network is built, because it was built outside the library. "
            "Build it yourself and call ticket.apply(model)"
        )
    try:
        with torch.device("meta"):
            shapes = {name: tuple(p.shape) for name, p in build(ticket.factory).named_parameters()}
        if shapes != {entry.name: entry.shape for entry in ticket.entries}:
            raise TicketError(
                f"the network {ticket.factory.get('name')!r} has other parameters than the ticket"
            )
        model = build(ticket.factory)
        _cast(model, ticket)
    except TicketError:
        raise
    except ValueError as error:
        raise TicketError(f"the network of the ticket cannot be built: {error}") from None
    ticket.apply(model)
    return model.to(device).eval()


def _cast(model: nn.Module, ticket: Ticket) -> None:
    """Give parameters and buffers the dtypes that the ticket records."""
    parameters, buffers = dict(model.named_parameters()), dict(model.named_buffers())
    for entry in ticket.entries:
        parameters[entry.name].data = parameters[entry.name].data.to(entry.dtype)
    for name, buffer in ticket.buffers.items():
        if name in buffers:
            buffers[name].data = buffers[name].data.to(buffer.dtype)
