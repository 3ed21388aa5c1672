"""How packed layers store a masked matrix.

Weights -1, 0 and +1 (times a constant) are codes of three weights each or lists of the kept inputs on a CPU,
and codes of two bits in the order of tensor cores on a GPU. Other weights are bits of the mask and the values
that it keeps.
"""

from collections.abc import Callable

import torch
from einops import rearrange
from torch import Tensor

BLOCK = 128
"""Inputs that the lists of `linear_from_lists` count in one uint8."""

_PLACES = (0, 5, 10, 16, 21, 26)  # of the codes in a word; none crosses its halves
_PANEL_GROUPS = 4  # of 16 outputs


def triples_of_signs(signs: Tensor) -> Tensor:
    """The layout of `linear_from_triples` for a matrix of -1, 0 and +1, (outputs, inputs): flat int32 words.

    Three weights of one output, the digits of n = w0 + 3 w1 + 9 w2, make a code of five bits: |n|, and 16
    more where n is negative. A word holds the codes of 18 inputs of one output, six of them at `_PLACES`:
    1.78 bits per weight. Words go by panels of 64 outputs, the last one narrower, then by inputs, then by
    outputs. Zeros fill the inputs up to a multiple of 18, the outputs up to one of 16.
    """
    outputs, inputs = signs.shape
    padded = torch.nn.functional.pad(signs, (0, -inputs % 18, 0, -outputs % 16))
    digits = rearrange(
        padded, "(group output) (word code w) -> group output word code w", output=16, code=6, w=3
    )
    numbers = (digits * digits.new_tensor([1, 3, 9])).sum(dim=-1, dtype=torch.int8)
    codes = torch.where(numbers < 0, 16 - numbers, numbers)
    words = torch.zeros(codes.shape[:-1], dtype=torch.int32, device=signs.device)
    for i, place in enumerate(_PLACES):
        words |= codes[..., i].int() << place
    panels = words.split(_PANEL_GROUPS)
    return torch.cat([rearrange(panel, "group output word -> (word group output)") for panel in panels])


def signs_of_triples(codes: Tensor, outputs: int, inputs: int) -> Tensor:
    """The matrix that `triples_of_signs` packed, as int8."""
    words = -(-inputs // 18)
    panels = [
        rearrange(panel, "(word group output) -> group output word", word=words, output=16)
        for panel in codes.split(_PANEL_GROUPS * 16 * max(words, 1))
    ]
    places = torch.tensor(_PLACES, device=codes.device)
    fields = (torch.cat(panels).unsqueeze(-1) >> places) & 31
    numbers = torch.where(fields >= 16, 16 - fields, fields)
    low = (numbers + 1) % 3 - 1
    rest = (numbers - low) // 3
    middle = (rest + 1) % 3 - 1
    digits = torch.stack([low, middle, (rest - middle) // 3], dim=-1).to(torch.int8)
    padded = rearrange(digits, "group output word code w -> (group output) (word code w)")
    return padded[:outputs, :inputs]


PLANE_INPUTS = 30
"""Inputs whose bits one word of `linear_from_planes` holds; two bits are left."""


def planes_of_signs(signs: Tensor) -> Tensor:
    """The layout of `linear_from_planes` for a matrix of -1, 0 and +1, (outputs, inputs): flat int32 words.

    Bit i of a word tells of input 30 · word + i whether its weight is +1, in the first plane, or -1, in the
    second: 2.13 bits per weight. Words go by panels of 64 outputs, the last one narrower, then by inputs,
    then by planes, then by outputs. Zeros fill the inputs up to a multiple of 30, the outputs up to a
    multiple of 16.
    """
    outputs, inputs = signs.shape
    padded = torch.nn.functional.pad(signs, (0, -inputs % PLANE_INPUTS, 0, -outputs % 16))
    fields = rearrange(
        padded, "(group output) (word bit) -> group output word bit", output=16, bit=PLANE_INPUTS
    )
    words = torch.zeros(2, *fields.shape[:-1], dtype=torch.int32, device=signs.device)
    for plane, sign in enumerate((1, -1)):
        for i in range(PLANE_INPUTS):
            words[plane] |= (fields[..., i] == sign).int() << i
    panels = words.split(_PANEL_GROUPS, dim=1)
    order = "plane group output word -> (word plane group output)"
    return torch.cat([rearrange(panel, order) for panel in panels])


def signs_of_planes(planes: Tensor, outputs: int, inputs: int) -> Tensor:
    """The matrix that `planes_of_signs` packed, as int8."""
    words = -(-inputs // PLANE_INPUTS)
    panels = [
        rearrange(
            panel, "(word plane group output) -> plane group output word", word=words, plane=2, output=16
        )
        for panel in planes.split(_PANEL_GROUPS * 32 * max(words, 1))
    ]
    places = torch.arange(PLANE_INPUTS, device=planes.device)
    bits = ((torch.cat(panels, dim=1).unsqueeze(-1) >> places) & 1).to(torch.int8)
    padded = rearrange(bits[0] - bits[1], "group output word bit -> (group output) (word bit)")
    return padded[:outputs, :inputs]


def lists_of_signs(signs: Tensor) -> tuple[Tensor, Tensor]:
    """The layout of `linear_from_lists`: starts (int32) and entries (uint8).

    Of block b of 128 inputs and output r, the inputs with +1 are the entries from starts[2 i] on and those
    with -1 from starts[2 i + 1] on, i = b · outputs + r, each as a place in the block.
    """
    inputs = signs.shape[1]
    padded = torch.nn.functional.pad(signs, (0, -inputs % BLOCK))
    fields = rearrange(padded, "output (block place) -> block output place", place=BLOCK)
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
    fields = rearrange(both, "(block output sign) place -> sign output (block place)", block=blocks, sign=2)
    return (fields[0] - fields[1])[:, :inputs]


GROUP = 512
"""Outputs among which the lists of `linear_from_pairs` are ordered."""


def pairs_of_signs(signs: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The layout of `linear_from_pairs`: starts (int32), entries (uint8) and an order of lists (int16).

    Inputs go by pairs, 64 of them in a block. An entry is 4 times a pair's place in the block, and 0 or 1
    more where only its first or second input has a weight, 2 where both have the same, 3 where they have
    opposite ones. It is in a list of + or -, the sign of its first weight. Of block b the entries of list
    i = b · outputs + place are those of + from starts[2 i] on and those of - from starts[2 i + 1] on.

    The list is that of output GROUP · (place // GROUP) + order[b, place]: within each `GROUP` outputs lists
    are ordered by how many + they have, those with as many by how many -, and those with as many of both by
    output. A loop over one list then ends where the loop over the list before it did, as a processor expects.
    """
    padded = torch.nn.functional.pad(signs, (0, -signs.shape[1] % BLOCK))
    first, second = rearrange(
        padded, "output (block pair one) -> one block output pair", pair=BLOCK // 2, one=2
    )
    kind = torch.where(first == 0, 1, torch.where(second == 0, 0, torch.where(first == second, 2, 3)))
    sign = torch.where(first == 0, second, first)
    both = torch.stack([sign == 1, sign == -1], dim=2)
    group = torch.arange(len(signs), device=signs.device) // GROUP
    plus, minus = both.sum(dim=-1).unbind(dim=2)
    rows = ((group * BLOCK + plus) * BLOCK + minus).argsort(dim=1, stable=True)
    both = both.take_along_dim(rows[..., None, None], dim=1)
    codes = (kind + 4 * torch.arange(BLOCK // 2, device=signs.device)).to(torch.uint8)
    codes = codes.take_along_dim(rows[..., None], dim=1)
    ends = both.sum(dim=-1).flatten().cumsum(0)
    starts = torch.cat([ends.new_zeros(1), ends]).to(torch.int32)
    return starts, codes.unsqueeze(2).expand_as(both)[both], (rows - GROUP * group).to(torch.int16)


def signs_of_pairs(starts: Tensor, entries: Tensor, order: Tensor, outputs: int, inputs: int) -> Tensor:
    """The matrix that `pairs_of_signs` packed, as int8."""
    blocks, device = -(-inputs // BLOCK), entries.device
    kinds = torch.tensor([[1, 0], [0, 1], [1, 1], [1, -1]], dtype=torch.int8, device=device)
    both = torch.zeros(blocks * outputs * 2, BLOCK // 2, 2, dtype=torch.int8, device=device)
    owner = torch.repeat_interleave(starts.long().diff())
    both[owner, entries.long() // 4] = kinds[entries.long() % 4]
    plus, minus = both.view(blocks, outputs, 2, BLOCK).unbind(dim=2)  # of any size, even none
    rows = order.view(blocks, outputs).long() + torch.arange(outputs, device=device) // GROUP * GROUP
    fields = torch.zeros_like(plus).scatter_(1, rows.unsqueeze(-1).expand_as(plus), plus - minus)
    return rearrange(fields, "block output place -> output (block place)")[:, :inputs]


def lists_of_weights(weights: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The layout of `conv_from_values` for a matrix of floats: starts (int32), entries (uint8) and values.

    The kept weights, those that are not zero, of block b of 128 inputs and output r are the values from
    starts[b · outputs + r] on; the entries beside them are their inputs, as places in the block.
    """
    inputs = weights.shape[1]
    padded = torch.nn.functional.pad(weights, (0, -inputs % BLOCK))
    fields = rearrange(padded, "output (block place) -> block output place", place=BLOCK)
    kept = fields != 0
    ends = kept.sum(dim=-1).flatten().cumsum(0)
    starts = torch.cat([ends.new_zeros(1), ends]).to(torch.int32)
    return starts, kept.nonzero()[:, 2].to(torch.uint8), fields[kept]


def weights_of_lists(starts: Tensor, entries: Tensor, values: Tensor, outputs: int, inputs: int) -> Tensor:
    """The matrix that `lists_of_weights` packed."""
    blocks = -(-inputs // BLOCK)
    fields = values.new_zeros(blocks * outputs, BLOCK)
    fields[torch.repeat_interleave(starts.long().diff()), entries.long()] = values
    return rearrange(fields, "(block output) place -> output (block place)", block=blocks)[:, :inputs]


def fields_of_signs(signs: Tensor) -> Tensor:
    """The layout of `linear_int8` for a matrix of -1, 0 and +1, (outputs, inputs): bytes of four weights.

    A weight w is the field w + 1 of two bits. A block is 16 outputs by 16 inputs: byte 4 · output + i of it
    has the inputs i, 4 + i, 8 + i and 12 + i, the first in its lowest bits. Blocks go by panels of 64
    outputs, the last one narrower, then by inputs, then by outputs. Fields beyond the matrix are 1, that is,
    weights 0.
    """
    outputs, inputs = signs.shape
    padded = torch.nn.functional.pad(signs, (0, -inputs % 16, 0, -outputs % 16)) + 1
    order = "(group output) (block field byte) -> group output block field byte"
    fields = rearrange(padded, order, output=16, field=4, byte=4).to(torch.uint8)
    shifts = torch.arange(0, 8, 2, dtype=torch.uint8, device=signs.device).view(4, 1)
    packed = (fields << shifts).sum(dim=3, dtype=torch.uint8).split(_PANEL_GROUPS)
    order = "group output block byte -> (block group output byte)"
    return torch.cat([rearrange(panel, order) for panel in packed])


def signs_of_fields(fields: Tensor, outputs: int, inputs: int) -> Tensor:
    """The matrix that `fields_of_signs` packed, as int8."""
    blocks = -(-inputs // 16)
    panels = [
        rearrange(
            panel, "(block group output byte) -> group output block byte", block=blocks, output=16, byte=4
        )
        for panel in fields.split(_PANEL_GROUPS * 64 * max(blocks, 1))
    ]
    shifts = torch.arange(0, 8, 2, dtype=torch.uint8, device=fields.device).view(4, 1)
    weights = ((torch.cat(panels).unsqueeze(3) >> shifts) & 3).to(torch.int8) - 1
    padded = rearrange(weights, "group output block field byte -> (group output) (block field byte)")
    return padded[:outputs, :inputs]


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
    order = "(row half high) (column word low pair place) -> row half high column word low pair place"
    fields = rearrange(padded, order, half=2, high=8, word=4, low=4, pair=4, place=2)
    words = ((fields & 3).int() << _code_shifts(signs.device)).sum(dim=(1, 6, 7), dtype=torch.int32)
    return rearrange(words, "row high column word low -> row column (high low) word").contiguous()


def signs_of_codes(codes: Tensor, outputs: int, inputs: int) -> Tensor:
    """The matrix that `codes_of_signs` packed, as int8."""
    words = rearrange(codes, "row column (high low) word -> row 1 high column word low 1 1", high=8)
    fields = (words >> _code_shifts(codes.device)) & 3  # row half high column word low pair place
    signs = ((fields & 1) - (fields & 2)).to(torch.int8)
    order = "row half high column word low pair place -> (row half high) (column word low pair place)"
    return rearrange(signs, order)[:outputs, :inputs]


def _code_shifts(device: torch.device) -> Tensor:
    """Where a code stands in its word, by half of the tile (first axis), pair and place in it (last two)."""
    half = torch.arange(2, dtype=torch.int32, device=device).view(2, 1, 1, 1, 1, 1, 1)
    pair = torch.arange(4, dtype=torch.int32, device=device).view(4, 1)
    place = torch.arange(2, dtype=torch.int32, device=device)
    return 16 * place + 14 - 2 * (2 * pair + half)


def values_of_weights(weights: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The layout of `linear_from_values` for a matrix of floats, (outputs, inputs): masks, starts and values.

    masks[output, word] (int32), bit b: whether the weight of input 32 · word + b is kept, that is, not zero.
    The kept weights of an output, in order, are the values from starts[output] on (int64); 32 zeros follow
    the last, so that registers may be filled from anywhere.
    """
    inputs = weights.shape[1]
    padded = torch.nn.functional.pad(weights != 0, (0, -inputs % 32))
    kept = rearrange(padded, "output (word bit) -> output word bit", bit=32)
    words = (kept.long() << torch.arange(32, device=weights.device)).sum(dim=-1)
    masks = torch.where(words >= 1 << 31, words - (1 << 32), words).to(torch.int32)
    ends = kept.sum(dim=(1, 2)).cumsum(0)
    values = torch.cat([weights[weights != 0], weights.new_zeros(32)])
    return masks, torch.cat([ends.new_zeros(1), ends]), values


def weights_of_values(masks: Tensor, starts: Tensor, values: Tensor, outputs: int, inputs: int) -> Tensor:
    """The matrix that `values_of_weights` packed."""
    kept = (masks.unsqueeze(-1) >> torch.arange(32, device=masks.device)) & 1
    kept = kept.reshape(outputs, -1)[:, :inputs] != 0
    weights = values.new_zeros(outputs, inputs)
    weights[kept] = values[: len(values) - 32]
    return weights


MOST_PLACES = 1 << 15
"""Inputs that the places of `linear_from_places` may name."""


def places_of_weights(weights: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The layout of `linear_from_places` for a matrix of floats, (outputs, inputs).

    That is starts, places and values. The kept weights of an output, those that are not zero, are the values
    from starts[output] on (int64), and their inputs, at most `MOST_PLACES`, the places beside them (int16).

    Raises:
        ValueError: There are more inputs.
    """
    if weights.shape[1] > MOST_PLACES:
        raise ValueError(f"places name at most {MOST_PLACES} inputs, not {weights.shape[1]}")
    kept = weights != 0
    ends = kept.sum(dim=1).cumsum(0)
    return torch.cat([ends.new_zeros(1), ends]), kept.nonzero()[:, 1].to(torch.int16), weights[kept]


def weights_of_places(starts: Tensor, places: Tensor, values: Tensor, outputs: int, inputs: int) -> Tensor:
    """The matrix that `places_of_weights` packed."""
    weights = values.new_zeros(outputs, inputs)
    weights[torch.repeat_interleave(starts.diff()), places.long()] = values
    return weights


LINEAR_LAYOUTS: dict[str, Callable[..., Tensor]] = {
    "linear_from_triples": signs_of_triples,
    "linear_from_lists": signs_of_lists,
    "linear_from_pairs": signs_of_pairs,
    "linear_from_values": weights_of_values,
    "linear_from_places": weights_of_places,
    "linear_from_planes": signs_of_planes,
    "linear_int8": signs_of_fields,
}
"""Operator of a packed linear layer → what unpacks its layout, given also outputs and inputs."""
