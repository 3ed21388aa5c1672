"""A ticket file back to a network."""

import os

import torch
from torch import nn

from supermask.tickets.network import network_of as network_of
from supermask.tickets.ticket import Ticket


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
    `zoo:name` is one of those that ship with the library, see `list_tickets`.

    Args:
        path: The file.
        device: Where to put the network.
        max_parameters: See `Ticket.load`.

    Raises:
        FileNotFoundError: There is no such file, or no such ticket in the zoo.
        TicketError: The file is damaged or hostile, names no factory, or does not fit what that builds.
    """
    return network_of(Ticket.load(path, max_parameters=max_parameters), device)
