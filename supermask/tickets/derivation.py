"""How the values of a parameter follow from the seed: found out when a ticket is made, followed when read.

Besides a plain draw there are four derivations, for masked parameters: the draw times a factor (rescaled
weights), the signs of the draw times a factor (binary weights; of a signed constant, one of another scale),
the draw with some signs inverted (signed masks; one bit per kept weight), and draws of several generations
(iterative randomization; a number per kept weight).
They are found by looking at the weights, so whoever makes a ticket need not say what made the network.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import chain

import torch
from torch import Tensor

from supermask import ops
from supermask.weights.init import Draw, multiply

MAX_DIGITS = 12
"""Binary digits of a generation number: a reader draws the whole parameter for each number in the file."""
LARGEST = 3e38
"""Scales and factors are smaller: they are rounded to float32, and no weight that is drawn is infinite."""


@dataclass(frozen=True, eq=False)
class Derivation:
    """How the values of one parameter follow from the seed.

    Attributes:
        draw: The draw.
        flips: Packed bits (uint8), one per kept weight in row-major order; 1 inverts its sign.
        generations: Generation numbers of the kept weights in binary: row i holds the packed bits of 2^i.
    """

    draw: Draw
    flips: Tensor | None = None
    generations: Tensor | None = None

    @property
    def plain(self) -> bool:
        """Whether the values are the draw itself."""
        varied = self.flips is not None or self.generations is not None
        return not (varied or self.draw.binary or self.draw.factor != 1)

    def weight(self, seed: int, dtype: torch.dtype, mask: Tensor | None) -> Tensor:
        """The effective values, on the CPU; +0 outside the mask."""
        if self.flips is None and self.generations is None:
            weight = self.draw.weight(seed, dtype)
            return weight if mask is None else weight.masked_fill_(~mask, 0.0)
        assert mask is not None  # only kept weights are inverted or drawn again
        weight = torch.zeros(mask.shape, dtype=dtype, device="cpu")
        return weight.masked_scatter_(mask, self.kept(seed, dtype, mask))

    def kept(self, seed: int, dtype: torch.dtype, mask: Tensor) -> Tensor:
        """The values inside the mask, flat, in row-major order."""
        kept = self.draw.weight(seed, dtype)[mask]
        if self.generations is not None:
            numbers = generation_numbers(self.generations, len(kept))
            for number in numbers.unique().tolist():
                if number:
                    drawn = self.draw.weight(seed, dtype, generation=number)[mask]
                    kept = torch.where(numbers == number, drawn, kept)
        if self.flips is not None:
            kept = torch.where(ops.unpack_mask(self.flips, len(kept)), -kept, kept)
        return kept


def derive(
    weight: Tensor, mask: Tensor | None, draw: Draw, seed: int, generations: int = 0
) -> Derivation | None:
    """How `weight` (contiguous, on the CPU) follows from `draw`, bit for bit; None where it does not.

    Args:
        weight: Effective values; what lies outside `mask` does not count.
        mask: Bool mask, or None for a parameter without one.
        draw: What the parameter was drawn by.
        seed: Seed of the draw.
        generations: The last generation that the values may be of.
    """
    if not weight.is_floating_point() or not abs(draw.scale) < LARGEST or not 0 < draw.factor < LARGEST:
        return None
    plain = Derivation(draw)
    if mask is None:
        return plain if same_bits(weight, draw.weight(seed, weight.dtype)) else None
    kept = weight[mask]
    for found in chain([plain], _candidates(kept, mask, draw, seed, generations)):
        if same_bits(kept, found.kept(seed, kept.dtype, mask)):
            return found
    return None


def same_bits(a: Tensor, b: Tensor) -> bool:
    """Bitwise equality of two contiguous tensors."""
    return torch.equal(a.view(-1).view(torch.uint8), b.view(-1).view(torch.uint8))


def generation_numbers(planes: Tensor, count: int) -> Tensor:
    """The numbers (int64) of `count` kept weights from their packed binary digits."""
    numbers = torch.zeros(count, dtype=torch.int64)
    for digit, plane in enumerate(planes):
        numbers += ops.unpack_mask(plane, count).long() << digit
    return numbers


def _candidates(kept: Tensor, mask: Tensor, draw: Draw, seed: int, generations: int) -> Iterator[Derivation]:
    """Derivations whose kept values are worth comparing bit by bit; `kept` is what they must give."""
    if not len(kept):
        return
    draw = replace(draw, binary=False, factor=1.0)
    drawn = draw.weight(seed, kept.dtype)[mask]
    if torch.equal(drawn, kept):
        yield Derivation(draw)
    inverted = torch.signbit(kept) != torch.signbit(drawn)
    if not inverted.any():
        values = kept.abs()[kept != 0] if draw.zero_row is not None else kept.abs()
        magnitude = float(values[0]) if len(values) else 0.0
        if 0 < magnitude < LARGEST and bool((values == values[0]).all()):
            if draw.scheme == "sign":
                yield Derivation(replace(draw, scale=math.copysign(magnitude, draw.scale)))
            yield Derivation(replace(draw, binary=True, factor=magnitude))
        ratio = mask.numel() / len(kept)
        for factor in (ratio, ratio**0.5):
            rounded = float(torch.tensor(factor, dtype=torch.float32))
            if torch.equal(multiply(drawn, rounded), kept):
                yield Derivation(replace(draw, factor=rounded))
    elif torch.equal(drawn.abs(), kept.abs()):
        yield Derivation(draw, flips=ops.pack_mask(inverted))
    last = min(generations, (1 << MAX_DIGITS) - 1)
    yield from _generations(kept, mask, draw, drawn, seed, last)


def _generations(
    kept: Tensor, mask: Tensor, draw: Draw, drawn: Tensor, seed: int, last: int
) -> Iterator[Derivation]:
    """The derivation by the earliest generation that gives each weight, if one gives every weight."""
    numbers, open_ = torch.zeros(len(kept), dtype=torch.int64), drawn != kept
    for generation in range(1, last + 1):
        if not open_.any():
            break
        hit = open_ & (draw.weight(seed, kept.dtype, generation=generation)[mask] == kept)
        numbers[hit] = generation
        open_ &= ~hit
    if numbers.any() and not open_.any():
        digits = int(numbers.max()).bit_length()
        planes = [ops.pack_mask((numbers >> digit) & 1 == 1) for digit in range(digits)]
        yield Derivation(draw, generations=torch.stack(planes))
