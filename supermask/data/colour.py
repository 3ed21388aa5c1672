"""Random brightness, contrast and saturation of a whole batch at once.

Each is a blend of the image with another one, with a factor uniform in 1 - `STRENGTH` to 1 + `STRENGTH`, as
torchvision's ``ColorJitter`` has it: with black, with the mean gray of the image, with its gray version.
One deviation: they come in this order and not in a random one.
"""

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from supermask.data.draws import Stream, raw_words

STRENGTH = 0.4
#: Shares of red, green and blue in gray (ITU-R BT.601).
_GRAY = (0.2989, 0.587, 0.114)


def draw_colours(*, seed: int, step: int, count: int) -> NDArray[np.float32]:
    """Draw the factors of each image of one step's batch: (3, count), brightness, contrast, saturation."""
    words = raw_words(seed, Stream.COLOUR, step, 3 * count).reshape(3, count)
    uniform = (words >> np.uint64(40)).astype(np.float32) * np.float32(2.0**-24)
    return np.float32(1 - STRENGTH) + np.float32(2 * STRENGTH) * uniform


def adjust_(levels: Tensor, factors: Tensor) -> None:
    """Change the colours of images in place, to the same bits on every device.

    Args:
        levels: float32, (B, C, H, W), from 0 to 255; of one channel, only brightness and contrast change.
        factors: float32, (3, B).
    """
    brightness, contrast, saturation = factors[:, :, None, None, None]
    levels.mul_(brightness).clamp_(0, 255)
    mean = _mean(_gray(levels))
    levels.mul_(contrast).add_((1 - contrast) * mean).clamp_(0, 255)
    if levels.shape[1] == 3:
        gray = _gray(levels)
        levels.mul_(saturation).add_((1 - saturation) * gray).clamp_(0, 255)


def _gray(levels: Tensor) -> Tensor:
    """Gray versions, (B, 1, H, W)."""
    if levels.shape[1] != 3:
        return levels[:, :1]
    red, green, blue = (plane * share for plane, share in zip(levels.split(1, dim=1), _GRAY, strict=True))
    return red.add_(green).add_(blue)


def _mean(gray: Tensor) -> Tensor:
    """Mean of each image, (B, 1, 1, 1).

    Summed in whole parts of a level, as many as leave the sum of a row below 2^24: all sums are exact, and
    their order does not matter.
    """
    parts = 2.0 ** (16 - (gray.shape[3] - 1).bit_length())
    rows = (gray * parts).round_().sum(3, keepdim=True)
    return (rows.double().sum(2, keepdim=True) / (parts * gray[0].numel())).float()
