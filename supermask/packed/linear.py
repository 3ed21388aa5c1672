"""Linear layers that compute straight from packed masks.

A masked signed-constant weight is +σ, -σ or 0, so that a product with it is an addition, a subtraction or
nothing: two bits per weight and, for batches, lists of the kept ones serve instead of floats.
"""

import torch
from torch import Tensor, nn

from supermask import layouts, ops
from supermask.init import Draw

# Which kernel serves a batch, from benchmarks/masked_linear.py. Bits cost the same at any density but need a
# table look-up in registers; lists cost in proportion to the density; neither beats a matrix product when
# many inputs meet a mask that keeps most weights.
FEW_INPUTS = {"avx512": 8, "avx2": 4}
LISTS_UP_TO_DENSITY = 0.6


class PackedLinear(nn.Module):
    """`nn.Linear` with weights +σ, -σ and 0.

    Args:
        signs: Matrix of -1, 0 and +1 (int8), outputs by inputs.
        scale: σ.
        bias: One value per output, or None.
    """

    codes: Tensor
    starts: Tensor | None
    entries: Tensor | None
    bias: Tensor | None

    def __init__(self, signs: Tensor, scale: float, bias: Tensor | None = None) -> None:
        super().__init__()
        if signs.dim() != 2 or signs.dtype != torch.int8 or bool((signs.abs() > 1).any()):
            raise ValueError("signs must be an int8 matrix of -1, 0 and +1")
        self.out_features, self.in_features = signs.shape
        self.scale = scale
        self.density = int(signs.count_nonzero()) / max(signs.numel(), 1)
        lists = self.density <= LISTS_UP_TO_DENSITY
        starts, entries = layouts.lists_of_signs(signs) if lists else (None, None)
        self.register_buffer("codes", layouts.triples_of_signs(signs))
        self.register_buffer("starts", starts)
        self.register_buffer("entries", entries)
        self.register_buffer("bias", None if bias is None else bias.detach().clone())
        self._dense: Tensor | None = None

    @classmethod
    def of(cls, layer: nn.Linear, draw: Draw) -> "PackedLinear | None":
        """The packed form of `layer`, whose masked weights are those of `draw`; None where there is none."""
        if draw.scheme != "sign":
            return None
        return cls(layer.weight.detach().sign().to(torch.int8), abs(draw.scale), layer.bias)

    def forward(self, x: Tensor) -> Tensor:
        """x · Wᵀ + b for x of any leading dimensions and float type; sums are in float32."""
        if not ops.is_native("linear_from_triples", x.device) or self.kernel(x.numel()) == "dense":
            bias = None if self.bias is None else self.bias.to(x.dtype)
            return nn.functional.linear(x, self.weight(x), bias)
        flat = x.reshape(-1, self.in_features).float().contiguous()
        if self.kernel(x.numel()) == "triples":
            y = torch.ops.supermask.linear_from_triples(
                flat, self.codes, self.out_features, self.scale, self.bias
            )
        else:
            y = torch.ops.supermask.linear_from_lists(
                flat, self.starts, self.entries, self.out_features, self.scale, self.bias
            )
        return y.to(x.dtype).view(*x.shape[:-1], self.out_features)

    def kernel(self, numel: int) -> str:
        """What serves an input of `numel` elements: `bits`, `lists` or `dense`."""
        if numel <= FEW_INPUTS.get(ops.instruction_set() or "", 0) * self.in_features:
            return "triples"
        return "dense" if self.starts is None else "lists"

    def weight(self, like: Tensor) -> Tensor:
        """The weights as a matrix, of the type and on the device of `like`; kept once asked for."""
        dense = self._dense
        if dense is None or dense.dtype != like.dtype or dense.device != like.device:
            signs = layouts.signs_of_triples(self.codes, self.out_features, self.in_features)
            dense = self._dense = signs.to(like.device, like.dtype) * self.scale
        return dense

    def extra_repr(self) -> str:
        return f"{self.in_features}, {self.out_features}, density={self.density:.3f}"
