"""Biprop: Diffenderfer and Kailkhura, "Multi-Prize Lottery Ticket Hypothesis" (ICLR 2021, arXiv:2103.09377).

Tickets whose weights have one bit: a layer computes with W_b = α · M ⊙ sign(W), where M keeps its k largest
|s| and α = ‖M ⊙ W‖₁ / k is the mean magnitude of the kept weights. The gradient takes sign(W) and α for
constants: dL/ds = sign(s) · |W| · sign(W) · dL/dW_b, which is edge-popup's rule with the gradient at the
binary weights. For binary activations as well (the paper's 1/1 networks) give the model to
`supermask.models.binarize_activations` first.

Sources. The paper's algorithm 1; the gradient, which leaves α out, is that of the authors' code
(`utils/conv_type.py`). With a global ranking that code lets the density fall from 0.5 by a cubic over the
first ten epochs (`trainers/default.py`): `distribution="global"`, `density_schedule="cubic"`,
`initial_density=0.5` and the steps of ten epochs as `schedule_steps`.

Deviations. The authors divide by int(k · n); we divide by the number of weights that are kept. A weight
that is exactly 0 counts as positive. The default is layerwise and constant, and `schedule_steps` half of
the search. Their code scales the drawn weights as if what it keeps were pruned; `randomize_(density=…)` is
the paper's √(1/k).
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from supermask import masks, ops
from supermask.search.base import Search
from supermask.search.registry import register_search


@register_search(
    "biprop",
    about="A mask over the signs of frozen weights, with one scale per layer: a binary network.",
    colour="green",
    marker="^",
)
class Biprop(Search, graphable=True):
    """Multi-prize tickets; see `Search` for the arguments."""

    recipe: ClassVar[Mapping[str, Any]] = {"init": "kaiming_normal", "lr": 0.4}

    def score_gradients(
        self, grads: list[Tensor], weights: list[Tensor], scores: list[Tensor]
    ) -> list[Tensor]:
        return ops.straight_through(grads, weights, scores)

    def effective(self, mask: masks.Mask) -> dict[str, Tensor]:
        return {
            name: _binary(weight, mask[name], self.zero_rows.get(name))
            for name, weight in self.weights.items()
        }


def _binary(weight: Tensor, mask: Tensor, zero_row: int | None) -> Tensor:
    """α · sign(W) of a layer, with α rounded to float32; padding stays zero."""
    total = (weight.abs() * mask).sum(dtype=torch.float64)
    alpha = (total / mask.sum()).float().to(weight.dtype)
    signs = torch.where(weight < 0, -alpha, alpha)
    if zero_row is not None:
        signs[zero_row] = 0
    return signs
