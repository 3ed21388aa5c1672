"""Batches straight from memory, each a pure function of the seed and the step.

The images lie on the device as bytes. A batch costs one small copy from the host (which images, how
each is cropped), a gather, and two passes of arithmetic. There is no state to save: whoever knows
the step can go on from it. Every random choice is made on the CPU and the arithmetic is exactly
rounded, so all devices see the same batches to the last bit. Images that do not fit stay in their file
and are read ahead of the training.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from supermask.checks import is_count
from supermask.data.augment import (
    RESIZED_CROPS,
    Augmentation,
    alternating_flips,
    check_augmentation,
    crop_and_flip,
    crop_padding,
    draw_augmentation,
)
from supermask.data.boxes import SCALE, draw_boxes, middle_box
from supermask.data.colour import adjust_, draw_colours
from supermask.data.dataset import Images
from supermask.data.draws import Stream, permutation
from supermask.data.mapped import MappedImages
from supermask.data.normalize import Normalizer
from supermask.data.read_ahead import ReadAhead, place
from supermask.data.resample import resample


class Loader:
    """Training batches by step number.

    Epoch e visits the images in an order that depends on (seed, e) alone; step s augments its batch
    by (seed, s) alone. A last batch that would be partial is dropped, except that fewer images than
    one batch make one smaller batch.

    Args:
        images: The images, at least one; they are copied to ``device`` once, if they fit.
        batch_size: Images in a batch.
        seed: Of order and augmentation, from 0 to 2^64 - 1.
        mean: Mean of each channel, of pixel values in [0, 1].
        std: Standard deviation of each channel, likewise.
        augment: ``"none"``, ``"flip"`` (mirror images), ``"shift"`` (random crops with a black frame of one
            eighth of the image), ``"crop-flip"`` (both), ``"translate-flip"`` (smaller moves with a mirrored
            border, and mirror images in every second epoch), ``"resized-crop"`` (a random box of the image,
            scaled, and mirror images), or ``"resized-crop-colour"`` (with random brightness, contrast and
            saturation).
        crop_scale: Least share of an image's area that a resized crop takes, above 0 and at most 1.
        image_size: Height and width of the images in a batch, by default and at most those of ``images``. A
            resized crop is scaled to it; anything else takes the middle of each image first.
        shuffle: False visits the images in their own order every epoch.
        device: Where the batches are wanted.
        dtype: Of the images in a batch.
        channels_last: Memory format of the images in a batch.
        stream: Leave images of a mapped file there and read them batch by batch; by default where half of
            the device's free memory would not hold them.
        workers: Threads that read ahead of a stream; by default as many as torch has, from 2 to 8.
        ahead: Batches that they read ahead.

    Raises:
        TypeError: `images` are none.
        ValueError: An argument does not fit.
    """

    def __init__(
        self,
        images: Images,
        *,
        batch_size: int,
        seed: int,
        mean: Sequence[float],
        std: Sequence[float],
        augment: Augmentation = "none",
        crop_scale: float = SCALE[0],
        image_size: int | None = None,
        shuffle: bool = True,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        channels_last: bool = False,
        stream: bool | None = None,
        workers: int | None = None,
        ahead: int = 2,
    ) -> None:
        _check(images, batch_size, mean, std, image_size)
        check_augmentation(augment, crop_scale)
        if not 0 <= seed < 2**64:
            raise ValueError(f"seed is a whole number from 0 to 2^64 - 1, not {seed}")
        if len(images) == 0:
            raise ValueError("there are no images to make batches of; a loader needs at least one")
        self.batch_size = min(batch_size, len(images))
        self.steps_per_epoch = len(images) // self.batch_size
        if (workers is not None and workers < 0) or ahead < 0:
            raise ValueError(f"workers and ahead are not negative, and are {workers} and {ahead}")
        self._stored = images.shape[1]
        self._image_size = image_size or self._stored
        self._seed = seed
        self._augment = augment
        self._crop_scale = crop_scale
        self._shuffle = shuffle
        self._device = torch.device(device)
        self._normalize = Normalizer(mean, std, device, dtype, channels_last)
        self._orders: dict[int, NDArray[np.int64]] = {}
        self._labels = images.labels.to(device)
        self._images, streamed = place(images, device, stream)
        self._read_ahead: ReadAhead | None = None
        if isinstance(self._images, MappedImages) and streamed:
            self._read_ahead = ReadAhead(self._images, self._indices, device, workers=workers, ahead=ahead)

    def batch(self, step: int, rows: slice = slice(None)) -> tuple[Tensor, Tensor]:
        """Return the batch of a step, counted from 0 over all epochs.

        Args:
            step: Its number.
            rows: Which rows of it; the others are not made.

        Returns:
            Normalized images (B, C, H, W) of the loader's dtype, labels (B,) int64, on its device.

        Raises:
            ValueError: The step is negative.
        """
        if step < 0:
            raise ValueError(f"steps count from 0, and {step} is below it")
        indices = self._indices(step)[rows]
        drawn = {"seed": self._seed, "step": step, "count": self.batch_size}
        padding = crop_padding(self._image_size, self._augment)
        draws = np.empty((0, self.batch_size), dtype=np.int64)
        if self._augment in RESIZED_CROPS:
            draws = draw_boxes(side=self._stored, least=self._crop_scale, **drawn)
        elif self._augment != "none":
            draws = draw_augmentation(self._augment, padding=padding, **drawn)
        if self._augment == "translate-flip":
            epoch = step // self.steps_per_epoch
            draws[2, rows] = alternating_flips(self._seed, epoch, indices, len(self._labels))
        # One copy to the device for everything that was drawn.
        decisions = self._to_device(np.concatenate([indices[None], draws[:, rows]]))
        places, draws_there = decisions[0], decisions[1:]
        labels = self._labels.index_select(0, places)
        if self._augment in RESIZED_CROPS:
            pixels = resample(*self._located(step, rows, places), draws_there, self._image_size)
        else:
            pixels = self._middle(self._chosen(step, rows, places))
            if self._augment != "none":
                pixels = crop_and_flip(pixels, draws_there, padding, self._augment)
        if self._augment != "resized-crop-colour":
            return self._normalize(pixels), labels
        factors = self._to_device(np.ascontiguousarray(draw_colours(**drawn)[:, rows]))
        return self._normalize(pixels, lambda levels, window: adjust_(levels, factors[:, window])), labels

    def _chosen(self, step: int, rows: slice, places: Tensor) -> Tensor:
        """The images of a step: uint8, (B, C, H, W)."""
        return self._read_ahead(step, rows) if self._read_ahead else self._images.take(places).pixels

    def _located(self, step: int, rows: slice, places: Tensor) -> tuple[Tensor, Tensor]:
        """Images, and which of them are those of a step."""
        if self._read_ahead:
            return self._read_ahead(step, rows), torch.arange(len(places), device=places.device)
        return self._images.locate(places)

    def _middle(self, pixels: Tensor) -> Tensor:
        return pixels[(..., *middle_box(self._stored, self._image_size))]

    def _indices(self, step: int) -> NDArray[np.int64]:
        """Which images the batch of a step has."""
        epoch, position = divmod(step, self.steps_per_epoch)
        first = position * self.batch_size
        return self._epoch_order(epoch)[first : first + self.batch_size]

    def _epoch_order(self, epoch: int) -> NDArray[np.int64]:
        if epoch not in self._orders:
            # Two at a time: a stream reads ahead into the next epoch.
            self._orders = dict(list(self._orders.items())[-1:])
            count = len(self._labels)
            if self._shuffle:
                self._orders[epoch] = permutation(self._seed, Stream.EPOCH_ORDER, epoch, count)
            else:
                self._orders[epoch] = np.arange(count)
        return self._orders[epoch]

    def _to_device(self, array: NDArray[Any]) -> Tensor:
        tensor = torch.from_numpy(array)
        if self._device.type == "cuda":
            # From pinned memory the copy overlaps with what the device is doing.
            return tensor.pin_memory().to(self._device, non_blocking=True)
        return tensor.to(self._device)


def iterate_eval(
    images: Images,
    batch_size: int,
    mean: Sequence[float],
    std: Sequence[float],
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    turn: tuple[int, int] = (0, 1),
    *,
    image_size: int | None = None,
    channels_last: bool = False,
    stream: bool | None = None,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Iterate over the middle of every image once, in order.

    Whoever iterates often over images that are not on the device puts them there first, with
    `supermask.data.read_ahead.place`.

    Args:
        images: The images, on any device; none of them gives no batch.
        batch_size: Images in a batch; the last one may be smaller.
        mean: Mean of each channel, of pixel values in [0, 1].
        std: Standard deviation of each channel, likewise.
        device: Where the batches are wanted.
        dtype: Of the images in a batch.
        turn: Rank and number of those who share the batches; each gets whole ones, in turn.
        image_size: Height and width of the middle that is taken of each image; by default all of it.
        channels_last: Memory format of the images in a batch.
        stream: Read images of a mapped file ahead, in threads; by default for every device but a CPU.

    Returns:
        An iterator over batches: normalized images (B, C, H, W), labels (B,) int64.

    Raises:
        TypeError: `images` are none.
        ValueError: An argument does not fit.
    """
    _check(images, batch_size, mean, std, image_size)
    normalize = Normalizer(mean, std, device, dtype, channels_last)
    stored = images.shape[1]
    middle = middle_box(stored, image_size or stored)
    if stream is None:
        stream = torch.device(device).type != "cpu"
    rank, size = turn
    firsts = range(rank * batch_size, len(images), size * batch_size)

    def indices(step: int) -> NDArray[np.int64]:
        return np.arange(firsts[step], min(firsts[step] + batch_size, len(images)))

    def in_turn() -> Iterator[Images]:
        for first in firsts:
            last = min(first + batch_size, len(images))
            yield images.take(torch.arange(first, last, device=images.labels.device))

    def read_ahead() -> Iterator[Images]:
        assert isinstance(images, MappedImages)
        reading = ReadAhead(images, indices, device, steps=len(firsts))
        labels = images.labels.to(device)
        try:
            for step, first in enumerate(firsts):
                yield Images(reading(step), labels[first : first + batch_size])
        finally:
            reading.close()

    def batches() -> Iterator[tuple[Tensor, Tensor]]:
        for some in read_ahead() if isinstance(images, MappedImages) and stream else in_turn():
            yield normalize(some.pixels.to(device)[(..., *middle)]), some.labels.to(device)

    # A generator of its own, so that wrong arguments are refused now and not at the first batch.
    return batches()


def _check(
    images: Images, batch_size: int, mean: Sequence[float], std: Sequence[float], image_size: int | None
) -> None:
    if not isinstance(images, Images):
        raise TypeError(
            f"images are Images, such as data.train of a data set, and no {type(images).__name__}"
        )
    if not is_count(batch_size, 1):
        raise ValueError(f"batch_size is a whole number from 1 on, not {batch_size!r}")
    channels = images.shape[0]
    if len(mean) != channels or len(std) != channels:
        raise ValueError(
            f"mean and std need {channels} numbers, one for each channel, not {len(mean)} and "
            f"{len(std)}; take them from the data set the images came from"
        )
    if min(std) <= 0:
        raise ValueError(f"std is above 0 for every channel, and is {tuple(std)}")
    stored = images.shape[1]
    if image_size is not None and not 1 <= image_size <= stored:
        raise ValueError(
            f"image_size is a number of pixels from 1 to the {stored} of the images, not {image_size}; store "
            "larger images, or take smaller ones of them"
        )
