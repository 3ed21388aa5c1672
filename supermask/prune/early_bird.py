"""Early-bird tickets: the mask that pruning would find, drawn as soon as it stops changing.

You et al., "Drawing Early-Bird Tickets: Towards More Efficient Training of Deep Networks" (ICLR 2020),
section 3.2: once per epoch the mask is computed and compared with those of the epochs before; when the last
five differ by at most a tenth, the ticket is drawn and trained on from there.

Deviations. The paper prunes channels, by the scales of batch norm; `weights` is the same for single weights
by magnitude. Its distance is the share of all entries in which two masks differ. Masks that keep at most a
twentieth, or all but that, can differ in a tenth at most, and any five of them would agree; the paper, which
keeps 0.3 and more, never comes there. At such densities the distance is the share of the kept entries (of the
pruned ones, in the second case) that the other mask has otherwise. At the end of the patience, `until`, a
ticket is drawn without agreement; `agreed` says which it was.
"""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from supermask.checks import is_count
from supermask.masks import Mask, check_density, distance, keep_count
from supermask.prune.hold import StatefulHold
from supermask.prune.magnitude import everything, magnitude
from supermask.weights.init import is_norm_parameter
from supermask.weights.names import parameters_of
from supermask.weights.roles import classify, masked

WINDOW = 5
TOLERANCE = 0.1
PENALTY = 1e-4
"""Weight of the L1 norm of the scales in the loss of the network that is to lose channels."""
UNITS = ("weights", "channels")
AMONG = ("all", "kept")
"""Of what the distance of two masks is a share: of all entries, as in the paper, or of the kept ones (above
one half, of the pruned ones), so that masks that have nothing in common are at the distance 1."""


class EarlyBird(StatefulHold):
    """Watch a dense training, draw the early-bird ticket, and hold its mask for the rest.

    You et al. (ICLR 2020), section 3.2; deviations: see the head of this module. The masks seen are part of
    `optimizer.state_dict()`, so that a resumed training draws the same ticket.

    Args:
        optimizer: Any `torch.optim` optimizer over the parameters.
        model: The network.
        density: Fraction of weights, or of channels, that the ticket keeps.
        units: `weights` (all masked weights, by magnitude) or `channels` (of norms, by scale; their scales
            pay an L1 penalty of 1e-4 until the draw). Both rank over the whole network.
        every: Steps between two looks; the paper's is an epoch.
        until: Step at which the ticket is drawn even if the mask still changes.
        among: One of `AMONG`; None for `all` wherever masks of this density can differ by more than a tenth
            of all entries, else for `kept`.

    Raises:
        ValueError: A number out of range, unknown units, channels asked of a network without norms, or a
            distance among all entries where it says nothing.
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
        among: str | None = None,
    ) -> None:
        check_density(density)
        if units not in UNITS:
            raise ValueError(f"units must be one of {', '.join(UNITS)}, not {units!r}")
        if not is_count(every, 1) or not is_count(until, 1):
            raise ValueError(
                f"every and until must be whole numbers of steps from 1 on, not {every!r} and {until!r}"
            )
        self.density, self.units, self.every, self.until = density, units, every, until
        watched = masked(model) if units == "weights" else _scales(model)
        self._watched = {info.name: info.tensor for info in watched}
        self._entries = sum(tensor.numel() for tensor in self._watched.values())
        self._kept = keep_count(self._entries, density)
        self.among = self._checked(among)
        held: dict[str, Tensor] = dict(self._watched)
        if units == "channels":
            named = parameters_of(model).items()
            held |= {name: tensor for name, tensor in named if _scale_of(name) in self._watched}
        start = {"step": 0, "recent": [], "drawn": None, "agreed": None}
        super().__init__(optimizer, everything(held), model, start)

    def _attach(self) -> list[RemovableHandle]:
        handles = super()._attach()
        if self.units == "channels":
            handles.append(self.optimizer.register_step_pre_hook(self._before_step))
        return handles

    @property
    def drawn(self) -> int | None:
        """The step at which the ticket was drawn, or None."""
        return self.state["drawn"]

    @property
    def agreed(self) -> bool | None:
        """Whether it was drawn because five masks agreed, not at the end of the patience; None before."""
        return self.state["agreed"]

    def _checked(self, among: str | None) -> str:
        furthest = 2 * min(self._kept, self._entries - self._kept) / self._entries
        if among not in (None, *AMONG):
            raise ValueError(f"among must be one of {', '.join(AMONG)}, not {among!r}")
        if among == "all" and furthest <= TOLERANCE:
            raise ValueError(
                f"masks of density {self.density:g} differ in at most {furthest:.4g} of all entries, so that "
                f"any five agree within {TOLERANCE:g}; take among='kept'"
            )
        return among or ("kept" if furthest <= TOLERANCE else "all")

    def _distance(self, a: Mask, b: Mask) -> float:
        """How far apart two masks are, 0 to 1."""
        if self.among == "all":
            return distance(a, b)
        fewer = min(self._kept, self._entries - self._kept)
        return round(distance(a, b) * self._entries) / (2 * fewer) if fewer else 0.0

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
        stable = len(older) == WINDOW - 1 and all(self._distance(found, mask) <= TOLERANCE for mask in older)
        self.state["recent"] = [*older, found]
        if stable or step >= self.until:
            self.state.update(drawn=step, agreed=stable, recent=[])
            shifts = {
                name: found[f"{name.removesuffix('bias')}weight"] for name in self.mask if name not in found
            }
            self.set_mask({**found, **shifts})

    def _candidate(self) -> Mask:
        values = {name: tensor.detach() for name, tensor in self._watched.items()}
        return magnitude(values, self._kept)


def _scales(model: nn.Module) -> Iterable[Any]:
    norms = [info for info in classify(model) if is_norm_parameter(info) and info.name.endswith("weight")]
    if not norms:
        raise ValueError("early-bird tickets of channels need a network with norms; take units='weights'")
    return norms


def _scale_of(name: str) -> str:
    """The name of a norm's scale, given that of its shift."""
    return f"{name.removesuffix('bias')}weight"
