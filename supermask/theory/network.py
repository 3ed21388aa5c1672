"""What the constructions build: random layers under masks, as ordinary modules that run."""

from collections.abc import Iterator, Sequence
from typing import TypeGuard

import torch
from torch import Tensor, nn
from torch.nn import functional as F

MAX_WEIGHTS = 1 << 28
"""Most weights of one random layer: 1 GiB in float32."""


class MaskedLinear(nn.Module):
    """A linear layer without bias whose random weights are frozen and seen through a mask.

    The draws are float32. In float64 the module computes with the same numbers exactly, and the products of
    two of them are exact as well.

    Args:
        weight: (out, in) as drawn.
        mask: (out, in) bool: the weights that are kept.
    """

    weight: Tensor
    mask: Tensor

    def __init__(self, weight: Tensor, mask: Tensor) -> None:
        super().__init__()
        self.register_buffer("weight", weight)
        self.register_buffer("mask", mask)

    @property
    def effective(self) -> Tensor:
        return torch.where(self.mask, self.weight, 0)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.effective)


class Block(nn.Module):
    """Two random layers with a ReLU between them, pruned to act as one linear layer.

    Attributes:
        first: (h, in): a kept hidden unit sees one input through its one kept weight.
        second: (out, h).
    """

    def __init__(self, first: MaskedLinear, second: MaskedLinear) -> None:
        super().__init__()
        self.first = first
        self.second = second

    def forward(self, x: Tensor) -> Tensor:
        return self.second(F.relu(self.first(x)))

    def effective(self) -> tuple[Tensor, Tensor]:
        """The two matrices (out, in), in float64, that act on positive and on negative inputs.

        A unit with incoming weight u > 0 passes u·x for x > 0, one with u < 0 passes u·x for x < 0, and is
        silent otherwise. So the block computes P·max(x, 0) + N·min(x, 0).
        """
        first, second = self.first.effective.double(), self.second.effective.double()
        return second @ first.clamp(min=0), second @ first.clamp(max=0)


def sequential(blocks: Sequence[Block]) -> nn.Sequential:
    """Blocks as a network of (N, …) → (N, classes), with a ReLU between blocks."""
    modules: list[nn.Module] = [nn.Flatten()]
    for block in blocks:
        modules += [block, nn.ReLU()]
    return nn.Sequential(*modules[:-1])


def is_plain_linear(module: nn.Module | None) -> TypeGuard[nn.Linear]:
    """Whether it is a linear layer without bias."""
    return isinstance(module, nn.Linear) and len(list(module.parameters())) == 1


def masked_layers(network: nn.Module) -> Iterator[MaskedLinear]:
    for module in network.modules():
        if isinstance(module, MaskedLinear):
            yield module


def check_size(what: str, rows: int, columns: int) -> None:
    """ValueError when a random layer would not fit into memory."""
    if rows * columns > MAX_WEIGHTS:
        raise ValueError(
            f"the random {what} layer would have {rows:,} × {columns:,} weights, more than {MAX_WEIGHTS:,}; "
            "take fewer random numbers a weight or a narrower target"
        )
