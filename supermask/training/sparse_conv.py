"""Convolutions of a training step that leave out zeros of weights; see `supermask.training.acceleration`.

The forward pass and, for a stride of 1, the gradient of the inputs list the weights that are not 0 in every
call, with their values, so that weights may change in between as they like. The gradient of the weights is
torch's.
Both are measured by themselves, for every size of the inputs, against torch's convolution.
"""

from collections.abc import Callable
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
    """What leaves out zeros: the forward pass, the gradient of the inputs."""

    forward: bool
    backward: bool


class SparseConv:
    """The forward pass of one convolution while it is accelerated."""

    def __init__(self, module: nn.Conv2d) -> None:
        self.module = module
        self._found: dict[tuple[Any, ...], tuple[_Choice, int]] = {}
        """Sizes and format of the inputs → what leaves out zeros, and for how many more products."""

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
            if any(choice):
                return _Convolution.apply(x, weight, module.bias, module.stride, module.padding, choice)
        return F.conv2d(x, weight, module.bias, module.stride, module.padding)

    def _choice(self, x: Tensor) -> _Choice:
        case = tuple(x.shape), x.stride(), x.requires_grad and torch.is_grad_enabled()
        choice, left = self._found.get(case, (_Choice(False, False), 0))
        if case not in self._found and len(self._found) >= MOST_CASES:
            return choice
        if not left:
            choice, left = self._measured(x.detach(), case[2])
        else:
            left -= 1
        self._found[case] = choice, left
        return choice

    def _measured(self, x: Tensor, wants_gradient: bool) -> tuple[_Choice, int]:
        """Which of both leaves out zeros in less time than torch takes."""
        weight = self.module.weight.detach()
        if int(weight.count_nonzero()) > UP_TO_DENSITY[ops.instruction_set() or ""] * weight.numel():
            return _Choice(False, False), PRODUCTS_OF_DENSE
        stride, padding = _pair(self.module.stride), _pair(self.module.padding)
        dense = partial(F.conv2d, x, weight, None, stride, padding)
        zeros = partial(_forward, x, weight, stride, padding)
        forward, backward = faster(zeros, dense), False
        if wants_gradient and _has_sparse_gradient(weight, stride, padding):
            grads = partial(_backward, torch.ones_like(dense()), x, weight, stride, padding, None, _OF_INPUTS)
            backward = faster(partial(grads, True), partial(grads, False))
        return _Choice(forward, backward), PRODUCTS_TO_WAIT


_OF_INPUTS = (True, False, False)


def faster(zeros: Callable[[], Any], dense: Callable[[], Any]) -> bool:
    """Whether the first clearly takes less time. A call may take a tenth of a second, so few are made."""
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
    first, second = values
    return int(first), int(second)


def _has_sparse_gradient(weight: Tensor, stride: tuple[int, int], padding: tuple[int, int]) -> bool:
    """Whether the gradient of the inputs is a convolution of that of the outputs."""
    return stride == (1, 1) and all(padding[i] < weight.shape[2 + i] for i in range(2))


def _format(x: Tensor, weight: Tensor) -> torch.memory_format:
    """The format in which torch computes, and gives its result."""
    last = is_channels_last(x) or is_channels_last(weight)
    return torch.channels_last if last else torch.contiguous_format


def _forward(x: Tensor, weight: Tensor, stride: tuple[int, int], padding: tuple[int, int]) -> Tensor:
    return ops.sparse_conv(x.contiguous(memory_format=_format(x, weight)), weight, stride, padding)


def _backward(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    stride: tuple[int, int],
    padding: tuple[int, int],
    bias: list[int] | None,
    wanted: tuple[bool, bool, bool],
    zeros: bool,
) -> tuple[Tensor | None, ...]:
    """Gradients of x, weight and bias, as far as `wanted`; that of x torch's or without zeros."""
    for_x = None
    if zeros and wanted[0]:
        grad = grad.contiguous(memory_format=_format(x, weight))
        for_x = ops.sparse_conv(grad, weight, stride, padding, transposed=True)
        wanted = (False, *wanted[1:])
    rest: tuple[Tensor | None, ...] = (None, None, None)
    if any(wanted):
        rest = torch.ops.aten.convolution_backward(
            grad, x, weight, bias, stride, padding, (1, 1), False, (0, 0), 1, wanted
        )
    return for_x if for_x is not None else rest[0], *rest[1:]


class _Convolution(torch.autograd.Function):
    """The convolution of x and its gradients."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, stride: Any, padding: Any, choice: _Choice
    ) -> Tensor:
        ctx.save_for_backward(x, weight)  # a weight that changes before the backward pass is found out
        ctx.geometry, ctx.choice = (_pair(stride), _pair(padding)), choice
        ctx.bias = None if bias is None else list(bias.shape)
        if not choice.forward:
            return F.conv2d(x, weight, bias, stride, padding)
        y = _forward(x, weight, *ctx.geometry)
        return y if bias is None else y.add_(bias.view(-1, 1, 1))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        stride, padding = ctx.geometry
        wanted = ctx.needs_input_grad[0], ctx.needs_input_grad[1], ctx.needs_input_grad[2]
        grads = _backward(grad, x, weight, stride, padding, ctx.bias, wanted, ctx.choice.backward)
        return *grads, None, None, None
