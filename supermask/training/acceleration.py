"""Training steps that leave out zeros: of weights, and of gradients behind a ReLU.

A search whose weights are signed constants leaves every masked weight +σ, -σ or 0, and most of them 0. The
product of a forward pass and the gradient of its inputs then add up listed inputs (see `packed`). The
parameters stay what they are: the lists are laid out anew from them, in one pass, when they have changed.
Other sparse weights, those of a pruned network, are listed with their values in every product.

The gradient of the weights, which scores need for pruned weights too, is a product with the gradient of the
outputs. About half of that is 0 where a ReLU follows, whatever the weights are; then it is taken from lists
of the rest, laid out in every step. Convolutions, often followed by a norm, whose gradients are not 0, take
it from lists of their inputs, of which a ReLU before them left half.

Whether any of this pays is measured: a layer's products, with the layout of the lists, against dense ones. So
two runs of one training may differ in the order of sums, as they may on two machines. Layers of one size and
about one density share what they measure.
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
from supermask.training.sparse_conv import (
    PRODUCTS_OF_DENSE,
    PRODUCTS_TO_WAIT,
    UP_TO_DENSITY,
    Measurements,
    SparseConv,
    WeightGradient,
    about,
    computes_plainly,
    density_of,
)
from supermask.weights.names import check_module

FEWEST_INPUTS = 64
FEWEST_FEATURES = 256


@contextmanager
def accelerated(model: nn.Module, search: Optimizer | None = None) -> Iterator[None]:
    """Within it, linear layers and convolutions of `model` leave out zeros wherever that is faster.

    That is on a CPU, in float32, for at least `FEWEST_INPUTS` inputs or `sparse_conv.FEWEST_IMAGES` images.
    Products with weights leave out those that are 0; gradients of weights leave out the gradients of outputs
    that are 0 in linear layers, and the inputs that are 0 in convolutions. Results and gradients are those of
    the dense layers up to the order of sums, while all values are finite: 0 times infinity or NaN, which is
    NaN, is left out as well. Layers that do not qualify, no longer do, or are slower from lists, compute as
    ever; so do those whose own `forward` somebody has replaced, and all of them under torch.func and
    forward-mode derivatives. Second derivatives of a layer that leaves out zeros are refused.

    Args:
        model: A network whose weights are changed in place.
        search: What changes them. Layers whose weights a `Search` does not mask are left alone.

    Raises:
        TypeError: `model` is no module.
    """
    layers: list[Any] = [
        m
        for m in check_module(model).modules()
        if "forward" not in vars(m) and (_fits(m) or SparseConv.fits(m))
    ]
    if isinstance(search, Search):
        masked = {id(weight) for weight in search.masked_parameters.values()}
        layers = [layer for layer in layers if id(layer.weight) in masked]
    measurements = Measurements()
    try:
        for module in layers:
            linear = type(module) is nn.Linear
            module.forward = (
                partial(
                    _forward,
                    module,
                    _Weights(module, measurements),
                    WeightGradient(measurements=measurements),
                )
                if linear
                else SparseConv(module, measurements)
            )
        yield
    finally:
        for module in layers:
            vars(module).pop("forward", None)


def _fits(module: nn.Module) -> bool:
    if type(module) is not nn.Linear:
        return False
    weight = module.weight
    compiled = ops.is_native("lists_of_weights_into", weight.device)
    instructions = ops.instruction_set() or ""
    return compiled and instructions in UP_TO_DENSITY and min(weight.shape) >= FEWEST_FEATURES


def _forward(module: nn.Linear, weights: "_Weights", gradient: WeightGradient, x: Tensor) -> Tensor:
    """What `nn.Linear.forward` returns."""
    weight = module.weight
    if _qualifies(x, weight):
        product = weights.serve(x)
        trains = weight.requires_grad and torch.is_grad_enabled()
        if product or (trains and gradient.may_skip(x.numel() // x.shape[-1])):
            return _Product.apply(x, weight, module.bias, product, gradient)
    return F.linear(x, weight, module.bias)


def _qualifies(x: Tensor, weight: Tensor) -> bool:
    if x.dtype != torch.float32 or weight.dtype != torch.float32 or not weight.is_contiguous():
        return False
    if x.device.type != "cpu" or x.shape[-1:] != weight.shape[1:] or x.numel() < FEWEST_INPUTS * x.shape[-1]:
        return False
    return computes_plainly()


class _Weights:
    """What computes the products with a layer's weights: lists of signs, lists with values, or dense ones."""

    def __init__(self, module: nn.Linear, measurements: Measurements) -> None:
        self.module = module
        self.measurements = measurements
        self._lists, self._zeros = _Lists(module), _Zeros()
        self._found: dict[tuple[int, bool], tuple[str, int]] = {}
        """(inputs, whether they want a gradient) → what was fastest, and for how many more products."""

    def serve(self, x: Tensor) -> "_Lists | _Zeros | None":
        """What takes the product with x, as of the present weights; None where dense weights do."""
        weight = self.module.weight.detach()
        case = x.numel() // x.shape[-1], x.requires_grad and torch.is_grad_enabled()
        name, left = self._found.get(case, ("", 0))
        if not left or (name == "lists" and not self._lists.current(weight, case[1])):
            name, left = self._measured(x.detach(), weight, case[1])
        else:
            left -= 1
        self._found[case] = name, left
        if name == "dense":
            return None
        return self._lists if name == "lists" else self._zeros

    def _measured(self, x: Tensor, weight: Tensor, both: bool) -> tuple[str, int]:
        """What takes the products of one step in the shortest time, layout included."""
        density = density_of(weight)
        if density > UP_TO_DENSITY[ops.instruction_set() or ""]:
            return "dense", PRODUCTS_OF_DENSE
        signed = self._lists.current(weight, both)
        sparse: _Lists | _Zeros = self._lists if signed else self._zeros
        grad = torch.ones(*x.shape[:-1], len(weight))

        def leaving_out() -> None:
            if signed:
                self._lists.lay_out(weight, both)
            sparse.multiply(x, weight, None, transposed=False)
            if both:
                sparse.multiply(grad, weight, None, transposed=True)

        def dense() -> None:
            F.linear(x, weight)
            if both:
                torch.matmul(grad, weight)

        candidates = {"lists" if signed else "zeros": leaving_out, "dense": dense}
        like = weight.shape, x.shape, both, signed, about(density)
        return self.measurements.of(like, self, partial(fastest, candidates)), PRODUCTS_TO_WAIT


class _Zeros:
    """Products with sparse weights of any kind, which every one of them lists anew."""

    def multiply(self, x: Tensor, weight: Tensor, bias: Tensor | None, transposed: bool) -> Tensor:
        """x times the transpose of the weights, or times the weights where `transposed`."""
        return ops.sparse_linear(x, weight.detach(), transposed, bias)


class _Lists:
    """Weights of one magnitude as lists, and their transpose, as of the last change of the weights."""

    def __init__(self, module: nn.Linear) -> None:
        self.module = module
        self.scale = 0.0
        self._held: dict[bool, tuple[Tensor, ...] | None] = {True: None, False: None}
        """With those of the transpose, and without; one of the two."""
        self._seen: tuple[int, int] | None = None
        self._serves = False

    def current(self, weight: Tensor, both: bool) -> bool:
        """Whether lists are those of the weights; on a change lays them out, with the transpose if `both`."""
        version = weight._version, weight.data_ptr()
        if version != self._seen:
            self._seen = version
            self._serves = self.lay_out(weight, both) or self.lay_out(weight, both, float(weight.abs().max()))
        elif both and self._serves and self._held[True] is None:
            self.lay_out(weight, both)
        return self._serves

    def lay_out(self, weight: Tensor, both: bool, scale: float | None = None) -> bool:
        """Whether the weights are few, and 0, +scale or -scale; then the lists are theirs."""
        scale = self.scale if scale is None else scale
        if not 0 < scale < math.inf:
            return False
        lists = ops.lists_of_weights(weight, scale, both, into=self._held[both])
        if lists is None:
            return False
        self._held[both], self._held[not both] = lists, None
        self.scale = scale
        return int(lists[0][-1]) <= UP_TO_DENSITY[ops.instruction_set() or ""] * weight.numel()

    def multiply(self, x: Tensor, weight: Tensor, bias: Tensor | None, transposed: bool) -> Tensor:
        """x times the transpose of the weights, or times the weights where `transposed`."""
        weight = weight.detach()
        if not self.current(weight, transposed or self._held[False] is None):
            return x @ weight if transposed else F.linear(x, weight, bias)
        held = self._held[True] or self._held[False]
        assert held is not None
        starts, entries = held[2:] if transposed else held[:2]
        listed = [starts, entries.narrow(0, 0, int(starts[-1]))]
        outputs = self.module.in_features if transposed else self.module.out_features
        return ops.packed_linear("linear_from_lists", x, listed, outputs, self.scale, bias)


def _weight_gradient(choice: WeightGradient, grad: Tensor, x: Tensor) -> Tensor:
    """gradᵀ · x, without the zeros of the first where this is faster."""
    zeros, dense = partial(ops.weight_gradient, grad, x), partial(torch.matmul, grad.t(), x)

    def measured() -> tuple[bool, int]:
        like = grad.shape, x.shape, "gradient", about(density_of(grad))
        compared = partial(fastest, {"zeros": zeros, "dense": dense})
        return choice.measurements.of(like, choice, compared) == "zeros", PRODUCTS_TO_WAIT

    return zeros() if choice.skips(len(grad), measured) else dense()


class _Product(torch.autograd.Function):
    """x · Wᵀ + b and its gradients."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        product: _Lists | _Zeros | None,
        gradient: WeightGradient,
    ) -> Tensor:
        ctx.save_for_backward(x, weight)  # a weight that changes before the backward pass is found out
        ctx.product, ctx.gradient, ctx.biased = product, gradient, bias is not None
        if product is None:
            return F.linear(x, weight, bias)
        return product.multiply(x, weight, bias, transposed=False)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        rows = grad.reshape(-1, grad.shape[-1]).contiguous()
        for_x = for_weight = for_bias = None
        if ctx.needs_input_grad[0]:
            product = ctx.product
            for_x = grad @ weight if product is None else product.multiply(grad, weight, None, True)
        if ctx.needs_input_grad[1]:
            for_weight = _weight_gradient(ctx.gradient, rows, x.reshape(-1, x.shape[-1]).contiguous())
        if ctx.biased and ctx.needs_input_grad[2]:
            for_bias = rows.sum(0)
        return for_x, for_weight, for_bias, None, None
