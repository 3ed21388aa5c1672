"""Zeros where a mask says so: what holding a mask does to weights, gradients and momentum in every step."""

import torch
from torch import Tensor

from supermask.ops.library import is_native


def clear_where(values: Tensor, where: Tensor) -> None:
    """values[where] = 0 in place, as `masked_fill_` does it, which a random mask makes several times as slow.

    Args:
        values: Any tensor.
        where: bool tensor of its shape.
    """
    if _may_clear(values, where):
        flat = [_in_memory_order(tensor) for tensor in (values.detach(), where)]
        if flat[0] is not None and flat[1] is not None:
            torch.ops.supermask.clear_where(*flat)
            torch.autograd.graph.increment_version(values)
            return
    values.masked_fill_(where, 0.0)


def _may_clear(values: Tensor, where: Tensor) -> bool:
    """Whether both are plain tensors on the CPU that lie alike in memory."""
    plain = type(values) in (Tensor, torch.nn.Parameter) and type(where) is Tensor
    alike = values.shape == where.shape and values.stride() == where.stride()
    types = values.dtype == torch.float32 and where.dtype == torch.bool
    native = is_native("clear_where", values.device) and values.device.type == where.device.type == "cpu"
    recorded = (
        values.requires_grad and torch.is_grad_enabled()
    )  # which autograd does for its own operators only
    return plain and alike and types and native and not recorded


def _in_memory_order(tensor: Tensor) -> Tensor | None:
    """The tensor as a vector that shares its memory; None if neither contiguous nor in channels_last."""
    if tensor.is_contiguous():
        return tensor.view(-1)
    if tensor.dim() == 4 and tensor.is_contiguous(memory_format=torch.channels_last):
        return tensor.permute(0, 2, 3, 1).view(-1)
    return None
