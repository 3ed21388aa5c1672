"""Mask actions: what becomes of the weights that stay, and of those that go.

Zhou et al., "Deconstructing Lottery Tickets" (NeurIPS 2019), sections 3 and 4. Iterative magnitude pruning
resets what stays to its initial value and sets what goes to zero; the other actions say which part of that
matters. The constant is the standard deviation of the layer's initial weights.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

PRUNED = ("zero", "final", "init", "init-unless-shrunk")
"""Where pruned weights are frozen: at zero; at their final value; at their initial value; or at their initial
value unless training moved them towards zero, which puts them to zero."""


def pruned_values(
    action: str, initial: Mapping[str, Tensor], final: Mapping[str, Tensor]
) -> dict[str, Tensor] | None:
    """Name → where the pruned weights of a layer are frozen; None for zero.

    Raises:
        ValueError: There is no such action.
    """
    if action == "zero":
        return None
    if action == "final":
        return dict(final)
    if action == "init":
        return dict(initial)
    if action == "init-unless-shrunk":
        return {
            name: torch.where(final[name].abs() < start.abs(), torch.zeros_like(start), start)
            for name, start in initial.items()
        }
    raise ValueError(f"unknown action {action!r} for pruned weights; choose one of {', '.join(PRUNED)}")


def signs(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Name → the signs of the weights times the standard deviation of their layer."""
    return {name: torch.sign(weight) * weight.std() for name, weight in weights.items()}
