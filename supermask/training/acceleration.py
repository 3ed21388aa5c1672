"""Training steps that multiply by packed weights while a search runs.

A search whose weights are signed constants leaves every masked weight +σ, -σ or 0, and most of them 0. The
product of a forward pass and the gradient of its inputs then add up listed inputs (see `packed`); only the
gradient of the weights, which scores need for pruned weights too, stays a dense product. The parameters stay
what they are: the lists are laid out anew from them when they have changed.
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from supermask import ops

FEWEST_INPUTS = 64
FEWEST_FEATURES = 512
UP_TO_DENSITY = {"avx512": 0.35, "avx2": 0.35}
"""Where lists are faster than dense products, the time to lay them out included."""
CHANGES_TO_WAIT = 100
"""Changes of the weights after which a layer that did not qualify is looked at again."""


@contextmanager
def accelerated(model: nn.Module) -> Iterator[None]:
    """Within it, linear layers of `model` compute from lists of their weights wherever that is faster.

    That is on a CPU, in float32, for weights of at most the density of `UP_TO_DENSITY` that all have one
    magnitude. Results and gradients are those of the dense layers up to the order of sums. Layers that do not
    qualify, or no longer do, compute as ever.

    Args:
        model: A network that a search or an optimizer changes in place.
    """
    patched = [module for module in model.modules() if type(module) is nn.Linear and _fits(module)]
    try:
        for module in patched:
            module.forward = partial(_forward, module, _Lists(module))  # type: ignore[method-assign]
        yield
    finally:
        for module in patched:
            vars(module).pop("forward", None)


def _fits(module: nn.Linear) -> bool:
    weight = module.weight
    compiled = ops.is_native("lists_of_weights_into", weight.device)
    instructions = ops.instruction_set() or ""
    return compiled and instructions in UP_TO_DENSITY and min(weight.shape) >= FEWEST_FEATURES


def _forward(module: nn.Linear, lists: "_Lists", x: Tensor) -> Tensor:
    """What `nn.Linear.forward` returns."""
    if lists.serve(x):
        return _Product.apply(x, module.weight, module.bias, lists)
    return F.linear(x, module.weight, module.bias)


class _Lists:
    """The weights of a layer as lists, and their transpose as lists, as of the last change of the weights."""

    def __init__(self, module: nn.Linear) -> None:
        self.module = module
        self.scale = 0.0
        self.of_outputs: tuple[Tensor, Tensor] | None = None
        self.of_inputs: tuple[Tensor, Tensor] | None = None
        self._seen: tuple[int, int] | None = None
        self._seen_transposed: tuple[int, int] | None = None
        self._serves = False
        self._changes_to_wait = 0

    def serve(self, x: Tensor) -> bool:
        """Whether a product with x is taken from the lists, which then are those of the present weights."""
        weight = self.module.weight
        if x.dtype != torch.float32 or weight.dtype != torch.float32 or not weight.is_contiguous():
            return False
        if (
            x.device.type != "cpu"
            or x.shape[-1:] != weight.shape[1:]
            or x.numel() < FEWEST_INPUTS * x.shape[-1]
        ):
            return False
        if torch.is_autocast_enabled("cpu") or torch.compiler.is_compiling():
            return False
        seen = weight._version, weight.data_ptr()
        if seen != self._seen:
            self._seen, self._serves = seen, self._lay_out(weight.detach())
        return self._serves

    def _lay_out(self, weight: Tensor) -> bool:
        if self._changes_to_wait:
            self._changes_to_wait -= 1
            return False
        if self._listed(weight, self.scale) or self._listed(weight, float(weight.abs().max())):
            return True
        self._changes_to_wait = CHANGES_TO_WAIT
        return False

    def _listed(self, weight: Tensor, scale: float) -> bool:
        """Whether the weights are few, and 0, +scale or -scale; then the lists are theirs."""
        if not 0 < scale < math.inf:
            return False
        self.of_outputs, self.scale = ops.lists_of_weights(weight, scale, into=self.of_outputs), scale
        if self.of_outputs is None:
            return False
        limit = UP_TO_DENSITY[ops.instruction_set() or ""]
        return int(self.of_outputs[0][-1]) <= limit * weight.numel()

    def multiply(self, x: Tensor, bias: Tensor | None, transposed: bool) -> Tensor:
        """x times the transpose of the weights, or times the weights where `transposed`."""
        if transposed and self._seen_transposed != self._seen:  # a first layer never needs them
            weight = self.module.weight.detach()
            self.of_inputs = ops.lists_of_weights(weight, self.scale, transposed=True, into=self.of_inputs)
            self._seen_transposed = self._seen
        held = self.of_inputs if transposed else self.of_outputs
        assert held is not None
        starts, entries = held
        listed = [starts, entries.narrow(0, 0, int(starts[-1]))]
        outputs = self.module.in_features if transposed else self.module.out_features
        return ops.packed_linear("linear_from_lists", x, listed, outputs, self.scale, bias)


class _Product(torch.autograd.Function):
    """x · Wᵀ + b and its gradients, of which that to W alone is a dense product."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, lists: _Lists) -> Tensor:
        ctx.save_for_backward(x, weight)  # a weight that changes before the backward pass is found out
        ctx.lists, ctx.biased = lists, bias is not None
        return lists.multiply(x, bias, transposed=False)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, _ = ctx.saved_tensors
        rows = grad.reshape(-1, grad.shape[-1])
        for_x = ctx.lists.multiply(grad, None, transposed=True) if ctx.needs_input_grad[0] else None
        for_weight = rows.t() @ x.reshape(-1, x.shape[-1]) if ctx.needs_input_grad[1] else None
        for_bias = rows.sum(0) if ctx.biased and ctx.needs_input_grad[2] else None
        return for_x, for_weight, for_bias, None
