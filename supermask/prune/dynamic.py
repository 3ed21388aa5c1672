"""Sparse training whose mask moves: drop the smallest weights, grow others, all along the training.

SET: Mocanu et al., "Scalable training of artificial neural networks with adaptive sparse connectivity
inspired by network science" (Nature Communications 2018). RigL: Evci et al., "Rigging the Lottery: Making All
Tickets Winners" (ICML 2020), algorithm 1.

Deviations of SET: the paper drops, after every epoch, a share of the smallest positive and the same share of
the largest negative weights, draws those that it grows anew, and goes on to the last epoch but one; here the
smallest magnitudes go whatever their sign, grown weights start at zero as in RigL, and the mask changes every
`every` steps and stands still from `until` on, in `compare` after three quarters of the training.

Deviations of RigL: it makes its step and then grows by the gradient of that step, which clipping sees whole;
the paper grows in place of a step. A weight that is dropped and grown in the same change starts at zero with
its momentum, as the paper says of grown weights; in the authors' code such a one keeps both.
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from supermask.checks import is_count, is_number
from supermask.masks import permutation
from supermask.prune.hold import StatefulHold
from supermask.prune.magnitude import keep_largest, magnitude

RULES = ("set", "rigl")


class Rewire(StatefulHold):
    """Hold a mask that drops and grows weights every few steps, the same number in each layer.

    SET (Mocanu et al. 2018, algorithm 1) or RigL (Evci et al. 2020, algorithm 1); deviations: see the head of
    this module. The mask is part of `optimizer.state_dict()`, so that a resumed training goes on with the
    same one.

    Args:
        optimizer: Any `torch.optim` optimizer over the masked parameters.
        mask: Parameter name → bool mask to start from.
        model: The module the names belong to.
        rule: What grows: `set` (weights at random) or `rigl` (weights of largest gradient).
        every: Steps between two changes.
        until: Step from which on the mask stays as it is; RigL's paper uses three quarters of the training,
            SET's all of it.
        fraction: Share of the kept weights of a layer that is dropped, constant for SET; RigL anneals it to
            zero by a cosine (section 3).
        seed: Of the weights that SET grows.

    Raises:
        ValueError: An unknown rule or a number out of range, or what `hold` refuses.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        mask: Mapping[str, Tensor],
        model: nn.Module,
        *,
        rule: str = "rigl",
        every: int = 100,
        until: int,
        fraction: float = 0.3,
        seed: int = 0,
    ) -> None:
        if rule not in RULES:
            raise ValueError(f"rule must be one of {', '.join(RULES)}, not {rule!r}")
        if not is_count(every, 1) or not is_count(until) or not is_number(fraction) or not 0 <= fraction < 1:
            raise ValueError(
                "every must be a whole number from 1 on, until one from 0 on and fraction in [0, 1), not "
                f"{every!r}, {until!r} and {fraction!r}"
            )
        self.rule, self.every, self.until, self.fraction, self.seed = rule, every, until, fraction, seed
        self._gradients: dict[str, Tensor] = {}
        super().__init__(optimizer, mask, model, {"step": 0})

    def _attach(self) -> list[RemovableHandle]:
        return [*super()._attach(), self.optimizer.register_step_pre_hook(self._before_step)]

    @property
    def _due(self) -> bool:
        """Whether the step that comes, or has just been made, ends in a change."""
        step = self.state["step"] + 1
        return step % self.every == 0 and step < self.until

    def _on_gradient(self, name: str, parameter: Tensor) -> None:
        if not (self.rule == "rigl" and self._due):
            super()._on_gradient(name, parameter)

    def _before_step(self, *_: Any) -> None:
        if self.rule == "rigl" and self._due:
            for name, parameter in self._parameters.items():
                if parameter.grad is None:
                    raise ValueError(
                        f"{name} has no gradient at step {self.state['step']}, and RigL grows by it"
                    )
                self._gradients[name] = parameter.grad.detach().abs()
                super()._on_gradient(name, parameter)

    def _after_step(self, *_: object) -> None:
        if self._due:
            self._change(self.state["step"] + 1)
        self.state["step"] += 1
        super()._after_step()

    @torch.no_grad()
    def _change(self, step: int) -> None:
        share = self.fraction
        if self.rule == "rigl":
            share *= 0.5 * (1 + math.cos(math.pi * step / self.until))
        old, changed = self.mask, {}
        for name, parameter in self._parameters.items():
            kept = int(old[name].sum())
            drop = min(round(share * kept), kept - 1)
            stays = magnitude({name: parameter.detach()}, {name: kept - drop}, {name: old[name]})[name]
            grown = self._grow(name, ~stays, drop, step)
            parameter.masked_fill_(grown, 0.0)
            for value in self.optimizer.state.get(parameter, {}).values():
                if isinstance(value, Tensor) and value.shape == parameter.shape:
                    value.masked_fill_(grown, 0.0)
            changed[name] = stays | grown
        self._gradients = {}
        self.set_mask(changed)

    def _grow(self, name: str, free: Tensor, count: int, step: int) -> Tensor:
        """Where to grow, among the free places."""
        if self.rule == "rigl":
            scores = self._gradients[name][free]
        else:
            order = permutation(free.numel(), self.seed, f"set/{name}/{step}").to(free.device)
            scores = torch.empty_like(order, dtype=torch.float64)
            scores[order] = torch.arange(len(order), 0, -1, dtype=torch.float64, device=free.device)
            scores = scores.view(free.shape)[free]
        return keep_largest({name: scores}, {name: count}, {name: free})[name]
