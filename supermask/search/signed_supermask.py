"""Signed supermasks: Koster, Grothe and Rettinger, "Signing the Supermask" (ICLR 2022, arXiv:2201.13361).

The mask is ternary, M = sign(s) · [|s| > τ], so that a kept weight may also be inverted: W_eff = M ⊙ W. The
gradient passes sign and threshold unchanged, to every score: dL/ds = W · dL/dW_eff. Scores start from
Glorot's uniform distribution. A ticket takes one sign bit for each kept weight besides the mask.

Sources. The definition of the signed supermask in the paper, the rest (threshold, first scores, the scale
of the init `elus`, ±√(3 / fan_in)) from the authors' code and its sample configuration.

Deviations. The authors fix τ of a layer at the start, at 0.4 of its largest |s|, and let the density
emerge; `fixed_threshold` does that. By default each layer keeps its k largest |s| instead, so that the
density is what was asked for. The authors train ELU networks with the init `elus`, by SGD with decoupled
weight decay; any network, init and rule will do here, and torch's SGD adds the decay to the gradient. A
score that is exactly 0 counts as positive.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from supermask import masks, ops
from supermask.search.base import Search
from supermask.search.fused import SIGNED_SUPERMASK_SGD
from supermask.search.registry import register_search
from supermask.weights.init import derive_key
from supermask.weights.roles import ParameterInfo


@register_search(
    "signed-supermask",
    label="signed supermask",
    about="A mask of −1, 0 and 1 over frozen weights: the search also decides which signs to flip.",
    colour="wine",
    marker="D",
)
class SignedSupermask(Search, graphable=True, fused=SIGNED_SUPERMASK_SGD):
    """Masks that keep, drop or invert weights; see `Search` for the other arguments.

    Args:
        fixed_threshold: Keep the scores above the layer's first threshold, 1 - `density` of its largest |s|,
            however many they are; `density` is then what is kept at the start, about, and 0.6 the authors'
            choice.
    """

    accepts_score_init = False
    recipe: ClassVar[Mapping[str, Any]] = {"lr": 0.2}

    def __init__(
        self,
        model: nn.Module,
        *,
        fixed_threshold: bool = False,
        **options: Any,
    ) -> None:
        self.fixed_threshold = fixed_threshold
        self.exact_density = self.graphable = not fixed_threshold
        if fixed_threshold:
            self.fused = None
        super().__init__(model, **options)

    def initial_scores(self, info: ParameterInfo, weight: Tensor) -> Tensor:
        bound = (6 / (info.fan_in + info.fan_out)) ** 0.5
        key = derive_key("score", self.seed, info.name)
        return ops.fill_random(torch.empty_like(weight), key, "uniform", bound)

    def score_gradients(
        self, grads: list[Tensor], weights: list[Tensor], scores: list[Tensor]
    ) -> list[Tensor]:
        return [g.to(s.dtype).contiguous() * w for g, w, s in zip(grads, weights, scores, strict=True)]

    def identity(self) -> dict[str, Any]:
        return {**super().identity(), "fixed_threshold": self.fixed_threshold}

    def select(self) -> masks.Mask:
        if not self.fixed_threshold:
            return super().select()
        masks.check_finite(self.scores)
        return {name: self._above_threshold(p) for name, p in self.masked_parameters.items()}

    def prepare(self) -> None:
        """Fix the thresholds."""
        for parameter in self.masked_parameters.values() if self.fixed_threshold else ():
            state = self.state[parameter]
            state["threshold"] = (1 - self.density) * state["score"].abs().max()

    def effective(self, mask: masks.Mask) -> dict[str, Tensor]:
        scores = self.scores
        return {name: torch.where(scores[name] < 0, -weight, weight) for name, weight in self.weights.items()}

    def _above_threshold(self, parameter: nn.Parameter) -> Tensor:
        state = self.state[parameter]
        magnitude = state["score"].abs()
        return masks.at_least_one(magnitude > state["threshold"], magnitude)
