"""Folders of images: one folder for each split, in it one for each class.

Images are decoded once into a file and mapped into memory from then on, see cache.py. The file is made again
when the files it was made from have changed.
"""

import hashlib
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import torch

from supermask.data.build import REMEDY, build_cache
from supermask.data.cache import FORMAT, Cache, cache_folder, open_cache
from supermask.data.dataset import Dataset
from supermask.data.decode import size_of
from supermask.data.entries import name_of
from supermask.data.errors import DamagedDataError, UnreadableImageError
from supermask.data.listing import Listing, list_folder
from supermask.data.mapped import MappedImages
from supermask.data.selection import Selection

EVERYTHING = Selection()


def load_folder(
    path: Path,
    image_size: int | None,
    *,
    name: str,
    selection: Selection = EVERYTHING,
    cache: str | os.PathLike[str] | None = None,
    titles: Mapping[str, str] | None = None,
) -> Dataset:
    """Read a folder of images.

    Colour images give three channels; if every image is gray, there is one.

    Args:
        path: The folder with the splits.
        image_size: Height and width to bring the images to: the middle square of each is scaled
            (bilinear, antialiased). None keeps them, which needs images of one size. Where the selection
            has a stored size, images are scaled to that, and a network sees `image_size` of it.
        name: The data set's name.
        selection: What is taken of the folder.
        cache: Where decoded images are kept; see `cache_folder`.
        titles: Names of class folders and what to call these classes.

    Raises:
        ValueError: `image_size` is above the stored size.
        MissingDataError: A split or a class is not there.
        DamagedDataError: A split or a class is empty, the splits have different classes, an image is
            missing or cannot be read, sizes differ, or the name of a folder is no UTF-8.
        OSError: The cache cannot be written.
    """
    stored = selection.stored_size or image_size
    if stored and image_size and image_size > stored:
        raise ValueError(f"image_size {image_size} is above the stored size {stored}; store larger images")
    name_of(path)  # tickets and results record it, and they are UTF-8
    listing = list_folder(path, selection)
    classes = [(titles or {}).get(entry, entry) for entry in listing.classes]
    file = cache_folder(cache) / f"{name}-{stored or 'whole'}-{_key(path, stored, selection, classes)}.images"
    opened = open_cache(file, listing.fingerprint)
    if opened is None:
        size = (stored, stored) if stored else _first_size(listing)
        fit, corrupt = stored is not None, selection.allow_corrupt
        opened = build_cache(file, listing, classes, size, fit=fit, allow_corrupt=corrupt)
    header = opened.header
    if header.left_out and not selection.allow_corrupt:
        raise DamagedDataError(
            f"{header.left_out} missing or corrupt images were left out of the decoded images of {path}: "
            f"{', '.join(header.left_out_names[:10])}. {REMEDY}"
        )
    return _dataset(name, opened, image_size if image_size != stored else None)


def _first_size(listing: Listing) -> tuple[int, int]:
    """Of the first image that can be read; the build counts and names the others."""
    for index, file in enumerate(listing.files):
        if index not in listing.missing:
            with suppress(UnreadableImageError):
                return size_of(listing.root / file)
    raise DamagedDataError(f"none of the {len(listing.files)} images of {listing.root} can be read. {REMEDY}")


def _key(path: Path, stored: int | None, selection: Selection, classes: list[str]) -> str:
    """What tells apart the caches of one name."""
    parts = (FORMAT, str(path.resolve()), stored, selection.per_class_fraction, classes)
    return hashlib.sha256(repr(parts).encode(errors="surrogateescape")).hexdigest()[:12]


def _dataset(name: str, cache: Cache, crop_size: int | None) -> Dataset:
    header = cache.header
    splits, first = [], 0
    for counts in header.counts:
        labels = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
        splits.append(MappedImages(cache.pixels, torch.arange(first, first + len(labels)), labels))
        first += len(labels)
    return Dataset(
        name,
        splits[0],
        splits[1],
        header.classes,
        header.mean,
        header.std,
        crop_size=crop_size,
        known_fingerprint=header.fingerprint,
        left_out=header.left_out,
    )
