"""Limits of the work for a ticket: drawn weights take no bytes, so a small file could ask for much."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from supermask.tickets.derivation import generation_numbers
from supermask.tickets.entry import Entry, TicketError

FREE_BYTES = 1 << 28
"""Bytes of weights, or of a network's buffers, that any file may ask for."""
FREE_DRAWS = 1 << 27
"""Draws that any file may ask for."""
PER_BYTE = 512
"""What each byte of a file's tensors adds to both."""
DRAWS_PER_PARAMETER = 16
"""Draws that are granted with an explicit number of parameters."""


@dataclass(frozen=True)
class Bounds:
    """The most that a ticket may ask for.

    Attributes:
        parameters: Number of parameters.
        nbytes: Bytes of all effective weights; also of all buffers of the network that is built for them.
        draws: Values drawn; each generation that occurs in a parameter is a draw of the whole parameter.
    """

    parameters: int
    nbytes: int
    draws: int

    @classmethod
    def of_file(cls, stored: int) -> "Bounds":
        """What a file with `stored` bytes of tensors may ask for."""
        allowed = FREE_BYTES + PER_BYTE * stored
        return cls(allowed, allowed, FREE_DRAWS + PER_BYTE * stored)

    @classmethod
    def of_trust(cls, max_parameters: int) -> "Bounds":
        """What a file may ask for whose reader trusts it with so many parameters."""
        return cls(max_parameters, 8 * max_parameters, DRAWS_PER_PARAMETER * max_parameters)

    def check_sizes(self, entries: Iterable[Entry]) -> None:
        """Raise TicketError if the network that is declared is too large."""
        total, nbytes = (sum(getattr(entry, size) for entry in entries) for size in ("numel", "nbytes"))
        if total > self.parameters or nbytes > self.nbytes:
            raise TicketError(
                f"it declares more parameters ({total}) than a file of its size should; if you trust it, "
                f"give max_parameters={total}"
            )

    def check_draws(self, entries: Iterable[Entry], kept: Mapping[str, int]) -> None:
        """Raise TicketError if too much is to be drawn; `kept` has the weights kept of masked parameters."""
        total = sum(draws_of(entry, kept.get(entry.name, 0)) for entry in entries)
        if total > self.draws:
            raise TicketError(
                f"it asks for {total} draws, more than a network of its size should; if you trust it, give "
                f"max_parameters={-(-total // DRAWS_PER_PARAMETER)}"
            )


def draws_of(entry: Entry, kept: int) -> int:
    """Values that are drawn for a parameter of which `kept` weights are kept."""
    if entry.derivation is None:
        return 0
    if entry.derivation.generations is None:
        return entry.numel
    return entry.numel * (1 + len(generation_numbers(entry.derivation.generations, kept).unique()))


def too_much_to_draw(entries: Iterable[Entry], kept: Mapping[str, int], stored: int) -> list[str]:
    """Names of the parameters to be stored, though they follow from the seed, for readers to take the file.

    Args:
        entries: All parameters.
        kept: Name → weights kept, of masked parameters.
        stored: Bytes of tensors in the file as it stands.
    """
    entries, names = list(entries), []
    # What costs most to draw goes first; a plain masked parameter has a bit for each weight in the file.
    costs = {
        entry.name: draws_of(entry, kept.get(entry.name, 0))
        for entry in entries
        if entry.derivation and (not entry.masked or entry.derivation.generations is not None)
    }
    for name in sorted(costs, key=lambda name: -costs[name]):
        try:
            bounds = Bounds.of_file(stored)
            bounds.check_sizes(entries)
            bounds.check_draws(entries, kept)
            break
        except TicketError:
            names.append(name)
        index = next(i for i, entry in enumerate(entries) if entry.name == name)
        entries[index] = replace(entries[index], derivation=None)
        stored += kept.get(name, entries[index].numel) * entries[index].dtype.itemsize
    return names
