"""What a mask keeps, how far two masks are apart, and which layers are close to collapse."""

import warnings
from collections.abc import Mapping

import torch
from torch import Tensor


class LayerCollapseWarning(UserWarning):
    """A layer keeps so few weights that the network may be cut in two."""


def warn_of_collapse(mask: Mapping[str, Tensor]) -> None:
    """Warn, by name, of layers that keep fewer than one weight for ten output units."""
    thin = [name for name, m in mask.items() if int(m.sum()) * 10 < m.shape[0]]
    if thin:
        kept = ", ".join(f"{name} ({int(mask[name].sum())} of {mask[name].numel()})" for name in thin)
        warnings.warn(
            f"close to collapse: {kept} weights kept. Raise the density, or exclude the layer",
            LayerCollapseWarning,
            stacklevel=3,
        )


def density(mask: Mapping[str, Tensor]) -> float:
    """Fraction of weights kept over all layers; 1 without any, as in a dense network."""
    total = sum(m.numel() for m in mask.values())
    return sum(int(m.sum()) for m in mask.values()) / total if total else 1.0


def distance(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> float:
    """Fraction of entries in which two masks differ (normalized Hamming distance).

    Raises:
        ValueError: They do not have the same layers.
    """
    if a.keys() != b.keys() or any(a[name].shape != b[name].shape for name in a):
        raise ValueError("the two masks do not have the same layers")
    differing = sum(int(torch.count_nonzero(a[name] != b[name])) for name in a)
    return differing / max(sum(m.numel() for m in a.values()), 1)
