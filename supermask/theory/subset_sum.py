"""The best subset of random numbers: which of n given numbers to add up to come nearest to a target.

Lueker, "Exponentially small bounds on the expected optimum of the partition and subset sum problems" (1998):
n = O(log 1/ε) uniform numbers suffice for the sums of their subsets to come within ε of every target in an
interval. The constructions of this package rest on it.

Every function takes S sets of n numbers, with T targets for each set, and solves all of them together in
float64. Numbers may have either sign; the empty subset counts.
"""

import torch
from torch import Tensor

EXACT_LIMIT = 24
"""Numbers up to which `exact_subset` serves: two halves of 2¹² sums."""
EXACT_TAIL = 16
"""Numbers that `best_subset` leaves to the exact search when there are too many for it."""
_CHUNK = 1 << 22
"""Most pairs of a target and a half-sum in memory at a time: 32 MiB in float64."""


def exact_subset(numbers: Tensor, targets: Tensor) -> Tensor:
    """The subset whose sum is nearest to each target, by meeting in the middle.

    The sums of all subsets of one half of the numbers are sorted once for a set; each sum of the other half
    then looks up the sum that it lacks. This takes 2^(n/2) steps for a target instead of 2ⁿ.

    Args:
        numbers: (S, n) with n at most `EXACT_LIMIT`.
        targets: (S, T).

    Returns:
        (S, T, n) bool: the numbers to add up.

    Raises:
        ValueError: The shapes do not fit each other, something is not finite, or n is too large.
    """
    numbers, targets = _checked(numbers, targets)
    sets, n = numbers.shape
    if n > EXACT_LIMIT:
        raise ValueError(
            f"an exact search over {n} numbers needs 2^{n // 2} sums for each target; give at most "
            f"{EXACT_LIMIT}, or take best_subset or greedy_subset"
        )
    mask = torch.empty(sets, targets.shape[1], n, dtype=torch.bool)
    # Both loops bound the memory; where either has one turn, nothing is lost.
    step = max(1, _CHUNK >> (n // 2))
    across = max(1, step // max(1, targets.shape[1]))
    for first in range(0, sets, across):
        rows = slice(first, first + across)
        lookup = _Halves(numbers[rows])
        for start in range(0, targets.shape[1], step):
            columns = slice(start, start + step)
            mask[rows, columns] = lookup.nearest(targets[rows, columns])
    return mask


def greedy_subset(numbers: Tensor, targets: Tensor) -> Tensor:
    """A subset found in one pass: numbers by falling magnitude, each taken if it brings the sum nearer.

    The error falls as a power of n only, not exponentially, but the pass costs n steps.

    Args:
        numbers: (S, n), any n.
        targets: (S, T).

    Returns:
        (S, T, n) bool: the numbers to add up.

    Raises:
        ValueError: The shapes do not fit each other, or something is not finite.
    """
    numbers, targets = _checked(numbers, targets)
    order = numbers.abs().argsort(dim=1, descending=True, stable=True)
    ordered = numbers.gather(1, order)
    rest = targets.clone()
    mask = torch.zeros(*targets.shape, numbers.shape[1], dtype=torch.bool)
    for rank in range(numbers.shape[1]):
        left = rest - ordered[:, rank, None]
        take = left.abs() < rest.abs()
        rest = torch.where(take, left, rest)
        mask.scatter_(2, order[:, rank, None, None].expand(*targets.shape, 1), take[:, :, None])
    return mask


def best_subset(numbers: Tensor, targets: Tensor) -> Tensor:
    """The exact subset up to `EXACT_LIMIT` numbers; above it, greedy over the largest, exact over the rest.

    The greedy pass leaves what is less than its smallest number can change; the `EXACT_TAIL` smallest
    numbers then share an exact search for that remainder.

    Args and returns as `exact_subset`, with any n.
    """
    numbers, targets = _checked(numbers, targets)
    if numbers.shape[1] <= EXACT_LIMIT:
        return exact_subset(numbers, targets)
    order = numbers.abs().argsort(dim=1, descending=True, stable=True)
    large, small = order[:, :-EXACT_TAIL], order[:, -EXACT_TAIL:]
    coarse = greedy_subset(numbers.gather(1, large), targets)
    rest = targets - subset_sums(numbers.gather(1, large), coarse)
    # The remainder differs for each target, but the numbers of a set, and so their sorted sums, are shared.
    fine = exact_subset(numbers.gather(1, small), rest)
    mask = torch.empty(*targets.shape, numbers.shape[1], dtype=torch.bool)
    mask.scatter_(2, large[:, None].expand_as(coarse), coarse)
    mask.scatter_(2, small[:, None].expand_as(fine), fine)
    return mask


def subset_sums(numbers: Tensor, mask: Tensor) -> Tensor:
    """(S, T) float64: what each subset of `mask` (S, T, n) of `numbers` (S, n) adds up to."""
    return torch.einsum("sn,stn->st", numbers.double(), mask.double())


class _Halves:
    """The subset sums of both halves of some sets of numbers, those of the second half sorted."""

    def __init__(self, numbers: Tensor) -> None:
        self.cut = numbers.shape[1] // 2
        self.rest = numbers.shape[1] - self.cut
        self.first = _all_sums(numbers[:, : self.cut])
        self.second, self.order = _all_sums(numbers[:, self.cut :]).sort(dim=1)

    def nearest(self, targets: Tensor) -> Tensor:
        """(S, T, n) bool for (S, T) targets."""
        sets, count = targets.shape
        wanted = (targets[:, :, None] - self.first[:, None, :]).reshape(sets, -1)
        above = torch.searchsorted(self.second, wanted).clamp_(max=self.second.shape[1] - 1)
        below = (above - 1).clamp_(min=0)
        misses = [(self.second.gather(1, index) - wanted).abs_() for index in (below, above)]
        second = torch.where(misses[0] <= misses[1], below, above).view(sets, count, -1)
        first = torch.minimum(*misses).view(sets, count, -1).argmin(dim=2)
        second = second.gather(2, first[:, :, None]).squeeze(2)
        return torch.cat([_bits(first, self.cut), _bits(self.order.gather(1, second), self.rest)], dim=2)


def _all_sums(numbers: Tensor) -> Tensor:
    """(S, 2ⁿ): entry i adds up the numbers whose bit of i is set."""
    sums = numbers.new_zeros(len(numbers), 1)
    for column in numbers.T:
        sums = torch.cat([sums, sums + column[:, None]], dim=1)
    return sums


def _bits(index: Tensor, count: int) -> Tensor:
    return (index[..., None] >> torch.arange(count)) & 1 != 0


def _checked(numbers: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    if numbers.ndim != 2 or targets.ndim != 2 or len(numbers) != len(targets):
        raise ValueError(
            f"numbers are (S, n) and targets (S, T) with one S, not {tuple(numbers.shape)} and "
            f"{tuple(targets.shape)}"
        )
    for name, tensor in (("numbers", numbers), ("targets", targets)):
        if not tensor.isfinite().all():
            raise ValueError(f"{name} must be finite; there is NaN or infinity among them")
    return numbers.double(), targets.double()
