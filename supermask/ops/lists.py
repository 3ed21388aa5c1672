"""Products from lists that training steps lay out as they go: of weights, and of gradients that are not 0."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from supermask.ops.layouts import BLOCK


def lists_of_weights(
    weights: Tensor, scale: float, transposed: bool = False, into: tuple[Tensor, ...] | None = None
) -> tuple[Tensor, ...] | None:
    """The layout of `linear_from_lists` for a matrix of 0, +scale and -scale, and for its transpose.

    Args:
        weights: Contiguous float32 matrix.
        scale: The magnitude of all weights that are not 0.
        transposed: Lay out the transpose as well, in the same pass over the weights.
        into: What an earlier call with the same `transposed` for a matrix of that size returned; it is
            overwritten.

    Returns:
        Starts and entries, then those of the transpose if asked for; entries from starts[-1] on hold
        anything. None if other weights were met, and then nothing has been overwritten.
    """
    shapes = (weights.shape, weights.shape[::-1]) if transposed else (weights.shape,)
    if into is None:
        into = tuple(part for outputs, inputs in shapes for part in _room_for_lists(outputs, inputs))
    turned = into[2:] if transposed else (None, None)
    try:
        torch.ops.supermask.lists_of_weights_into(*into[:2], weights, scale, *turned)
    except RuntimeError as error:
        if "weights must be 0, +scale or -scale" in str(error):
            return None
        raise
    return into


def _room_for_lists(outputs: int, inputs: int) -> tuple[Tensor, Tensor]:
    starts = torch.empty(2 * -(-inputs // BLOCK) * outputs + 1, dtype=torch.int32)
    return starts, torch.empty(outputs * inputs, dtype=torch.uint8)


def weight_gradient(grad: Tensor, x: Tensor) -> Tensor:
    """gradᵀ · x, the gradient of a linear layer's weights, in time for the part of `grad` that is not 0.

    Zeros of `grad` are left out, so an infinite input under one leaves no NaN.

    Args:
        grad: Gradient of the outputs, one row for each sample: a contiguous float32 matrix.
        x: Inputs, likewise.
    """
    return torch.ops.supermask.weight_gradient(grad, x)


def sparse_linear(x: Tensor, weights: Tensor, transposed: bool = False, bias: Tensor | None = None) -> Tensor:
    """x · Wᵀ + bias, in time for the weights that are not 0; x · W + bias where `transposed`.

    Weights of any kind, which may differ from call to call: nothing is laid out before. Zeros are left out,
    so an infinite input under one leaves no NaN.

    Args:
        x: Inputs, of any number of dimensions, float32.
        weights: Outputs by inputs, or inputs by outputs where `transposed`: a contiguous float32 matrix.
        bias: One float32 value for each output.
    """
    rows = x.reshape(math.prod(x.shape[:-1]), x.shape[-1]).contiguous()
    y = torch.ops.supermask.sparse_linear(rows, weights, transposed, bias)
    return y.view(*x.shape[:-1], y.shape[-1])


def sparse_conv(x: Tensor, weights: Tensor, stride: Sequence[int], padding: Sequence[int]) -> Tensor:
    """The convolution of x, in time for the weights that are not 0; in channels_last.

    Zeros of weights are left out, as in `sparse_linear`.

    Args:
        x: float32 images, best in channels_last, into which others are copied.
        weights: Outputs, channels, rows, columns, as in `nn.Conv2d` without groups and dilation: float32,
            contiguous or, faster, in channels_last.
        stride: Two numbers.
        padding: Two numbers, of zeros.
    """
    return torch.ops.supermask.sparse_conv(_channels_last(x), weights, stride, padding)


def sparse_conv_input_gradient(
    grad: Tensor, weights: Tensor, size: Sequence[int], stride: Sequence[int], padding: Sequence[int]
) -> Tensor:
    """The gradient of the inputs of `sparse_conv`, in time for the weights that are not 0; in channels_last.

    Args:
        grad: Gradient of the outputs, like x.
        weights: As above.
        size: Height and width of the inputs.
        stride: Two numbers.
        padding: Two numbers.
    """
    return torch.ops.supermask.sparse_conv_input_gradient(
        _channels_last(grad), weights, size, stride, padding
    )


def conv_weight_gradient(
    grad: Tensor, x: Tensor, kernel: Sequence[int], stride: Sequence[int], padding: Sequence[int]
) -> Tensor:
    """The gradient of a convolution's weights, in time for the inputs that are not 0; in channels_last.

    Zeros of x, of which a ReLU leaves many, are left out, so an infinite gradient over one leaves no NaN.

    Args:
        grad: Gradient of the outputs, float32, best in channels_last.
        x: Inputs, likewise.
        kernel: Height and width of the weights.
        stride: Two numbers.
        padding: Two numbers.
    """
    return torch.ops.supermask.conv_weight_gradient(
        _channels_last(grad), _channels_last(x), kernel, stride, padding
    )


def _channels_last(images: Tensor) -> Tensor:
    return images.contiguous(memory_format=torch.channels_last)
