"""Train weights under a mask with any optimizer: pruned weights and their state stay at zero."""

from collections.abc import Mapping
from functools import partial

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from supermask.parameters import unwrap


@torch.no_grad()
def hold(optimizer: Optimizer, mask: Mapping[str, Tensor], model: nn.Module | None = None) -> "Hold":
    """Set the pruned weights to zero now and after every `optimizer.step()`, with their optimizer state.

    Their gradients become zero as they arrive, so that clipping sees the kept weights only. State that is
    elementwise (momentum, Adam's moments) is zeroed where the mask is False, so momentum cannot bring a
    pruned weight back. The optimizer's class and arguments stay the user's.

    Args:
        optimizer: Any `torch.optim` optimizer over the masked parameters.
        mask: Parameter name → bool tensor, True where the weight is kept.
        model: The module the names belong to. It may be left out when the optimizer was made from
            `model.named_parameters()`.

    Returns:
        A handle; its `remove()` ends the hold.

    Raises:
        ValueError: A name without a parameter, a parameter the optimizer does not train, or a mask of
            another shape or dtype.
    """
    held = _resolve(optimizer, mask, model)

    def zero(*_: object) -> None:
        with torch.no_grad():
            for parameter, pruned in held:
                parameter.masked_fill_(pruned, 0.0)
                for value in optimizer.state.get(parameter, {}).values():
                    if isinstance(value, Tensor) and value.shape == parameter.shape:
                        value.masked_fill_(pruned, 0.0)

    zero()
    gradients = [
        parameter.register_post_accumulate_grad_hook(partial(_zero_gradient, pruned))
        for parameter, pruned in held
        if parameter.requires_grad
    ]
    return Hold([optimizer.register_step_post_hook(zero), *gradients])


class Hold:
    """What `hold` returns."""

    def __init__(self, handles: list[RemovableHandle]) -> None:
        self._handles = handles

    def remove(self) -> None:
        """End the hold; the mask is no longer kept."""
        for handle in self._handles:
            handle.remove()


def _zero_gradient(pruned: Tensor, parameter: Tensor) -> None:
    if parameter.grad is not None:
        parameter.grad.masked_fill_(pruned, 0.0)


def _resolve(
    optimizer: Optimizer, mask: Mapping[str, Tensor], model: nn.Module | None
) -> list[tuple[Tensor, Tensor]]:
    """Pairs of (parameter, pruned entries)."""
    trained = {id(p) for group in optimizer.param_groups for p in group["params"]}
    if model is not None:
        named: dict[str, Tensor] = dict(unwrap(model).named_parameters())
    else:
        named = {
            name: p
            for group in optimizer.param_groups
            for name, p in zip(group.get("param_names", ()), group["params"], strict=False)
        }
        if not named and mask:
            raise ValueError(
                "the optimizer does not know the names of its parameters; pass model=, or make it from "
                "model.named_parameters()"
            )
    held = []
    for name, kept in mask.items():
        if name not in named:
            raise ValueError(f"the mask names {name}, which is no parameter here")
        parameter = named[name]
        if id(parameter) not in trained:
            raise ValueError(f"{name} is not among the parameters of the optimizer; it cannot be held")
        if kept.dtype != torch.bool or kept.shape != parameter.shape:
            raise ValueError(
                f"the mask of {name} is {kept.dtype} of shape {tuple(kept.shape)}; it must be bool of shape "
                f"{tuple(parameter.shape)}"
            )
        held.append((parameter, ~kept.to(parameter.device)))
    return held
