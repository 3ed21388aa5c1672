"""Malach's and Pensia's constructions: every input has its own n hidden units, for all outputs.

Layer W (out, in) of the target becomes a first random layer (n·in, in), a ReLU and a second random layer
(out, n·in). Hidden unit (j, k) is pruned to see only input j, through the weight u_jk. What output i gets
from it is v_ijk·σ(u_jk·x_j). Units with u > 0 speak for x_j > 0 and those with u < 0 for x_j < 0, so on
either side the mask of v has to choose products u_jk·v_ijk that stand for w_ij: the gadget of Pensia et
al., arXiv:2006.07990, w·x ≈ vᵀσ(u·x). About n/2 products stand on a side, exactly as many as the signs
fall.

Both papers draw from U[−1, 1]. They differ in what they choose:

- Malach et al. (arXiv:2002.00585): one neuron for each side. Their proof looks for a neuron with u and v each
  near a wanted value, for which it needs order 1/ε² candidates. We take the product nearest to w, which is
  all that the output sees and needs order 1/ε; and our candidates are shared by the outputs.
- Pensia et al.: the subset of products whose sum is nearest to w, order log 1/ε of them. Their theorem asks
  ‖W‖₂ ≤ 1; we ask only |w| ≤ 1. The subset is exact up to 24 products a side (`subset_sum.best_subset`).
"""

from collections.abc import Callable

import torch
from torch import Tensor

from supermask.theory.draws import uniform
from supermask.theory.network import Block, MaskedLinear, check_size
from supermask.theory.subset_sum import best_subset

Select = Callable[[Tensor, Tensor], Tensor]
"""Numbers (B, c) and targets (B,) → which numbers to add up, (B, c) bool."""


def prune_malach(weight: Tensor, n: int, seed: int, name: str) -> Block:
    """Prune two random layers to `weight` (out, in) by the one best product on each side."""
    return _prune(weight, n, seed, name, _nearest)


def prune_pensia(weight: Tensor, n: int, seed: int, name: str) -> Block:
    """Prune two random layers to `weight` (out, in) by the best subset of products on each side."""
    return _prune(weight, n, seed, name, _subset)


def _nearest(numbers: Tensor, targets: Tensor) -> Tensor:
    best = (numbers - targets[:, None]).abs().argmin(dim=1, keepdim=True)
    return torch.zeros_like(numbers, dtype=torch.bool).scatter_(1, best, True)


def _subset(numbers: Tensor, targets: Tensor) -> Tensor:
    return best_subset(numbers, targets[:, None]).squeeze(1)


def _prune(weight: Tensor, n: int, seed: int, name: str, select: Select) -> Block:
    outputs, inputs = weight.shape
    units = inputs * n
    check_size("first", units, inputs)
    check_size("second", outputs, units)
    first = uniform((units, inputs), seed, f"{name}.first")
    second = uniform((outputs, units), seed, f"{name}.second")
    every = torch.arange(inputs)
    incoming = first.view(inputs, n, inputs)[every, :, every]
    chosen = torch.zeros(outputs, inputs, n, dtype=torch.bool)
    for side in (incoming > 0, incoming < 0):
        # Inputs with equally many units on this side are solved together.
        counts = side.sum(dim=1)
        for count in counts.unique().tolist():
            if count == 0:
                continue
            members = (counts == count).nonzero()
            mine = side[members[:, 0]].nonzero()[:, 1].view(-1, count)
            outgoing = second.view(outputs, inputs, n)[:, members, mine]
            numbers = incoming[members, mine].double() * outgoing.double()
            targets = weight[:, members[:, 0]].double()
            subset = select(numbers.view(-1, count), targets.reshape(-1))
            chosen[:, members, mine] = subset.view_as(numbers)
    return Block(
        MaskedLinear(first, first_mask(chosen.any(dim=0))),
        MaskedLinear(second, chosen.view(outputs, units)),
    )


def first_mask(used: Tensor) -> Tensor:
    """(in, n) bool, the hidden units of each input that serve some output → mask (n·in, in) of the layer
    before them, in which each of those units sees its input alone."""
    inputs, n = used.shape
    mask = torch.zeros(inputs, n, inputs, dtype=torch.bool)
    every = torch.arange(inputs)
    mask[every, :, every] = used
    return mask.view(inputs * n, inputs)
