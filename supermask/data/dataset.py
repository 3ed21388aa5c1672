"""Images as bytes in memory, and the two splits of a data set."""

import hashlib
import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from weakref import WeakKeyDictionary, WeakValueDictionary

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from supermask.checks import is_number
from supermask.data.draws import Stream, permutation
from supermask.data.errors import DamagedDataError

#: Images handled at a time where a float copy of all of them would not fit.
_CHUNK = 1024
#: Values handled at a time where images are made larger.
_LARGEST = 1 << 26


@dataclass(frozen=True, eq=False)
class Images:
    """Images and their labels.

    Args:
        pixels: uint8, (N, C, H, W), contiguous or in channels_last.
        labels: int64, (N,).

    Raises:
        ValueError: A tensor has another dtype or shape, or the two differ in length.
    """

    pixels: Tensor
    labels: Tensor

    def __post_init__(self) -> None:
        pixels, labels = self.pixels, self.labels
        if pixels.dtype != torch.uint8 or pixels.ndim != 4 or not _is_dense(pixels):
            raise ValueError(
                "pixels are a contiguous uint8 tensor (N, C, H, W), and these are "
                f"{pixels.dtype} of shape {tuple(pixels.shape)}; convert them first"
            )
        if labels.dtype != torch.int64 or labels.shape != (len(pixels),):
            raise ValueError(
                f"labels are an int64 tensor ({len(pixels)},), one for each image, and these are "
                f"{labels.dtype} of shape {tuple(labels.shape)}"
            )

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of each image."""
        _, channels, height, width = self.pixels.shape
        return channels, height, width

    def locate(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """Return pixels (N, C, H, W) and which of them are the images at integer indices."""
        return self.pixels, indices

    def take(self, indices: Tensor) -> "Images":
        """Return the images at integer indices, in their order."""
        indices = indices.to(self.labels.device)
        return Images(self.pixels.index_select(0, indices), self.labels.index_select(0, indices))

    def to(self, device: torch.device | str) -> "Images":
        """Return the images on a device, without a copy if they are there."""
        return Images(self.pixels.to(device), self.labels.to(device))


_copies: WeakKeyDictionary[Images, WeakValueDictionary[str, Images]] = WeakKeyDictionary()


def on_device(images: Images, device: torch.device | str) -> Images:
    """`images.to(device)`, as one copy for all who use it there at the same time, as runs of a team do."""
    copies = _copies.setdefault(images, WeakValueDictionary())
    if (found := copies.get(str(device))) is None:
        found = copies[str(device)] = images.to(device)
    return found


def is_on_device(images: Images, device: torch.device | str) -> bool:
    """Whether somebody uses a copy of the images there."""
    copies = _copies.get(images)
    found = copies.get(str(device)) if copies is not None else None
    return found is not None and found is not images


@dataclass(frozen=True, eq=False)
class Dataset:
    """A training split, a test split and what is known about both.

    Args:
        name: The name it was loaded by.
        train: Training images; a validation split is taken from these.
        test: Test images, for one look at the end.
        classes: Names of the classes, by label.
        mean: Mean of each channel, of pixel values in [0, 1].
        std: Standard deviation of each channel, likewise.
        crop_size: Height and width of what a network sees of the images, where that is not all of them.
        known_fingerprint: The fingerprint, where it was computed before.
        left_out: Corrupt images that are not in it.

    Raises:
        DamagedDataError: The splits do not fit each other, the classes or the channels, or the
            images are not square.
    """

    name: str
    train: Images
    test: Images
    classes: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    crop_size: int | None = None
    known_fingerprint: str | None = None
    left_out: int = 0

    def __post_init__(self) -> None:
        for split, images in (("train", self.train), ("test", self.test)):
            if len(images) == 0:
                raise DamagedDataError(f"the {split} split of {self.name!r} has no images")
            least, most = int(images.labels.min()), int(images.labels.max())
            if least < 0 or most >= self.num_classes:
                raise DamagedDataError(
                    f"the {split} split of {self.name!r} has labels from {least} to {most}, and "
                    f"{self.num_classes} classes need labels from 0 to {self.num_classes - 1}"
                )
        train, test = self.train.shape, self.test.shape
        if train != test:
            raise DamagedDataError(
                f"images of {self.name!r} are {train} (channels, height, width) in train and {test} "
                "in test; pass image_size= to bring them to one size"
            )
        if train[1] != train[2]:
            raise DamagedDataError(
                f"images of {self.name!r} are {train[1]} high and {train[2]} wide, and networks "
                "here take square ones; pass image_size= to crop them"
            )
        if not len(self.mean) == len(self.std) == self.in_channels or min(self.std) <= 0:
            raise ValueError(
                f"mean and std need one number for each of {self.in_channels} channels, std above "
                f"0; they are {self.mean} and {self.std}"
            )

    @property
    def in_channels(self) -> int:
        """Channels of each image."""
        return self.train.shape[0]

    @property
    def image_size(self) -> int:
        """Height and width of the images that a network sees."""
        return self.crop_size or self.train.shape[1]

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return len(self.classes)

    @cached_property
    def fingerprint(self) -> str:
        """Twelve hexadecimal digits of SHA-256 over all pixels and labels, and the normalization."""
        if self.known_fingerprint is not None:
            return self.known_fingerprint
        digest = hashlib.sha256(repr((self.classes, self.mean, self.std)).encode())
        for images in (self.train, self.test):
            for indices in torch.arange(len(images)).split(_CHUNK):
                digest.update(images.take(indices).pixels.contiguous().cpu().numpy().data)
            digest.update(images.labels.cpu().numpy().data)
        return digest.hexdigest()[:12]

    def split(self, val: int | float, *, seed: int) -> tuple[Images, Images]:
        """Part the training images at random into training and validation images.

        The choice depends on the seed and the number of images alone. Both parts keep the order of
        the whole.

        Args:
            val: How many to hold out (int), or which fraction (float in [0, 1)); 0 holds out none.
            seed: Of the choice, from 0 to 2^64 - 1.

        Returns:
            Images to train on, images to validate on.

        Raises:
            ValueError: ``val`` is out of range; at least one image stays to train on.
        """
        total = len(self.train)
        limit = 1.0 if isinstance(val, float) else total
        count = round(val * total) if isinstance(val, float) and 0 <= val < 1 else val
        if not is_number(val) or not 0 <= val < limit or not count < total:
            raise ValueError(
                f"val={val!r} of {total} training images: give a number of images from 0 to "
                f"{total - 1} or a fraction from 0.0 to below 1.0 that leaves one to train on"
            )
        order = permutation(seed, Stream.VALIDATION_SPLIT, 0, total)
        held, kept = np.sort(order[: int(count)]), np.sort(order[int(count) :])
        return self.train.take(torch.from_numpy(kept)), self.train.take(torch.from_numpy(held))

    def resized(self, image_size: int) -> "Dataset":
        """Return the data set with square images of another size (bilinear, antialiased).

        Mean and std stay as they are: they belong to the set, not to a size.

        Args:
            image_size: The new height and width, at least 1.
        """

        def scale(images: Images) -> Images:
            return Images(resize_pixels(images.pixels, image_size), images.labels)

        train, test = scale(self.train), scale(self.test)
        return replace(self, train=train, test=test, crop_size=None, known_fingerprint=None)


def resize_pixels(pixels: Tensor, image_size: int) -> Tensor:
    """Return uint8 images (N, C, H, W) as (N, C, image_size, image_size), bilinear, antialiased."""
    parts = []
    for part in pixels.split(max(1, min(_CHUNK, _LARGEST // (pixels.shape[1] * image_size**2)))):
        smooth = F.interpolate(part.float(), (image_size, image_size), mode="bilinear", antialias=True)
        parts.append(smooth.round_().clamp_(0, 255).to(torch.uint8))
    return torch.cat(parts)


def channel_statistics(pixels: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return mean and standard deviation of each channel, of pixel values in [0, 1].

    Counted in integers and summed exactly, so that every machine gets the same numbers. A constant
    channel gets the standard deviation 1: there is nothing to scale, and nothing to divide by.

    Args:
        pixels: uint8, (N, C, H, W), N at least 1.
    """
    return statistics_of(map(level_counts, pixels.split(_CHUNK)))


def level_counts(pixels: Tensor) -> Tensor:
    """Return how often each level occurs in each channel of pixels (N, C, H, W): int64, (C, 256)."""
    return torch.stack([torch.bincount(plane.flatten(), minlength=256) for plane in pixels.unbind(1)])


def statistics_of(counts: Iterable[Tensor]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return what `channel_statistics` does, from the level counts of parts of the images."""
    means, deviations = [], []
    for levels in sum(counts, torch.zeros((), dtype=torch.int64)).tolist():
        total = sum(levels)
        mean = sum(level * count for level, count in enumerate(levels)) / (255 * total)
        variance = math.fsum(count * (level / 255 - mean) ** 2 for level, count in enumerate(levels)) / total
        means.append(mean)
        deviations.append(math.sqrt(variance) if variance > 0 else 1.0)
    return tuple(means), tuple(deviations)


def _is_dense(pixels: Tensor) -> bool:
    return pixels.is_contiguous() or pixels.is_contiguous(memory_format=torch.channels_last)
