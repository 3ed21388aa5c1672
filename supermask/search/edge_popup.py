"""Edge-popup: Ramanujan et al., "What's Hidden in a Randomly Weighted Neural Network?" (CVPR 2020).

Each layer keeps its k weights of largest |s| (section 3.1, algorithm of figure 2). The gradient passes
the selection unchanged, to every edge, kept or not: dL/ds = sign(s) · W · dL/dW_eff. The paper's equation
6 has no sign(s); ranking by |s| with this factor is what the authors' code does and what we follow.
"""

from torch import Tensor

from supermask import ops
from supermask.search.base import Search, register_search
from supermask.search.fused import sgd_step


@register_search("edge-popup")
class EdgePopup(Search):
    """Edge-popup as an optimizer; see `Search` for the arguments."""

    def score_gradients(
        self, grads: list[Tensor], weights: list[Tensor], scores: list[Tensor]
    ) -> list[Tensor]:
        return ops.straight_through(grads, weights, scores)

    def fused_step(self) -> bool:
        # A subclass may have changed any part of the step.
        return type(self) is EdgePopup and sgd_step(self)
