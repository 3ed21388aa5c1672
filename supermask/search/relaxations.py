"""Continuous relaxations of a 0/1 gate: what is drawn in training, how open a gate is, where it rests.

Each gate has one parameter s (its score) and one random number e per step. A relaxation gives the drawn
gate z(s, e) in [0, 1] with dz/ds, the probability of being open with its derivative in s, and the gate
without noise.
"""

import math
from typing import Protocol

import torch
from torch import Tensor

from supermask.checks import is_number


class Relaxation(Protocol):
    """One relaxation; every method works element by element and keeps shape and dtype."""

    scheme: str
    """Unit distribution of the generator from which e is drawn (see `ops.SCHEMES`)."""

    def sample(self, score: Tensor, unit: Tensor) -> tuple[Tensor, Tensor]:
        """The gate z and dz/ds for draws `unit` of `scheme`."""

    def openness(self, score: Tensor) -> tuple[Tensor, Tensor]:
        """Expected number of open gates, per gate, and its derivative in s."""

    def resting(self, score: Tensor) -> Tensor:
        """The gate without noise, as the authors use it after training."""

    def score_of(self, openness: float) -> float:
        """The score at which a gate has this openness, in (0, 1)."""


class Gaussian:
    """z = clamp(μ + σε, 0, 1), ε ~ N(0, 1), with P(z > 0) = Φ(μ/σ).

    Yamada et al., "Feature Selection using Stochastic Gates" (ICML 2020), equations 4 and 5; the authors'
    σ = 0.5.
    """

    scheme = "normal"

    def __init__(self, spread: float = 0.5) -> None:
        if not is_number(spread) or spread <= 0:
            raise ValueError(f"spread is the σ of the noise and must be above 0, not {spread!r}")
        self.spread = spread

    def sample(self, score: Tensor, unit: Tensor) -> tuple[Tensor, Tensor]:
        noisy = score + self.spread * unit
        return noisy.clamp(0.0, 1.0), ((noisy > 0) & (noisy < 1)).to(score.dtype)

    def openness(self, score: Tensor) -> tuple[Tensor, Tensor]:
        scaled = score / self.spread
        slope = torch.exp(-0.5 * scaled * scaled) / (self.spread * math.sqrt(2 * math.pi))
        return torch.special.ndtr(scaled), slope

    def resting(self, score: Tensor) -> Tensor:
        return score.clamp(0.0, 1.0)

    def score_of(self, openness: float) -> float:
        return self.spread * float(torch.special.ndtri(torch.tensor(openness, dtype=torch.float64)))


class HardConcrete:
    """A binary concrete variable, stretched to (γ, ζ) and clamped to [0, 1].

    Louizos, Welling and Kingma, "Learning Sparse Neural Networks through L0 Regularization" (ICLR 2018),
    equations 10 to 13: s̄ = (ζ − γ)·sigmoid((logit u + log α)/β) + γ, z = clamp(s̄, 0, 1),
    P(z > 0) = sigmoid(log α − β·log(−γ/ζ)), with their γ = −0.1, ζ = 1.1 and β = 2/3. The score is log α.
    """

    scheme = "uniform"
    low, high = -0.1, 1.1

    def __init__(self, temperature: float = 2 / 3) -> None:
        self.temperature = _checked(temperature)
        self._shift = self.temperature * math.log(-self.low / self.high)

    def sample(self, score: Tensor, unit: Tensor) -> tuple[Tensor, Tensor]:
        soft = torch.sigmoid((logit_of(unit) + score) / self.temperature)
        width = self.high - self.low
        stretched = width * soft + self.low
        inside = ((stretched > 0) & (stretched < 1)).to(score.dtype)
        return stretched.clamp(0.0, 1.0), inside * (width / self.temperature) * soft * (1 - soft)

    def openness(self, score: Tensor) -> tuple[Tensor, Tensor]:
        probability = torch.sigmoid(score - self._shift)
        return probability, probability * (1 - probability)

    def resting(self, score: Tensor) -> Tensor:
        return (torch.sigmoid(score) * (self.high - self.low) + self.low).clamp(0.0, 1.0)

    def score_of(self, openness: float) -> float:
        return math.log(openness / (1 - openness)) + self._shift


class Concrete:
    """Binary concrete: z = sigmoid(a + logit(u)/τ), in (0, 1).

    Maddison, Mnih and Teh, "The Concrete Distribution" (ICLR 2017), section 3 and appendix B, with a
    location a = (log α)/τ. In this form sigmoid(a) is the gate without noise, and Arora and Teuscher
    (arXiv:2512.07142, their code) take it as the expected number of open gates.
    """

    scheme = "uniform"

    def __init__(self, temperature: float = 2 / 3) -> None:
        self.temperature = _checked(temperature)

    def sample(self, score: Tensor, unit: Tensor) -> tuple[Tensor, Tensor]:
        soft = torch.sigmoid(score + logit_of(unit) / self.temperature)
        return soft, soft * (1 - soft)

    def openness(self, score: Tensor) -> tuple[Tensor, Tensor]:
        soft = torch.sigmoid(score)
        return soft, soft * (1 - soft)

    def resting(self, score: Tensor) -> Tensor:
        return torch.sigmoid(score)

    def score_of(self, openness: float) -> float:
        return math.log(openness / (1 - openness))


def logit_of(unit: Tensor) -> Tensor:
    """log u − log(1 − u) of a uniform u in (0, 1) that is given as 2u − 1 in (−1, 1)."""
    return 2.0 * torch.atanh(unit)


def _checked(temperature: float) -> float:
    if not is_number(temperature) or temperature <= 0:
        raise ValueError(f"temperature must be above 0, not {temperature!r}")
    return temperature
