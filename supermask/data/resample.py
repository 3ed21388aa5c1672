"""Boxes of many images resampled to one size: bilinear, antialiased, bytes to bytes, the same on any device.

On a CPU each box goes through PyTorch's kernel for bytes, one after another: half of the time is Python's, so
threads would only wait for each other. That kernel works in integers: weights of 16 bits, rows first, the
result rounded to bytes, then columns. Elsewhere the same integers are made by products of small matrices,
exact in single precision because each weight is taken in two halves of eight bits (so exact, too, where
products round their factors to TF32). Both give the same bytes; a test holds this.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

#: Weights are whole multiples of 2^-p, with the largest p up to this for which they stay below 2^15.
_MOST_PRECISION = 22
_HALF_BITS = 7


def resample(pixels: Tensor, rows: Tensor, boxes: Tensor, image_size: int) -> Tensor:
    """Return boxes of chosen images, each scaled to a square and mirrored if so wanted.

    Args:
        pixels: uint8, (N, C, H, W), at most four channels; fastest where channels lie innermost.
        rows: int64, (B,): which of the images, on the same device.
        boxes: int64, (5, B), on the same device: top, left, height, width, and 1 for a mirror image.
        image_size: Height and width of the result.

    Returns:
        uint8, (B, C, image_size, image_size), in channels_last.
    """
    if pixels.device.type == "cpu":
        return _resample_bytes(pixels, rows.tolist(), boxes.T.tolist(), image_size)
    return _resample_matrices(pixels.index_select(0, rows), boxes, image_size)


def _resample_matrices(chosen: Tensor, boxes: Tensor, image_size: int) -> Tensor:
    top, left, height, width, mirrored = boxes
    across = _apply(chosen, *_weights(left, width, chosen.shape[3], image_size), "boi,bchi->bcho")
    down = _apply(across, *_weights(top, height, chosen.shape[2], image_size), "boi,bciw->bcow")
    turned = torch.where(mirrored[:, None, None, None] == 1, down.flip(3), down)
    return turned.to(torch.uint8).contiguous(memory_format=torch.channels_last)


def _resample_bytes(
    pixels: Tensor, rows: Sequence[int], boxes: Sequence[Sequence[int]], image_size: int
) -> Tensor:
    shape = (len(rows), image_size, image_size, pixels.shape[1])
    # Channels innermost, as the kernel works and as its result is wanted.
    result = torch.empty(shape, dtype=torch.uint8).permute(0, 3, 1, 2)
    kernel = torch.ops.aten._upsample_bilinear2d_aa.out
    stored = pixels.permute(0, 2, 3, 1).numpy()
    for index, (row, (top, left, height, width, mirrored)) in enumerate(zip(rows, boxes, strict=True)):
        box = np.ascontiguousarray(stored[row, top : top + height, left : left + width])
        source, scaled = torch.from_numpy(box).permute(2, 0, 1)[None], result[index : index + 1]
        kernel(source, (image_size, image_size), False, out=scaled)
        if mirrored:
            scaled.copy_(scaled.flip(3))
    return result


def _weights(start: Tensor, length: Tensor, source: int, image_size: int) -> tuple[Tensor, Tensor]:
    """Weights of every source pixel in every pixel of the result, as whole numbers, and their precision.

    The order of operations is that of PyTorch's kernel, in double precision.

    Args:
        start: int64, (B,): where the box begins.
        length: int64, (B,): how many source pixels it has.
        source: Pixels of a side of the source.
        image_size: Pixels of a side of the result.

    Returns:
        float64, (B, image_size, source), whole numbers below 2^15; int64 precision, (B,).
    """
    device = start.device
    scale = length.double() / image_size
    reach = scale.clamp(min=1.0)
    centre = scale[:, None] * (torch.arange(image_size, dtype=torch.float64, device=device) + 0.5)
    first = (centre - reach[:, None] + 0.5).long().clamp(min=0)
    last = torch.minimum((centre + reach[:, None] + 0.5).long(), length[:, None])
    place = torch.arange(source, device=device) - start[:, None, None]
    distance = ((place - first[..., None]) + (first - centre)[..., None] + 0.5) * (1 / reach)[:, None, None]
    weights = (1 - distance.abs()).clamp(min=0)
    weights.masked_fill_((place < first[..., None]) | (place >= last[..., None]), 0)
    weights /= weights.sum(2, keepdim=True)
    powers = torch.arange(1, _MOST_PRECISION + 1, device=device)
    largest = (0.5 + weights.amax((1, 2))[:, None] * 2.0**powers).long()
    precision = (largest < 1 << 15).sum(1)
    return (0.5 + weights * (2.0**precision)[:, None, None]).floor(), precision


def _apply(pixels: Tensor, weights: Tensor, precision: Tensor, equation: str) -> Tensor:
    """Return the weighted sums of pixels, rounded to whole numbers from 0 to 255, as float32."""
    values = pixels.float()
    high = (weights / (1 << _HALF_BITS)).floor()
    low = weights - high * (1 << _HALF_BITS)
    upper, lower = (torch.einsum(equation, half.float(), values).int() for half in (high, low))
    precision = precision.int()[:, None, None, None]
    total = (upper << _HALF_BITS) + lower + (1 << (precision - 1))
    return (total >> precision).clamp(0, 255).float()
