"""Searches by stochastic gates: frozen weights under continuous gates in training, under 0/1 in the end.

In training the model holds W ⊙ z, z a draw of a relaxation whose parameters are the scores, so that
dL/ds = W · dL/dW_eff · dz/ds is a plain gradient with no straight-through step. The gradient of the expected
density (the mean openness of all gates) is added with a multiplier that a method decides on. `settle`, and
`evaluating` while it lasts, put the binary mask in place: the gates of highest score, as many as the density
says.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from supermask import masks
from supermask.checks import is_number
from supermask.search.construction import non_default_allocation
from supermask.search.noisy import NoisySearch
from supermask.search.relaxations import Relaxation
from supermask.weights.roles import ParameterInfo

START_SPREAD = 0.01
"""Standard deviation of the first scores about their start (Louizos et al.'s, for log α)."""


class GatedSearch(NoisySearch):
    """What searches by gates share; see `Search` for the other arguments.

    Args:
        relaxation: The distribution of a gate in training.
        start: Openness of every gate at first. None for `density`, at most 0.95.
    """

    exact_density = False
    accepts_score_init = False

    def __init__(
        self,
        model: nn.Module,
        *,
        density: float,
        relaxation: Relaxation,
        start: float | None = None,
        **options: Any,
    ) -> None:
        if start is not None and (not is_number(start) or not 0 < start < 1):
            raise ValueError(f"start is a probability and must lie in (0, 1), not {start!r}")
        self.relaxation = relaxation
        self.start = min(masks.check_density(density), 0.95) if start is None else start
        self._binary = False
        super().__init__(model, density=density, **options)

    def check_allocation(self, distribution: str, density_schedule: str) -> None:
        """The final mask follows any distribution that counts weights, but no groups and no schedule."""
        if masks.group_of(distribution) or density_schedule != "constant":
            raise ValueError(
                f"{self.method} leaves the gates of highest score open in the end, so that "
                f"{non_default_allocation(distribution, density_schedule)} cannot hold; use uniform, "
                "global, erk or epl with a constant density"
            )

    def multiplier(self, expected: Tensor, loss: list[Tensor], penalty: list[Tensor]) -> Tensor:
        """The multiplier of the expected density in this step's loss.

        Args:
            expected: The expected density, a scalar.
            loss: Gradients of the loss in the scores of the layers that received one.
            penalty: Gradients of the expected density in the same scores.
        """
        raise NotImplementedError

    # Gates of weights; a subclass may give several weights one gate, and some layers none.

    def gate_shape(self, name: str, shape: torch.Size) -> torch.Size:
        """Shape of the gates of a layer; it must expand to the weight's."""
        return shape

    def gated(self, name: str) -> bool:
        """Whether a layer has gates; one that has none is always open and counts nowhere."""
        return True

    def initial_scores(self, info: ParameterInfo, weight: Tensor) -> Tensor:
        """Scores of openness `start`, with a little noise from the seed, one for each gate."""
        like = weight.new_empty(self.gate_shape(info.name, weight.shape))
        at = self.relaxation.score_of(self.start)
        return self.noise("gates/start", info.name, like, "normal").mul_(START_SPREAD).add_(at)

    def score_gradients(
        self, grads: list[Tensor], weights: list[Tensor], scores: list[Tensor]
    ) -> list[Tensor]:
        """dL/ds of loss and penalty together."""
        slopes = [self.state[p]["slope"] for p in self.masked_parameters.values() if p.grad is not None]
        loss_gradients = [
            (g.to(w.dtype) * w).sum_to_size(s.shape) * slope
            for g, w, s, slope in zip(grads, weights, scores, slopes, strict=True)
        ]
        expected, per_gate = self._expected()
        penalties = [per_gate[name] for name, p in self.masked_parameters.items() if p.grad is not None]
        factor = self.multiplier(expected, loss_gradients, penalties)
        return [g + p * factor.to(g.dtype) for g, p in zip(loss_gradients, penalties, strict=True)]

    def expected_density(self) -> float:
        """Mean openness over all gated weights."""
        return float(self._expected()[0])

    # Drawing and binarizing.

    def advance(self) -> None:
        """Draw this step's gates."""
        masks.check_finite(self.scores)
        for name, parameter in self.masked_parameters.items():
            state = self.state[parameter]
            if self.gated(name):
                unit = self.noise("gates", name, state["score"], self.relaxation.scheme)
                gate, slope = self.relaxation.sample(state["score"], unit)
            else:
                gate, slope = torch.ones_like(state["score"]), torch.zeros_like(state["score"])
            state["gate"], state["slope"] = gate, slope

    def select(self) -> masks.Mask:
        """The mask is where this step's gates are not 0."""
        return {
            name: self._spread(name, self.state[p]["gate"] != 0) for name, p in self.masked_parameters.items()
        }

    def effective(self, mask: masks.Mask) -> dict[str, Tensor]:
        """W ⊙ z; W itself under the binary mask."""
        if self._binary:
            return self.weights
        return {
            name: self.state[p]["weight"] * self.state[p]["gate"]
            for name, p in self.masked_parameters.items()
        }

    def open_gates(self) -> dict[str, Tensor]:
        """The gates that stay, as bool tensors: exactly `keep` of highest score."""
        gated = {name: score for name, score in self.scores.items() if self.gated(name)}
        return self._with_ungated(masks.select(_ranked(gated), self.keep))

    def settle(self) -> None:
        """Put the binary network in place for good."""
        kept = self.open_gates()
        for name, parameter in self.masked_parameters.items():
            state = self.state[parameter]
            state["gate"] = kept[name].to(state["gate"].dtype)
        self.write({name: self._spread(name, gates) for name, gates in kept.items()})

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Inside this context the model is the binary network."""
        training = self.mask
        self._binary = True
        try:
            self.write({name: self._spread(name, gates) for name, gates in self.open_gates().items()})
            yield
        finally:
            self._binary = False
            self.write(training)

    # Plumbing.

    def identity(self) -> dict[str, Any]:
        relaxation = {"relaxation": type(self.relaxation).__name__, **vars(self.relaxation)}
        return {**super().identity(), "seed": self.seed, **relaxation}

    def counts(self, density: float) -> dict[str, int] | int:
        shapes = {name: tuple(score.shape) for name, score in self.scores.items() if self.gated(name)}
        if self.distribution == "global":
            return masks.keep_count(sum(math.prod(shape) for shape in shapes.values()), density)
        return masks.allocate(shapes, density, self.distribution)

    def _spread(self, name: str, gates: Tensor) -> Tensor:
        return gates.expand_as(self.weights[name]).contiguous()

    def _expected(self) -> tuple[Tensor, dict[str, Tensor]]:
        """The expected density and its gradient in the scores."""
        total = sum(weight.numel() for name, weight in self.weights.items() if self.gated(name))
        expected, gradients = torch.zeros(()), {}
        for name, score in self.scores.items():
            openness, slope = self.relaxation.openness(score)
            share = self.gated(name) * self.weights[name].numel() / score.numel() / total
            expected = expected.to(score) + openness.sum() * share
            gradients[name] = slope * share
        return expected, gradients

    def _with_ungated(self, kept: dict[str, Tensor]) -> dict[str, Tensor]:
        return {
            name: kept[name] if name in kept else torch.ones_like(score, dtype=torch.bool)
            for name, score in self.scores.items()
        }


def _ranked(scores: dict[str, Tensor]) -> dict[str, Tensor]:
    """Positive numbers in the order of the scores: `masks.select` ranks magnitudes."""
    low = torch.stack([score.min() for score in scores.values()]).min()
    return {name: score - low for name, score in scores.items()}
