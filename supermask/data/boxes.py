"""Which part of each image a random resized crop takes (Szegedy et al., arXiv:1409.4842, section 6).

The distribution is that of torchvision's ``RandomResizedCrop``: an area uniform between a least share of
the image, that of `SCALE` by default, and all of it, and an aspect ratio log-uniform in `RATIO`, drawn up to
ten times until the box fits, its sides rounded to whole pixels and its place uniform; if none of the ten
fits, the largest middle box within `RATIO`, which for a square image is the whole image. All ten are drawn
beforehand, so that the numbers of one image do not depend on another's.
"""

import math

import numpy as np
from numpy.typing import NDArray

from supermask.data.draws import Stream, raw_words

#: Least and greatest share of the image's area.
SCALE = (0.08, 1.0)
#: Least and greatest width over height.
RATIO = (3 / 4, 4 / 3)
_ATTEMPTS = 10
_WORDS = 2 * _ATTEMPTS + 3


def draw_boxes(*, seed: int, step: int, count: int, side: int, least: float = SCALE[0]) -> NDArray[np.int64]:
    """Draw a box of each image of one step's batch, and whether it is mirrored.

    Args:
        seed: Of the run.
        step: Number of the batch.
        count: Images in it.
        side: Height and width of the images.
        least: Least share of the image's area, above 0 and at most 1.

    Returns:
        (5, count): top row, left column, height, width of the box, and 1 for a mirror image.
    """
    words = raw_words(seed, Stream.RESIZED_CROP, step, _WORDS * count).reshape(_WORDS, count)
    uniform = _uniform(words[: 2 * _ATTEMPTS])
    areas = side * side * _between(uniform[:_ATTEMPTS], least, SCALE[1])
    ratios = np.exp(_between(uniform[_ATTEMPTS:], *map(math.log, RATIO)))
    heights = np.rint(np.sqrt(areas / ratios)).astype(np.int64)
    widths = np.rint(np.sqrt(areas * ratios)).astype(np.int64)
    fits = (heights >= 1) & (heights <= side) & (widths >= 1) & (widths <= side)
    first = fits.argmax(axis=0), np.arange(count)
    found = fits.any(axis=0)
    height, width = np.where(found, heights[first], side), np.where(found, widths[first], side)
    # Of 2^64 values the remainder favours none by more than one part in 2^51.
    top, left = (
        (word % (side - length + 1).astype(np.uint64)).astype(np.int64)
        for word, length in ((words[-3], height), (words[-2], width))
    )
    return np.stack([top, left, height, width, (words[-1] >> np.uint64(63)).astype(np.int64)])


def middle_box(side: int, image_size: int) -> tuple[slice, slice]:
    """Rows and columns of the middle square of ``image_size`` pixels."""
    first = (side - image_size) // 2
    return (slice(first, first + image_size),) * 2


def _uniform(words: NDArray[np.uint64]) -> NDArray[np.float64]:
    """Words as multiples of 2^-53 in [0, 1)."""
    return (words >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _between(uniform: NDArray[np.float64], low: float, high: float) -> NDArray[np.float64]:
    return low + (high - low) * uniform
