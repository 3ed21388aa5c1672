"""Early-bird tickets: the mask that pruning would find, drawn as soon as it stops changing.

You et al., "Drawing Early-Bird Tickets: Towards More Efficient Training of Deep Networks" (ICLR 2020),
section 3.2: once per epoch the mask is computed and compared with those of the epochs before; when the last
five differ by at most a tenth, the ticket is drawn and trained on from there. The paper prunes channels, by
the scales of batch norm; `weights` is the same for single weights by magnitude.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from supermask.init import is_norm_parameter
from supermask.mask import Mask, check_density, distance, keep_count
from supermask.parameters import classify, masked, unwrap
from supermask.prune.hold import StatefulHold
from supermask.prune.magnitude import everything, magnitude

WINDOW = 5
TOLERANCE = 0.1
PENALTY = 1e-4
"""Weight of the L1 norm of the scales in the loss of the network that is to lose channels."""
UNITS = ("weights", "channels")


class EarlyBird(StatefulHold):
    """Watch a dense training, draw the early-bird ticket, and hold its mask for the rest.

    The masks seen are part of `optimizer.state_dict()`, so that a resumed training draws the same ticket.

    Args:
        optimizer: Any `torch.optim` optimizer over the parameters.
        model: The network.
        density: Fraction of weights, or of channels, that the ticket keeps.
        units: `weights` (all masked weights, by magnitude) or `channels` (of norms, by scale; their scales
            pay an L1 penalty of 1e-4 until the draw). Both rank over the whole network.
        every: Steps between two looks; the paper's is an epoch.
        until: Step at which the ticket is drawn even if the mask still changes.

    Raises:
        ValueError: A number out of range, unknown units, or channels asked of a network without norms.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        model: nn.Module,
        *,
        density: float,
        units: str = "weights",
        every: int,
        until: int,
    ) -> None:
        check_density(density)
        if units not in UNITS:
            raise ValueError(f"units must be one of {', '.join(UNITS)}, not {units!r}")
        if every < 1 or until < 1:
            raise ValueError(f"every and until must be at least 1: {every}, {until}")
        self.density, self.units, self.every, self.until = density, units, every, until
        watched = masked(model) if units == "weights" else _scales(model)
        self._watched = {info.name: info.tensor for info in watched}
        held: dict[str, Tensor] = dict(self._watched)
        if units == "channels":
            named = unwrap(model).named_parameters()
            held |= {name: tensor for name, tensor in named if _scale_of(name) in self._watched}
        super().__init__(optimizer, everything(held), model, {"step": 0, "recent": [], "drawn": None})
        if units == "channels":
            self._handles.append(optimizer.register_step_pre_hook(self._before_step))

    @property
    def drawn(self) -> int | None:
        """The step at which the ticket was drawn, or None."""
        return self.state["drawn"]

    def _before_step(self, *_: object) -> None:
        """Add the gradient of the L1 penalty once for each step, after any unscaling and clipping."""
        for scale in self._watched.values() if self.drawn is None else ():
            if scale.grad is not None:
                scale.grad.add_(torch.sign(scale.detach()), alpha=PENALTY)

    def _after_step(self, *_: object) -> None:
        self.state["step"] += 1
        step = self.state["step"]
        if self.drawn is None and (step % self.every == 0 or step >= self.until):
            self._look(step)
        super()._after_step()

    def _look(self, step: int) -> None:
        found = self._candidate()
        older = self.state["recent"][-(WINDOW - 1) :]
        stable = len(older) == WINDOW - 1 and all(distance(found, mask) <= TOLERANCE for mask in older)
        self.state["recent"] = [*older, found]
        if stable or step >= self.until:
            self.state["drawn"], self.state["recent"] = step, []
            shifts = {
                name: found[f"{name.removesuffix('bias')}weight"] for name in self.mask if name not in found
            }
            self.set_mask({**found, **shifts})

    def _candidate(self) -> Mask:
        values = {name: tensor.detach() for name, tensor in self._watched.items()}
        return magnitude(values, keep_count(sum(v.numel() for v in values.values()), self.density))


def _scales(model: nn.Module) -> Iterable[Any]:
    norms = [info for info in classify(model) if is_norm_parameter(info) and info.name.endswith("weight")]
    if not norms:
        raise ValueError("early-bird tickets of channels need a network with norms; take units='weights'")
    return norms


def _scale_of(name: str) -> str:
    """The name of a norm's scale, given that of its shift."""
    return f"{name.removesuffix('bias')}weight"
