"""Edge-popup: Ramanujan et al., "What's Hidden in a Randomly Weighted Neural Network?" (CVPR 2020).

Each layer keeps its k weights of largest |s| (section 3.1, algorithm of figure 2). The gradient passes the
selection unchanged, to every edge, kept or not: dL/ds = sign(s) · W · dL/dW_eff. The paper's equation 6 has
no sign(s); ranking by |s| with this factor is what the authors' code does and what we follow.
`ranking="raw"` is the equation as printed: dL/ds = W · dL/dW_eff, and the k largest s themselves are kept.

Deviations. A layer of n weights keeps round(k · n), where the authors' code keeps n − int((1 − k) · n);
weights are scaled by the paper's √(1/k), where their code has √(1/(1 − k)); first scores are those of the
code, U(±1/√fan_in), of which the paper says nothing (`score_init` has others).
"""

from typing import Any

from torch import Tensor, nn

from supermask import ops
from supermask.search.base import Search
from supermask.search.fused import EDGE_POPUP_SGD
from supermask.search.registry import register_search


@register_search(
    "edge-popup",
    about="A mask searched over frozen random weights: scores are learned, weights never are.",
    colour="vermilion",
    marker="o",
    best_at=(0.3, 0.7),
)
class EdgePopup(Search, graphable=True, fused=EDGE_POPUP_SGD):
    """Edge-popup as an optimizer; see `Search` for the other arguments.

    Args:
        ranking: `magnitude` (|s|, the authors' code) or `raw` (s, the paper's equation 6).
    """

    has_default_rate = True

    def __init__(self, model: nn.Module, *, ranking: str = "magnitude", **options: Any) -> None:
        self.ranking = ops.check_ranking(ranking)
        super().__init__(model, **options)

    def score_gradients(
        self, grads: list[Tensor], weights: list[Tensor], scores: list[Tensor]
    ) -> list[Tensor]:
        if self.ranking == "raw":
            return [
                grad.to(score.dtype).contiguous() * weight
                for grad, weight, score in zip(grads, weights, scores, strict=True)
            ]
        return ops.straight_through(grads, weights, scores)
