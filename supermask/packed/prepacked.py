"""Dense products with weights in oneDNN's own layout, on many CPUs faster than those of `nn.Linear`."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


class PrepackedLinear:
    """x · Wᵀ + b with W laid out by oneDNN.

    A copy or a pickle of one is empty, since torch can copy no tensor of that layout; it is filled on use.
    """

    def __init__(self) -> None:
        self.weights: Tensor | None = None
        self._dtype: torch.dtype | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        return PrepackedLinear, ()

    def __call__(self, x: Tensor, bias: Tensor | None, weight: Callable[[Tensor], Tensor]) -> Tensor:
        """The product; `weight` gives W in the type of x, and is asked where it is not held in that type."""
        if self.weights is None or self._dtype != x.dtype:
            inputs = x.shape[:-1].numel()
            self.weights = torch.ops.mkldnn._reorder_linear_weight(weight(x).detach(), max(inputs, 1))
            self._dtype = x.dtype
        return torch.ops.mkldnn._linear_pointwise(x, self.weights, bias, "none", [], "")


def serves(x: Tensor) -> bool:
    """Whether oneDNN computes a product with x here, of which no gradient is asked."""
    if x.device.type != "cpu" or not has_prepacked(x.dtype):
        return False
    return not (torch.is_grad_enabled() and x.requires_grad)


def has_prepacked(dtype: torch.dtype) -> bool:
    """Whether torch has oneDNN's products of prepacked weights, and this CPU those of that type."""
    if not torch.backends.mkldnn.is_available() or not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return False
    return dtype == torch.float32 or (
        dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    )
