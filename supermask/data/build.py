"""Decode a folder of images once, in threads, into a cache.

The file is written under a temporary name and renamed when it is whole, by one process at a time. Threads
suffice: decoders let go of the interpreter lock, and what stays with it is about a tenth of the work.
"""

import hashlib
import os
import shutil
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from supermask import extras
from supermask.data.cache import Cache, Header, header_bytes, open_cache, pack_header
from supermask.data.dataset import level_counts, statistics_of
from supermask.data.decode import decode
from supermask.data.entries import shown
from supermask.data.errors import DamagedDataError, UnreadableImageError
from supermask.data.listing import Listing
from supermask.data.progress import progress
from supermask.io import atomic_write

#: Files that a thread takes at a time; to hand small ones over singly costs as much as to decode.
_RUN = 32
#: Bytes of decoded images that a thread adds up at a time, and how many such pieces there are at once.
_PIECE = 2**25
_PIECES = 8
_MOST_THREADS = 64
#: Names of corrupt images in an error.
_SHOWN = 10
T = TypeVar("T")
REMEDY = "Replace or delete them, or leave them out with allow_corrupt"


def build_cache(
    path: Path,
    listing: Listing,
    classes: Sequence[str],
    size: tuple[int, int],
    *,
    fit: bool,
    allow_corrupt: bool,
) -> Cache:
    """Make a cache, unless another process made it meanwhile, and open it.

    Args:
        path: The file.
        listing: What to decode.
        classes: Names of the classes, by label, as the data set shows them.
        size: Height and width of the stored images.
        fit: Bring images to that size, where they otherwise must have it.
        allow_corrupt: Leave out images that are missing or cannot be decoded.

    Raises:
        DamagedDataError: Images are missing or corrupt and that is not allowed, or none of a class is left;
            or an image has another size.
        OSError: The file cannot be written, or does not fit on the disk.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    filelock: Any = extras.load("filelock", "data")
    with filelock.FileLock(path.with_name(f".{path.name}.lock")):
        if (made := open_cache(path, listing.fingerprint)) is not None:
            return made
        for left in path.parent.glob(f".{path.name}.*.tmp"):
            left.unlink()  # of a process that was killed: whoever holds the lock is alone
        _check_room(path.parent, len(listing.files) * 3 * size[0] * size[1])
        with atomic_write(path) as temporary, temporary.open("r+b") as file:
            _Builder(file.fileno(), listing, classes, size).build(fit, allow_corrupt)
        cache = open_cache(path, listing.fingerprint)
    if cache is None:
        raise DamagedDataError(f"{path} does not hold what was just written to it; is its disk sound?")
    return cache


def _check_room(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise DamagedDataError(
            f"the decoded images take {needed / 2**30:.1f} GiB, and {folder} has {free / 2**30:.1f} GiB "
            "left; name a folder with more room as cache, or store smaller images"
        )


class _Builder:
    """One build into an open file."""

    def __init__(
        self, descriptor: int, listing: Listing, classes: Sequence[str], size: tuple[int, int]
    ) -> None:
        self._file, self._listing, self._classes, self._size = descriptor, listing, tuple(classes), size
        self._start = header_bytes(len(classes), sum(map(len, classes)))
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        self._pool = ThreadPoolExecutor(min(cores, _MOST_THREADS), thread_name_prefix="decode")

    def build(self, fit: bool, allow_corrupt: bool) -> None:
        """Decode everything, close the gaps of corrupt images, and write the header."""
        files, root = self._listing.files, self._listing.root
        with self._pool, progress() as begin:
            one = partial(decode, size=self._size, fit=fit)
            gray, corrupt = self._decode_all(one, begin(f"decoding {root.name}", len(files)))
            self._check_corrupt(corrupt, allow_corrupt)
            kept = np.setdiff1d(np.arange(len(files)), list(corrupt))
            shape = (len(kept), *self._size, 1 if gray else 3)
            if len(kept) < len(files) or gray:
                self._close_gaps(kept, shape[3])
            header = self._add_up(shape, corrupt, begin)
        os.ftruncate(self._file, self._start + header.bytes)
        os.pwrite(self._file, pack_header(header, self._start), 0)

    def _decode_all(
        self,
        one: Callable[[Path], tuple[NDArray[np.uint8], bool]],
        advance: Callable[[int], object],
    ) -> tuple[bool, dict[int, str]]:
        """Decode every file to its place; returns whether all are gray, and what is wrong with which file."""
        files, root, missing = self._listing.files, self._listing.root, self._listing.missing
        length = self._image_bytes(3)
        corrupt: dict[int, str] = {}

        def run(first: int) -> bool:
            all_gray = True
            window = range(first, min(first + _RUN, len(files)))
            for index in window:
                if index in missing:
                    corrupt[index] = f"{shown(root / files[index])} {missing[index]}"
                    continue
                try:
                    pixels, gray = one(root / files[index])
                except UnreadableImageError as error:
                    corrupt[index] = str(error)
                    continue
                _write(self._file, pixels, self._start + index * length)
                all_gray &= gray
            advance(len(window))
            return all_gray

        try:
            grays = list(self._pool.map(run, range(0, len(files), _RUN)))
        except BaseException:
            # Otherwise leaving the pool would first decode everything that is still queued.
            self._pool.shutdown(cancel_futures=True)
            raise
        return all(grays), dict(sorted(corrupt.items()))

    def _check_corrupt(self, corrupt: dict[int, str], allowed: bool) -> None:
        if not corrupt:
            return
        reasons = list(corrupt.values())
        more = f"; and {len(reasons) - _SHOWN} more" if len(reasons) > _SHOWN else ""
        if not allowed:
            missing = len(self._listing.missing)
            total = len(self._listing.files)
            numbers = ((missing, "missing"), (len(reasons) - missing, "corrupt"))
            what = " and ".join(f"{n} of {total} images are {how}" for n, how in numbers if n)
            raise DamagedDataError(f"{what}: {'; '.join(reasons[:_SHOWN])}{more}. {REMEDY}")
        split_ends = np.cumsum([0, *map(sum, self._listing.counts)])
        for split, counts in enumerate(self._counts(corrupt)):
            for name, left in zip(self._listing.classes, counts, strict=True):
                if left == 0:
                    where = Path(self._listing.files[split_ends[split]]).parts[0]
                    raise DamagedDataError(
                        f"every image of the class {name} in {where}/ is missing or corrupt"
                    )

    def _counts(self, corrupt: dict[int, str]) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Images of each class without the corrupt ones."""
        counts = np.array(self._listing.counts)
        places = np.searchsorted(np.cumsum(counts.ravel()), list(corrupt), side="right")
        left = counts.ravel() - np.bincount(places.astype(np.int64), minlength=counts.size)
        half = counts.shape[1]
        return tuple(left[:half].tolist()), tuple(left[half:].tolist())

    def _close_gaps(self, kept: NDArray[np.int64], channels: int) -> None:
        """Move images down to where they belong without the others, or without two equal channels."""
        old, new = self._image_bytes(3), self._image_bytes(channels)
        for place, index in enumerate(kept.tolist()):
            data = np.frombuffer(os.pread(self._file, old, self._start + index * old), dtype=np.uint8)
            pixels = np.ascontiguousarray(data.reshape(*self._size, 3)[..., :channels])
            _write(self._file, pixels, self._start + place * new)

    def _add_up(
        self,
        shape: tuple[int, int, int, int],
        corrupt: dict[int, str],
        begin: Callable[[str, int], Callable[[int], None]],
    ) -> Header:
        """Statistics and fingerprint of what was written."""
        counts = self._counts(corrupt)
        train, test = map(sum, counts)
        # The training split is read twice: the digest begins with its statistics.
        advance = begin("adding up", 2 * train + test)

        def levels_of(part: range) -> torch.Tensor:
            levels = level_counts(self._read(part, shape))
            advance(len(part))
            return levels

        def planes_of(part: range) -> tuple[range, NDArray[np.uint8]]:
            return part, self._read(part, shape).contiguous().numpy()

        mean, std = statistics_of(self._each(levels_of, range(train), shape))
        digest = hashlib.sha256(repr((self._classes, mean, std)).encode())
        for split, count in zip((range(train), range(train, train + test)), counts, strict=True):
            for part, planes in self._each(planes_of, split, shape):
                digest.update(planes.data)
                advance(len(part))
            digest.update(np.repeat(np.arange(len(count)), count).astype(np.int64).data)
        names = tuple(self._listing.files[index] for index in corrupt)
        return Header(
            source=self._listing.fingerprint,
            shape=shape,
            classes=self._classes,
            counts=counts,
            mean=mean,
            std=std,
            fingerprint=digest.hexdigest()[:12],
            left_out=len(corrupt),
            left_out_names=names,
        )

    def _each(self, do: Callable[[range], T], images: range, shape: tuple[int, int, int, int]) -> Iterator[T]:
        """What `do` returns for each piece of the images, in order, with few pieces begun at a time."""
        step = max(1, _PIECE // self._image_bytes(shape[3]))
        begun: deque[Future[T]] = deque()
        for first in range(0, len(images), step):
            if len(begun) == _PIECES:
                yield begun.popleft().result()
            begun.append(self._pool.submit(do, images[first : first + step]))
        while begun:
            yield begun.popleft().result()

    def _read(self, images: range, shape: tuple[int, int, int, int]) -> torch.Tensor:
        """Consecutive images as uint8 (n, C, H, W)."""
        data = torch.empty(len(images), *shape[1:], dtype=torch.uint8)
        _fill(self._file, data.numpy(), self._start + images.start * self._image_bytes(shape[3]))
        return data.permute(0, 3, 1, 2)

    def _image_bytes(self, channels: int) -> int:
        return self._size[0] * self._size[1] * channels


def _write(descriptor: int, pixels: NDArray[np.uint8], offset: int) -> None:
    """Write all of an array; one call may write less."""
    data = pixels.data.cast("B")
    while data:
        written = os.pwrite(descriptor, data, offset)
        data, offset = data[written:], offset + written


def _fill(descriptor: int, pixels: NDArray[np.uint8], offset: int) -> None:
    """Read all of an array; one call may read less."""
    data = pixels.data.cast("B")
    while data:
        if not (read := os.preadv(descriptor, [data], offset)):
            raise OSError("the cache became shorter while it was made")
        data, offset = data[read:], offset + read
