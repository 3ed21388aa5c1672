"""The random weights of the constructions, in float32, each tensor from the seed and its name."""

import math

import torch
from torch import Tensor

from supermask.weights.init import derive_key


def uniform(shape: tuple[int, ...], seed: int, name: str, scale: float = 1.0) -> Tensor:
    """U[−scale, scale] in float32."""
    return (torch.rand(shape, generator=_generator(seed, name)) * 2 - 1) * scale


def hyperbolic(shape: tuple[int, ...], seed: int, name: str, low: float, high: float) -> Tensor:
    """Magnitudes of density 1 / (|w| ln(high / low)) on [low, high] with fair signs, in float32.

    The logarithm of such a magnitude is uniform: every octave of the range is as likely as any other
    (Orseau et al., arXiv:2006.12156).
    """
    generator = _generator(seed, name)
    magnitude = low * torch.exp(torch.rand(shape, generator=generator) * math.log(high / low))
    return torch.where(torch.rand(shape, generator=generator) < 0.5, -magnitude, magnitude)


def _generator(seed: int, name: str) -> torch.Generator:
    # manual_seed takes 64 bits, of which it reads those above 2^63 as negative.
    return torch.Generator().manual_seed(derive_key("theory", seed, name) >> 1)
