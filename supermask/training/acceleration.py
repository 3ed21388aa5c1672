"""Training steps that leave out zeros: of the weights while a search runs, and of gradients behind a ReLU.

A search whose weights are signed constants leaves every masked weight +σ, -σ or 0, and most of them 0. The
product of a forward pass and the gradient of its inputs then add up listed inputs (see `packed`). The
parameters stay what they are: the lists are laid out anew from them, in one pass, when they have changed.

The gradient of the weights, which scores need for pruned weights too, is a product with the gradient of the
outputs. About half of that is 0 where a ReLU follows, whatever the weights are; then it is taken from lists
of the rest, laid out in every step.

Whether either pays is measured: a layer's products, with the layout of the lists, against the dense ones. So
two runs of one training may differ in the order of sums, as they may on two machines.
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
from torch.optim import Optimizer

from supermask import ops
from supermask.packed.tuning import fastest
from supermask.search import Search

FEWEST_INPUTS = 64
FEWEST_FEATURES = 256
UP_TO_DENSITY = {"avx512": 0.6, "avx2": 0.6}
"""Density beyond which lists are not even tried, by instruction set."""
CHANGES_TO_WAIT = 100
"""Changes of the weights after which a layer that did not qualify is looked at again."""
PRODUCTS_TO_WAIT = 2000
"""Products after which a layer that was slower from lists is measured again."""


@contextmanager
def accelerated(model: nn.Module, search: Optimizer | None = None) -> Iterator[None]:
    """Within it, linear layers of `model` leave out zeros wherever that is faster.

    That is on a CPU, in float32, for at least `FEWEST_INPUTS` inputs. Products with weights are taken from
    lists where all weights have one magnitude or are 0, and gradients of weights where many gradients of the
    outputs are 0. Results and gradients are those of the dense layers up to the order of sums. Layers that do
    not qualify, no longer do, or are slower from lists, compute as ever.

    Args:
        model: A network whose weights are changed in place.
        search: What changes them. Layers whose weights a `Search` does not mask are left alone.
    """
    layers = [module for module in model.modules() if type(module) is nn.Linear and _fits(module)]
    if isinstance(search, Search):
        masked = {id(weight) for weight in search.masked_parameters.values()}
        layers = [layer for layer in layers if id(layer.weight) in masked]
    try:
        for module in layers:
            module.forward = partial(  # type: ignore[method-assign]
                _forward, module, _Lists(module), _WeightGradient()
            )
        yield
    finally:
        for module in layers:
            vars(module).pop("forward", None)


def _fits(module: nn.Linear) -> bool:
    weight = module.weight
    compiled = ops.is_native("lists_of_weights_into", weight.device)
    instructions = ops.instruction_set() or ""
    return compiled and instructions in UP_TO_DENSITY and min(weight.shape) >= FEWEST_FEATURES


def _forward(module: nn.Linear, lists: "_Lists", gradient: "_WeightGradient", x: Tensor) -> Tensor:
    """What `nn.Linear.forward` returns."""
    weight = module.weight
    if _qualifies(x, weight):
        from_lists = lists.serve(x)
        trains = weight.requires_grad and torch.is_grad_enabled()
        if from_lists or (trains and gradient.may_skip(x.numel() // x.shape[-1])):
            return _Product.apply(x, weight, module.bias, lists if from_lists else None, gradient)
    return F.linear(x, weight, module.bias)


def _qualifies(x: Tensor, weight: Tensor) -> bool:
    if x.dtype != torch.float32 or weight.dtype != torch.float32 or not weight.is_contiguous():
        return False
    if x.device.type != "cpu" or x.shape[-1:] != weight.shape[1:] or x.numel() < FEWEST_INPUTS * x.shape[-1]:
        return False
    return not (torch.is_autocast_enabled("cpu") or torch.compiler.is_compiling())


class _Lists:
    """The weights of a layer as lists, and their transpose as lists, as of the last change of the weights."""

    def __init__(self, module: nn.Linear) -> None:
        self.module = module
        self.scale = 0.0
        self.dense_for: dict[tuple[int, bool], int] = {}
        """(inputs, whether they want a gradient) → for how many more products dense weights serve."""
        self._held: dict[bool, tuple[Tensor, ...] | None] = {True: None, False: None}
        """With those of the transpose, and without; one of the two."""
        self._seen: tuple[int, int] | None = None
        self._serves = False
        self._changes_to_wait = 0

    def serve(self, x: Tensor) -> bool:
        """Whether a product with x is taken from the lists, which then are those of the present weights."""
        weight = self.module.weight
        case = x.numel() // x.shape[-1], x.requires_grad and torch.is_grad_enabled()
        if self.dense_for.get(case):
            self.dense_for[case] -= 1
            if not self.dense_for[case]:  # measured anew: the weights may have become fewer
                del self.dense_for[case]
            return False
        if not self._current(weight.detach(), case[1]):
            return False
        if case not in self.dense_for and not self._pays(x.detach(), case[1]):
            self.dense_for[case] = PRODUCTS_TO_WAIT
            return False
        self.dense_for[case] = 0
        return True

    def _current(self, weight: Tensor, both: bool) -> bool:
        """Whether lists are those of the weights; on a change lays them out, with the transpose if `both`."""
        version = weight._version, weight.data_ptr()
        if version != self._seen:
            self._seen, self._serves = version, self._lay_out(weight, both)
        elif both and self._serves and self._held[True] is None:
            self._listed(weight, self.scale, both)
        return self._serves

    def _lay_out(self, weight: Tensor, both: bool) -> bool:
        if self._changes_to_wait:
            self._changes_to_wait -= 1
            return False
        if self._listed(weight, self.scale, both) or self._listed(weight, float(weight.abs().max()), both):
            return True
        self._changes_to_wait = CHANGES_TO_WAIT
        return False

    def _listed(self, weight: Tensor, scale: float, both: bool) -> bool:
        """Whether the weights are few, and 0, +scale or -scale; then the lists are theirs."""
        if not 0 < scale < math.inf:
            return False
        lists = ops.lists_of_weights(weight, scale, both, into=self._held[both])
        if lists is None:
            return False
        self._held[both], self._held[not both] = lists, None
        self.scale = scale
        return int(lists[0][-1]) <= UP_TO_DENSITY[ops.instruction_set() or ""] * weight.numel()

    def _pays(self, x: Tensor, both: bool) -> bool:
        """Whether the products of one step are faster from lists, laid out anew, than dense."""
        weight = self.module.weight.detach()
        grad = torch.ones(*x.shape[:-1], len(weight))

        def from_lists() -> None:
            self._listed(weight, self.scale, both)
            self.multiply(x, None, transposed=False)
            if both:
                self.multiply(grad, None, transposed=True)

        def dense() -> None:
            F.linear(x, weight)
            if both:
                torch.matmul(grad, weight)

        return fastest({"lists": from_lists, "dense": dense}) == "lists"

    def multiply(self, x: Tensor, bias: Tensor | None, transposed: bool) -> Tensor:
        """x times the transpose of the weights, or times the weights where `transposed`."""
        held = self._held[True] or self._held[False]
        assert held is not None
        starts, entries = held[2:] if transposed else held[:2]
        listed = [starts, entries.narrow(0, 0, int(starts[-1]))]
        outputs = self.module.in_features if transposed else self.module.out_features
        return ops.packed_linear("linear_from_lists", x, listed, outputs, self.scale, bias)


class _WeightGradient:
    """The gradient of a layer's weights, without the zeros of that of its outputs where this is faster."""

    def __init__(self) -> None:
        self._found: dict[int, tuple[bool, int]] = {}
        """Inputs → whether that was faster, and for how many more products this is believed."""

    def may_skip(self, inputs: int) -> bool:
        """Whether so many inputs are worth asking; a no counts as a product."""
        skips, left = self._found.get(inputs, (False, 0))
        if skips or not left:
            return True
        self._found[inputs] = skips, left - 1
        return False

    def __call__(self, grad: Tensor, x: Tensor) -> Tensor:
        """gradᵀ · x."""
        skips, left = self._found.get(len(grad), (False, 0))
        zeros, dense = partial(ops.weight_gradient, grad, x), partial(torch.matmul, grad.t(), x)
        if not left:
            skips, left = fastest({"zeros": zeros, "dense": dense}) == "zeros", PRODUCTS_TO_WAIT
        self._found[len(grad)] = skips, left - 1
        return zeros() if skips else dense()


class _Product(torch.autograd.Function):
    """x · Wᵀ + b and its gradients."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        lists: _Lists | None,
        gradient: _WeightGradient,
    ) -> Tensor:
        ctx.save_for_backward(x, weight)  # a weight that changes before the backward pass is found out
        ctx.lists, ctx.gradient, ctx.biased = lists, gradient, bias is not None
        return F.linear(x, weight, bias) if lists is None else lists.multiply(x, bias, transposed=False)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        rows = grad.reshape(-1, grad.shape[-1]).contiguous()
        for_x = for_weight = for_bias = None
        if ctx.needs_input_grad[0]:
            lists = ctx.lists
            for_x = grad @ weight if lists is None else lists.multiply(grad, None, transposed=True)
        if ctx.needs_input_grad[1]:
            for_weight = ctx.gradient(rows, x.reshape(-1, x.shape[-1]).contiguous())
        if ctx.biased and ctx.needs_input_grad[2]:
            for_bias = rows.sum(0)
        return for_x, for_weight, for_bias, None, None
