"""Folders of images: one folder for each split, in it one for each class.

Images are decoded once, in a few threads (Pillow lets go of the interpreter lock while it decodes),
and kept as bytes.
"""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from supermask.data.dataset import Dataset, Images, channel_statistics
from supermask.data.errors import DamagedDataError, MissingDataError

#: Decoded images of both splits together stay below this many bytes.
MAX_BYTES = 8 * 2**30

TRAIN_FOLDER = "train"
TEST_FOLDERS = ("test", "val", "validation")
_SUFFIXES = {".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}
_MAX_THREADS = 8
#: Below this many pixels a side, threads spend more on passing the interpreter lock than they gain.
_SMALL_SIDE = 128
#: Files that a thread takes at a time; to hand small ones over singly costs as much as to decode.
_RUN = 64


def load_folder(path: Path, image_size: int | None, *, name: str) -> Dataset:
    """Read a folder of images.

    Colour images give three channels; if every image is gray, there is one. Files that are not
    images by their suffix and hidden folders are passed over. Where ``test/``, ``val/`` and
    ``validation/`` exist together, the first of them is the test split.

    Args:
        path: The folder with the splits.
        image_size: Height and width to bring the images to: the middle square of each is scaled
            (bilinear, antialiased). None keeps them, which needs images of one size.
        name: The data set's name.

    Raises:
        MissingDataError: A split is not there.
        DamagedDataError: A split or a class is empty, the splits have different classes, an image
            cannot be read, sizes differ, or the whole is too large.
    """
    train_path, test_path = _split_paths(path)
    classes = _class_names(train_path)
    _check_same_classes(classes, train_path, _class_names(test_path), test_path)
    listings = [_list_images(split, classes) for split in (train_path, test_path)]

    source = _size_of(listings[0][0][0])
    size = (image_size, image_size) if image_size else source
    _check_memory(path, sum(len(files) for files, _ in listings), size)
    decode = partial(_decode, size=size, fit=image_size is not None)
    small = source[0] * source[1] < _SMALL_SIDE**2
    threads = 1 if small else min(_MAX_THREADS, os.cpu_count() or 1)
    decoded = [_decode_all(files, size, decode, threads) for files, _ in listings]
    # Gray files become three equal channels on the way in, so that a few among colour ones fit; if
    # there are only such, two of the channels are dropped again.
    if all(gray for _, gray in decoded):
        decoded = [(np.ascontiguousarray(pixels[:, :1]), True) for pixels, _ in decoded]
    train, test = (
        Images(torch.from_numpy(pixels), torch.tensor(labels, dtype=torch.int64))
        for (pixels, _), (_, labels) in zip(decoded, listings, strict=True)
    )
    mean, std = channel_statistics(train.pixels)
    return Dataset(name, train, test, tuple(classes), mean, std)


def _split_paths(path: Path) -> tuple[Path, Path]:
    train = path / TRAIN_FOLDER
    test = next((path / split for split in TEST_FOLDERS if (path / split).is_dir()), None)
    if not train.is_dir() or test is None:
        lacking = f"{TRAIN_FOLDER}/" if not train.is_dir() else "any of test/, val/, validation/"
        raise MissingDataError(
            f"{path} is not a folder of images: it lacks {lacking}. It needs train/ and one of "
            "test/, val/, validation/, each with one folder of images for each class"
        )
    return train, test


def _class_names(split: Path) -> list[str]:
    names = sorted(
        entry.name for entry in split.iterdir() if entry.is_dir() and not entry.name.startswith(".")
    )
    if not names:
        raise DamagedDataError(
            f"{split} has no class folders; put the images of each class into a folder of its own "
            f"there, such as {split / 'cat'}"
        )
    return names


def _check_same_classes(train: list[str], train_path: Path, test: list[str], test_path: Path) -> None:
    if train == test:
        return
    differences = []
    for here, there, path in ((train, test, test_path), (test, train, train_path)):
        lacking = sorted(set(here) - set(there))
        if lacking:
            more = f" and {len(lacking) - 5} more" if len(lacking) > 5 else ""
            differences.append(f"{path} lacks {', '.join(lacking[:5])}{more}")
    raise DamagedDataError(
        f"the splits have different classes: {'; '.join(differences)}. Give both the same class folders"
    )


def _list_images(split: Path, classes: Sequence[str]) -> tuple[list[Path], list[int]]:
    files: list[Path] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        folder = split / name
        found = sorted(
            file for file in folder.rglob("*") if file.suffix.lower() in _SUFFIXES and file.is_file()
        )
        if not found:
            raise DamagedDataError(
                f"the class folder {folder} has no images ({' '.join(sorted(_SUFFIXES))}); fill it, "
                "or remove it from every split"
            )
        files += found
        labels += [label] * len(found)
    return files, labels


def _check_memory(path: Path, count: int, size: tuple[int, int]) -> None:
    needed = count * 3 * size[0] * size[1]
    if needed > MAX_BYTES:
        raise DamagedDataError(
            f"{path} has {count} images, which take {needed / 2**30:.1f} GiB at {size[1]}x{size[0]} "
            f"pixels, and {MAX_BYTES / 2**30:.0f} GiB is the limit; pass "
            f"image_size={int((MAX_BYTES / (3 * count)) ** 0.5)} or less"
        )


def _decode_all(
    files: Sequence[Path],
    size: tuple[int, int],
    decode: Callable[[Path], tuple[NDArray[np.uint8], bool]],
    threads: int,
) -> tuple[NDArray[np.uint8], bool]:
    """Return pixels (N, 3, H, W) and whether every file was gray."""
    pixels = np.empty((len(files), 3, *size), dtype=np.uint8)

    def decode_run(first: int) -> bool:
        all_gray = True
        for index in range(first, min(first + _RUN, len(files))):
            pixels[index], gray = decode(files[index])
            all_gray &= gray
        return all_gray

    with ThreadPoolExecutor(threads) as pool:
        try:
            runs_gray = list(pool.map(decode_run, range(0, len(files), _RUN)))
        except BaseException:
            # Otherwise leaving the block would first decode everything that is still queued.
            pool.shutdown(cancel_futures=True)
            raise
    return pixels, all(runs_gray)


def _decode(path: Path, *, size: tuple[int, int], fit: bool) -> tuple[NDArray[np.uint8], bool]:
    """Return one image as (3, H, W) and whether its file is gray."""
    try:
        with Image.open(path) as image:
            mode = image.mode
            colour = _to_rgb(image) if not _is_deep(mode) else None
    except Exception as error:
        # Pillow's decoders raise many kinds of error for bad bytes, and all mean the same here.
        raise _unreadable(path, error) from error
    if colour is None:
        raise DamagedDataError(
            f"{path} has more than 8 bits for each pixel value (mode {mode}); convert it to 8 bits"
        )
    height, width = size
    if fit:
        colour = _cover(colour, height)
    elif colour.size != (width, height):
        raise DamagedDataError(
            f"{path} is {colour.size[0]}x{colour.size[1]} pixels and the images before it "
            f"{width}x{height}; pass image_size= to bring all to one size"
        )
    return np.asarray(colour, dtype=np.uint8).transpose(2, 0, 1), mode in ("1", "L", "LA")


def _is_deep(mode: str) -> bool:
    # Pillow's modes of 16 and 32 bits; turning them into 8 would clip without a word.
    return mode.startswith(("I", "F"))


def _to_rgb(image: Image.Image) -> Image.Image:
    # A palette may carry transparency that Pillow drops with a warning unless it passes RGBA.
    return image.convert("RGBA").convert("RGB") if image.mode == "P" else image.convert("RGB")


def _cover(image: Image.Image, side: int) -> Image.Image:
    """Scale the middle square of an image to ``side`` pixels."""
    width, height = image.size
    shorter = min(width, height)
    # Whole pixels, so that an image of the right height is cut and not also blurred.
    left, top = (width - shorter) // 2, (height - shorter) // 2
    box = (left, top, left + shorter, top + shorter)
    return image.resize((side, side), Image.Resampling.BILINEAR, box=box)


def _size_of(path: Path) -> tuple[int, int]:
    """Return height and width of an image, from its header."""
    try:
        with Image.open(path) as image:
            width, height = image.size
    except Exception as error:
        raise _unreadable(path, error) from error
    return height, width


def _unreadable(path: Path, error: Exception) -> DamagedDataError:
    return DamagedDataError(f"{path} cannot be read as an image ({error}); replace the file or delete it")
