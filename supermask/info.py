"""`python -m supermask.info [TICKET ...]`: which implementation serves each operator; what tickets are."""

import sys
from collections.abc import Sequence

import torch

from supermask import ops


def describe() -> str:
    """Versions and, for each device, one line per operator."""
    lines = [f"torch {torch.__version__}, {torch.get_num_threads()} threads"]
    for device in ("cpu", "cuda"):
        backends = ops.backends(device)
        width = max(map(len, backends)) + 1
        lines += ["", device, *(f"  {name:<{width}}{backend}" for name, backend in backends.items())]
    return "\n".join(lines)


def describe_tickets(paths: Sequence[str]) -> str:
    """For each ticket what it is, and how far its file is protected against damage.

    Raises:
        FileNotFoundError: There is no such file.
        TicketError: A file is damaged.
    """
    from supermask.tickets.ticket import Ticket

    tickets = {path: Ticket.load(path) for path in paths}
    return "\n".join(
        f"{path}: {ticket!r}\n  format version {ticket.version}: {ticket.protection}"
        for path, ticket in tickets.items()
    )


if __name__ == "__main__":
    print(describe_tickets(sys.argv[1:]) if len(sys.argv) > 1 else describe())
