"""IteRand: Chijiwa et al., "Pruning Randomly Initialized Neural Networks with Iterative Randomization"
(NeurIPS 2021, arXiv:2106.09269).

Edge-popup whose pruned weights are drawn again from time to time: before each K-th step every pruned weight
is replaced, with probability r, by a fresh draw from the same initialization (algorithm 1). Scores and the
base rule's state stay as they are. Both which weights change and their new values are functions of the
seeds and the number of re-draws so far, so that a ticket stores that number for each kept weight, and no
weight. Of a signed constant it stores one bit: drawn again, such a weight is itself or its negative.

Deviations. The authors rank the scores themselves, which start from Kaiming's uniform distribution, U(±√(6
/ fan_in)); we rank |s| with the gradient and the scores of edge-popup, or s where `ranking="raw"` asks for
it. First scores as theirs are `score_init="kaiming_uniform"`. They re-draw every 300 steps of some 35,000;
a shorter training re-draws at every hundredth of its length.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from supermask import ops
from supermask.checks import is_count, is_number
from supermask.search.construction import record_of
from supermask.search.edge_popup import EdgePopup
from supermask.search.fused import EDGE_POPUP_SGD
from supermask.search.registry import register_search
from supermask.weights.init import derive_key

PERIOD = 300
SHARE = 100


@register_search(
    "iterand",
    label="IteRand",
    about="edge-popup that now and then draws some of the weights outside the mask anew.",
    colour="olive",
    marker="v",
)
class IteRand(EdgePopup, fused=EDGE_POPUP_SGD):
    """Edge-popup with iterative randomization; see `Search` for the other arguments.

    Args:
        period: K, the steps from one re-draw to the next. None takes 300, or a hundredth of the steps that
            `plan` announced if that is less.
        rate: r, the probability with which a re-draw replaces a pruned weight, in [0, 1].

    Raises:
        ValueError: As in `Search`, a value out of range, or weights that were not drawn by `randomize_`.
    """

    redraws_weights = True
    in_steps = (*EdgePopup.in_steps, "period")

    def __init__(
        self,
        model: nn.Module,
        *,
        density: float,
        period: int | None = None,
        rate: float = 0.1,
        **options: Any,
    ) -> None:
        if period is not None and not (isinstance(period, int) and is_count(period, 1)):
            raise ValueError(f"period must be a number of steps from 1 on, not {period!r}")
        if not is_number(rate) or not 0 <= rate <= 1:
            raise ValueError(
                f"rate must lie in [0, 1], the share of pruned weights drawn again, not {rate!r}"
            )
        self.period = PERIOD if period is None else period
        self.rate = rate
        self._follows_plan = period is None
        super().__init__(model, density=density, **options)
        self._init = record_of(model, self.masked_parameters, "iterand draws pruned weights again")
        self._dtypes = {name: parameter.dtype for name, parameter in self.masked_parameters.items()}

    def plan(self, steps: int, steps_per_epoch: int) -> None:
        super().plan(steps, steps_per_epoch)
        if self._follows_plan:
            self.period = max(1, min(PERIOD, steps // SHARE))

    def begin_step(self) -> None:
        # The new weights are pruned, so the model computes the same; what they change is this step's scores.
        if (self.steps + 1) % self.period == 0:
            self._draw_again()
        super().begin_step()

    def set_extra_state(self, state_dict: Mapping[str, Any]) -> None:
        self._note_generation(self.steps // self.period)

    def identity(self) -> dict[str, Any]:
        return {**super().identity(), "seed": self.seed, "period": self.period, "rate": self.rate}

    def _draw_again(self) -> None:
        generation = (self.steps + 1) // self.period
        draws = self._init.named()
        for name, parameter in self.masked_parameters.items():
            weight, mask = self.state[parameter]["weight"], self.state[parameter]["mask"]
            fresh = draws[name].weight(self._init.seed, self._dtypes[name], weight.device, generation)
            coin = torch.empty(weight.shape, dtype=torch.float32, device=weight.device)
            key = derive_key("draw-again", self.seed, name)
            ops.fill_random(coin, key, "uniform", start=generation * weight.numel())
            chosen = ~mask & (coin < 2 * self.rate - 1)
            weight.copy_(torch.where(chosen, fresh.to(weight.dtype), weight))
        self._note_generation(generation)

    def _note_generation(self, generation: int) -> None:
        """Tell whoever makes a ticket of the model how many draws its weights may come from."""
        self.model.supermask_init = replace(self._init, generations=generation)  # type: ignore[assignment]
