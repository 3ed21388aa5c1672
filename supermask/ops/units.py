"""Gradients in units of their layers, which relative steps of a search take."""

from collections.abc import Sequence

import torch
from torch import Tensor

from supermask.ops.references import in_units as in_units


def units_of_layers(grads: Sequence[Tensor], sizes: Sequence[Tensor], decay: float) -> Tensor:
    """What makes gradients of scores as large as first scores: a factor for dL/dW_eff of each layer.

    The size of first scores, divided by that of W · dL/dW_eff, a root of a running mean of squares.

    Args:
        grads: dL/dW_eff of at least one layer, on one device, of any float type and strides.
        sizes: Of each layer, float32, (4,): the size of its first scores, that of its weights, the running
            mean of squared gradients of its scores, the sum of the coefficients in it. The last two move.
        decay: What the running mean keeps of itself.

    Returns:
        float32, (layers,), on the device of the gradients.
    """
    return torch.ops.supermask.units_of_layers(grads, sizes, decay)


@torch.library.register_fake("supermask::units_of_layers")
def _(grads: Sequence[Tensor], sizes: Sequence[Tensor], decay: float) -> Tensor:
    return sizes[0].new_empty(len(sizes))
