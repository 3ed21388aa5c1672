"""Train weights under a mask with any optimizer: pruned weights and their state stay where they are held."""

import copy
from collections.abc import Mapping
from functools import partial
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.hooks import RemovableHandle

from supermask import ops
from supermask.masks import Mask, check_mask, check_masks
from supermask.weights.names import aliases_of, canonical


def hold(
    optimizer: Optimizer,
    mask: Mapping[str, Tensor],
    model: nn.Module | None = None,
    values: Mapping[str, Tensor] | None = None,
) -> "Hold":
    """Keep the pruned weights at zero from now on and after every `optimizer.step()`, with their state.

    Their gradients become zero as they arrive, so that clipping sees the kept weights only. State that is
    elementwise (momentum, Adam's moments) is zeroed where the mask is False, so momentum cannot bring a
    pruned weight back. The optimizer's class and arguments stay the user's. A deep copy of the optimizer,
    made together with the model, holds the same mask on the copy; a pickle of it does not.

    Args:
        optimizer: Any `torch.optim` optimizer over the masked parameters, or a wrapper around one such as
            accelerate's and Lightning's.
        mask: Parameter name → bool tensor, True where the weight is kept.
        model: The module the names belong to. It may be left out when the optimizer was made from
            `model.named_parameters()`.
        values: Parameter name → where to hold the pruned weights instead of at zero (frozen weights).

    Returns:
        A handle; its `remove()` ends the hold.

    Raises:
        TypeError: It is no optimizer, `model` no module, or `mask` no mapping.
        ValueError: A name without a parameter, a parameter the optimizer does not train, or a mask or
            values of another shape or dtype.
    """
    return Hold(optimizer, mask, model, values)


class Hold:
    """What `hold` returns."""

    graphable = True
    """Whether what happens after a step is the same every time, so that a CUDA graph can hold it."""

    def __init__(
        self,
        optimizer: Optimizer,
        mask: Mapping[str, Tensor],
        model: nn.Module | None = None,
        values: Mapping[str, Tensor] | None = None,
    ) -> None:
        self.optimizer = optimizer = unwrap_optimizer(optimizer)
        self._parameters = _resolve(optimizer, mask, model)
        for name, value in (values or {}).items():
            if name not in mask or value.shape != mask[name].shape:
                raise ValueError(f"values holds {name}, of which there is no mask of the same shape")
        self._values = {
            name: value.detach().to(self._parameters[name].device, copy=True)
            for name, value in (values or {}).items()
        }
        self._pruned: dict[str, Tensor] = {}
        self.set_mask(mask)
        self._handles = self._attach()
        _follow_copies(self)

    def _attach(self) -> list[RemovableHandle]:
        """Register everything that the hold does by itself."""
        return [
            self.optimizer.register_step_post_hook(self._after_step),
            *(
                parameter.register_post_accumulate_grad_hook(partial(self._on_gradient, name))
                for name, parameter in self._parameters.items()
                if parameter.requires_grad
            ),
        ]

    def _on_copy(self, optimizer: Optimizer, memo: dict[int, Any]) -> Self:
        """The same hold of a deep copy of the optimizer, whose parameters are those of `memo`."""
        twin = copy.copy(self)
        twin.optimizer = optimizer
        vars(twin).update(
            {key: copy.deepcopy(value, memo) for key, value in vars(self).items() if key not in _NOT_COPIED}
        )
        twin._handles = twin._attach()
        _follow_copies(twin)
        return twin

    @property
    def mask(self) -> Mask:
        """Parameter name → bool mask that is held."""
        return {name: (~pruned).contiguous() for name, pruned in self._pruned.items()}

    def set_mask(self, mask: Mapping[str, Tensor]) -> None:
        """Hold another mask of the same parameters from now on.

        Raises:
            ValueError: It is not a bool mask for each of them.
        """
        if mask.keys() != self._parameters.keys():
            raise ValueError(
                f"the hold is of {', '.join(self._parameters)}; the mask must name the same, not "
                f"{', '.join(mask) or 'nothing'}"
            )
        for name, parameter in self._parameters.items():
            check_mask(name, mask[name], parameter)
        pruned = {  # laid out as the parameter is, which makes the steps faster
            name: torch.empty_like(p, dtype=torch.bool, requires_grad=False).copy_(~mask[name])
            for name, p in self._parameters.items()
        }
        if self._pruned:  # in place: a CUDA graph of the step goes on reading these
            for name, tensor in self._pruned.items():
                tensor.copy_(pruned[name])
        else:
            self._pruned = pruned
        self.apply()

    @torch.no_grad()
    def apply(self) -> None:
        """Put the pruned weights where they are held, and their elementwise state to zero."""
        for name, parameter in self._parameters.items():
            pruned, value = self._pruned[name], self._values.get(name)
            if value is None:
                ops.clear_where(parameter, pruned)
            else:
                parameter.copy_(torch.where(pruned, value.to(parameter), parameter))
            for state in self.optimizer.state.get(parameter, {}).values():
                if isinstance(state, Tensor) and state.shape == parameter.shape:
                    ops.clear_where(state, pruned)

    def remove(self) -> None:
        """End the hold; the mask is no longer kept."""
        for handle in self._handles:
            handle.remove()
        vars(self.optimizer).get(_COPIED, []).remove(self)

    def _after_step(self, *_: object) -> None:
        self.apply()

    def _on_gradient(self, name: str, parameter: Tensor) -> None:
        grad, pruned = parameter.grad, self._pruned[name]
        if grad is None:
            return
        if grad.layout == torch.strided:
            ops.clear_where(grad, pruned)
        else:  # of an Embedding(sparse=True): the entries there are, each a row
            grad = grad.coalesce()
            values = grad.values().masked_fill(pruned[tuple(grad.indices())], 0.0)
            parameter.grad = torch.sparse_coo_tensor(
                grad.indices(), values, grad.shape, is_coalesced=True, check_invariants=False
            )


class StatefulHold(Hold):
    """A hold whose mask changes during training; `state` and mask are part of the optimizer's state.

    Args:
        state: What the changes depend on, beside the mask: a step counter, say.
    """

    KEY = "supermask"
    graphable = False

    def __init__(
        self, optimizer: Optimizer, mask: Mapping[str, Tensor], model: nn.Module, state: Mapping[str, Any]
    ) -> None:
        optimizer = unwrap_optimizer(optimizer)
        if self.KEY in optimizer.state:
            raise ValueError("the optimizer already holds a mask that changes; remove() that one first")
        optimizer.state[self.KEY] = dict(state)  # type: ignore[index]  # keys need not be tensors
        super().__init__(optimizer, mask, model)

    def _attach(self) -> list[RemovableHandle]:
        return [*super()._attach(), self.optimizer.register_load_state_dict_post_hook(self._after_load)]

    @property
    def state(self) -> dict[str, Any]:
        """What a checkpoint of the optimizer holds for this mask."""
        return self.optimizer.state[self.KEY]  # type: ignore[index]

    def set_mask(self, mask: Mapping[str, Tensor]) -> None:
        super().set_mask(mask)
        self.state["mask"] = self.mask

    def remove(self) -> None:
        super().remove()
        del self.optimizer.state[self.KEY]  # type: ignore[arg-type]

    def _after_load(self, *_: object) -> None:
        self.set_mask(self.state["mask"])


_COPIED = "_supermask_holds"
_NOT_COPIED = ("optimizer", "_handles")


def unwrap_optimizer(optimizer: Optimizer) -> Optimizer:
    """The optimizer that makes the steps: wrappers without hooks of their own are looked through.

    Raises:
        TypeError: It is no optimizer, or a wrapper that does not say around which one.
    """
    seen = optimizer
    while "_optimizer_step_post_hooks" not in getattr(seen, "__dict__", {}):
        inner = getattr(seen, "optimizer", None)
        if not isinstance(inner, Optimizer) or inner is seen:
            raise TypeError(
                f"hold needs a torch.optim optimizer that was set up by Optimizer.__init__, and "
                f"{type(optimizer).__name__} was not; give the optimizer inside it"
            )
        seen = inner
    return seen


def _follow_copies(held: Hold) -> None:
    """Let a deep copy of the optimizer hold the same: torch's own leaves every hook behind."""
    optimizer = held.optimizer
    vars(optimizer).setdefault(_COPIED, []).append(held)

    def deepcopy(memo: dict[int, Any]) -> Optimizer:
        del vars(optimizer)["__deepcopy__"]
        try:
            twin = copy.deepcopy(optimizer, memo)
        finally:
            vars(optimizer)["__deepcopy__"] = deepcopy
        for one in vars(optimizer)[_COPIED]:
            one._on_copy(twin, memo)
        return twin

    vars(optimizer)["__deepcopy__"] = deepcopy


def _resolve(optimizer: Optimizer, mask: Mapping[str, Tensor], model: nn.Module | None) -> dict[str, Tensor]:
    """Name → parameter that the optimizer trains."""
    trained = {id(p) for group in optimizer.param_groups for p in group["params"]}
    if model is not None:
        named: dict[str, Tensor] = dict(aliases_of(model))
    else:
        named = {
            canonical(name): p
            for group in optimizer.param_groups
            for name, p in zip(group.get("param_names", ()), group["params"], strict=False)
        }
        if not named and mask:
            raise ValueError(
                "the optimizer does not know the names of its parameters; pass model=, or make it from "
                "model.named_parameters()"
            )
        if not named.keys() & mask.keys() and all(name.startswith("module.") for name in named):
            named = {name.removeprefix("module."): p for name, p in named.items()}  # those of DDP
    check_masks(mask, named)
    for name in mask:
        if id(named[name]) not in trained:
            raise ValueError(f"{name} is not among the parameters of the optimizer; it cannot be held")
    return {name: named[name] for name in mask}
