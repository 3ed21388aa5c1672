"""What the network families share: rounding of widths and the check of the image size."""

from collections import OrderedDict
from collections.abc import Iterable

from torch import nn


def scaled(channels: int, width: float) -> int:
    """Return a layer's number of outputs under a width multiplier, at least one.

    Halves round up, so that the result never depends on the parity of the neighbour as it would
    with Python's ``round``.
    """
    return max(1, int(channels * width + 0.5))


def require_image_size(name: str, image_size: int, least: int) -> None:
    """Refuse images that the network would shrink to nothing.

    Raises:
        ValueError: ``image_size`` is below ``least``.
    """
    if image_size < least:
        raise ValueError(
            f"{name} needs images of at least {least}x{least} pixels, and image_size is "
            f"{image_size}; load larger images or choose a network with fewer poolings"
        )


def sequential(layers: Iterable[tuple[str, nn.Module]]) -> nn.Sequential:
    """Chain named layers. The names become parameter names, and weights are drawn by name."""
    return nn.Sequential(OrderedDict(layers))
