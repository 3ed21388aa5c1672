"""The state of a search in a `state_dict`: checked against the search before anything is copied."""

from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from supermask.checks import check_mapping

Entry = dict[str, Any]
"""Name → tensor: what is known of one masked parameter."""


def identity_of(search: Any) -> dict[str, Any]:
    """What any state must agree with; options that came later are named where they are not the default."""
    start = [] if search.initial_density is None else [search.initial_density]
    return {
        "method": search.method,
        "base": type(search.base).__name__,
        "density": search.density,
        "distribution": search.distribution,
        "ranking": search.ranking,
        "density_schedule": [search.density_schedule, search.schedule_steps, *start],
        "names": list(search.masked_parameters),
        **({} if search.step_size == "absolute" else {"step_size": search.step_size}),
        **({"train_norms": True} if search.train_norms else {}),
    }


def gathered(search: Optimizer, packed: Callable[[], dict[str, Any]], own: dict[str, Any]) -> dict[str, Any]:
    """What torch packs of an optimizer together with what is a search's `own`; hooks see all of it."""
    hooks = search._optimizer_state_dict_post_hooks
    search._optimizer_state_dict_post_hooks = OrderedDict()
    try:
        state = {**packed(), **own}
    finally:
        search._optimizer_state_dict_post_hooks = hooks
    for hook in hooks.values():
        changed = hook(search, state)
        state = state if changed is None else changed
    return state


def announced(search: Optimizer, state_dict: dict[str, Any]) -> dict[str, Any]:
    """A state as the hooks of `register_load_state_dict_pre_hook` leave it.

    Raises:
        TypeError: It is none.
    """
    what = "a state is what state_dict() of a search returned"
    state_dict = dict(check_mapping(state_dict, what))
    for hook in search._optimizer_load_state_dict_pre_hooks.values():
        changed = hook(search, state_dict)
        state_dict = state_dict if changed is None else changed
    return state_dict


def own_attributes(search: Optimizer) -> dict[str, Any]:
    """What a copy of a search takes along, without what others put in the place of its methods.

    Such as the `step` of a learning-rate scheduler, which would step the original.
    """
    return {
        key: value
        for key, value in vars(search).items()
        if not key.startswith("_optimizer_") and not (callable(value) and hasattr(type(search), key))
    }


def share_options(groups: list[dict[str, Any]], with_: list[dict[str, Any]]) -> None:
    """Hand over lr and whatever else groups of parameters say, but the parameters themselves."""
    for group, other in zip(groups, with_, strict=True):
        other.update({key: value for key, value in group.items() if key != "params"})


def check_state(
    state_dict: Mapping[str, Any],
    identity: Mapping[str, Any],
    own: Mapping[str, Entry],
    groups: list[dict[str, Any]],
    *,
    weights_move: bool,
) -> dict[str, Entry]:
    """Refuse a state that a search cannot go on from.

    Args:
        state_dict: The state.
        identity: What it must agree with.
        own: Name → the search's present state of each masked parameter.
        groups: The search's `param_groups`.
        weights_move: Whether the search itself changes its frozen weights.

    Returns:
        Name → the state's entry of each masked parameter.

    Raises:
        ValueError: The state is of another search: other parameters, shapes, groups, options or weights.
    """
    lacks = [key for key in ("search", "state", "param_groups", "base", "steps") if key not in state_dict]
    if lacks:
        raise ValueError(f"the state lacks {', '.join(lacks)}; give what state_dict() of a search returned")
    _check_identity(state_dict["search"], identity)
    for ours, theirs in ((groups, state_dict["param_groups"]), (groups, state_dict["base"]["param_groups"])):
        if [len(group["params"]) for group in theirs] != [len(group["params"]) for group in ours]:
            raise ValueError("the state is of other groups of parameters than this search's")
    entries = {}
    for index, (name, tensors) in enumerate(own.items()):
        entry = state_dict["state"].get(index, {})
        for key, tensor in tensors.items():
            if key not in entry or entry[key].shape != tensor.shape:
                raise ValueError(f"the state of {name} has no {key!r} of shape {tuple(tensor.shape)}")
        if not weights_move and not _same_weights(tensors["weight"], entry):
            raise ValueError(
                f"the state is of other frozen weights of {name} than this search's; draw or load the model "
                "as it was when that search was made (the same seed and init), and make the search then"
            )
        entries[name] = entry
    return entries


def _check_identity(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> None:
    for key in {**ours, **theirs}:
        if theirs.get(key) != ours.get(key):
            what = "other parameters" if key == "names" else f"another {key}"
            raise ValueError(
                f"the state is of {what} ({theirs.get(key)}) than this search's ({ours.get(key)})"
            )


def _same_weights(weight: Tensor, entry: Entry) -> bool:
    """Whether frozen weights are those of a state, or the kept ones of them: a model loaded from there."""
    theirs = entry["weight"].to(weight)
    return torch.equal(weight, theirs) or torch.equal(
        weight, torch.where(entry["mask"].to(weight.device), theirs, 0.0)
    )
