"""Gem-Miner: Sreenivasan et al., "Rare Gems: Finding Lottery Tickets at Initialization" (NeurIPS 2022).

Scores start uniform on (0, 1) and are projected back to [0, 1] after every step. A weight stands while its
score is above 1/2 and it is not frozen; the loss is cross-entropy plus λ·Σs², and the gradient passes the
rounding unchanged to every weight that is not frozen: dL/ds = W · dL/dW_eff + 2λs (their section 3,
algorithm 1). Every T epochs the lowest scores of the whole network, a fraction p of those still free, are
frozen out for good. As in the authors' code, with n = ⌊(E − 1) / T⌋ freezings in E epochs, p = 1 −
density^(1/n), and ⌈p · free⌉ scores go each time.

The density emerges: at most `density` is left, less where free scores end at or below 1/2, and about a half
where `plan` was never called, for then nothing is frozen. `restore=True` lets every free weight stand in
the end, as the authors may do before fine-tuning, so that the density is met.

Deviations. Equal scores keep the lower index; every layer keeps its best score free; freezings follow
steps, so that a search of any length has about thirty of them; weights are drawn as `randomize_` was told.
The authors do not scale them, before norms without scale and shift; without norms they have to be scaled,
for a density at which the scores can learn rather than for that of the end (`rescale_density`). Fine-tuning
is a training of its own, from the initial weights under the mask.
"""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from supermask import masks
from supermask.checks import is_number
from supermask.search.base import Search
from supermask.search.registry import register_search
from supermask.weights.roles import ParameterInfo

THRESHOLD = 0.5
PUBLISHED_ROUNDS = 30
"""The authors' 150 epochs hold 30 periods of 5; the period of any other length follows from it."""

SCALED_FROM = 0.2
"""Lowest density for which the frozen weights are scaled up."""


def freezing_rate(density: float, freezings: int) -> float:
    """p such that `freezings` times a fraction p of what is free leaves `density`: 1 − density^(1/n)."""
    return 1.0 - density ** (1.0 / freezings)


@register_search(
    "gem-miner",
    label="Gem-Miner",
    about="Scores between 0 and 1, rounded to a mask; the lowest are frozen out for good along the way.",
    colour="purple",
    marker="p",
)
class GemMiner(Search):
    """Gem-Miner as an optimizer; see `Search` for the other arguments.

    Args:
        penalty: λ of the penalty λ·Σs².
        period: T, epochs between two freezings; whole or not. None for a thirtieth of the search.
        restore: Let free weights of a score at or below 1/2 stand in the final mask too.

    Raises:
        ValueError: A negative penalty or a period that is not positive.
    """

    exact_density = False
    accepts_score_init = False
    in_epochs = ("period",)
    # The authors' SGD with lr 0.1 takes 150 epochs to move scores across (0, 1); this takes a few.
    recipe: ClassVar[Mapping[str, Any]] = {"lr": 0.03, "optimizer": "adam", "weight_decay": 0.0}

    def __init__(
        self,
        model: nn.Module,
        *,
        penalty: float = 3e-5,
        period: float | None = None,
        restore: bool = False,
        **options: Any,
    ) -> None:
        if not is_number(penalty) or penalty < 0:
            raise ValueError(f"penalty is the λ of λ·Σs² and must not be negative, not {penalty!r}")
        if period is not None and (not is_number(period) or period <= 0):
            raise ValueError(f"period is a number of epochs above 0, not {period!r}")
        self.penalty, self.period, self.restore = penalty, period, restore
        self.freeze_every = self.freezings = 0
        super().__init__(model, **options)

    @classmethod
    def rescale_density(cls, density: float) -> float:
        """`density`, but not below 0.2: scores learn while more weights stand than will in the end."""
        return max(density, SCALED_FROM)

    def initial_scores(self, info: ParameterInfo, weight: Tensor) -> Tensor:
        """Uniform on (0, 1), from the seed."""
        unit = super().initial_scores(info, weight) * info.fan_in**0.5  # uniform on (-1, 1)
        return unit.add_(1.0).div_(2.0).clamp_(0.0, 1.0)

    def plan(self, steps: int, steps_per_epoch: int) -> None:
        """Set the steps between freezings and how many there are.

        Raises:
            ValueError: As in `Search.plan`, or the search ends before its first freezing.
        """
        super().plan(steps, steps_per_epoch)
        every = steps / PUBLISHED_ROUNDS if self.period is None else self.period * steps_per_epoch
        self.freeze_every = max(1, round(every))
        self.freezings = (steps - 1) // self.freeze_every
        if self.freezings < 1:
            raise ValueError(
                f"a search of {steps / steps_per_epoch:g} epochs ends before the first freezing, after "
                f"{self.freeze_every / steps_per_epoch:g}; give it a shorter period or more epochs"
            )

    @property
    def rate(self) -> float:
        """p, the fraction of the free weights that each freezing takes."""
        return freezing_rate(self.density, self.freezings)

    @property
    def free(self) -> masks.Mask:
        """Parameter name → bool tensor, True where the weight is not frozen out."""
        return {name: self.state[p]["free"] for name, p in self.masked_parameters.items()}

    def score_gradients(
        self, grads: list[Tensor], weights: list[Tensor], scores: list[Tensor]
    ) -> list[Tensor]:
        free = [self.state[p]["free"] for p in self.masked_parameters.values() if p.grad is not None]
        return [
            (g.to(w.dtype) * w * f).add_(s, alpha=2.0 * self.penalty)
            for g, w, s, f in zip(grads, weights, scores, free, strict=True)
        ]

    def prepare(self) -> None:
        """Nothing is frozen out at first."""
        for parameter in self.masked_parameters.values():
            state = self.state[parameter]
            state["free"] = torch.ones_like(state["score"], dtype=torch.bool)

    def advance(self) -> None:
        """Project scores to [0, 1], and freeze when the step is due."""
        masks.check_finite(self.scores)
        for score in self.scores.values():
            score.clamp_(0.0, 1.0)
        if self.freeze_every and self.steps and self.steps % self.freeze_every == 0:
            if self.steps // self.freeze_every <= self.freezings:
                self._freeze()

    def select(self) -> masks.Mask:
        """1[s > 1/2] where the weight is free."""
        free = self.free
        return {
            name: masks.at_least_one((score > THRESHOLD) & free[name], score.where(free[name], -1.0))
            for name, score in self.scores.items()
        }

    def settle(self) -> None:
        """With `restore`, let all free weights stand."""
        if self.restore:
            self.write(self._restored())

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        with self.holding(self._restored()) if self.restore else nullcontext():
            yield

    def _restored(self) -> masks.Mask:
        return {name: free.clone() for name, free in self.free.items()}

    def identity(self) -> dict[str, Any]:
        own = {"penalty": self.penalty, "period": self.period, "restore": self.restore}
        return {**super().identity(), **own}

    def _freeze(self) -> None:
        free = self.free
        active = sum(int(f.sum()) for f in free.values())
        left = max(active - math.ceil(self.rate * active), len(free))
        # Frozen entries rank below every free one, whose score may be exactly 0.
        ranked = {
            name: torch.where(free[name], score.clamp(min=torch.finfo(score.dtype).tiny), 0.0)
            for name, score in self.scores.items()
        }
        for name, kept in masks.select(ranked, left).items():
            self.state[self.masked_parameters[name]]["free"] = kept
