"""What a mask looks like: which weights it keeps where, what of it works, and how two of them agree."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

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
    (ReLU) a value is the number of paths to it. Any input of a maximum may be the largest, so that paths lead
    through all of them: it counts as their sum. Biases do not begin paths.

    Args:
        model: The network; it is not changed.
        mask: Name → bool mask of its masked parameters.
        shape: Shape of one input, without the batch.

    Returns:
        Name → bool mask of the effective weights, and log10 of the number of paths (minus infinity for none).
        Pooling by average or to a given size, and norms, weigh paths: that changes the number, not the mask.
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
    with _SumsForMaxima():
        scores = synaptic_flow(network, shape)
    flow = float(next(iter(scores.values())).sum())
    return {name: scores[name] > 0 for name in mask}, math.log10(flow) if flow > 0 else -math.inf


class _SumsForMaxima(TorchFunctionMode):
    """Inside this context a maximum passes on all that it is taken of, as a sum, not the largest alone."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        given = {name: value for name, value in (kwargs or {}).items() if name != "return_indices" or value}
        if func in _SUMS and not {"return_indices", "out"} & given.keys():
            return _SUMS[func](*args, **given)
        return func(*args, **(kwargs or {}))


def _sum_pool(dimensions: int) -> Callable[..., Tensor]:
    """Pooling by sum; over windows with holes, which means do not have, by maximum as it was."""
    mean, largest = getattr(F, f"avg_pool{dimensions}d"), getattr(F, f"max_pool{dimensions}d")

    def pool(
        input: Tensor,
        kernel_size: int | Sequence[int],
        stride: Any = None,
        padding: Any = 0,
        dilation: int | Sequence[int] = 1,
        ceil_mode: bool = False,
    ) -> Any:
        if set(_each(dilation, dimensions)) != {1}:
            return largest(input, kernel_size, stride, padding, dilation, ceil_mode)
        return mean(input, kernel_size, stride, padding, ceil_mode) * math.prod(
            _each(kernel_size, dimensions)
        )

    return pool


def _each(size: int | Sequence[int], dimensions: int) -> tuple[int, ...]:
    """A size for each dimension."""
    return (size,) * dimensions if isinstance(size, int) else tuple(size)


def _sum(input: Tensor, dim: Any = None, keepdim: bool = False, *, other: Tensor | None = None) -> Any:
    """What `max` returns, with a sum for the largest."""
    if other is not None or isinstance(dim, Tensor):
        return input + (dim if other is None else other)
    if dim is None:
        return input.sum()
    return torch.return_types.max((input.sum(dim, keepdim), input.argmax(dim, keepdim)))


_SUMS: dict[Any, Callable[..., Any]] = {
    **{getattr(F, f"max_pool{n}d"): _sum_pool(n) for n in (1, 2, 3)},
    **{getattr(torch, f"max_pool{n}d"): _sum_pool(n) for n in (1, 2, 3)},
    **{getattr(F, f"adaptive_max_pool{n}d"): getattr(F, f"adaptive_avg_pool{n}d") for n in (1, 2, 3)},
    **dict.fromkeys((torch.amax, Tensor.amax), torch.sum),
    **dict.fromkeys((torch.max, Tensor.max), _sum),
    **dict.fromkeys((torch.maximum, Tensor.maximum), torch.add),
}


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
