"""How a search is set up: its base rule, what it freezes, and which arguments it refuses."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from supermask import masks, ops
from supermask.weights.init import derive_key, is_norm_parameter
from supermask.weights.roles import ParameterInfo, classify, unwrap

BASES: dict[str, type[Optimizer]] = {
    "sgd": torch.optim.SGD,
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
}


def check_schedule(
    schedule: str, steps: int | None, distribution: str, density: float, initial: float | None
) -> None:
    """Refuse a density schedule that is unknown, has no length or start it could have, or fights the rest."""
    masks.scheduled_density(1.0, 0, 1, schedule)  # refuses an unknown one
    if steps is not None and (isinstance(steps, bool) or not isinstance(steps, int) or steps < 1):
        raise ValueError(f"schedule_steps must be a whole number of steps from 1 on, not {steps!r}")
    if steps is not None and schedule == "constant":
        raise ValueError(
            "schedule_steps has no meaning for a constant density; give density_schedule='cubic'"
        )
    if initial is not None:
        if schedule == "constant":
            raise ValueError(
                f"initial_density={initial!r} has no meaning for a constant density; give "
                "density_schedule='cubic'"
            )
        masks.check_density(initial, "initial_density")
        if initial < density:
            raise ValueError(
                "initial_density is where a scheduled density starts, and must lie between the final one and "
                f"1, in [{density:g}, 1], not {initial!r}"
            )
    if schedule != "constant" and masks.group_of(distribution):
        raise ValueError(f"distribution {distribution!r} fixes the density, so it cannot follow a schedule")


def spread_of(distribution: str, schedule: str) -> str:
    """What was asked for that is not the default, for those who refuse it."""
    asked = {"distribution": (distribution, "uniform"), "density_schedule": (schedule, "constant")}
    return " and ".join(f"{name}={value!r}" for name, (value, usual) in asked.items() if value != usual)


SCORE_INITS = {
    "kaiming_uniform_sqrt5": ("uniform", 1.0),
    "kaiming_uniform": ("uniform", 6**0.5),
    "kaiming_normal": ("normal", 2**0.5),
}
"""First scores: their distribution, and its bound or standard deviation in units of 1/√fan_in."""


def draw_scores(init: str, info: ParameterInfo, weight: Tensor, seed: int) -> Tensor:
    """Scores of one of `SCORE_INITS` from the seed, shaped, typed and placed like `weight`."""
    scheme, scale = SCORE_INITS[init]
    key = derive_key("score", seed, info.name)
    return ops.fill_random(torch.empty_like(weight), key, scheme, scale * info.fan_in**-0.5)


def check_score_init(init: str, own: str | None) -> None:
    """Refuse an unknown distribution of first scores, or any other for a method that has its `own`."""
    if init not in SCORE_INITS:
        raise ValueError(f"score_init must be one of {', '.join(SCORE_INITS)}, not {init!r}")
    if own and init != next(iter(SCORE_INITS)):
        raise ValueError(f"{own} draws its first scores in a way of its own; leave score_init={init!r} out")


def replace_scores(scores: dict[str, Tensor], given: Mapping[str, Tensor]) -> None:
    """Copy what was given over the scores drawn."""
    for name, values in given.items():
        if name not in scores:
            raise ValueError(
                f"scores are given for {name}, which the search does not mask; it masks {', '.join(scores)}"
            )
        if values.shape != scores[name].shape:
            raise ValueError(
                f"the scores of {name} are of shape {tuple(values.shape)}; they must be of shape "
                f"{tuple(scores[name].shape)}"
            )
        if not torch.isfinite(values).all():
            raise ValueError(f"the scores given for {name} are not finite")
        scores[name].copy_(values.detach())


def freeze_the_rest(model: nn.Module, masked_weights: list[nn.Parameter], norms: list[Tensor]) -> None:
    """Stop gradients of parameters that nothing moves: they would grow for ever, and count in clipping."""
    moved = {id(p) for p in (*masked_weights, *norms)}
    if not all(p.requires_grad for p in masked_weights):
        raise ValueError(
            "a masked weight does not require a gradient, so its scores could not move; call "
            "requires_grad_(True) on it, or leave it out with exclude="
        )
    if isinstance(model, nn.parallel.DistributedDataParallel):
        return  # it waits for the gradients that it saw when it was made
    for parameter in unwrap(model).parameters():
        if id(parameter) not in moved:
            parameter.requires_grad_(False)


def norm_parameters(model: nn.Module) -> list[Tensor]:
    """The weights and biases of the model's norms, all of which must require a gradient."""
    norms = [info for info in classify(model) if is_norm_parameter(info)]
    frozen = [info.name for info in norms if not info.tensor.requires_grad]
    if frozen:
        raise ValueError(
            f"train_norms asks to train {frozen[0]}, which does not require a gradient; call "
            "randomize_(…, train_norms=True) before wrapping the model"
        )
    return [info.tensor for info in norms]


def make_base(
    base: str | type[Optimizer], scores: list[Tensor], lr: float, options: Mapping[str, Any]
) -> Optimizer:
    """The rule that moves the scores: one of `BASES` by name, or any class of optimizers."""
    if isinstance(base, str):
        if base not in BASES:
            raise ValueError(f"unknown base rule {base!r}; choose one of {', '.join(BASES)}, or pass a class")
        base = BASES[base]
    try:
        return base(scores, lr=lr, **options)  # type: ignore[call-arg]
    except TypeError as error:
        raise ValueError(f"{base.__name__} does not accept these options: {error}") from None
