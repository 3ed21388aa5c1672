"""Linear layers on a GPU, from codes of two bits, or from dense weights where they are not signed constants.

Few inputs meet the weights as codes in one kernel, which is bound by the bytes of the weights: an eighth of
bfloat16's. Many inputs make the product itself the work, and no unstructured mask beats the dense product
there: the codes are decoded into scratch memory that the product then reads. Between the two, decoding would
cost as much as the product. On Hopper a product that decodes on its way (wgmma) serves some more inputs; from
there on a dense copy is kept. A mask with at most two of every four weights (2:4) has sparse tensor cores for
many inputs.

The borders between them were measured in 16 bits on an H200 (`benchmarks/masked_linear_cuda.py`); in float32
they are predictions from memory bandwidth and arithmetic rate.
"""

import warnings
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn

from supermask import ops
from supermask.ops import layouts

CODES_UP_TO = {torch.float32: 64, torch.bfloat16: 16, torch.float16: 16}
"""Inputs that the codes serve directly, in passes of 32 over the weights."""

WGMMA_FROM, WGMMA_UP_TO = 17, 64
"""Inputs that the codes serve through Hopper's wgmma: near a dense product's speed, without a dense copy."""

DECODE_FROM = 4096
"""Inputs from which on decoding costs less than a twentieth of the product."""

SPARSE_FROM = 1024
"""Inputs from which on sparse tensor cores are faster than dense ones."""

KERNEL_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
HALF_DTYPES = (torch.bfloat16, torch.float16)
WGMMA_CAPABILITY = (9, 0)


class DenseLinear:
    """x · Wᵀ + b for a masked matrix W on a GPU.

    Args:
        weights: Outputs by inputs, on the GPU, its pruned entries zero.
    """

    def __init__(self, weights: Tensor) -> None:
        self.outputs, self.inputs = weights.shape
        self.two_of_four = is_two_of_four(weights)
        self._kept: Tensor | None = weights
        self._compressed: Tensor | None = None
        self.weights = weights

    def __call__(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        """The product for x of any leading dimensions and float type, on the device of the codes.

        Under autocast x takes autocast's type first, as in `nn.Linear`. Differentiable with respect to x and
        bias.
        """
        if torch.is_autocast_enabled(x.device.type):
            x = x.to(torch.get_autocast_dtype(x.device.type))
        flat = x.reshape(x.shape[:-1].numel(), self.inputs)
        kernel = self.kernel(len(flat), x.dtype, needs_gradient=torch.is_grad_enabled() and x.requires_grad)
        return self.product(kernel, flat, bias).view(*x.shape[:-1], self.outputs)

    def product(self, kernel: str, flat: Tensor, bias: Tensor | None) -> Tensor:
        """The product for a matrix of inputs, by one of the kernels that `kernel` names."""
        weights = {"dense": self.dense, "sparse": self.compressed, "decoded": self.decoded}
        weight = weights[kernel](flat.dtype)
        return nn.functional.linear(flat, weight, None if bias is None else bias.to(flat.dtype))

    def kernel(self, batch: int, dtype: torch.dtype, needs_gradient: bool = False) -> str:
        """What serves `batch` inputs: `sparse` (2:4) or `dense`."""
        sparse = batch >= SPARSE_FROM and dtype in HALF_DTYPES and self._fits_sparse() and not needs_gradient
        return "sparse" if sparse else "dense"

    def decoded(self, dtype: torch.dtype) -> Tensor:
        """The weights as a matrix of that type."""
        return self.weights.to(dtype)

    def dense(self, dtype: torch.dtype) -> Tensor:
        """The weights as a matrix that is kept for the next call, of one type at a time."""
        kept = self._kept
        if kept is None or kept.dtype != dtype:
            with ordinary_tensors():
                kept = self.decoded(dtype)
            if may_keep():
                self._kept = kept
        return kept

    def compressed(self, dtype: torch.dtype) -> Tensor:
        """The weights in torch's form for sparse tensor cores, kept for the next call."""
        kept = self._compressed
        if kept is None or kept.dtype != dtype:
            with ordinary_tensors(), warnings.catch_warnings():
                warnings.filterwarnings("ignore", message=".*prototype", category=UserWarning)
                kept = torch.sparse.to_sparse_semi_structured(self.decoded(dtype))
            if may_keep():
                self._compressed = kept
        return kept

    def _fits_sparse(self) -> bool:
        """Whether the mask is 2:4 and of a size that torch compresses, by either backend."""
        return self.two_of_four and self.outputs % 32 == 0 and self.inputs % 64 == 0


class CodedLinear(DenseLinear):
    """x · Wᵀ + b for a matrix W of +scale, -scale and 0 on a GPU.

    Args:
        signs: Matrix of -1, 0 and +1 (int8), outputs by inputs, on the GPU; it is not kept.
        scale: σ.
        codes: Those of `signs`, where there are any already.
    """

    def __init__(self, signs: Tensor, scale: float, codes: Tensor | None = None) -> None:
        super().__init__(signs)
        del self.weights
        self._kept = None
        self.scale = scale
        self.codes = layouts.codes_of_signs(signs) if codes is None else codes
        self.compiled = ops.is_native("linear_from_codes", signs.device)
        self.wgmma = signs.is_cuda and torch.cuda.get_device_capability(signs.device) == WGMMA_CAPABILITY

    def product(self, kernel: str, flat: Tensor, bias: Tensor | None) -> Tensor:
        operators = torch.ops.supermask
        from_codes = {"codes": operators.linear_from_codes, "wgmma": operators.linear_from_codes_wgmma}
        if kernel in from_codes:
            return from_codes[kernel](flat.contiguous(), self.codes, self.outputs, self.scale, bias)
        return super().product(kernel, flat, bias)

    def kernel(self, batch: int, dtype: torch.dtype, needs_gradient: bool = False) -> str:
        """What serves `batch` inputs: `codes`, `wgmma`, `dense` (kept), `sparse` (2:4) or `decoded`."""
        if not self.compiled:
            return "dense"  # the references would unpack every weight in every call
        if self.wgmma and WGMMA_FROM <= batch <= WGMMA_UP_TO and dtype in HALF_DTYPES:
            return "wgmma"
        if batch <= CODES_UP_TO.get(dtype, -1):
            return "codes"
        dense = "decoded" if batch >= DECODE_FROM else "dense"
        return "sparse" if super().kernel(batch, dtype, needs_gradient) == "sparse" else dense

    def decoded(self, dtype: torch.dtype) -> Tensor:
        """The weights as a new matrix."""
        stored = dtype if dtype in KERNEL_DTYPES else torch.float32
        weight = torch.ops.supermask.decode_codes(self.codes, self.outputs, self.inputs, self.scale, stored)
        return weight.to(dtype)


def is_two_of_four(signs: Tensor) -> bool:
    """Whether of every four neighbouring weights of an output at most two are kept."""
    if signs.shape[1] % 4:
        return False
    return not bool((signs.reshape(-1, 4).count_nonzero(dim=1) > 2).any())


def ordinary_tensors() -> AbstractContextManager[None]:
    """Where tensors that are kept are made: in inference mode they would be of no use to autograd later."""
    return nullcontext() if torch.compiler.is_compiling() else torch.inference_mode(False)


def may_keep() -> bool:
    """Not while a graph records: memory made there is the graph's, and empty until it replays."""
    if torch.compiler.is_compiling():
        return False
    return not (torch.cuda.is_available() and torch.cuda.is_current_stream_capturing())


def may_keep_in_layer() -> bool:
    """The same for a layer: torch.compile knows its memory; an exported network has none but its buffers."""
    return not torch.compiler.is_exporting() and (torch.compiler.is_compiling() or may_keep())
