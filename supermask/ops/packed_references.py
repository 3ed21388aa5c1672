"""References of the packed layers: the weights unpacked, and torch's own product."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.grad import conv2d_input, conv2d_weight

from supermask.ops.layouts import (
    lists_of_signs,
    signs_of_codes,
    signs_of_fields,
    signs_of_lists,
    weights_of_lists,
)


def packed_linear(weights_of: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """x · Wᵀ · scale + bias, summed in float32 at least, for the packed W that `weights_of` unpacks."""

    def linear(x: Tensor, *layout_and_rest: Any) -> Tensor:
        *layout, outputs, scale, bias = layout_and_rest
        wide = torch.promote_types(x.dtype, torch.float32)
        weights = weights_of(*layout, outputs, x.shape[-1]).to(wide)
        product = (x.to(wide) @ weights.t()) * scale
        return (product if bias is None else product + bias.to(wide)).to(x.dtype)

    return linear


def round_to_int8(x: Tensor) -> tuple[Tensor, Tensor]:
    """Each row of x as integers from -127 to 127, ties to even, and what they are to be multiplied by.

    That is the row's largest magnitude / 127, in float32. A row that is not all finite is 0 times NaN.

    Returns:
        The integers, as float32, and the scales, with a last dimension of 1.
    """
    x = x.float()
    scale = x.abs().amax(dim=-1, keepdim=True) / 127 if x.shape[-1] else x.new_zeros(*x.shape[:-1], 1)
    scale = torch.where(scale.isfinite(), scale, torch.nan)
    return torch.where(scale > 0, (x / scale).round().clamp(-127, 127), 0.0), scale


def linear_int8(x: Tensor, fields: Tensor, outputs: int, scale: float, bias: Tensor | None) -> Tensor:
    integers, scales = round_to_int8(x)
    weights = signs_of_fields(fields, outputs, x.shape[-1])
    # Sums of integers: exact, then rounded once, and without a zero that is negative.
    sums = (integers.double() @ weights.t().double() + 0.0).float()
    product = sums * (scales * torch.tensor(scale, dtype=torch.float32, device=x.device))
    return (product if bias is None else product + bias.float()).to(x.dtype)


def packed_conv(weights_of: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """The convolution of x, summed in float32, with the packed matrix that `weights_of` unpacks."""

    def convolve(
        x: Tensor,
        layout: Sequence[Tensor],
        outputs: int,
        kernel: Sequence[int],
        stride: Sequence[int],
        padding: Sequence[int],
        dilation: Sequence[int],
        groups: int,
        scale: float,
        bias: Tensor | None,
    ) -> Tensor:
        channels = x.shape[1] // groups
        depth = channels * kernel[0] * kernel[1]
        weight = weights_of(*layout, outputs, depth).view(outputs, channels, *kernel).float()
        top, bottom, left, right = padding
        padded = torch.nn.functional.pad(x.float(), (left, right, top, bottom))
        sums = torch.nn.functional.conv2d(padded, weight, None, stride, 0, dilation, groups) * scale
        return (sums if bias is None else sums + bias.view(-1, 1, 1)).to(x.dtype)

    return convolve


def conv_from_lists(x: Tensor, starts: Tensor, entries: Tensor, *geometry_and_rest: Any) -> Tensor:
    return packed_conv(signs_of_lists)(x, (starts, entries), *geometry_and_rest)


def conv_from_values(
    x: Tensor, starts: Tensor, entries: Tensor, values: Tensor, *geometry_and_bias: Any
) -> Tensor:
    *geometry, bias = geometry_and_bias
    return packed_conv(weights_of_lists)(x, (starts, entries, values), *geometry, 1.0, bias)


def lists_of_weights_into(
    starts: Tensor,
    entries: Tensor,
    weights: Tensor,
    scale: float,
    turned_starts: Tensor | None,
    turned_entries: Tensor | None,
) -> None:
    magnitude = torch.tensor(scale, dtype=torch.float32)
    if not bool(((weights.abs() == magnitude) | (weights == 0)).all()):
        raise RuntimeError(f"weights must be 0, +scale or -scale, and scale is {scale}")
    signs = weights.sign().to(torch.int8)
    _list_into(starts, entries, signs)
    if turned_starts is not None and turned_entries is not None:
        _list_into(turned_starts, turned_entries, signs.t())


def _list_into(starts: Tensor, entries: Tensor, signs: Tensor) -> None:
    laid_out, listed = lists_of_signs(signs)
    starts.copy_(laid_out)
    entries[: len(listed)] = listed


def weight_gradient(grad: Tensor, x: Tensor) -> Tensor:
    return grad.t() @ x


def sparse_linear(x: Tensor, weights: Tensor, transposed: bool, bias: Tensor | None) -> Tensor:
    y = x @ (weights if transposed else weights.t())
    return y if bias is None else y + bias


def sparse_conv(x: Tensor, weights: Tensor, stride: Sequence[int], padding: Sequence[int]) -> Tensor:
    y = torch.nn.functional.conv2d(x, weights, None, tuple(stride), tuple(padding))
    return y.contiguous(memory_format=torch.channels_last)


def sparse_conv_input_gradient(
    grad: Tensor, weights: Tensor, size: Sequence[int], stride: Sequence[int], padding: Sequence[int]
) -> Tensor:
    shape = [len(grad), weights.shape[1], *size]
    x = conv2d_input(shape, weights, grad, tuple(stride), tuple(padding))
    return x.contiguous(memory_format=torch.channels_last)


def conv_weight_gradient(
    grad: Tensor, x: Tensor, kernel: Sequence[int], stride: Sequence[int], padding: Sequence[int]
) -> Tensor:
    shape = [grad.shape[1], x.shape[1], *kernel]
    weight = conv2d_weight(x, shape, grad, tuple(stride), tuple(padding))
    return weight.contiguous(memory_format=torch.channels_last)


def decode_codes(codes: Tensor, outputs: int, inputs: int, scale: float, dtype: torch.dtype) -> Tensor:
    return signs_of_codes(codes, outputs, inputs).to(dtype) * scale
