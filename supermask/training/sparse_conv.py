"""Convolutions of a training step that leave out zeros of weights; see `supermask.training.acceleration`.

The forward pass and the gradient of the inputs list the weights that are not 0 in every call, with their
values, so that weights may change in between as they like. The gradient of the weights lists the inputs
that are not 0, whatever the weights are: behind a ReLU that is about every other one. Each of the three is
measured by itself, for every size of the inputs, against torch's; layers that are alike share what they
measure.
"""

import math
from collections.abc import Callable, Hashable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from supermask import ops
from supermask.packed.tuning import medians
from supermask.training.memory_format import is_channels_last

FEWEST_IMAGES = 8
FEWEST_CHANNELS = 16
"""Of inputs, and of outputs."""
UP_TO_DENSITY = {"avx512": 0.6, "avx2": 0.6}
"""Density beyond which lists are not even tried, by instruction set."""
PRODUCTS_OF_DENSE = 200
"""Products after which a layer whose weights were not sparse is looked at again."""
PRODUCTS_TO_WAIT = 2000
"""Products after which what a layer measured is measured again."""


MOST_CASES = 8
"""Sizes of inputs that a layer measures; a network that meets ever new ones computes these as ever."""
CLEARLY = 1.05
"""How many times as long as the products without zeros torch's must take."""


class _Choice(NamedTuple):
    """Whether weights of 0 are left out of the forward pass, of the gradient of the inputs."""

    forward: bool
    backward: bool


class _Geometry(NamedTuple):
    stride: tuple[int, int]
    padding: tuple[int, int]


class Measurements:
    """What layers have measured, which others that are like them need not measure again.

    A layer takes every measurement once: when it asks again, because that has become old, there is a new one.
    """

    def __init__(self) -> None:
        self._found: dict[Hashable, tuple[Any, list[Any]]] = {}
        """What is measured → the outcome, and who has taken it."""

    def of(self, like: Hashable, taker: Any, measure: Callable[[], Any]) -> Any:
        """What `measure` returns, or has returned to another that asked for the same."""
        outcome, takers = self._found.get(like, (None, [taker]))
        if any(taker is other for other in takers):
            outcome, takers = measure(), []
        takers.append(taker)
        self._found[like] = outcome, takers
        return outcome


def density_of(values: Tensor) -> float:
    """The fraction of values that are not 0."""
    return int(values.count_nonzero()) / max(values.numel(), 1)


def about(density: float) -> int:
    """How many of 20 values are not 0."""
    return round(20 * density)


class WeightGradient:
    """Whether the gradient of a layer's weights takes less time without zeros, for every case of inputs."""

    def __init__(self, most_cases: float = math.inf, measurements: Measurements | None = None) -> None:
        self.most_cases = most_cases
        self.measurements = measurements or Measurements()
        self._found: dict[Hashable, tuple[bool, int]] = {}
        """Case → whether that was faster, and for how many more products this is believed."""

    def may_skip(self, case: Hashable) -> bool:
        """Whether such inputs are worth asking; a no counts as a product."""
        if self._is_one_too_many(case):
            return False
        skips, left = self._found.get(case, (False, 0))
        if skips or not left:
            return True
        self._found[case] = skips, left - 1
        return False

    def skips(self, case: Hashable, measured: Callable[[], tuple[bool, int]]) -> bool:
        """Whether zeros are to be left out; where this is not known, as `measured`, for so many products."""
        if self._is_one_too_many(case):
            return False
        skips, left = self._found.get(case, (False, 0))
        if not left:
            skips, left = measured()
        self._found[case] = skips, left - 1
        return skips

    def _is_one_too_many(self, case: Hashable) -> bool:
        return case not in self._found and len(self._found) >= self.most_cases


class SparseConv:
    """The forward pass of one convolution while it is accelerated."""

    def __init__(self, module: nn.Conv2d, measurements: Measurements | None = None) -> None:
        self.module = module
        self.measurements = measurements or Measurements()
        self._found: dict[tuple[Any, ...], tuple[_Choice, int]] = {}
        """Sizes and format of the inputs → what leaves out zeros, and for how many more products."""
        self._gradient = WeightGradient(MOST_CASES, self.measurements)

    @staticmethod
    def fits(module: nn.Module) -> bool:
        """Whether `module` is a convolution that may leave out zeros."""
        return (
            type(module) is nn.Conv2d
            and ops.is_native("sparse_conv", module.weight.device)
            and (ops.instruction_set() or "") in UP_TO_DENSITY
            and min(module.weight.shape[:2]) >= FEWEST_CHANNELS
            and (module.groups, module.padding_mode, module.dilation) == (1, "zeros", (1, 1))
            and not isinstance(module.padding, str)
        )

    def __call__(self, x: Tensor) -> Tensor:
        """What `nn.Conv2d.forward` returns."""
        module, weight = self.module, self.module.weight
        if _qualifies(x, weight):
            choice = self._choice(x)
            trains = weight.requires_grad and torch.is_grad_enabled()
            if any(choice) or (trains and self._gradient.may_skip(_case(x))):
                geometry = _Geometry(_pair(module.stride), _pair(module.padding))
                return _Convolution.apply(x, weight, module.bias, geometry, choice, self._gradient)
        return F.conv2d(x, weight, module.bias, module.stride, module.padding)

    def _choice(self, x: Tensor) -> _Choice:
        case = *_case(x), x.requires_grad and torch.is_grad_enabled()
        choice, left = self._found.get(case, (_Choice(False, False), 0))
        if case not in self._found and len(self._found) >= MOST_CASES:
            return choice
        if not left:
            choice, left = self._measured(x.detach(), case[-1])
        else:
            left -= 1
        self._found[case] = choice, left
        return choice

    def _measured(self, x: Tensor, wants_gradient: bool) -> tuple[_Choice, int]:
        """Which of both leaves out zeros in less time than torch takes."""
        weight = self.module.weight.detach()
        density = density_of(weight)
        if density > UP_TO_DENSITY[ops.instruction_set() or ""]:
            return _Choice(False, False), PRODUCTS_OF_DENSE
        geometry = _Geometry(_pair(self.module.stride), _pair(self.module.padding))
        like = weight.shape, weight.stride(), geometry, _case(x), wants_gradient, about(density)
        compared = partial(_compared, x, weight, geometry, wants_gradient)
        return self.measurements.of(like, self, compared), PRODUCTS_TO_WAIT


def _compared(x: Tensor, weight: Tensor, geometry: _Geometry, wants_gradient: bool) -> _Choice:
    dense, zeros = partial(F.conv2d, x, weight, None, *geometry), partial(_product, x, weight, geometry)
    forward, backward = faster(zeros, dense), False
    if wants_gradient:
        grad = torch.ones_like(dense())
        zeros = partial(_input_gradient, grad, x, weight, geometry)
        backward = faster(
            zeros, partial(_dense_gradients, grad, x, weight, geometry, None, (True, False, False))
        )
    return _Choice(forward, backward)


def faster(zeros: Callable[[], Any], dense: Callable[[], Any]) -> bool:
    """Whether the first clearly takes less time.

    A call may take a tenth of a second, so few are timed: three, of which one may be disturbed.
    """
    times = medians({"zeros": zeros, "dense": dense}, least=3)
    return times["dense"] > CLEARLY * times["zeros"]


def _qualifies(x: Tensor, weight: Tensor) -> bool:
    if x.dim() != 4 or len(x) < FEWEST_IMAGES or x.shape[1] != weight.shape[1] or not x.numel():
        return False
    if not (x.dtype == weight.dtype == torch.float32) or x.device.type != "cpu":
        return False
    if not all(_is_dense(tensor) for tensor in (x, weight)):
        return False
    return computes_plainly()


def computes_plainly() -> bool:
    """Whether no autocast, compiler, torch.func or forward-mode derivative transforms what is computed."""
    transformed = torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0
    return not (torch.is_autocast_enabled("cpu") or torch.compiler.is_compiling() or transformed)


def _is_dense(tensor: Tensor) -> bool:
    return tensor.is_contiguous() or tensor.is_contiguous(memory_format=torch.channels_last)


def _pair(values: Any) -> tuple[int, int]:
    first, second = (values, values) if isinstance(values, int) else values
    return int(first), int(second)


def _case(x: Tensor) -> tuple[Any, ...]:
    return tuple(x.shape), x.stride()


def _as_torch_gives(found: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    """What is in channels_last in the format in which torch computes.

    1x1 images fit both formats, so that `contiguous` would leave them alone; what follows goes by strides.
    """
    if is_channels_last(x) or is_channels_last(weight):
        return found
    return found.clone(memory_format=torch.contiguous_format)


def _product(x: Tensor, weight: Tensor, geometry: _Geometry) -> Tensor:
    return _as_torch_gives(ops.sparse_conv(x, weight, *geometry), x, weight)


def _input_gradient(grad: Tensor, x: Tensor, weight: Tensor, geometry: _Geometry) -> Tensor:
    return _as_torch_gives(ops.sparse_conv_input_gradient(grad, weight, x.shape[2:], *geometry), x, weight)


def _weight_gradient(grad: Tensor, x: Tensor, weight: Tensor, geometry: _Geometry) -> Tensor:
    return _as_torch_gives(ops.conv_weight_gradient(grad, x, weight.shape[2:], *geometry), x, weight)


def _measured_gradient(
    gradient: WeightGradient, grad: Tensor, x: Tensor, weight: Tensor, geometry: _Geometry
) -> tuple[bool, int]:
    """Whether the gradient of the weights takes less time without zeros, and for how many products."""
    zeros = partial(_weight_gradient, grad, x, weight, geometry)
    dense = partial(_dense_gradients, grad, x, weight, geometry, None, (False, True, False))
    like = weight.shape, weight.stride(), geometry, _case(x), grad.stride(), "gradient", about(density_of(x))
    return gradient.measurements.of(like, gradient, lambda: faster(zeros, dense)), PRODUCTS_TO_WAIT


def _dense_gradients(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    geometry: _Geometry,
    bias: list[int] | None,
    wanted: tuple[bool, bool, bool],
) -> tuple[Tensor | None, ...]:
    """torch's gradients of x, weight and bias, as far as `wanted`."""
    stride, padding = geometry
    return torch.ops.aten.convolution_backward(
        grad, x, weight, bias, stride, padding, (1, 1), False, (0, 0), 1, wanted
    )


class _Convolution(torch.autograd.Function):
    """The convolution of x and its gradients."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        geometry: _Geometry,
        choice: _Choice,
        gradient: WeightGradient,
    ) -> Tensor:
        ctx.save_for_backward(x, weight)  # a weight that changes before the backward pass is found out
        ctx.geometry, ctx.choice, ctx.gradient = geometry, choice, gradient
        ctx.bias = None if bias is None else list(bias.shape)
        if not choice.forward:
            return F.conv2d(x, weight, bias, *geometry)
        y = _product(x, weight, geometry)
        return y if bias is None else y.add_(bias.view(-1, 1, 1))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        for_x, for_weight, for_bias = ctx.needs_input_grad[:3]
        found: list[Tensor | None] = [None, None, None]
        if for_x and ctx.choice.backward:
            found[0], for_x = _input_gradient(grad, x, weight, ctx.geometry), False
        measured = partial(_measured_gradient, ctx.gradient, grad, x, weight, ctx.geometry)
        if for_weight and ctx.gradient.skips(_case(x), measured):
            found[1], for_weight = _weight_gradient(grad, x, weight, ctx.geometry), False
            if for_bias:
                found[2], for_bias = grad.sum((0, 2, 3)), False
        wanted = for_x, for_weight, for_bias
        if any(wanted):
            dense = _dense_gradients(grad, x, weight, ctx.geometry, ctx.bias, wanted)
            found = [one if one is not None else other for one, other in zip(found, dense, strict=True)]
        return *found, None, None, None
