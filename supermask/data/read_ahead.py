"""Images of coming batches, read from a mapped file in background threads."""

import os
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from supermask.data.dataset import Images, is_on_device, on_device
from supermask.data.mapped import MappedImages

#: Threads that read ahead: two are worth it even for a run of one thread, because they wait for the disk.
_FEWEST, _MOST = 2, 8


class ReadAhead:
    """Reads ahead of a training or an evaluation; what it returns depends on the step alone.

    On a GPU images go to pinned memory and from there to the device while it is busy with earlier batches.

    Args:
        images: Where they are.
        indices_of: Step number → which images its batch has.
        device: Where they are wanted.
        workers: Threads that read; with 0, the caller reads when it needs the images. None takes as many as
            torch has, from 2 to 8.
        ahead: Batches to read ahead.
        steps: How many steps there are; None for no end.
    """

    def __init__(
        self,
        images: MappedImages,
        indices_of: Callable[[int], NDArray[np.int64]],
        device: torch.device | str,
        *,
        workers: int | None = None,
        ahead: int = 2,
        steps: int | None = None,
    ) -> None:
        if workers is None:
            workers = min(max(torch.get_num_threads(), _FEWEST), _MOST)
        self._images, self._indices_of, self._device = images, indices_of, torch.device(device)
        self._rows, self._stored = images.rows.numpy(), images.stored.numpy()
        self._ahead, self._steps = ahead, steps
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="read-ahead") if workers else None
        self._workers = max(1, workers)
        self._coming: dict[int, tuple[Tensor, list[Future[None]]]] = {}
        self._part = slice(None)
        self._copies = torch.cuda.Stream(self._device) if self._device.type == "cuda" else None

    def __call__(self, step: int, part: slice = slice(None)) -> Tensor:
        """Return the images of a step, or part of them: uint8, (B, C, H, W), in channels_last, on the device.

        The same part is read ahead.
        """
        if self._pool is None:
            return self._deliver(*self._begin(step, part))
        if part != self._part:
            self._drop(self._coming)
            self._part = part
        end = step + self._ahead + 1
        wanted = range(step, end if self._steps is None else min(end, self._steps))
        self._drop([other for other in self._coming if other not in wanted])
        for coming in wanted:
            if coming not in self._coming:
                self._coming[coming] = self._begin(coming, part)
        return self._deliver(*self._coming.pop(step))

    def close(self) -> None:
        """End the threads; what was read ahead is dropped."""
        self._drop(self._coming)
        if self._pool is not None:
            self._pool.shutdown(wait=False)

    def _drop(self, steps: Iterable[int]) -> None:
        for step in list(steps):
            for reading in self._coming.pop(step)[1]:
                reading.cancel()

    def _begin(self, step: int, part: slice) -> tuple[Tensor, list[Future[None]]]:
        rows = self._rows[self._indices_of(step)[part]]
        # Pinned memory that is let go of is not used again before the copy from it has ended.
        shape, pinned = (len(rows), *self._stored.shape[1:]), self._copies is not None
        host = torch.empty(shape, dtype=torch.uint8, pin_memory=pinned)
        target = host.numpy()

        def read(some: slice) -> None:
            np.take(self._stored, rows[some], axis=0, out=target[some], mode="clip")

        if self._pool is None:
            read(slice(None))
            return host, []
        bounds = np.linspace(0, len(rows), self._workers + 1).astype(int).tolist()
        return host, [self._pool.submit(read, slice(*pair)) for pair in pairwise(bounds)]

    def _deliver(self, host: Tensor, readings: list[Future[None]]) -> Tensor:
        for reading in readings:
            reading.result()
        planes = host.permute(0, 3, 1, 2)
        if self._copies is None:
            return planes.to(self._device)
        with torch.cuda.stream(self._copies):
            copied = planes.to(self._device, non_blocking=True)
        user = torch.cuda.current_stream(self._device)
        user.wait_stream(self._copies)
        copied.record_stream(user)
        return copied


def place(images: Images, device: torch.device | str, stream: bool | None = None) -> tuple[Images, bool]:
    """Put images where batches are made of them: on the device, as long as somebody keeps the result.

    Images of a mapped file stay there if that is asked for or the device has no room, and always on a CPU.

    Args:
        images: The images.
        device: Where the batches are wanted.
        stream: Leave those of a mapped file there; by default where half of the device's free memory would
            not hold them.

    Returns:
        The images there, or as they are; whether they should be read ahead.
    """
    if isinstance(images, MappedImages):
        if stream is None:
            stream = not (is_on_device(images, device) or fits(images, device))
        if stream:
            return images, True
    return on_device(images, device), False


def fits(images: MappedImages, device: torch.device | str) -> bool:
    """Whether half of a device's free memory holds the images."""
    device = torch.device(device)
    if device.type == "cuda":
        return images.nbytes <= torch.cuda.mem_get_info(device)[0] // 2
    return images.nbytes <= available_memory() // 2


def available_memory() -> int:
    """Bytes of memory that can be had without swapping; file caches count as free."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration, ValueError, IndexError):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
