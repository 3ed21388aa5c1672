"""Iterative magnitude pruning and its rewinds, over a training function that the user supplies.

Rewinding to initialization: Frankle and Carbin (ICLR 2019). To step k: Frankle et al., "Linear Mode
Connectivity and the Lottery Ticket Hypothesis" (ICML 2020), with the learning-rate schedule resumed at k.
Learning-rate rewinding: Renda et al., "Comparing Rewinding and Fine-tuning in Neural Network Pruning"
(ICLR 2020): weights go on as trained, only the schedule goes back.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from supermask.mask import Mask, density
from supermask.parameters import masked, unwrap
from supermask.prune.magnitude import magnitude, round_counts

State = dict[str, Tensor]


class Train(Protocol):
    """How a network is trained; IMP calls it once per round.

    It trains `model` in place under `mask` (see `hold`; empty for the dense network) from step `start` of
    its schedule to the end, and calls `on_step(step)` after every optimizer step with the number of steps
    done so far.
    """

    def __call__(
        self, model: nn.Module, mask: Mask, *, start: int, on_step: Callable[[int], None]
    ) -> object: ...


@dataclass(frozen=True)
class Round:
    """One trained network of IMP; the model holds its weights until the next round begins.

    Attributes:
        round: 0 for the dense network.
        mask: Name → bool mask it was trained with.
        density: Fraction of weights kept.
        result: What the training function returned.
    """

    round: int
    mask: Mask
    density: float
    result: object


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
    include: Iterable[str] = (),
    exclude: Iterable[str] = (),
) -> Iterator[Round]:
    """Train, prune, rewind, again: yields the dense network and then one ticket per round.

    One-shot pruning is `rounds=1` with the whole `rate` at once.

    Args:
        model: The network as initialized.
        train: The training function.
        rounds: Rounds of pruning after the dense training.
        rate: Fraction of the survivors that a round prunes; see `round_counts` for the others.
        rewind_to: Step to rewind to; 0 is initialization. Weights and buffers go back to it and the
            schedule resumes from it.
        rewind: `weights`, or `lr` (learning-rate rewinding: the weights stay as trained).
        include: Patterns of parameter names to prune although the default would not.
        exclude: Patterns of parameter names to leave whole, such as a head that another task replaces.

    Raises:
        ValueError: A value out of range, or a training that never reached step `rewind_to`.
    """
    if rounds < 0 or rewind_to < 0:
        raise ValueError(f"rounds and rewind_to must not be negative: {rounds}, {rewind_to}")
    if rewind not in ("weights", "lr"):
        raise ValueError(f"rewind must be 'weights' or 'lr', not {rewind!r}")
    infos = masked(model, include, exclude)

    def keep(round: int) -> dict[str, int] | int:
        return round_counts(infos, round, rate, conv_rate=conv_rate, output_rate=output_rate, scope=scope)

    keep(1)  # refuse bad rates before the first training
    saved: dict[int, State] = {0: snapshot(model)} if rewind_to == 0 else {}

    def save(step: int) -> None:
        if step == rewind_to:
            saved[step] = snapshot(model)

    mask: Mask = {info.name: torch.ones_like(info.tensor, dtype=torch.bool) for info in infos}
    result = train(model, mask, start=0, on_step=save)
    if rewind_to not in saved:
        raise ValueError(f"the training ended before step {rewind_to}, so there is nothing to rewind to")
    yield Round(0, mask, 1.0, result)
    for round in range(1, rounds + 1):
        mask = magnitude({info.name: info.tensor.detach() for info in infos}, keep(round), mask)
        if rewind == "weights":
            restore(model, saved[rewind_to])
        apply_mask(model, mask)
        result = train(model, mask, start=rewind_to, on_step=lambda _: None)
        yield Round(round, mask, density(mask), result)


def snapshot(model: nn.Module) -> State:
    """A copy of all parameters and buffers, which later training does not touch."""
    return {name: tensor.detach().clone() for name, tensor in unwrap(model).state_dict().items()}


def restore(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Copy a snapshot back."""
    unwrap(model).load_state_dict(state)


@torch.no_grad()
def apply_mask(model: nn.Module, mask: Mapping[str, Tensor]) -> None:
    """Set the weights outside `mask` to zero."""
    parameters = dict(unwrap(model).named_parameters())
    for name, kept in mask.items():
        parameters[name].masked_fill_(~kept.to(parameters[name].device), 0.0)
