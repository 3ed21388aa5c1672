"""Mask actions: what becomes of the weights that stay, and of those that go.

Zhou et al., "Deconstructing Lottery Tickets" (NeurIPS 2019), sections 3 (what stays) and 4 (what goes).
Iterative magnitude pruning resets what stays to its initial value and sets what goes to zero; the other
actions say which part of that matters. The constant is the standard deviation of the layer's initial weights.

Over rounds: a weight stands, once pruned, where the round that pruned it put it. Of networks that are rewound
to a step, the initial values are those of that step. Deviations: neither the paper nor its code freezes at
final values; `final` tells freezing apart from the value frozen at. Left out are its `variant 2`, which puts
those of the weights that stay to zero, too, that moved towards it, and its new draws and reshuffles of what
stays; of these the `reinit` control is the plainest.
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

    Zhou et al. (NeurIPS 2019), section 4; deviations: see the head of this module.

    Args:
        action: One of `PRUNED`.
        initial: Name → the weights before training, or at the step that they are rewound to.
        final: Name → the weights after it; those pruned earlier, where they have stood since.

    Raises:
        ValueError: There is no such action.
    """
    if check_actions(action) == "zero":
        return None
    if action == "final":
        return dict(final)
    if action == "init":
        return dict(initial)
    return {
        name: torch.where(final[name].abs() < start.abs(), torch.zeros_like(start), start)
        for name, start in initial.items()
    }


def check_actions(pruned: str, signs: bool = False, rewind: str = "weights") -> str:
    """`pruned` itself.

    Raises:
        ValueError: There is no such action, or kept weights are to go back to their signs where none goes
            back.
    """
    if pruned not in PRUNED:
        raise ValueError(f"unknown action {pruned!r} for pruned weights; choose one of {', '.join(PRUNED)}")
    if signs and rewind == "lr":
        raise ValueError(
            "with rewind 'lr' the kept weights stay as trained, so there are no initial signs to keep; leave "
            "out signs, or rewind 'weights'"
        )
    return pruned


def signs(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Name → the signs of the weights times the standard deviation of their layer.

    Zhou et al. (NeurIPS 2019), section 3: "constant, sign".
    """
    return {name: torch.sign(weight) * weight.std() for name, weight in weights.items()}
