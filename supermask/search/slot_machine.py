"""Slot machines: Aladago and Torresani, "Slot Machines: Discovering Winning Combinations of Random Weights in
Neural Networks" (ICML 2021, arXiv:2101.06475).

Every connection has K values drawn from the seed, and no value is ever trained: the search only says which of
them stands in the network. A ticket is the seed and log₂ K bits for each connection, and the network is the
dense one, neither wider nor deeper.

`choice="greedy"` is the paper's rule. Each of the K values w_k has a score s_k, the value of the largest
score stands, and the gradient passes the choice unchanged to all of them: dL/ds_k = w_k · dL/dW.

`choice="nearest"`, the default, has one score u for each connection: the value nearest to it stands, and
dL/du = dL/dW. It is the greedy rule with other first scores. Under gradient descent scores that start at
w_k · u − w_k² / 2 go on being that, and the largest of them, by (w_k − u)² = u² − 2 (w_k · u − w_k² / 2), is
the one of the nearest value. From random scores a connection ends with its smallest or largest value,
whatever lies between; from these it can take each of them, and it takes one number instead of K. u is of the
size of a weight, so learning rates and decays are those of dense training.

Deviations. First scores are uniform: of the greedy rule U(0, σ), σ the standard deviation of Glorot's normal
distribution; u with the standard deviation of the layer's weights. The authors' other rule, which samples by
the scores, is left out. They prune nothing; below a density of 1 `nearest` keeps the connections of largest
|u|, as magnitude pruning would, and compares layers in units of what was drawn for them.
"""

from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from supermask import masks, ops
from supermask.search.base import Search
from supermask.search.construction import record_of
from supermask.search.registry import register_search
from supermask.weights.init import Init, derive_key
from supermask.weights.roles import ParameterInfo

CHOICES = ("nearest", "greedy")
MOST_OPTIONS = 1 << 12
"""A ticket holds twelve binary digits for each connection."""


@register_search(
    "slot-machine",
    label="slot machine",
    about="Each connection takes one of several values drawn for it; none of them is trained.",
    colour="sky",
    marker="P",
)
class SlotMachine(Search):
    """Choose one of several drawn values for each connection; see `Search` for the other arguments.

    The values are drawn as `randomize_` drew the weights, whatever stands in the model now.

    Args:
        density: Fraction of connections that have a value at all.
        options: K, the values of a connection, from 2 on; a power of two fills the bits of its ticket.
        choice: `nearest`, the value nearest to the score, or `greedy`, the one of K values with the largest
            score, as published, with K scores for each connection and density 1.

    Raises:
        ValueError: As in `Search`, a value out of range, or weights that were not drawn by `randomize_`.
    """

    accepts_score_init = False
    recipe: ClassVar[Mapping[str, Any]] = {
        "lr": 0.1,
        "init": "kaiming_normal",
        "density": 1.0,
        "rescale": False,
    }

    def __init__(
        self,
        model: nn.Module,
        *,
        density: float,
        options: int = 8,
        choice: str = "nearest",
        **others: Any,
    ) -> None:
        if type(options) is not int or not 2 <= options <= MOST_OPTIONS:
            raise ValueError(f"options must be a number of values from 2 to {MOST_OPTIONS}, not {options!r}")
        if choice not in CHOICES:
            raise ValueError(f"choice must be one of {', '.join(CHOICES)}, not {choice!r}")
        if choice == "greedy" and density != 1:
            raise ValueError(
                f"choice='greedy' gives every connection a value, so density must be 1, not {density!r}; "
                "choice='nearest' leaves connections out"
            )
        self.options, self.choice = options, choice
        super().__init__(model, density=density, **others)

    @classmethod
    def rescale_density(cls, density: float) -> float | None:
        return None  # what is left out is small, and what stays is as large as without a mask

    def prepare(self) -> None:
        """Sort the values of every connection, the smallest first."""
        record = self._record()
        last = max(record.generations, self.options - 1)
        self.model.supermask_init = replace(record, generations=last)  # type: ignore[assignment]
        for name, parameter in self.masked_parameters.items():
            state = self.state[parameter]
            drawn = [self._drawn(name, generation) for generation in range(self.options)]
            state["weight"].copy_(drawn[0])  # whatever stood in the model
            state["options"] = torch.stack(drawn).sort(dim=0).values
            state["size"] = state["options"].square().mean().sqrt()

    def initial_scores(self, info: ParameterInfo, weight: Tensor) -> Tensor:
        key = derive_key("score", self.seed, info.name)
        if self.choice == "nearest":
            bound = float(self._drawn(info.name).square().mean().sqrt()) * 3**0.5
            scores = ops.fill_random(torch.empty_like(weight), key, "uniform", bound)
            if info.zero_row is not None:
                scores[info.zero_row] = 0  # padding: last in rank
            return scores
        scores = weight.new_empty((self.options, *weight.shape))
        sigma: float = (2 / (info.fan_in + info.fan_out)) ** 0.5
        return ops.fill_random(scores, key, "uniform", sigma / 2).add_(sigma / 2)

    def score_gradients(
        self, grads: list[Tensor], weights: list[Tensor], scores: list[Tensor]
    ) -> list[Tensor]:
        plain = [grad.to(score.dtype).contiguous() for grad, score in zip(grads, scores, strict=True)]
        if self.choice == "nearest":
            return plain
        values = [self.state[p]["options"] for p in self.masked_parameters.values() if p.grad is not None]
        return [grad * value for grad, value in zip(plain, values, strict=True)]

    def select(self) -> masks.Mask:
        if self.choice == "nearest":
            return super().select() if self.distribution != "global" else self._among_all()
        masks.check_finite(self.scores)
        return {
            name: torch.ones_like(p, dtype=torch.bool, memory_format=torch.contiguous_format)
            for name, p in self.masked_parameters.items()
        }

    def effective(self, mask: masks.Mask) -> dict[str, Tensor]:
        return {name: self._chosen(self.state[p]) for name, p in self.masked_parameters.items()}

    def identity(self) -> dict[str, Any]:
        return {**super().identity(), "options": self.options, "choice": self.choice}

    def _record(self) -> Init:
        return record_of(self.model, self.masked_parameters, "slot-machine draws more values")

    def _drawn(self, name: str, generation: int = 0) -> Tensor:
        """One of the values of every connection of a layer, contiguous, in at least float32."""
        record, parameter = self._record(), self.masked_parameters[name]
        draw = record.named()[name]
        drawn = draw.weight(record.seed, parameter.dtype, parameter.device, generation)
        return drawn.to(torch.promote_types(drawn.dtype, torch.float32))

    def _among_all(self) -> masks.Mask:
        """The connections of largest |u| of all layers, in units of the values drawn for their layer."""
        sizes = {name: self.state[p]["size"] for name, p in self.masked_parameters.items()}
        relative = {name: score / sizes[name] for name, score in self.scores.items()}
        return masks.select(relative, self.keep, self.threshold_hints, self.ranking)

    def _chosen(self, state: dict[str, Tensor]) -> Tensor:
        score, options = state["score"], state["options"]
        if self.choice == "greedy":
            return options.gather(0, score.argmax(dim=0, keepdim=True))[0]
        chosen, twice = options[0], 2 * score
        for smaller, larger in pairwise(options):
            chosen = torch.where(twice > smaller + larger, larger, chosen)
        return chosen
