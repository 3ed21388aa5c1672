"""Masks as bytes: one bit for each weight, or at the entropy of their density.

`supermask.ops.library` declares the operators, and loads what serves them.
"""

import torch
from torch import Tensor

from supermask.ops import library as library


def pack_mask(mask: Tensor) -> Tensor:
    """A bool mask of any shape as ceil(n / 8) uint8: row-major, least significant bit first."""
    if mask.dtype != torch.bool:
        raise TypeError(f"mask must be a bool tensor, not {mask.dtype}")
    return torch.ops.supermask.pack_mask(mask)


def unpack_mask(packed: Tensor, numel: int) -> Tensor:
    """The first `numel` bits of `packed` as a flat bool tensor."""
    if packed.dtype != torch.uint8 or packed.dim() != 1 or len(packed) != -(-numel // 8):
        raise ValueError(
            f"{numel} mask bits take {-(-numel // 8)} bytes in one dimension, "
            f"not {packed.dtype} of shape {tuple(packed.shape)}"
        )
    return torch.ops.supermask.unpack_mask(packed, numel)


def encode_mask(mask: Tensor) -> Tensor:
    """A bool mask of any shape, of at least one bit, at the entropy of its density: uint8 of one dimension.

    The code is that of docs/ticket-format.md. At density 0.1 it takes 0.47 bits a weight and at 0.3 0.88, and
    6 bytes besides for every 8192 weights begun.
    """
    if mask.dtype != torch.bool or not mask.numel():
        raise ValueError(f"the mask must be bool and not empty, not {mask.dtype} of {tuple(mask.shape)}")
    return torch.ops.supermask.encode_mask(mask)


def decode_mask(coded: Tensor, numel: int) -> Tensor:
    """The `numel` bits that `encode_mask` coded, as a flat bool tensor.

    Raises:
        ValueError: The bytes are not the code of any mask of that size. What is accepted gives the same bytes
            when it is coded again.
    """
    if coded.dtype != torch.uint8 or coded.dim() != 1:
        raise ValueError(f"a code is uint8 of one dimension, not {coded.dtype} of shape {tuple(coded.shape)}")
    try:
        return torch.ops.supermask.decode_mask(coded, numel)
    except RuntimeError as error:
        raise ValueError(str(error)) from None
