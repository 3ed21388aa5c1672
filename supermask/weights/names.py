"""Names of parameters and buffers, which are those of the user's own model whatever wraps it or its parts.

`torch.compile`, activation checkpointing, data parallelism, averaging and Fabric put a module around another
and a component into every name below it (`_orig_mod.`, `module.`, …). Draws, searches and tickets name a
parameter without these, wherever the wrapper stands, so that a ticket fits the plain model and the same seed
gives the same weights.
"""

import copy
from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn

_PRIVATE = frozenset({"_orig_mod", "_checkpoint_wrapped_module", "_fsdp_wrapped_module", "_forward_module"})
"""Attributes that nothing but a wrapper has."""
_PUBLIC = frozenset({"module", "_original_module"})
"""Attributes that hold the wrapped module in the classes below, and may be anything elsewhere."""
_WRAPPERS = frozenset(
    {
        "torch.nn.parallel.distributed.DistributedDataParallel",
        "torch.nn.parallel.data_parallel.DataParallel",
        "torch.optim.swa_utils.AveragedModel",
        "timm.utils.model_ema.ModelEma",
        "timm.utils.model_ema.ModelEmaV2",
        "timm.utils.model_ema.ModelEmaV3",
        "deepspeed.runtime.engine.DeepSpeedEngine",
        "lightning.fabric.wrappers._FabricModule",
        "lightning_fabric.wrappers._FabricModule",
    }
)


def check_module(model: Any) -> nn.Module:
    """`model` itself.

    Raises:
        TypeError: It is no module: its class, its parameters, its state, say.
    """
    if not isinstance(model, nn.Module):
        kind = f"the class {model.__name__}" if isinstance(model, type) else f"a {type(model).__name__}"
        raise TypeError(f"give the model itself, an nn.Module, not {kind}")
    return model


def unwrap(model: nn.Module) -> nn.Module:
    """The user's own module inside whatever wraps it: DDP, `torch.compile`, `AveragedModel`, Fabric, …

    Raises:
        TypeError: `model` is no module.
    """
    model = check_module(model)
    while True:
        inside = (
            child for name, child in model._modules.items() if child is not None and _wraps(model, name)
        )
        inner = next(inside, None)
        if inner is None:
            return model
        model = inner


def data_parallel(model: nn.Module) -> list[nn.Module]:
    """What of a model stands in `DistributedDataParallel`: all of it, some of its parts, or nothing."""
    return [m for m in check_module(model).modules() if isinstance(m, nn.parallel.DistributedDataParallel)]


def plain_copy(model: nn.Module) -> nn.Module:
    """A deep copy of `unwrap(model)`, without wrappers around its parts: all its names are canonical."""
    memo: dict[int, object] = {}
    for module in reversed(list(model.modules())):  # the inner ones first
        inner = unwrap(module)
        if inner is not module:
            memo[id(module)] = copy.deepcopy(inner, memo)
    return copy.deepcopy(unwrap(model), memo)


def named_modules(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Distinct modules of `unwrap(model)` with their names, in the order of torch's `named_modules`."""
    seen: set[int] = set()
    for name, module in _walk(unwrap(model), ""):
        if id(module) not in seen:
            seen.add(id(module))
            yield name, module


def owned_parameters(model: nn.Module) -> Iterator[tuple[str, nn.Parameter, nn.Module]]:
    """Distinct parameters with their names and the modules that own them, in `named_parameters` order."""
    seen: set[int] = set()
    for prefix, module in named_modules(model):
        for local, parameter in module._parameters.items():
            if parameter is not None and id(parameter) not in seen:
                seen.add(id(parameter))
                yield prefix + local, parameter, module


def parameters_of(model: nn.Module) -> dict[str, nn.Parameter]:
    """Name → distinct parameter; a tied one stands under its first name."""
    return {name: parameter for name, parameter, _ in owned_parameters(model)}


def aliases_of(model: nn.Module) -> dict[str, nn.Parameter]:
    """Name → parameter, with every name of a tied one."""
    return {
        prefix + local: parameter
        for prefix, module in _walk(unwrap(model), "")
        for local, parameter in module._parameters.items()
        if parameter is not None
    }


def buffers_of(model: nn.Module) -> dict[str, Tensor]:
    """Name → distinct buffer that a `state_dict` holds."""
    found: dict[str, Tensor] = {}
    seen: set[int] = set()
    for prefix, module in named_modules(model):
        for local, buffer in module._buffers.items():
            if buffer is None or id(buffer) in seen:
                continue
            seen.add(id(buffer))
            if local not in module._non_persistent_buffers_set:
                found[prefix + local] = buffer
    return found


def canonical(name: str) -> str:
    """A name without the components that only wrappers have, where no model is at hand to ask."""
    return ".".join(part for part in name.split(".") if part not in _PRIVATE)


def _walk(module: nn.Module, prefix: str) -> Iterator[tuple[str, nn.Module]]:
    """Modules with the prefix of their tensors' names, in torch's order; shared ones under each name."""
    yield prefix, module
    for name, child in module._modules.items():
        if child is not None:
            yield from _walk(child, prefix if _wraps(module, name) else f"{prefix}{name}.")


def _wraps(owner: nn.Module, child: str) -> bool:
    """Whether `owner` is nothing but a wrapper around what it calls `child`."""
    if child in _PRIVATE:
        return True
    return child in _PUBLIC and any(
        f"{c.__module__}.{c.__qualname__}" in _WRAPPERS for c in type(owner).__mro__
    )
