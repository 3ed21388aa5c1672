"""Linear mode connectivity: the error along the straight line between two trained networks.

Frankle et al., "Linear Mode Connectivity and the Lottery Ticket Hypothesis" (ICML 2020), section 2: a network
is stable to the noise of SGD when two copies, trained with different data orders, are joined by a line along
which the error does not rise.
"""

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from supermask.weights.names import unwrap

STABLE_BELOW = 0.02
"""Instability, as a fraction of examples, below which the paper calls a network stable."""
POINTS = 30
"""Evenly spaced points on the line, as in the paper, the two ends among them."""


def line(points: int = POINTS) -> list[float]:
    """Evenly spaced α from 0 to 1; at α the network is α · first + (1 - α) · second.

    Raises:
        ValueError: Fewer than two points.
    """
    if points < 2:
        raise ValueError(f"a line takes at least two points, its ends, not {points}")
    return [index / (points - 1) for index in range(points)]


@torch.no_grad()
def error_along_line(
    model: nn.Module,
    first: Mapping[str, Tensor],
    second: Mapping[str, Tensor],
    error: Callable[[], float],
    points: int = POINTS,
) -> list[float]:
    """E(α · first + (1 - α) · second) for the α of `line`; `model` ends as `first`.

    Args:
        model: The network; its parameters and buffers are written.
        first: State of one network, as `state_dict` gives it.
        second: State of the other. Floats are interpolated, the rest is that of `first`.
        error: Measures `model` as it stands. Where norms keep statistics, it may estimate them again:
            those of the ends do not fit what lies between.

    Raises:
        ValueError: The states are of different networks.
    """
    if first.keys() != second.keys() or any(first[name].shape != second[name].shape for name in first):
        raise ValueError("the two states are of different networks")
    errors = []
    for alpha in line(points):
        mixed = {
            name: torch.lerp(second[name], value, alpha) if value.is_floating_point() else value
            for name, value in first.items()
        }
        unwrap(model).load_state_dict(mixed)
        errors.append(error())
    return errors


def instability(errors: Sequence[float]) -> float:
    """The highest error on the line above the mean of its ends (section 2 of the paper)."""
    return max(errors) - (errors[0] + errors[-1]) / 2
