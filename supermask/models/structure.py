"""What a network is besides its parameters, to notice that it was changed after it was built.

Two networks with the same parameters may compute different things: another activation, dropout, padding or
stride leaves no trace in a `state_dict`. `create_model` notes what it built, so that the ticket of a network
that was altered later does not claim that `create_model` builds it.
"""

import types
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from supermask.models.registry import FACTORY_ATTRIBUTE
from supermask.weights.names import named_modules, unwrap

_ATTRIBUTE = "supermask_structure"
_PASSING = frozenset({"training", "forward", "grad_checkpointing", "process_group"})
"""Attributes of modules that come and go, and change no number."""


def record_structure(model: nn.Module) -> None:
    """Note on a network how it is built."""
    setattr(model, _ATTRIBUTE, structure_of(model))


def remember_option(model: nn.Module, option: str, value: Any, altered: list[str]) -> None:
    """Let a network of `create_model` remember an option that was applied to it after it was built.

    Args:
        model: The network, with the option applied.
        option: Its name as an argument of `create_model`.
        value: Its value there.
        altered: Its `changes` before; a network that was altered otherwise is no longer `create_model`'s.
    """
    factory = getattr(model, FACTORY_ATTRIBUTE, None)
    if factory is not None and not altered:
        record_structure(model)
        setattr(model, FACTORY_ATTRIBUTE, {**factory, "args": {**factory["args"], option: value}})


def structure_of(model: nn.Module) -> dict[str, str]:
    """Name of each module, wrappers looked through → its class and configuration as text."""
    return {name.removesuffix("."): _described(module) for name, module in named_modules(model)}


def changes(model: nn.Module) -> list[str]:
    """What was changed since `record_structure`, for a message; empty where nothing was, or nothing noted."""
    noted = getattr(unwrap(model), _ATTRIBUTE, None)
    return [] if noted is None else differences(noted, structure_of(model))


def differences(before: Mapping[str, str], after: Mapping[str, str]) -> list[str]:
    """How two structures differ, a text for each module."""
    return [
        f"{name or 'the network itself'} is {after.get(name, 'absent')} and was {before.get(name, 'absent')}"
        for name in {**before, **after}
        if before.get(name) != after.get(name)
    ]


def _described(module: nn.Module) -> str:
    kind = type(module)
    # A synchronized norm computes what a plain one does.
    norm = isinstance(module, _BatchNorm) and kind.__module__ == _BatchNorm.__module__
    name = (
        "BatchNorm"
        if norm
        else kind.__qualname__
        if _is_torchs(kind)
        else f"{kind.__module__}.{kind.__qualname__}"
    )
    shown = module.extra_repr()
    facts = {
        key: text
        for key, value in vars(module).items()
        if not key.startswith(("_", "supermask_"))
        and key not in _PASSING
        and f"{key}=" not in shown
        and (text := _plain(value)) is not None
    }
    return f"{name}({', '.join([shown] * bool(shown) + [f'{key}={text}' for key, text in facts.items()])})"


def _is_torchs(kind: type) -> bool:
    return kind.__module__.startswith("torch.nn.modules.")


def _plain(value: Any) -> str | None:
    """A configuration value as text; None for what is none, such as tensors, caches and handles."""
    if value is None or isinstance(value, bool | int | float | str | torch.dtype):
        return repr(value)
    if isinstance(value, types.FunctionType | types.BuiltinFunctionType | type):
        return f"{value.__module__}.{value.__qualname__}"
    if isinstance(value, list | tuple):
        parts = [_plain(part) for part in value]
        return None if None in parts else f"({', '.join(map(str, parts))})"
    return None
