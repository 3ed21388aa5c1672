"""Concrete ticket search: Arora and Teuscher, "Winning the Lottery by Preserving Network Training Dynamics
with Concrete Ticket Search" (arXiv:2512.07142, 2025).

Every weight, frozen at or near its initial value, stands under a binary concrete gate of temperature 2/3;
gate parameters start where their expected density is the target, and are trained by Adam against an
objective of the gated network. GradBalance adds the gradient of the expected density with the multiplier λ:
while the expected density is above 1.1 times the target, λ follows the ratio of the two gradients' norms,
otherwise 0, by a moving average with weight 0.01. In the end the gates of highest parameter stay, as many
as the density says, over the whole network with `distribution="global"`, as the authors rank them. The mask
is then trained from the weights it was found on; it can be used with the frozen weights as well.

The formulas are those of the authors' public code; the paper's text beyond its abstract was not at hand.
`objective` gives two of their objectives. "loss" is the task loss of the gated network. "kl" is CTS-KL, the
reverse divergence KL(gated ‖ dense) of the outputs, which needs the training loop to call
`search.objective(model, inputs, labels)` for its loss (`fit` takes it as `objective=`).

Ours: norms use the statistics of the batch, where the authors put the network in evaluation mode; lr follows
whatever schedule is given, where they divide it by 10 at 88% of the search.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from supermask import ops
from supermask.checks import is_number
from supermask.models.batch_statistics import batch_statistics
from supermask.search.protocol import Objective
from supermask.search.registry import register_search
from supermask.search.relaxations import Concrete
from supermask.search.stochastic_gates import GatedSearch

OBJECTIVES = ("loss", "kl")
SMOOTHING = 0.01
"""Weight of the newest ratio in the moving average of GradBalance."""


@register_search(
    "concrete",
    label="concrete tickets",
    about="A binary concrete gate for each frozen weight, with the density as a balanced second objective.",
    colour="indigo",
    marker="d",
)
class ConcreteTicketSearch(GatedSearch):
    """Concrete ticket search; see `GatedSearch` and `Search` for the other arguments.

    Args:
        objective: `loss` or `kl`: what `objective()` computes.
        temperature: τ of the gates.
        slack: GradBalance sets in above `slack` times the density; the authors' 1.1.

    Raises:
        ValueError: Another objective, or a temperature that is not positive.
    """

    recipe: ClassVar[Mapping[str, Any]] = {
        "lr": 0.1,
        "optimizer": "adam",
        "weight_decay": 0.0,
        "distribution": "global",
        "rescale": False,
    }

    def __init__(
        self,
        model: nn.Module,
        *,
        objective: str = "loss",
        temperature: float = 2 / 3,
        slack: float = 1.1,
        **options: Any,
    ) -> None:
        if objective not in OBJECTIVES:
            raise ValueError(f"objective must be one of {', '.join(OBJECTIVES)}, not {objective!r}")
        self.objective_name = objective
        if not is_number(slack) or slack <= 0:
            raise ValueError(f"slack is a factor on the density and must be above 0, not {slack!r}")
        self.slack = slack
        self.balance: Tensor | None = None
        super().__init__(model, relaxation=Concrete(temperature), **options)

    def multiplier(self, expected: Tensor, loss: list[Tensor], penalty: list[Tensor]) -> Tensor:
        """GradBalance: a moving average of ‖gradient of the loss‖ / ‖gradient of the density‖, or of 0."""
        ratio = _norm(loss) / _norm(penalty).clamp(min=1e-30)
        target = torch.where(expected > self.slack * self.density, ratio, 0.0)
        if self.balance is None:
            self.balance = target
        else:
            self.balance = (1 - SMOOTHING) * self.balance + SMOOTHING * target
        return self.balance

    @property
    def objective(self) -> Objective:
        return self._loss

    def _loss(self, model: nn.Module, inputs: Tensor, labels: Tensor, label_smoothing: float = 0.0) -> Tensor:
        """What a training loop minimizes: cross-entropy, or the divergence from the dense network.

        Args:
            model: The network as the loop calls it (it may be a compiled wrapper).
            inputs: A batch, (N, …).
            labels: Its labels, (N,); the divergence does not read them.
            label_smoothing: Of the cross-entropy.

        Raises:
            ValueError: Smoothing of labels is asked of the divergence.
        """
        if self.objective_name == "loss":
            return F.cross_entropy(model(inputs), labels, label_smoothing=label_smoothing)
        if label_smoothing:
            raise ValueError(f"objective='kl' reads no labels; leave label_smoothing={label_smoothing} out")
        with torch.no_grad(), self.dense():
            teacher = model(inputs)
        return reverse_divergence(model(inputs), teacher)

    def identity(self) -> dict[str, Any]:
        return {**super().identity(), "objective": self.objective_name, "slack": self.slack}

    def get_extra_state(self) -> dict[str, Any]:
        return {"balance": self.balance}

    def set_extra_state(self, state_dict: Mapping[str, Any]) -> None:
        saved = state_dict["balance"]
        device = next(iter(self.scores.values())).device
        self.balance = None if saved is None else saved.clone().to(device)

    @contextmanager
    def dense(self) -> Iterator[None]:
        """Inside this context the model has all its weights, and its norms leave their statistics alone."""
        everything = [torch.ones_like(mask) for mask in self.mask.values()]
        with torch.no_grad():
            ops.write_masked(list(self.masked_parameters.values()), list(self.weights.values()), everything)
        try:
            with batch_statistics(self.model):
                yield
        finally:
            self.write(self.mask)


def reverse_divergence(logits: Tensor, teacher: Tensor) -> Tensor:
    """KL(softmax(logits) ‖ softmax(teacher)), the mean over the batch; both (N, classes)."""
    log_p, log_q = logits.log_softmax(dim=1), teacher.log_softmax(dim=1)
    return (log_p.exp() * (log_p - log_q)).sum(dim=1).mean()


def _norm(tensors: list[Tensor]) -> Tensor:
    return torch.stack([torch.linalg.vector_norm(tensor) for tensor in tensors]).norm()
