"""Random crops and flips of a whole batch at once.

The recipe of the literature: a frame of black pixels around the image, a window of the image's size
cut at a random place, then a mirror image with probability one half. Padding is done on the bytes,
before normalization, as torchvision's transforms do it, so the frame is black and not mean gray.

``translate-flip`` is that of Jordan (arXiv:2404.00498, section 3.6 and the authors' code): images are moved
by up to 2 of 32 pixels, with what the border mirrors in place of black, and flips alternate. Which images
are mirrored is drawn for the first epoch; after it each image is mirrored in every second epoch, so that two
epochs in a row show each image once as it is and once mirrored.
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
Augmentation = Literal[
    "none", "flip", "crop-flip", "translate-flip", "shift", "resized-crop", "resized-crop-colour"
]

RESIZED_CROPS = ("resized-crop", "resized-crop-colour")
_CROPS = ("crop-flip", "translate-flip", "shift")
_FLIPS = ("flip", "crop-flip")
_MIRRORED_BORDER = ("translate-flip",)


def check_augmentation(augment: str, crop_scale: float) -> None:
    """Refuse a name that is no augmentation, and a share of the area that is none.

    Raises:
        ValueError: It is none of them.
    """
    if augment not in get_args(Augmentation):
        raise ValueError(f"augment is one of {', '.join(get_args(Augmentation))}, and not {augment!r}")
    if not 0 < crop_scale <= 1:
        raise ValueError(f"crop_scale is a share of an image's area, above 0 and at most 1, not {crop_scale}")


def crop_padding(image_size: int, augment: Augmentation = "crop-flip") -> int:
    """Return the width of the frame in pixels: 4 for images of 32, in proportion for others; half of it
    for ``translate-flip``."""
    return max(1, image_size // (16 if augment in _MIRRORED_BORDER else 8))


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


def alternating_flips(seed: int, epoch: int, indices: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """Say which images of a batch are mirrored under alternating flips.

    Args:
        seed: Of the run.
        epoch: Number of the epoch, from 0.
        indices: Which images of the training split the batch has, (B,).
        count: Images of the training split.

    Returns:
        (B,): 1 for a mirror image. Whether an image is mirrored in epoch 0 is drawn; it is in the next epoch
        if it was not in the one before.
    """
    words = raw_words(seed, Stream.ALTERNATING_FLIP, 0, count)
    first = (words[indices] >> np.uint64(63)).astype(np.int64)
    return first ^ (epoch & 1)


def crop_and_flip(pixels: Tensor, draws: Tensor, padding: int, augment: Augmentation = "crop-flip") -> Tensor:
    """Return the batch after padding, cropping and flipping each image in its own way.

    Args:
        pixels: uint8, (B, C, H, W).
        draws: int64, (3, B), as ``draw_augmentation`` makes them, on the same device.
        padding: Width of the frame.
        augment: Which of the augmentations; it says whether the frame is black or mirrors the image.
    """
    batch, channels, height, width = pixels.shape
    rows = draws[0, :, None] + torch.arange(height, device=pixels.device)
    across = torch.arange(width, device=pixels.device)
    mirrored = torch.where(draws[2, :, None] == 1, width - 1 - across, across)
    columns = draws[1, :, None] + mirrored
    if augment in _MIRRORED_BORDER:
        rows, columns = _reflected(rows - padding, height), _reflected(columns - padding, width)
        padding = 0
    # One gather over flattened images; its result comes out contiguous.
    source = rows[:, :, None] * (width + 2 * padding) + columns[:, None, :]
    source = source.view(batch, 1, height * width).expand(-1, channels, -1)
    framed = F.pad(pixels, (padding, padding, padding, padding)).flatten(2)
    return framed.gather(2, source).view(batch, channels, height, width)


def _reflected(places: Tensor, size: int) -> Tensor:
    """Places outside an image → those that a mirror at its first or last pixel shows there."""
    if size == 1:
        return torch.zeros_like(places)
    places = places.abs()
    return torch.minimum(places, 2 * (size - 1) - places)
