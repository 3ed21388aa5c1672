"""Random numbers for data as pure functions of (seed, stream, index).

Philox is a counter-based generator: key and counter say where to read, so that any epoch or step is
drawn alone and nothing has to be stored to go on from it. Only raw 64-bit words are used. NumPy
keeps those unchanged between versions, which it does not promise for ``Generator.permutation`` or
``integers``, and torch's global generators are neither read nor moved.
"""

from enum import IntEnum

import numpy as np
from numpy.typing import NDArray


class Stream(IntEnum):
    """What the numbers are for; each stream is independent of the others at the same seed."""

    EPOCH_ORDER = 1
    AUGMENTATION = 2
    VALIDATION_SPLIT = 3
    DIGITS_SPLIT = 4
    RESIZED_CROP = 5
    COLOUR = 6
    CLASS_FRACTION = 7
    ALTERNATING_FLIP = 8


def raw_words(seed: int, stream: Stream, index: int, count: int) -> NDArray[np.uint64]:
    """Return ``count`` uniform 64-bit words.

    Args:
        seed: From 0 to 2^64 - 1.
        stream: What they are for.
        index: Epoch or step, from 0 to 2^64 - 1.
        count: How many.

    Raises:
        ValueError: The seed or the index is out of range.
    """
    for label, value in (("seed", seed), ("index", index)):
        if not 0 <= value < 2**64:
            raise ValueError(f"{label} is a whole number from 0 to 2^64 - 1, not {value}")
    # The lowest counter word runs within one call; the index sits above it and cannot be reached.
    key = np.array([seed, stream], dtype=np.uint64)
    counter = np.array([0, index, 0, 0], dtype=np.uint64)
    return np.asarray(np.random.Philox(key=key, counter=counter).random_raw(count), dtype=np.uint64)


def permutation(seed: int, stream: Stream, index: int, count: int) -> NDArray[np.int64]:
    """Return a uniform permutation of 0 .. count - 1: the order that sorts as many random words.

    Two equal words, at odds below count² / 2^65, keep their order.
    """
    return np.argsort(raw_words(seed, stream, index, count), kind="stable")
