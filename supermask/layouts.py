"""How packed layers store a matrix of -1, 0 and +1: as two planes of bits, or as lists of the kept inputs."""

import torch
from torch import Tensor

BLOCK = 128
"""Inputs that the lists of `linear_from_lists` count in one uint8."""


def bits_of_signs(signs: Tensor) -> Tensor:
    """The layout of `linear_from_bits` for a matrix of -1, 0 and +1, (outputs, inputs): int32 words.

    planes[group, word, 0 or 1, lane], bit b: whether the weight of output 16 · group + lane and input
    32 · word + b is +1 (0) or -1 (1).
    """
    outputs, inputs = signs.shape
    padded = torch.nn.functional.pad(signs, (0, -inputs % 32, 0, -outputs % 16))
    fields = padded.view(padded.shape[0] // 16, 16, padded.shape[1] // 32, 32)
    both = torch.stack([fields == 1, fields == -1], dim=3).long()
    words = (both << torch.arange(32, device=signs.device)).sum(dim=-1)
    words = torch.where(words >= 1 << 31, words - (1 << 32), words)
    return words.permute(0, 2, 3, 1).contiguous().to(torch.int32)


def signs_of_bits(planes: Tensor, outputs: int, inputs: int) -> Tensor:
    """The matrix that `bits_of_signs` packed, as int8."""
    bits = (planes.unsqueeze(-1) >> torch.arange(32, device=planes.device)) & 1
    signs = (bits[:, :, 0] - bits[:, :, 1]).to(torch.int8).transpose(1, 2)
    return signs.reshape(planes.shape[0] * 16, planes.shape[1] * 32)[:outputs, :inputs]


def lists_of_signs(signs: Tensor) -> tuple[Tensor, Tensor]:
    """The layout of `linear_from_lists`: starts (int32) and entries (uint8).

    Of block b of 128 inputs and output r, the inputs with +1 are the entries from starts[2 i] on and those
    with -1 from starts[2 i + 1] on, i = b · outputs + r, each as a place in the block.
    """
    outputs, inputs = signs.shape
    padded = torch.nn.functional.pad(signs, (0, -inputs % BLOCK))
    fields = padded.view(outputs, padded.shape[1] // BLOCK, BLOCK).transpose(0, 1)
    both = torch.stack([fields == 1, fields == -1], dim=2)
    ends = both.sum(dim=-1).flatten().cumsum(0)
    starts = torch.cat([ends.new_zeros(1), ends]).to(torch.int32)
    return starts, both.nonzero()[:, 3].to(torch.uint8)


def signs_of_lists(starts: Tensor, entries: Tensor, outputs: int, inputs: int) -> Tensor:
    """The matrix that `lists_of_signs` packed, as int8."""
    blocks = -(-inputs // BLOCK)
    both = torch.zeros(blocks * outputs * 2, BLOCK, dtype=torch.int8, device=entries.device)
    owner = torch.repeat_interleave(starts.long().diff())
    both[owner, entries.long()] = 1
    fields = both.view(blocks, outputs, 2, BLOCK)
    return (fields[:, :, 0] - fields[:, :, 1]).transpose(0, 1).reshape(outputs, -1)[:, :inputs]
