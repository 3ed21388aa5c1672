"""Orseau's construction: hyperbolic weights, and each target weight as a sum of digits in base 3/2.

Orseau, Hutter and Rivasplata, "Logarithmic pruning is all you need" (arXiv:2006.12156). From the paper: the
density p(w) ∝ 1/|w| on a bounded range, for both layers; two layers for one, a weight being the sum of
products u·v; a weight written by a greedy expansion in which one sample of each of the ranges (γ⁻², γ⁻¹],
(γ⁻³, γ⁻²], … stands for the digit, γ = 3/2; and hidden neurons that are sampled for the layer as a whole
and not for one weight (batch sampling).

Why it works: let the rest be at most R before a digit with value v in (R/γ², R/γ]. If v is larger than the
rest, the rest is below R/γ already. Otherwise v is subtracted, which leaves at most R − R/γ². That is no
more than R/γ as long as γ² ≤ γ + 1, so for every γ up to the golden ratio 1.618; 3/2 is below it. So a
target |w| ≤ 1 is met within γ⁻ᵏ by k digits, whichever samples stand for them, and under p(w) ∝ 1/|w| every
range is equally likely to be sampled.

Ours, because the paper's constants were not at hand: the number of digits, n / `UNITS_FOR_A_DIGIT`; the
bounds of the density, which put the wanted products on the middle half of what products can be, so that no
digit is rarer than half the commonest; the assignment of neurons (each one goes to the input for which it
supplies most digits still missing, and serves all outputs there, where the paper lets a neuron serve one
weight); and digits above a weight's magnitude, which could never be taken, are not asked for.
"""

import math

import torch
from torch import Tensor

from supermask.theory.draws import hyperbolic
from supermask.theory.network import Block, MaskedLinear, check_size

BASE = 1.5
UNITS_FOR_A_DIGIT = 8
"""Random hidden units for each input and digit. A unit supplies its digit to at most half of the outputs of
one input, on one side, and some units fall outside the range; this many leave few digits without a sample."""
_TOGETHER = 32
"""Hidden units whose inputs are chosen in one go."""


def digits_of(n: int) -> int:
    return max(1, n // UNITS_FOR_A_DIGIT)


def bounds(digits: int) -> tuple[float, float]:
    """Smallest and largest magnitude of the random weights.

    The wanted products lie in γ^−(k+1) … γ^−1. The logarithm of a product of two hyperbolic magnitudes has a
    triangular density, twice as wide as that of one; its middle half is put there.
    """
    centre = -(digits + 2) / 4
    return BASE ** (centre - digits / 2), BASE ** (centre + digits / 2)


def prune_orseau(weight: Tensor, n: int, seed: int, name: str) -> Block:
    """Prune two random layers with n·in hidden units to `weight` (out, in), |w| at most 1."""
    outputs, inputs = weight.shape
    units, digits = inputs * n, digits_of(n)
    check_size("first", units, inputs)
    check_size("second", outputs, units)
    low, high = bounds(digits)
    first = hyperbolic((units, inputs), seed, f"{name}.first", low, high)
    second = hyperbolic((outputs, units), seed, f"{name}.second", low, high)
    owner, holder = _assign(first, second, weight, digits)
    chosen = _expand(first, second, weight, owner, holder)
    mask = torch.zeros(units, inputs, dtype=torch.bool)
    mask[torch.arange(units), owner] = chosen.any(dim=0)
    return Block(MaskedLinear(first, mask), MaskedLinear(second, chosen))


def _assign(first: Tensor, second: Tensor, weight: Tensor, digits: int) -> tuple[Tensor, Tensor]:
    """Give every hidden unit an input, and every digit a unit that supplies it.

    Returns:
        owner (units,): the input of each unit; holder (2, in, digits, out): the unit that supplies a digit on
        the side of positive and of negative inputs, −1 where none does.
    """
    outputs, inputs = weight.shape
    units = len(first)
    log_first = first.double().abs().log() / math.log(BASE)
    log_second = second.double().abs().log().T / math.log(BASE)
    exponents = -torch.arange(2, digits + 2, dtype=torch.float64)
    wanted = BASE ** exponents[:, None] <= weight.double().abs().T[:, None]
    # One more digit, never wanted, takes the products outside the range.
    nowhere = torch.zeros(inputs, 1, outputs, dtype=torch.bool)
    missing = torch.cat([wanted, nowhere], dim=1).repeat(2, 1, 1, 1)
    holder = torch.full(missing.shape, units)
    owner = torch.zeros(units, dtype=torch.long)
    every_input, every_output = torch.arange(inputs)[:, None], torch.arange(outputs)
    negative = weight.T < 0
    for start in range(0, units, _TOGETHER):
        batch = torch.arange(start, min(start + _TOGETHER, units))
        u, v = first[batch], second.T[batch]
        digit = -(log_first[batch][:, :, None] + log_second[batch][:, None])
        digit = digit.floor().long() - 1  # (γ^−(i+2), γ^−(i+1)] but for the end that is hit by chance
        same = ((u < 0)[:, :, None] ^ (v < 0)[:, None]) == negative
        digit = torch.where(same & (digit >= 0) & (digit < digits), digit, digits)
        side = (u < 0).long()
        supplied = missing[side[:, :, None], every_input, digit, every_output]  # (batch, in, out)
        best = supplied.sum(dim=2).argmax(dim=1)
        owner[batch] = best
        # Where two units of a batch supply the same digit, the first of them does, whatever the order here.
        row, output = supplied[torch.arange(len(batch)), best].nonzero(as_tuple=True)
        j = best[row]
        place = ((side[row, j] * inputs + j) * (digits + 1) + digit[row, j, output]) * outputs + output
        holder.view(-1).scatter_reduce_(0, place, batch[row], "amin")
        missing.view(-1)[place] = False
    return owner, holder.where(holder < units, -1)[:, :, :digits]


def _expand(first: Tensor, second: Tensor, weight: Tensor, owner: Tensor, holder: Tensor) -> Tensor:
    """(out, units) bool: greedily, each digit from the largest on that does not exceed the rest."""
    incoming = first[torch.arange(len(first)), owner].double()
    chosen = torch.zeros(second.shape, dtype=torch.bool)
    every_output = torch.arange(len(weight)).expand(holder.shape[1], -1)
    for half in holder:
        rest = weight.double().abs().T.clone()
        for unit in half.unbind(dim=1):
            value = (incoming[unit] * second[every_output, unit].double()).abs()
            take = (unit >= 0) & (value <= rest)
            rest -= torch.where(take, value, 0)
            chosen[every_output[take], unit[take]] = True
    return chosen
