"""Learned supermasks: Zhou et al., "Deconstructing Lottery Tickets" (NeurIPS 2019, arXiv:1905.01067).

Every step draws a fresh mask, m ~ Bernoulli(σ(v)), and the loss moves v through dm/dv := σ'(v). With
dynamic weight rescaling a layer computes with c · W ⊙ m where c = N / Σm, and the gradient also flows
through Σm.

Sources. The learned supermasks of the paper's section 5, which gives them in words (its table 2 has the
results); the gradients are those of the authors' code (`masked_networks.py`). The paper reports the mean
accuracy of ten sampled networks: `samples`. Its best init is the signed constant ± the standard deviation
of Glorot's normal distribution: `glorot_constant`.

Deviations. A ticket needs one mask, and we take the most likely one, p > 1/2: `mode`. The paper starts at v
= 0; we start at the logit of `density`, which is 0 at the density 0.5. Where the density goes from there is
the loss's choice. A denser start learns faster: 0.8 does in ten epochs of MNIST what 0.5 does in twenty.
The paper trains with plain SGD at the rate 100 for thousands of epochs; the recipe here is Adam at 0.2, for
tens. A layer never becomes empty: where neither the draw nor the threshold keeps a weight, the most likely
one stays.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from statistics import fmean
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from supermask import masks, ops
from supermask.search.base import Search
from supermask.search.registry import register_search
from supermask.weights.init import derive_key
from supermask.weights.roles import ParameterInfo


@register_search(
    "zhou",
    label="Zhou's supermask",
    about="A random mask over frozen weights: the probability of each weight to be kept is learned.",
    colour="orange",
    marker="s",
)
class Zhou(Search):
    """Supermasks as Bernoulli draws; see `Search` for the other arguments.

    Args:
        density: Probability with which the first draws keep a weight, in (0, 1).
        dynamic_rescale: Multiply each layer by N / Σm, the paper's dynamic weight rescaling. Do not
            rescale the weights for the density as well.

    Raises:
        ValueError: As in `Search`, or a density of 1, whose logit is infinite.
    """

    exact_density = False
    accepts_score_init = False
    recipe: ClassVar[Mapping[str, Any]] = {
        "density": 0.8,
        "init": "glorot_constant",
        "rescale": False,
        "optimizer": "adam",
        "lr": 0.2,
        "weight_decay": 0.0,
    }

    def __init__(
        self,
        model: nn.Module,
        *,
        density: float,
        dynamic_rescale: bool = True,
        **options: Any,
    ) -> None:
        if masks.check_density(density) == 1:
            raise ValueError("density is where the probabilities of zhou start, and must be below 1, not 1")
        self.dynamic_rescale = dynamic_rescale
        super().__init__(model, density=density, **options)

    @classmethod
    def rescale_density(cls, density: float) -> None:
        """None: layers are rescaled in training, and `density` is not the one that emerges."""

    def initial_scores(self, info: ParameterInfo, weight: Tensor) -> Tensor:
        return torch.logit(torch.full_like(weight, self.density))

    def score_gradients(
        self, grads: list[Tensor], weights: list[Tensor], scores: list[Tensor]
    ) -> list[Tensor]:
        drawn = dict(zip(map(id, self.scores.values()), self.mask.values(), strict=True))
        result = []
        for grad, weight, score in zip(grads, weights, scores, strict=True):
            by_mask = grad.to(score.dtype).contiguous() * weight
            if self.dynamic_rescale:
                mask, factor = drawn[id(score)], _factor(drawn[id(score)], score.dtype)
                # L depends on m_i through c · W_i · m_i and through c = N / Σm, whose slope is -c² / N.
                through_sum = (by_mask * mask).sum() * factor / mask.numel()
                by_mask = factor * (by_mask - through_sum)
            probability = torch.sigmoid(score)
            result.append(by_mask * probability * (1 - probability))
        return result

    def select(self) -> masks.Mask:
        """The draw of this step, which follows from seed and step number."""
        return self._draw("sample", self.steps)

    def effective(self, mask: masks.Mask) -> dict[str, Tensor]:
        if not self.dynamic_rescale:
            return self.weights
        return {name: weight * _factor(mask[name], weight.dtype) for name, weight in self.weights.items()}

    def settle(self) -> None:
        self.write(self.mode())

    def identity(self) -> dict[str, Any]:
        return {**super().identity(), "seed": self.seed, "dynamic_rescale": self.dynamic_rescale}

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        with self.holding(self.mode()):
            yield

    def mode(self) -> masks.Mask:
        """The most likely masks: every weight that is kept with a probability above one half."""
        masks.check_finite(self.scores)
        return {name: masks.at_least_one(score > 0, score) for name, score in self.scores.items()}

    def samples(self, count: int = 10) -> Iterator[int]:
        """With each of `count` draws in the model, in turn, its number; afterwards the model trains on.

        The paper's evaluation is the mean accuracy over ten. These draws are not those of the training,
        and are the same whenever the scores and the step are.
        """
        for number in range(count):
            with self.holding(self._draw(f"evaluation-{number}", self.steps)):
                yield number

    def further_metrics(self, accuracy: Callable[[], float]) -> dict[str, float]:
        """The mean accuracy of sampled networks, the paper's evaluation."""
        return {"sampled_accuracy": fmean(accuracy() for _ in self.samples())}

    def _draw(self, purpose: str, number: int) -> masks.Mask:
        masks.check_finite(self.scores)
        drawn = {}
        for name, score in self.scores.items():
            uniform = torch.empty(score.shape, dtype=torch.float32, device=score.device)
            key = derive_key(purpose, self.seed, name)
            ops.fill_random(uniform, key, "uniform", start=number * score.numel())
            # In double precision devices disagree about σ by far less than the grid of the draws.
            threshold = torch.sigmoid(score.double()).mul_(2).sub_(1)
            drawn[name] = masks.at_least_one(uniform < threshold, score)
        return drawn


def _factor(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """N / Σm of a layer, rounded to float32."""
    return (mask.numel() / mask.sum(dtype=torch.float64)).float().to(dtype)
