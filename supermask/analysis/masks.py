"""What a mask looks like: which weights it keeps where, what of it works, and how two of them agree."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from supermask.masks import Mask
from supermask.prune.at_init import synaptic_flow
from supermask.weights.names import parameters_of, plain_copy
from supermask.weights.roles import classify, masked


def layer_densities(mask: Mapping[str, Tensor]) -> dict[str, float]:
    """Name → fraction of the layer's weights that is kept."""
    return {name: int(kept.sum()) / kept.numel() for name, kept in mask.items()}


def effective(model: nn.Module, mask: Mapping[str, Tensor], shape: tuple[int, ...]) -> tuple[Mask, float]:
    """The kept weights that lie on a path from input to output, and the logarithm of the number of paths.

    A kept weight without such a path cannot change what the network computes. Paths are counted in the
    network whose weights are 1 where the mask keeps them: with nonlinearities that keep positive numbers
    (ReLU, pooling by maximum) a value is the number of paths to it. Biases do not begin paths.

    Args:
        model: The network; it is not changed.
        mask: Name → bool mask of its masked parameters.
        shape: Shape of one input, without the batch.

    Returns:
        Name → bool mask of the effective weights, and log10 of the number of paths (minus infinity for none).
        Pooling by average and norms weigh paths, which changes the number and not the mask.
    """
    network = plain_copy(model).double()
    weights = parameters_of(network)
    with torch.no_grad():
        for info in classify(network):
            if info.tensor.is_floating_point():
                info.tensor.fill_(1.0 if info.value == 1.0 else 0.0)
        for info in masked(network):
            info.tensor.fill_(1.0)  # a layer that the mask leaves out is dense
        for name, kept in mask.items():
            weights[name].copy_(kept)
    scores = synaptic_flow(network, shape)
    flow = float(next(iter(scores.values())).sum())
    return {name: scores[name] > 0 for name in mask}, math.log10(flow) if flow > 0 else -math.inf


def vanished(mask: Mapping[str, Tensor]) -> dict[str, dict[str, int]]:
    """What a mask leaves nothing of.

    Returns:
        Name → `units` (outputs without a kept weight) of `unit_count` and, in convolutions, `kernels` (pairs
        of input and output channel without one) of `kernel_count`.
    """
    counts = {}
    for name, kept in mask.items():
        units = kept.flatten(1).any(dim=1)
        entry = {"units": int((~units).sum()), "unit_count": len(units)}
        if kept.dim() > 2:
            kernels = kept.flatten(2).any(dim=2)
            entry |= {"kernels": int((~kernels).sum()), "kernel_count": kernels.numel()}
        counts[name] = entry
    return counts


def overlap(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> tuple[float, float]:
    """Share of the weights kept by `first` or `second` that both keep (Jaccard), and what chance would give.

    Chance: two independent random masks with the same counts in every layer.

    Raises:
        ValueError: The masks do not have the same layers.
    """
    if first.keys() != second.keys() or any(first[name].shape != second[name].shape for name in first):
        raise ValueError("the two masks do not have the same layers")
    both = either = by_chance = total = 0.0
    for name, kept in first.items():
        ours, theirs = int(kept.sum()), int(second[name].sum())
        both += int((kept & second[name]).sum())
        either += int((kept | second[name]).sum())
        by_chance += ours * theirs / kept.numel()
        total += ours + theirs
    return both / max(either, 1.0), by_chance / max(total - by_chance, 1.0)
