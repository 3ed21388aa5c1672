"""Learnable stochastic gates on frozen weights with an expected-L0 penalty: Tsayag and Lindenbaum,
"Uncovering a Winning Lottery Ticket with Continuously Relaxed Bernoulli Gates" (arXiv:2603.08914, 2026).

Every weight, or every neuron (a unit of a layer's output), has a gate z ∈ [0, 1] that is drawn anew each
step, and only the gates' parameters are trained: min over s of E[loss(W ⊙ z)] + λ·E‖z‖₀, the expectation of
the loss by one draw a step, that of the count in closed form.

What is not verified: of the paper only the abstract and summaries were at hand. Its gates are taken to be
the Gaussian stochastic gates of Yamada et al. (ICML 2020), by the same group, with their σ = 0.5; hard
concrete gates (Louizos et al., ICLR 2018) stand beside them. See `relaxations` for both.

Ours: λ multiplies the expected density, so that it does not depend on the size of the network. Without a
given λ, gates start at the density asked for and a quadratic penalty (ρ/2)·max(0, E/density − 1)² holds
the expected density E there; the final mask then has exactly that density. With a given λ the density
emerges: gates of more than 1/2 at rest stay. The final mask is 0/1 where both papers keep the gate's value
at rest, since a ticket is one bit per weight. The last layer has no neuron gates: its units are the classes.
"""

from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from supermask import masks
from supermask.checks import is_number
from supermask.search.registry import register_search
from supermask.search.relaxations import Gaussian, HardConcrete, Relaxation
from supermask.search.stochastic_gates import GatedSearch

RELAXATIONS: dict[str, Callable[[], Relaxation]] = {"gaussian": Gaussian, "hard-concrete": HardConcrete}
GATES = ("weight", "neuron")


@register_search(
    "l0-gates",
    label="L0 gates",
    about="A stochastic gate for each frozen weight; the expected number of open gates is penalized.",
    colour="forest",
    marker="P",
)
class L0Gates(GatedSearch):
    """Stochastic gates with an expected-L0 penalty; see `GatedSearch` and `Search` for other arguments.

    Args:
        relaxation: `gaussian` or `hard-concrete`.
        penalty: λ, the multiplier of the expected density; None holds the expected density at `density`.
        stiffness: ρ of the quadratic penalty that holds it.
        gates: `weight` (one gate each) or `neuron` (one gate for all weights into an output unit, none in
            the last masked layer). With neurons, `density` is the fraction of gated units kept.

    Raises:
        ValueError: Another relaxation or kind of gate, or neuron gates on a network of one layer.
    """

    recipe: ClassVar[Mapping[str, Any]] = {"lr": 0.1, "optimizer": "adam", "weight_decay": 0.0}

    def __init__(
        self,
        model: nn.Module,
        *,
        relaxation: str = "gaussian",
        penalty: float | None = None,
        stiffness: float = 10.0,
        gates: str = "weight",
        **options: Any,
    ) -> None:
        if relaxation not in RELAXATIONS:
            raise ValueError(f"relaxation must be one of {', '.join(RELAXATIONS)}, not {relaxation!r}")
        if gates not in GATES:
            raise ValueError(f"gates must be one of {', '.join(GATES)}, not {gates!r}")
        for name, value in (("penalty", penalty), ("stiffness", stiffness)):
            if value is not None and (not is_number(value) or value < 0):
                raise ValueError(
                    f"{name} multiplies the expected density and must not be negative: {value!r}"
                )
        self.gates, self.penalty, self.stiffness = gates, penalty, stiffness
        super().__init__(model, relaxation=RELAXATIONS[relaxation](), **options)

    def multiplier(self, expected: Tensor, loss: list[Tensor], penalty: list[Tensor]) -> Tensor:
        if self.penalty is not None:
            return torch.full_like(expected, self.penalty)
        # The derivative of (ρ/2)·max(0, E/density − 1)² in E.
        return (expected / self.density - 1).clamp(min=0) * (self.stiffness / self.density)

    def open_gates(self) -> dict[str, Tensor]:
        """The gates that stay: exactly `keep`, or with a given penalty those above 1/2 at rest."""
        if self.penalty is None:
            return super().open_gates()
        gated = {name: score for name, score in self.scores.items() if self.gated(name)}
        opened = {name: self.relaxation.resting(score) > 0.5 for name, score in gated.items()}
        return self._with_ungated({n: masks.at_least_one(kept, gated[n]) for n, kept in opened.items()})

    def gate_shape(self, name: str, shape: torch.Size) -> torch.Size:
        if self.gates == "weight":
            return shape
        return torch.Size([1 if axis in self.input_axes[name] else size for axis, size in enumerate(shape)])

    def gated(self, name: str) -> bool:
        if self.gates == "weight":
            return True
        self.check_layers(
            {name: tuple(parameter.shape) for name, parameter in self.masked_parameters.items()}
        )
        return name != next(reversed(self.masked_parameters))

    def check_layers(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Refuse neuron gates on a network of one layer."""
        if self.gates == "neuron" and len(shapes) < 2:
            raise ValueError(
                "gates='neuron' needs a hidden layer, since the units of the last layer are the classes, and "
                f"{', '.join(shapes)} is the only one; use gates='weight'"
            )

    def identity(self) -> dict[str, Any]:
        own = {"gates": self.gates, "penalty": self.penalty, "stiffness": self.stiffness}
        return {**super().identity(), **own}
