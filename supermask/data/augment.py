"""Random crops and flips of a whole batch at once.

The recipe of the literature: a frame of black pixels around the image, a window of the image's size
cut at a random place, then a mirror image with probability one half. Padding is done on the bytes,
before normalization, as torchvision's transforms do it, so the frame is black and not mean gray.
"""

from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from supermask.data.draws import Stream, raw_words

#: ``shift`` is a crop without a flip, for digits, whose mirror images are something else.
#: ``resized-crop`` is a random resized crop and a flip, see boxes.py; with ``-colour``, see colour.py.
Augmentation = Literal["none", "flip", "crop-flip", "shift", "resized-crop", "resized-crop-colour"]

RESIZED_CROPS = ("resized-crop", "resized-crop-colour")
_CROPS = ("crop-flip", "shift")
_FLIPS = ("flip", "crop-flip")


def check_augmentation(augment: str) -> None:
    """Refuse a name that is no augmentation.

    Raises:
        ValueError: It is none of them.
    """
    if augment not in get_args(Augmentation):
        raise ValueError(f"augment is one of {', '.join(get_args(Augmentation))}, and not {augment!r}")


def crop_padding(image_size: int) -> int:
    """Return the width of the black frame: 4 pixels for images of 32, in proportion for others."""
    return max(1, image_size // 8)


def draw_augmentation(
    augment: Augmentation, *, seed: int, step: int, count: int, padding: int
) -> NDArray[np.int64]:
    """Draw what happens to each image of one step's batch.

    Args:
        augment: Which of the augmentations.
        seed: Of the run.
        step: Number of the batch.
        count: Images in it.
        padding: Width of the black frame.

    Returns:
        (3, count): row and column where the window starts, 0 to 2 * padding, and 1 for a flip.
    """
    words = raw_words(seed, Stream.AUGMENTATION, step, 3 * count).reshape(3, count)
    # Of 2^64 values the remainder favours none by more than one part in 2^57.
    draws = np.stack([*(words[:2] % np.uint64(2 * padding + 1)), words[2] >> np.uint64(63)])
    draws = draws.astype(np.int64)
    if augment not in _CROPS:
        draws[:2] = padding
    if augment not in _FLIPS:
        draws[2] = 0
    return draws


def crop_and_flip(pixels: Tensor, draws: Tensor, padding: int) -> Tensor:
    """Return the batch after padding, cropping and flipping each image in its own way.

    Args:
        pixels: uint8, (B, C, H, W).
        draws: int64, (3, B), as ``draw_augmentation`` makes them, on the same device.
        padding: Width of the black frame.
    """
    batch, channels, height, width = pixels.shape
    rows = draws[0, :, None] + torch.arange(height, device=pixels.device)
    across = torch.arange(width, device=pixels.device)
    mirrored = torch.where(draws[2, :, None] == 1, width - 1 - across, across)
    columns = draws[1, :, None] + mirrored
    # One gather over flattened images; its result comes out contiguous.
    source = rows[:, :, None] * (width + 2 * padding) + columns[:, None, :]
    source = source.view(batch, 1, height * width).expand(-1, channels, -1)
    framed = F.pad(pixels, (padding, padding, padding, padding)).flatten(2)
    return framed.gather(2, source).view(batch, channels, height, width)
