"""How packed layers store a matrix of -1, 0 and +1: as planes of bits, lists of the kept inputs, or codes."""

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


TILE_OUTPUTS, TILE_INPUTS = 16, 128
"""Weights that one tile of codes holds: 32 lanes of four words of sixteen codes."""


def codes_of_signs(signs: Tensor) -> Tensor:
    """The layout of `linear_from_codes` for a matrix of -1, 0 and +1: int32 words of two-bit codes.

    Tensor cores multiply fragments of 16 outputs by 16 inputs, and each lane of a warp holds given places of
    them. Codes lie in that order, so that a lane loads what it needs, of eight fragments, as 16 bytes:
    codes[output // 16, input // 128, lane, word] with lane = 4 · (output % 8) + input // 8 % 4 and
    word = input // 32 % 4. The code is 1 for +1, 3 for -1, and stands from bit
    16 · (input % 2) + 14 - 2 · i on, i = 2 · (input // 2 % 4) + output // 8 % 2, so that
    (word << 2 i) & 0xC000C000 is a pair of bfloat16 or float16 values +2, -2 and 0. Weights beyond the matrix
    are zeros.

    Returns:
        Tensor of shape (ceil(outputs / 16), ceil(inputs / 128), 32, 4), on the device of `signs`.
    """
    outputs, inputs = signs.shape
    padded = torch.nn.functional.pad(signs, (0, -inputs % TILE_INPUTS, 0, -outputs % TILE_OUTPUTS))
    tiles = (padded.shape[0] // TILE_OUTPUTS, padded.shape[1] // TILE_INPUTS)
    # output tile, half of it, lane / 4; input tile, word, lane % 4, pair, place in the pair
    fields = padded.view(tiles[0], 2, 8, tiles[1], 4, 4, 4, 2)
    words = ((fields & 3).int() << _code_shifts(signs.device)).sum(dim=(1, 6, 7), dtype=torch.int32)
    return words.permute(0, 2, 1, 4, 3).reshape(*tiles, 32, 4).contiguous()


def signs_of_codes(codes: Tensor, outputs: int, inputs: int) -> Tensor:
    """The matrix that `codes_of_signs` packed, as int8."""
    words = codes.view(*codes.shape[:2], 8, 4, 4).permute(0, 2, 1, 4, 3)[:, None, ..., None, None]
    fields = (words >> _code_shifts(codes.device)) & 3
    signs = ((fields & 1) - (fields & 2)).to(torch.int8)
    rows, columns = codes.shape[0] * TILE_OUTPUTS, codes.shape[1] * TILE_INPUTS
    return signs.reshape(rows, columns)[:outputs, :inputs]


def _code_shifts(device: torch.device) -> Tensor:
    """Where a code stands in its word, by half of the tile (first axis), pair and place in it (last two)."""
    half = torch.arange(2, dtype=torch.int32, device=device).view(2, 1, 1, 1, 1, 1, 1)
    pair = torch.arange(4, dtype=torch.int32, device=device).view(4, 1)
    place = torch.arange(2, dtype=torch.int32, device=device)
    return 16 * place + 14 - 2 * (2 * pair + half)
