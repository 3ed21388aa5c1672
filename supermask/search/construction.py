"""How a search is set up: its base rule, what it freezes, and which arguments it refuses."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from supermask import masks, ops
from supermask.checks import check_mapping, is_count
from supermask.search.claims import is_claimed
from supermask.weights.init import Init, derive_key, init_of, is_norm_parameter
from supermask.weights.kinds import matches
from supermask.weights.names import aliases_of, data_parallel, parameters_of, unwrap
from supermask.weights.notices import (
    FrozenParameterWarning,
    NotDrawnWarning,
    OtherDensityWarning,
    first_of,
    tell,
)
from supermask.weights.roles import STOPPED, ParameterInfo, classify

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
    if steps is not None and not (isinstance(steps, int) and is_count(steps, 1)):
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


def non_default_allocation(distribution: str, schedule: str) -> str:
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
    scores = ops.fill_random(torch.empty_like(weight), key, scheme, scale * info.fan_in**-0.5)
    if info.zero_row is not None:
        scores[info.zero_row] = 0  # padding, whose weights are 0: last in rank, and no gradient moves it
    return scores


def check_score_init(init: str, own: str | None) -> None:
    """Refuse an unknown distribution of first scores, or any other for a method that has its `own`."""
    if init not in SCORE_INITS:
        raise ValueError(f"score_init must be one of {', '.join(SCORE_INITS)}, not {init!r}")
    if own and init != next(iter(SCORE_INITS)):
        raise ValueError(f"{own} draws its first scores in a way of its own; leave score_init={init!r} out")


def replace_scores(scores: dict[str, Tensor], given: Mapping[str, Tensor]) -> None:
    """Copy what was given over the scores drawn.

    Raises:
        TypeError: It is no mapping.
        ValueError: It names another layer, or what is there are no finite scores of that layer's shape.
    """
    what = "scores maps parameter names to tensors, as search.scores does"
    for name, values in check_mapping(given, what).items():
        if name not in scores:
            raise ValueError(
                f"scores are given for {name}, which the search does not mask; it masks {', '.join(scores)}"
            )
        wanted = f"of shape {tuple(scores[name].shape)}"
        there = f"of shape {tuple(values.shape)}" if isinstance(values, Tensor) else type(values).__name__
        if there != wanted:
            raise ValueError(f"the scores of {name} are {there}; they must be a tensor {wanted}")
        if not torch.isfinite(values).all():
            raise ValueError(f"the scores given for {name} are not finite")
        scores[name].copy_(values.detach())


def frozen_weight(info: ParameterInfo) -> Tensor:
    """A copy of a weight as it stands, contiguous, in at least float32."""
    dtype = torch.promote_types(info.tensor.dtype, torch.float32)
    weight = info.tensor.detach().to(dtype, copy=True).contiguous()
    if not torch.isfinite(weight).all():
        raise ValueError(f"the weights of {info.name} are not finite; a search needs finite frozen weights")
    return weight


def freeze_the_rest(
    model: nn.Module,
    moved: Mapping[str, nn.Parameter],
    infos: Iterable[ParameterInfo],
    exclude: Iterable[str],
) -> None:
    """Stop gradients of parameters that nothing moves: they would grow for ever, and count in clipping.

    Left alone are those that `exclude` names, which another optimizer may train, and those of other searches.

    Args:
        model: The network.
        moved: Name → parameter that this search moves.
        infos: The masked ones among them.
        exclude: Patterns of names.

    Raises:
        ValueError: A masked weight does not require a gradient, and no other search stopped it.
    """
    inner = unwrap(model)
    stopped = set(getattr(inner, STOPPED, ()))
    for info in infos:
        if not info.tensor.requires_grad and info.name not in stopped:
            raise ValueError(
                f"the masked weight {info.name} does not require a gradient, so its scores could not move; "
                "call requires_grad_(True) on it, or leave it out with exclude="
            )
    for parameter in moved.values():
        parameter.requires_grad_(True)
    patterns = tuple(exclude)
    spared = {id(p) for name, p in aliases_of(model).items() if matches(name, patterns)}
    spared |= {id(p) for p in moved.values()}
    # Data parallel parts wait for the gradients that they saw when they were made.
    spared |= {id(p) for part in data_parallel(model) for p in part.parameters()}
    freezing = [
        name
        for name, parameter in parameters_of(model).items()
        if parameter.requires_grad and id(parameter) not in spared and not is_claimed(parameter)
    ]
    for name in freezing:
        parameters_of(model)[name].requires_grad_(False)
    record = init_of(model)
    wanted = [] if record is None else [name for name in freezing if name in record.named()]
    if stopped or freezing:
        setattr(inner, STOPPED, tuple(sorted((stopped | set(freezing)) - moved.keys())))
    if wanted:
        tell(
            f"the search stops the gradients of {first_of(wanted)}, which it does not move. What another "
            "optimizer is to train has to be left to it: exclude=[…] with these names",
            FrozenParameterWarning,
        )


def tell_of_weights(
    model: nn.Module, infos: Iterable[ParameterInfo], density: float, scaled: float | None
) -> None:
    """Warn of frozen weights that do not follow from a seed, or were scaled for another density.

    Args:
        model: The network.
        infos: Its masked parameters.
        density: That of the search.
        scaled: The density that its weights should be scaled for; None where that has no meaning.
    """
    record = init_of(model)
    drawn = {} if record is None else record.named()
    missing = [info.name for info in infos if info.name not in drawn]
    if record is None or missing:
        tell(
            f"weights not drawn by randomize_: {first_of(missing)}. The ticket will store those that it "
            "keeps, where it could be a seed and a bit for each, and unscaled weights learn worse. "
            f"Call sm.randomize_(model, density={density:g}) before, unless trained weights are meant",
            NotDrawnWarning,
        )
    elif isinstance(record.density, float | int) and record.density != 1 and scaled is not None:
        if not any(math.isclose(record.density, right, rel_tol=1e-6) for right in (density, scaled)):
            tell(
                f"the weights were scaled for density {record.density:g}, and the search keeps {density:g}; "
                f"call randomize_(…, density={scaled:g}) for it, or leave its density= out",
                OtherDensityWarning,
            )


def record_of(model: nn.Module, names: Iterable[str], purpose: str) -> Init:
    """How `model` was drawn, for a search that draws further values of its weights.

    Raises:
        ValueError: `randomize_` did not draw one of the parameters `names`; `purpose` begins the message.
    """
    record = init_of(model)
    missing = set(names) - set(record.named() if record else {})
    if record is None or missing:
        raise ValueError(
            f"{purpose} as they were drawn first, and randomize_ did not draw {min(missing)}; call "
            "randomize_(model, …) before"
        )
    return record


def norm_parameters(model: nn.Module, exclude: Iterable[str] = ()) -> dict[str, nn.Parameter]:
    """Name → weight or bias of the model's norms, all of which must require a gradient."""
    norms = [info for info in classify(model, exclude=exclude) if is_norm_parameter(info)]
    frozen = [info.name for info in norms if not info.tensor.requires_grad]
    if frozen:
        raise ValueError(
            f"train_norms asks to train {frozen[0]}, which does not require a gradient; call "
            "randomize_(…, train_norms=True) before wrapping the model"
        )
    return {info.name: info.tensor for info in norms}


def make_base(
    base: str | type[Optimizer], scores: list[Tensor], lr: float, options: Mapping[str, Any]
) -> Optimizer:
    """The rule that moves the scores: one of `BASES` by name, or any class of optimizers."""
    if isinstance(base, str):
        if base not in BASES:
            raise ValueError(f"unknown base rule {base!r}; choose one of {', '.join(BASES)}, or pass a class")
        base = BASES[base]
    elif not callable(base):
        raise ValueError(
            "base is the name of a rule or its class, such as torch.optim.Adam, not "
            f"a {type(base).__name__}; give its arguments to the search"
        )
    for name, value in {"lr": lr, **options}.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"{name} must be a finite number, not {value!r}")
    if base not in BASES.values():
        _try_out(base, lr, options, scores[0].device)
    return _made(base, scores, lr, options)


def _name(base: Any) -> str:
    return getattr(base, "__name__", type(base).__name__)


def _made(base: type[Optimizer], scores: list[Tensor], lr: float, options: Mapping[str, Any]) -> Optimizer:
    try:
        return base(scores, lr=lr, **options)  # type: ignore[call-arg]
    except TypeError as error:
        given = ", ".join(f"{name}={value!r:.40}" for name, value in {"lr": lr, **options}.items())
        raise ValueError(f"{_name(base)} does not accept these options ({given}): {error}") from None


@torch.enable_grad()
def _try_out(base: type[Optimizer], lr: float, options: Mapping[str, Any], device: torch.device) -> None:
    """Make one step of a rule on its own, as a search would, so that one that cannot serve is refused now."""
    score = torch.ones(2, 2, device=device)
    rule = _made(base, [score], lr, options)
    score.grad = torch.ones_like(score)
    try:
        rule.step()
    except Exception as error:
        raise ValueError(
            f"{_name(base)} cannot move scores: a step without a closure, by dense gradients, ends in "
            f"{type(error).__name__}: {error}. Take SGD, AdamW or another rule that needs neither"
        ) from None
