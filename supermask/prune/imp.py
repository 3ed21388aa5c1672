"""Iterative magnitude pruning, its rewinds and its variants, over a training function that the user supplies.

Rewinding to initialization: Frankle and Carbin (ICLR 2019). To step k: Frankle et al., "Linear Mode
Connectivity and the Lottery Ticket Hypothesis" (ICML 2020), with the learning-rate schedule resumed at k.
Learning-rate rewinding: Renda et al., "Comparing Rewinding and Fine-tuning in Neural Network Pruning"
(ICLR 2020): weights go on as trained, only the schedule goes back. Other criteria than the magnitude, other
values of what is pruned and of what is kept: Zhou et al. (NeurIPS 2019), see `criteria` and `actions`.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from supermask.checks import is_count
from supermask.masks import Mask, check_masks, density, summary
from supermask.prune import actions
from supermask.prune.criteria import by_criterion, check_criterion
from supermask.prune.magnitude import round_counts
from supermask.tickets.ticket import Ticket
from supermask.weights.names import parameters_of, unwrap
from supermask.weights.roles import ParameterInfo, masked

State = dict[str, Tensor]


class Train(Protocol):
    """How a network is trained; IMP calls it once per round.

    It trains `model` in place under `mask` (see `hold`; empty for the dense network) from step `start` of
    its schedule to the end, and calls `on_step(step)` after every optimizer step with the number of steps
    done so far. Where pruned weights are not zero it is also given `values=`, to be handed on to `hold`.
    """

    def __call__(
        self, model: nn.Module, mask: Mask, *, start: int, on_step: Callable[[int], None]
    ) -> object: ...


@dataclass
class _Turn:
    """The round that a model is of."""

    round: int


@dataclass(frozen=True, repr=False, eq=False)
class Round:
    """One trained network of IMP; the model holds its weights until the next round begins.

    Attributes:
        round: 0 for the dense network.
        mask: Name → bool mask it was trained with.
        density: Fraction of weights kept.
        result: What the training function returned.
        model: The network; it is the same one in all rounds.
        turn: Which round the model is of at present.
    """

    round: int
    mask: Mask
    density: float
    result: object
    model: nn.Module
    turn: _Turn

    def ticket(self, provenance: Mapping[str, Any] | None = None) -> Ticket:
        """The network of this round, with its trained weights; take it before the loop goes on.

        Args:
            provenance: JSON-able facts to record in the file (the method, round and density are recorded).

        Raises:
            ValueError: The model holds other weights by now: those of a later round, or values frozen
                outside the mask (`pruned` other than `zero`).
        """
        if self.turn.round != self.round:
            raise ValueError(
                f"round {self.round} is over, and the model is that of round {self.turn.round}; take a "
                "ticket before the loop goes on"
            )
        facts = {"method": "imp", "round": self.round, "density": self.density}
        return Ticket.from_model(self.model, self.mask, provenance={**facts, **(provenance or {})})

    def __repr__(self) -> str:
        return summary.as_text(*self._summary())

    def _repr_html_(self) -> str:
        return summary.as_html(*self._summary())

    def _summary(self) -> tuple[str, list[summary.LayerCount], list[str]]:
        name = type(unwrap(self.model)).__name__
        said = " ".join(repr(self.result).split())
        facts = [f"the training returned {said[:80]}{'…' if len(said) > 80 else ''}"]
        return f"Round {self.round} of IMP on {name}", summary.counts_of(self.mask), facts


def imp(
    model: nn.Module,
    train: Train,
    *,
    rounds: int,
    rate: float = 0.2,
    conv_rate: float | None = None,
    output_rate: float | None = None,
    scope: str = "layerwise",
    rewind_to: int = 0,
    rewind: str = "weights",
    criterion: str = "large-final",
    alpha: float = 1.0,
    pruned: str = "zero",
    signs: bool = False,
    seed: int = 0,
    include: Iterable[str] = (),
    exclude: Iterable[str] = (),
) -> Iterator[Round]:
    """Train, prune, rewind, again: yields the dense network and then one ticket per round.

    Frankle and Carbin (ICLR 2019), section 1, with the variants named at the head of this module. Deviation:
    what a layer keeps is computed from its size, so that rounding does not add up, and ties go to the lower
    index. One-shot pruning is `rounds=1` with the whole `rate` at once.

    Args:
        model: The network as initialized.
        train: The training function.
        rounds: Rounds of pruning after the dense training.
        rate: Fraction of the survivors that a round prunes; see `round_counts` for the others.
        rewind_to: Step to rewind to; 0 is initialization. Weights and buffers go back to it and the
            schedule resumes from it.
        rewind: `weights`, or `lr` (learning-rate rewinding: the weights stay as trained).
        criterion: Which of the survivors stay, see `by_criterion`. Initial are the weights at the step that
            is rewound to; with `lr`, which rewinds none, those at initialization.
        alpha: Slope of the criteria of initial and final values.
        pruned: Where pruned weights are frozen, see `pruned_values`.
        signs: Kept weights go back to their signs alone, times the standard deviation of their layer.
        seed: Of the criterion `random`.
        include: Patterns of parameter names to prune although the default would not.
        exclude: Patterns of parameter names to leave whole, such as a head that another task replaces.

    Raises:
        ValueError: A value out of range, `signs` where no weight goes back, or a training that never reached
            step `rewind_to`.
    """
    if not is_count(rounds) or not is_count(rewind_to):
        raise ValueError(f"rounds and rewind_to are whole numbers from 0 on, not {rounds!r}, {rewind_to!r}")
    if rewind not in ("weights", "lr"):
        raise ValueError(f"rewind must be 'weights' or 'lr', not {rewind!r}")
    check_criterion(criterion, alpha)
    actions.check_actions(pruned, signs, rewind)
    infos = masked(model, include, exclude)

    def keep(round: int) -> dict[str, int] | int:
        return round_counts(infos, round, rate, conv_rate=conv_rate, output_rate=output_rate, scope=scope)

    keep(1)  # refuse bad rates before the first training
    saved: dict[int, State] = {0: snapshot(model)} if rewind_to == 0 else {}
    drawn = _copies(infos)

    def save(step: int) -> None:
        if step == rewind_to:
            saved[step] = snapshot(model)

    mask: Mask = {info.name: torch.ones_like(info.tensor, dtype=torch.bool) for info in infos}
    result = train(model, mask, start=0, on_step=save)
    if rewind_to not in saved:
        raise ValueError(f"the training ended before step {rewind_to}, so there is nothing to rewind to")
    turn = _Turn(0)
    yield Round(0, mask, 1.0, result, model, turn)
    initial = drawn if rewind == "lr" else {name: saved[rewind_to][name] for name in drawn}
    again: Callable[..., object] = train
    for round in range(1, rounds + 1):
        turn.round = round  # from here on the model is not that of the round before
        final = _copies(infos)
        mask = by_criterion(criterion, initial, final, keep(round), mask, alpha=alpha, seed=seed)
        values = actions.pruned_values(pruned, initial, final)
        if rewind == "weights":
            restore(model, saved[rewind_to])
        if signs:
            put(model, actions.signs(initial))
        apply_mask(model, mask, values)
        held: dict[str, Any] = {} if values is None else {"values": values}
        result = again(model, mask, start=rewind_to, on_step=lambda _: None, **held)
        yield Round(round, mask, density(mask), result, model, turn)


def _copies(infos: Iterable[ParameterInfo]) -> State:
    """Name → a copy of each masked weight as it stands."""
    return {info.name: info.tensor.detach().clone() for info in infos}


def snapshot(model: nn.Module) -> State:
    """A copy of all parameters and buffers, which later training does not touch."""
    return {name: tensor.detach().clone() for name, tensor in unwrap(model).state_dict().items()}


def restore(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Copy a snapshot back."""
    unwrap(model).load_state_dict(state)


@torch.no_grad()
def put(model: nn.Module, values: Mapping[str, Tensor]) -> None:
    """Copy values into parameters, by name."""
    parameters = parameters_of(model)
    for name, value in values.items():
        parameters[name].copy_(value)


@torch.no_grad()
def apply_mask(
    model: nn.Module, mask: Mapping[str, Tensor], values: Mapping[str, Tensor] | None = None
) -> None:
    """Set the weights outside `mask` to zero, or to `values`: name → tensor, shaped like the weights.

    Args:
        model: The network.
        mask: Parameter name → bool tensor, shaped like the parameter.
        values: Parameter name → where its pruned weights stand instead of at zero.

    Raises:
        TypeError: `mask` is no mapping.
        ValueError: It names another parameter, or one of its masks is not bool or of another shape.
    """
    parameters = parameters_of(model)
    check_masks(mask, parameters)
    for name, kept in mask.items():
        parameter = parameters[name]
        outside = ~kept.to(parameter.device)
        if values is None:
            parameter.masked_fill_(outside, 0.0)
        else:
            parameter.copy_(torch.where(outside, values[name].to(parameter), parameter))
