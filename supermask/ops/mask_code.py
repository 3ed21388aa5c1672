"""References for masks as bytes: packed bits in torch, and their entropy code in vectorized NumPy.

The code is rANS of two symbols with interleaved states.

rANS is Duda's ("Asymmetric numeral systems", arXiv:1311.2540); its states share one stream of words as Giesen
has it ("Interleaved entropy coders", arXiv:1402.3392). docs/ticket-format.md has the layout of the code, and
`csrc/include/supermask/rans.h` the compiled form.
"""

import numpy as np
import torch
from torch import Tensor

TOTAL = 1 << 12
"""What the frequencies of ones and zeros add up to."""
LOW = 1 << 16
"""States lie in [2^16, 2^32)."""
PER_LANE = 8192
"""Most bits that one state codes: few steps for whoever decodes all lanes at once, and few states."""


def _bit_values(device: torch.device) -> Tensor:
    return torch.tensor([1, 2, 4, 8, 16, 32, 64, 128], dtype=torch.uint8, device=device)


def pack(mask: Tensor) -> Tensor:
    """One bit for each entry of a bool mask, least significant first."""
    flat = mask.contiguous().view(-1).to(torch.uint8)
    flat = torch.nn.functional.pad(flat, (0, -len(flat) % 8))
    return (flat.view(-1, 8) * _bit_values(mask.device)).sum(dim=1, dtype=torch.uint8)


def unpack(packed: Tensor, numel: int) -> Tensor:
    """The first `numel` bits as a flat bool tensor."""
    return (packed.unsqueeze(1) & _bit_values(packed.device)).flatten()[:numel] != 0


def lanes_of(numel: int) -> int:
    """How many states are interleaved."""
    return -(-numel // PER_LANE)


def frequency_of(kept: int, numel: int) -> int:
    """The frequency of ones: never 0 and never all, so that both symbols have a code."""
    return min(max((2 * TOTAL * kept + numel) // (2 * numel), 1), TOTAL - 1)


def encode(mask: Tensor) -> Tensor:
    """The code of a bool mask of any shape, uint8 of one dimension."""
    bits = mask.detach().cpu().contiguous().view(-1).numpy()
    if not len(bits):
        raise RuntimeError("a mask without bits has no code")
    ones = frequency_of(int(bits.sum()), len(bits))
    lanes = lanes_of(len(bits))
    states = np.full(lanes, LOW, dtype=np.uint64)
    words = []
    for begin in reversed(range(0, len(bits), lanes)):
        bit = bits[begin : begin + lanes]
        state = states[: len(bit)]
        frequency = np.where(bit, ones, TOTAL - ones).astype(np.uint64)
        full = state >= frequency << np.uint64(20)
        words.append(state[full].astype("<u2"))
        state[full] >>= np.uint64(16)
        start = np.where(bit, 0, ones).astype(np.uint64)
        state[:] = (state // frequency << np.uint64(12)) + state % frequency + start
    parts = [np.array([ones], dtype="<u2"), states.astype("<u4"), *reversed(words)]
    return torch.from_numpy(np.concatenate([part.view(np.uint8) for part in parts])).to(mask.device)


def decode(coded: Tensor, numel: int) -> Tensor:
    """The `numel` bits of a code as a flat bool tensor.

    Raises:
        RuntimeError: The bytes are not what `encode` makes of any mask of that size.
    """
    code = coded.detach().cpu().contiguous().numpy()
    lanes = lanes_of(numel)
    head = 2 + 4 * lanes
    _check(numel > 0, f"a mask without bits has no code; numel is {numel}")
    _check(len(code) >= head, f"the code of {numel} mask bits takes {head} bytes or more, not {len(code)}")
    what = f"the code of {numel} mask bits"
    _check((len(code) - head) % 2 == 0, f"{what} has not the length of its states and words")
    ones = int(code[:2].view("<u2")[0])
    _check(0 < ones < TOTAL, f"{what} has no frequency from 1 to {TOTAL - 1}")
    states = code[2:head].view("<u4").astype(np.uint64)
    _check(bool((states >= LOW).all()), f"{what} begins with a state below 2^16")
    words = code[head:].view("<u2").astype(np.uint64)
    bits, read = np.empty(numel, dtype=bool), 0
    for begin in range(0, numel, lanes):
        state = states[: numel - begin]
        slot = state % TOTAL
        bit = slot < ones
        bits[begin : begin + lanes] = bit
        frequency, start = np.where(bit, ones, TOTAL - ones), np.where(bit, 0, ones)
        state[:] = frequency.astype(np.uint64) * (state >> np.uint64(12)) + slot - start.astype(np.uint64)
        low = state < LOW
        count = int(low.sum())
        _check(read + count <= len(words), f"{what} ends before its bits do")
        state[low] = state[low] << np.uint64(16) | words[read : read + count]
        read += count
    _check(read == len(words), f"{what} has words left over")
    _check(bool((states == LOW).all()), f"{what} does not end in the states that coding began with")
    _check(ones == frequency_of(int(bits.sum()), numel), f"{what} has another frequency than its bits")
    return torch.from_numpy(bits).to(coded.device)


def _check(holds: bool, message: str) -> None:
    if not holds:
        raise RuntimeError(message)
