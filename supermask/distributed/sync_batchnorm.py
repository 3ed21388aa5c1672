"""Batch norms over the rows of all ranks: what one process would compute from the whole batch.

GPUs take `nn.SyncBatchNorm`. It has no kernels for CPUs; these compute the same in differentiable sums.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm


@contextmanager
def synced_norms(model: nn.Module) -> Iterator[None]:
    """Inside this context the batch norms in `model` share their statistics between ranks when they train.

    Parameters, buffers and names stay those of the model, which is as before afterwards. Enter it before
    the model is wrapped.

    Raises:
        ValueError: A batch norm has a forward of its own, which nothing is known of.
    """
    norms = [(name, norm) for name, norm in model.named_modules() if isinstance(norm, _BatchNorm)]
    for name, norm in norms:
        if type(norm).forward is not _BatchNorm.forward and not _activates(norm):
            raise ValueError(
                f"{name} is a {type(norm).__name__}, whose statistics cannot be shared between ranks; leave "
                "--sync-norms out"
            )
    on_gpu = {name for name, norm in norms if next(iter(norm.buffers()), torch.empty(0)).is_cuda}
    try:
        for name, norm in norms:
            if name in on_gpu:
                _replace(model, name, _of_torch(norm))
            else:
                norm.forward = partial(_forward, norm)  # type: ignore[method-assign]
        yield
    finally:
        for name, norm in norms:
            if name in on_gpu:
                _replace(model, name, norm)
            else:
                vars(norm).pop("forward", None)


def is_synced(norm: nn.Module) -> bool:
    """Whether a norm has the statistics of all ranks at present."""
    return isinstance(norm, nn.SyncBatchNorm) or "forward" in vars(norm)


class _Sum(torch.autograd.Function):
    """Σ over ranks; every rank's output depends on every rank's input, so gradients are summed as well."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        total = tensor.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        total = grad.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total


def _forward(norm: Any, inputs: Tensor) -> Tensor:
    """Batch norm in training over all ranks' rows; see `nn.BatchNorm2d` for the formula."""
    if not norm.training:
        return type(norm).forward(norm, inputs)
    x = inputs.to(torch.promote_types(inputs.dtype, torch.float32))
    dims, shape = [0, *range(2, x.dim())], [1, -1, *[1] * (x.dim() - 2)]
    count = torch.tensor(float(x.numel() // x.shape[1]), dtype=torch.float64)
    dist.all_reduce(count)
    rows = float(count)
    mean = _Sum.apply(x.sum(dims)) / rows
    centred = x - mean.view(shape)
    variance = _Sum.apply((centred * centred).sum(dims)) / rows
    if norm.track_running_stats:
        _follow(norm, mean.detach(), variance.detach() * rows / max(rows - 1, 1))
    result = centred * torch.rsqrt(variance + norm.eps).view(shape)
    if norm.affine:
        result = result * norm.weight.view(shape) + norm.bias.view(shape)
    result = result.to(inputs.dtype)
    return norm.act(norm.drop(result)) if _activates(norm) else result


@torch.no_grad()
def _follow(norm: Any, mean: Tensor, variance: Tensor) -> None:
    norm.num_batches_tracked.add_(1)
    share = 1.0 / float(norm.num_batches_tracked) if norm.momentum is None else norm.momentum
    for running, new in ((norm.running_mean, mean), (norm.running_var, variance)):
        running.mul_(1 - share).add_(new.to(running), alpha=share)


def _activates(norm: nn.Module) -> bool:
    """Whether it is timm's batch norm with an activation in it."""
    return type(norm).__name__ == "BatchNormAct2d"


def _of_torch(norm: nn.Module) -> nn.Module:
    if not _activates(norm):
        return nn.SyncBatchNorm.convert_sync_batchnorm(norm)
    from timm.layers import convert_sync_batchnorm  # here, because it takes a second

    return convert_sync_batchnorm(norm)


def _replace(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, own = name.rpartition(".")
    setattr(model.get_submodule(parent), own, module)
